"""Where directions limit: all methods on a small ViT that must learn changed pictures, at three numbers of parameters.

Everything was chosen on pictures that are turned and inverted; those with shuffled patches are for confirmation.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from matplotlib.figure import Figure

from dlrt.finetune.comparison import times
from dlrt.finetune.data import CHANGED
from dlrt.finetune.methods import HEAD_LR, METHODS
from dlrt.finetune.small_vit import Pretraining, checksum

from ..statements import finding, where
from .compared import text
from .study import SEEDS, Study, better, draw_rates, draw_sizes, draw_times, rate_row, standard_error, table_row, wider

PACKAGES = ("torch", "transformers", "peft")
COMPARED = (
    "full", "lora", "lora-plus", "peft-dora", "riemannian-lora", "stiefel-adamw", "stella", "adalora",
    "lora-factor-muon", "lora-muon", "geolora-budget", "geolora-spectral", "geolora-spectral-budget",
)  # fmt: skip
"""Methods of ``METHODS``, in the order of the table."""
OURS, RIVALS = "geolora-spectral-budget", ("lora", "lora-muon", "lora-factor-muon")
AT_ALL_SIZES = ("lora", OURS)
CONFIRMED = ("full", "lora", "lora-factor-muon", "lora-muon", "geolora-spectral", OURS)
LONGER = ("full", "lora", "lora-factor-muon", "lora-muon", OURS)
"""Methods that are run with fewer parameters too, on the second task too, and for a longer time too."""
RANKS = {"equal": 4, "three quarters": 3, "half": 2}
"""Ranks of the adapters, of a budget on average, by how many parameters they have."""
LONG, LONGEST = 3, 9
"""Times as many steps: for results of longer runs, and to see whether full fine-tuning has converged by then."""
TUNING, LONGEST_SEEDS = (100, 101, 102), SEEDS[:2]
"""Seeds of the tuning, and of the longest runs."""
ROUNDS = 40
"""Timed steps of each method."""
QUICK = Pretraining(width=16, blocks=2, heads=2, steps=4, batch=16)


def compute(runs, quick: bool) -> dict:
    """Pretrain, tune, run, and time all methods; quick: a tiny network, one rate, two seeds, a few steps."""
    network = QUICK if quick else Pretraining()
    folder = network.folder()
    weights = checksum(folder)
    small: dict[str, Any] = {"train": 64, "validation": 40, "test": 40, "batch": 8, "steps": 3} if quick else {}
    tasks, studies = {}, {}
    for name, methods in (("turned", COMPARED), ("shuffled", CONFIRMED)):
        setting = replace(CHANGED[name], model=str(folder) if quick else None, **small)
        journal = runs.out / f"{name}-{weights}.jsonl"
        study = studies[name] = Study(
            setting, methods, RANKS, AT_ALL_SIZES, RIVALS, TUNING, journal, runs.jobs, runs.progress, quick
        )
        tuned = study.tuned()
        tasks[name] = {"tuned": tuned, "results": study.results(tuned)}
    first, study = tasks["turned"], studies["turned"]
    longer = study.longer(first["tuned"], LONGER, LONG)
    first["longer"] = study.results(longer, steps=LONG)
    first["longest"] = study.results(where(longer, method="full"), LONGEST_SEEDS, LONGEST)
    seconds = times(
        study.setting, where(first["tuned"], size="equal"), rounds=1 if quick else ROUNDS,
        journal=runs.out / "times.jsonl", rank=RANKS["equal"],
    )  # fmt: skip
    return {
        "title": "Small ViT, changed pictures of Fashion-MNIST",
        "settings": {
            "task": CHANGED["turned"].json() | small,
            "pretraining": asdict(network) | {"weights": weights},
            "seeds": 2 if quick else len(SEEDS),
            "optimiser": f"AdamW at {HEAD_LR:g} for the head; linear warm-up over a tenth of the steps and decay",
        },
        "tasks": tasks,
        "seconds": seconds,
    }


def error(task: dict) -> float | None:
    """Standard error of the validation losses by which a task was tuned."""
    return standard_error(task["results"], len(TUNING))


def tables(data: dict) -> dict[str, list[dict]]:
    """One table for each task, one of the longer runs, one of the rates."""
    turned, shuffled = (data["tasks"][name] for name in ("turned", "shuffled"))
    step = {m: found["median"] / data["seconds"]["lora"]["median"] for m, found in data["seconds"].items()}
    return {
        "rows": [table_row(row) | {"step / LoRA": f"{step[row['method']]:.2f}"} for row in turned["results"]],
        "longer": list(map(table_row, turned["longer"])),
        "shuffled": list(map(table_row, shuffled["results"])),
        "rates": [
            {"task": name} | rate_row(tuned, error(task))
            for name, task in data["tasks"].items()
            for tuned in task["tuned"]
        ],
    }


def statements(data: dict) -> dict[str, dict]:
    """What is claimed, and whether it held: twice a standard error over seeds and twice one over examples."""
    label, steps, tasks = METHODS[OURS].label, data["settings"]["task"]["steps"], data["tasks"]
    claims: dict[str, dict] = {}
    for name, task in tasks.items():
        claims[f"{name}: full fine-tuning is better than LoRA by two standard errors: directions limit"] = better(
            task["results"], "full", "equal", "lora", 2
        )
        for rival in RIVALS:
            for size, factor in (("equal", 2), ("three quarters", 2), ("half", -1)):
                what = "better by two standard errors" if factor > 0 else "worse by at most one standard error"
                words = {"equal": "equal parameters", "half": "half of the parameters"}.get(size, f"{size} of them")
                claims[f"{name}: {label}, {words}: {what} than {METHODS[rival].label}"] = better(
                    task["results"], OURS, size, rival, factor
                )
    for rival in RIVALS:
        claims[f"turned, {LONG} times the steps: {label} better by two standard errors than {METHODS[rival].label}"] = (
            better(tasks["turned"]["longer"], OURS, "equal", rival, 2)
        )
    for times_, short, long in ((1, "results", "longer"), (LONG, "longer", "longest")):
        was, now = (where(tasks["turned"][key], method="full")[0]["accuracy"] for key in (short, long))
        gained = None if None in (was, now) else now - was
        claims[
            f"turned: full fine-tuning has converged after {times_ * steps} steps: 3 times as many gain at most 0.01"
        ] = finding(text(gained, "+.4f"), [gained is not None and gained <= 0.01])
    ratio = data["seconds"][OURS]["median"] / data["seconds"]["lora"]["median"]
    claims[f"a whole step of {label} takes at most 1.15 times that of LoRA"] = finding(f"{ratio:.2f}", [ratio <= 1.15])
    for name, task in tasks.items():
        claims[f"{name}: rates within a standard error of the best: {label} has at least as many decades as LoRA"] = (
            wider(task["tuned"], error(task), OURS, "lora")
        )
    return claims


def draw(data: dict) -> dict[str, Figure]:
    """Accuracy against parameters, accuracy against time, and the ranges of rates."""
    settings, turned = data["settings"], data["tasks"]["turned"]
    title, what = data["title"], f"{settings['task']['test']} test pictures, {settings['seeds']} seeds"
    steps = settings["task"]["steps"]
    points = {
        method: [
            (number * steps * seconds["median"], row)
            for number, key in ((1, "results"), (LONG, "longer"))
            for row in where(turned[key], method=method, size="equal")
        ]
        for method, seconds in data["seconds"].items()
    }
    tasks = {f"{name} pictures": task for name, task in data["tasks"].items()}
    return {
        "": draw_sizes({name: task["results"] for name, task in tasks.items()}, ("full",), title, what),
        "-time": draw_times(
            points, title, f"turned pictures, equal parameters, {steps} and {LONG * steps} steps; {what}"
        ),
        "-rates": draw_rates({name: (task["tuned"], error(task)) for name, task in tasks.items()}, title, what),
    }
