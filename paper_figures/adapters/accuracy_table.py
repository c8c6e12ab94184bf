"""Accuracy, parameters, time and memory of a step of all methods on one fine-tuning problem: Tables 2 and 3.

The counterpart of Table 2 is MiniLM on movie-review sentences, that of Table 3 a ViT-S/14 on a part of Fashion-MNIST.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from dlrt.finetune.comparison import times
from dlrt.finetune.data import IMAGES, SENTENCES, Setting
from dlrt.finetune.methods import HEAD_LR, METHODS

from ..statements import finding, where
from .memory import memory
from .study import SEEDS, Study, better, draw_rates, draw_sizes, draw_times, rate_row, standard_error, table_row, wider

PACKAGES = ("torch", "transformers", "peft")
COMPARED = (
    "full", "probe", "lora", "svd-lora", "adalora", "lora-muon", "geolora", "geolora-budget", "geolora-spectral-budget",
    "peft-lora", "peft-adalora",
)  # fmt: skip
"""The methods of the paper's tables, those of PEFT, and the spectral ones."""
PUBLISHED, OURS, RIVALS = "geolora", "geolora-spectral-budget", ("lora", "adalora", "lora-muon")
"""The published method, the one for fine-tuning, and those they are compared with."""
AT_ALL_SIZES = ("lora", OURS)
RANKS = {"equal": 8, "three quarters": 6, "half": 4}
"""Ranks of the adapters, of a budget on average, by how many parameters they have."""
TUNING = (100,)
"""Seed of the tuning."""
ROUNDS = 12
"""Timed steps of each method."""
SETTINGS = {"images": IMAGES, "sentences": SENTENCES}
NAMES = {"images": ("ViT-S/14", "Fashion-MNIST"), "sentences": ("MiniLM", "movie reviews")}


def compute(runs, quick: bool, task: str, model: str | None = None, data: str | None = None) -> dict:
    """Tune, run and time all methods.

    Quick: one rate, two seeds, a few steps on a few examples of 28 pixels or 16 tokens.
    """
    setting = replace(SETTINGS[task], model=model, data=data)
    if quick:
        small = {"images": 28, "sentences": 16}[task]
        setting = replace(setting, train=32, validation=20, test=20, size=small, batch=8, steps=3)
    study = Study(setting, COMPARED, RANKS, AT_ALL_SIZES, RIVALS, TUNING, runs.journal, runs.jobs, runs.progress, quick)
    tuned = study.tuned()
    results = study.results(tuned)
    equal, rank = where(tuned, size="equal"), RANKS["equal"]
    rounds = 1 if quick else ROUNDS
    seconds = times(setting, equal, rounds=rounds, journal=runs.out / "times.jsonl", rank=rank)
    return {
        "title": title(setting),
        "settings": {
            "task": setting.json(),
            "seeds": 2 if quick else len(SEEDS),
            "optimiser": f"AdamW at {HEAD_LR:g} for the head; linear warm-up over a tenth of the steps and decay",
        },
        "tuned": tuned,
        "results": results,
        "seconds": seconds,
        "bytes": memory(setting, equal, rank=rank, journal=runs.out / "memory.jsonl"),
    }


def title(setting: Setting) -> str:
    """Network and data by name."""
    given = (setting.model, setting.data)
    return " on ".join(Path(own).name if own else name for own, name in zip(given, NAMES[setting.task], strict=True))


def error(data: dict) -> float | None:
    """Standard error of the validation losses of the tuning."""
    return standard_error(data["results"], len(TUNING))


def tables(data: dict) -> dict[str, list[dict]]:
    """Results, and which rates are good."""
    seconds = {m: found["median"] for m, found in data["seconds"].items()}
    rows = [
        table_row(row)
        | {
            "ms per step": f"{1000 * seconds[row['method']]:.0f}",
            "time / LoRA (PEFT)": f"{seconds[row['method']] / seconds['peft-lora']:.2f}",
            "MB in a step": f"{data['bytes'][row['method']]['peak'] / 1e6:.1f}",
        }
        for row in data["results"]
    ]
    return {"rows": rows, "rates": [rate_row(tuned, error(data)) for tuned in data["tuned"]]}


def statements(data: dict) -> dict[str, dict]:
    """What is claimed, and whether it held."""
    results, seconds = data["results"], {m: found["median"] for m, found in data["seconds"].items()}
    label = {m: METHODS[m].label for m in COMPARED}
    claims: dict[str, dict] = {}

    def claim(method: str, rival: str, errors: int, size: str = "equal", paper: str = "—") -> None:
        what = {2: "better by two standard errors than", -1: "worse by at most one standard error than"}[errors]
        of = "" if size == "equal" else f", {size} of the parameters"
        claims[f"{label[method]}{of}: {what} {label[rival]}"] = better(results, method, size, rival, errors) | {
            "paper": paper
        }

    for method in (PUBLISHED, "geolora-budget", OURS):
        for rival in ("lora", "adalora"):
            claim(method, rival, 2, paper="better than other low-rank adapters")
    for rival in ("lora", "lora-muon"):
        claim(OURS, rival, -1)
    for size in ("three quarters", "half"):
        claim(OURS, "lora", -1, size)
        claim("lora", "lora", -1, size)
    claim("full", "lora", 2)
    parameters = {row["method"]: row["parameters"] for row in where(results, size="equal")}
    for method in (PUBLISHED, "geolora-budget", OURS):
        pair = [parameters[m] for m in (method, "lora")]
        there = None not in pair
        claims[f"{label[method]}: no more adapter parameters than LoRA"] = finding(
            " against ".join(format(x, ",.0f") for x in pair) if there else "diverged", [there and pair[0] <= pair[1]]
        )
    for method in (PUBLISHED, OURS):
        for rival, factor in (("peft-lora", 1.15), ("peft-adalora", 1.0)):
            ratio = seconds[method] / seconds[rival]
            claims[f"{label[method]}: a step takes at most {factor:g} times that of {label[rival]}"] = finding(
                f"{ratio:.2f}", [ratio <= factor], "more efficient than other low-rank adapters"
            )
        ratio = data["bytes"][method]["peak"] / data["bytes"]["peft-lora"]["peak"]
        claims[f"{label[method]}: a step has at most 1.15 times the memory of that of {label['peft-lora']}"] = finding(
            f"{ratio:.3f}", [ratio <= 1.15], "memory of LoRA"
        )
    claims[f"rates within a standard error of the best: {label[OURS]} has at least as many decades as LoRA"] = wider(
        data["tuned"], error(data), OURS, "lora"
    )
    return claims


def draw(data: dict) -> dict[str, Figure]:
    """Accuracy against parameters and against time, without the probe, which is far below; and the ranges of rates."""
    task, seeds, name = data["settings"]["task"], data["settings"]["seeds"], data["title"]
    what = f"{task['test']} test examples, {seeds} seeds"
    shown = [row for row in data["results"] if row["method"] != "probe"]
    points = {
        row["method"]: [(task["steps"] * data["seconds"][row["method"]]["median"], row)]
        for row in where(shown, size="equal")
    }
    return {
        "": draw_sizes({"": shown}, ("full",), name, what),
        "-time": draw_times(points, name, f"equal parameters, {task['steps']} steps, {seeds} seeds"),
        "-rates": draw_rates({"": (data["tuned"], error(data))}, name, what),
    }
