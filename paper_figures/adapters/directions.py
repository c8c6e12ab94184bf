"""Where directions limit: all methods on a small ViT that must learn changed pictures, at three numbers of parameters.

Rates and weight decays are tuned alike, for each method and size, by the mean validation loss over seeds that are used
for nothing else. Everything was chosen on pictures that are turned and inverted; those with shuffled patches are for
confirmation.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from dlrt.finetune.comparison import times
from dlrt.finetune.data import CHANGED, Setting
from dlrt.finetune.loop import examples, fine_tune
from dlrt.finetune.methods import HEAD_LR, METHODS
from dlrt.finetune.small_vit import Pretraining, checksum
from dlrt.plots import WIDTH, column_figure, shared_legend
from dlrt.runs import Task, best, rate, run_tasks, tune

from ..pictures import look
from ..statements import finding, where
from .compared import text

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
TUNING, SEEDS, LONGEST_SEEDS = (100, 101, 102), tuple(range(5)), (0, 1)
"""Seeds of the tuning, of the results, and of the longest runs."""
FIRST, ENDS = (-6, -5, -4), (-11, 1)
"""Half decades of the rate: those tried first, and the smallest and the largest ever tried."""
DECAYS = (0.1, 1.0)
"""Weight decays tried besides none, at the rate that is best without: the next one where one has paid."""
ROUNDS = 40
"""Timed steps of each method."""
QUICK = Pretraining(width=16, blocks=2, heads=2, steps=4, batch=16)


@dataclass(frozen=True)
class Study:
    """What is run on one task: the setting, the methods, the journal, and how much of it."""

    setting: Setting
    methods: tuple[str, ...]
    journal: Path
    jobs: int | None
    progress: Callable | None
    quick: bool

    def run(self, arguments: Iterable[dict], steps: int = 1, test: int | None = None) -> list[dict]:
        """Results of runs of `steps` times the usual length, on a number of test examples (all of them)."""
        usual = self.setting
        setting = replace(usual, steps=steps * usual.steps, test=usual.test if test is None else test).json()
        tasks: list[Task] = [(fine_tune, {"setting": setting, **given}) for given in arguments]
        return run_tasks(tasks, journal=self.journal, jobs=self.jobs, progress=self.progress)

    def trials(self, wanted: Iterable[tuple[tuple[str, str], float, float]], steps: int = 1) -> list[dict]:
        """Means over the seeds of the tuning, by method and size, rate, and decay; no test data are looked at."""
        seeds = TUNING[:1] if self.quick else TUNING
        given = [
            {"method": m, "lr": lr, "weight_decay": decay, "rank": RANKS[size], "seed": seed}
            for (m, size), lr, decay in wanted
            for seed in seeds
        ]
        records = self.run(given, steps, test=1)
        return [_mean(records[i : i + len(seeds)]) for i in range(0, len(records), len(seeds))]

    def tuned(self, sizes: Callable[[str], Iterable[str]]) -> list[dict]:
        """Each method and size with its best rate, its best weight decay at that rate, and all that was tried."""
        first, ends = (FIRST[1:2], (FIRST[1], FIRST[1])) if self.quick else (FIRST, ENDS)
        keys = [(m, size) for m in self.methods for size in sizes(m)]
        tried = tune(
            keys, lambda ks: self.trials((key, rate(k), 0.0) for key, k in ks), first=first, ends=ends, score=_score
        )
        rates = {key: rate(best(tried[key], _score)) for key in keys}
        decays = {key: {0.0: tried[key][best(tried[key], _score)]} for key in keys}
        for decay in DECAYS:
            paid = [key for key in keys if _best_decay(decays[key]) == max(decays[key])]
            found = self.trials((key, rates[key], decay) for key in paid)
            for key, record in zip(paid, found, strict=True):
                decays[key][decay] = record
        return [
            {
                "method": m,
                "label": METHODS[m].label,
                "size": size,
                "lr": rates[m, size],
                "weight_decay": _best_decay(decays[m, size]),
                "rates": [[rate(k), *_numbers(record)] for k, record in sorted(tried[m, size].items())],
                "decays": [[decay, *_numbers(record)] for decay, record in decays[m, size].items()],
            }
            for m, size in keys
        ]

    def results(self, tuned: list[dict], seeds, steps: int = 1) -> list[dict]:
        """A row for each method and size, with paired differences to the rivals."""
        seeds = seeds[:2] if self.quick else seeds
        given = [
            {key: row[key] for key in ("method", "lr", "weight_decay")} | {"rank": RANKS[row["size"]], "seed": seed}
            for row in tuned
            for seed in seeds
        ]
        runs = iter(self.run(given, steps))
        found = {(row["method"], row["size"]): [next(runs) for _ in seeds] for row in tuned}
        rivals = {m: found[m, "equal"] for m in RIVALS if (m, "equal") in found}
        return [
            {key: row[key] for key in ("lr", "weight_decay")}
            | _row(row["method"], row["size"], group)
            | {"against": {m: paired(group, rival, self.setting.test) for m, rival in rivals.items()}}
            for row, group in zip(tuned, found.values(), strict=True)
        ]

    def longer(self, tuned: list[dict]) -> list[dict]:
        """Tuning for longer runs: the same rate or half a decade below, whichever is better on validation data."""
        rows = [row for row in tuned if row["method"] in LONGER and row["size"] == "equal"]
        lower = () if self.quick else (-1,)
        wanted = [(row, round(2 * math.log10(row["lr"])) + i) for row in rows for i in (*lower, 0)]
        given = [((row["method"], row["size"]), rate(k), row["weight_decay"]) for row, k in wanted]
        tried: dict[str, dict[int, dict]] = {row["method"]: {} for row in rows}
        for (row, k), record in zip(wanted, self.trials(given, LONG), strict=True):
            tried[row["method"]][k] = record
        return [row | {"lr": rate(best(tried[row["method"]], _score))} for row in rows]


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
        study = studies[name] = Study(setting, methods, journal, runs.jobs, runs.progress, quick)
        tuned = study.tuned(lambda method: RANKS if method in AT_ALL_SIZES else ("equal",))
        tasks[name] = {"tuned": tuned, "results": study.results(tuned, SEEDS)}
    first, study = tasks["turned"], studies["turned"]
    longer = study.longer(first["tuned"])
    first["longer"] = study.results(longer, SEEDS, LONG)
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


# -- what runs say -----------------------------------------------------------------------------------------------------


def _score(record: dict) -> float:
    return -record["validation_loss"]


def _best_decay(records: dict[float, dict]) -> float:
    return max(records, key=lambda decay: _score(records[decay]) if _finished(records[decay]) else -math.inf)


def _finished(record: dict) -> bool:
    return record["status"] == "finished"


def _mean(records: list[dict]) -> dict:
    """Loss and accuracy on validation data, averaged over seeds that have all finished."""
    for record in records:
        if not _finished(record):
            return record
    return {"status": "finished"} | {
        key: float(np.mean([record[key] for record in records])) for key in ("validation_loss", "validation")
    }


def _numbers(record: dict) -> list:
    """Validation loss and accuracy; None where a run diverged."""
    return [record.get(key) for key in ("validation_loss", "validation")]


def _row(method: str, size: str, runs: list[dict]) -> dict:
    """Means over seeds of a method at a size, and the runs."""
    done = [run for run in runs if _finished(run)]
    return {
        "method": method,
        "label": METHODS[method].label,
        "size": size,
        "diverged": len(runs) - len(done),
        "accuracy": float(np.mean([run["test"] for run in done])) if done else None,
        "deviation": float(np.std([run["test"] for run in done], ddof=1)) if len(done) > 1 else None,
        "parameters": float(np.mean([run["parameters"] - run["head"] for run in done])) if done else None,
        "loss": float(np.mean([run["validation_loss"] for run in done])) if done else None,
        "runs": [
            {key: run.get(key) for key in ("seed", "status", "test", "validation", "validation_loss")} for run in runs
        ],
    }


def paired(runs: list[dict], others: list[dict], tested: int) -> dict | None:
    """Mean difference in accuracy on the test data, seed against seed, and its standard errors.

    Over seeds: the deviation of the differences, over the root of their number. Over examples: of each example the mean
    over seeds of whether the class was found is compared, so that examples are drawn anew, not seeds. None where a run
    has diverged.
    """
    if not all(map(_finished, [*runs, *others])):
        return None
    right, other = (np.array([examples(run["right"], tested) for run in group], float) for group in (runs, others))
    by_seed, by_example = (right - other).mean(1), (right - other).mean(0)
    return {
        "difference": float(by_seed.mean()),
        "seeds": float(by_seed.std(ddof=1) / math.sqrt(len(by_seed))),
        "examples": float(by_example.std(ddof=1) / math.sqrt(tested)),
    }


def standard_error(task: dict) -> float | None:
    """Of a mean validation loss of the tuning, from the deviation over the seeds of the results, all methods pooled."""
    groups = [[run["validation_loss"] for run in row["runs"]] for row in task["results"] if not row["diverged"]]
    if not groups:
        return None
    return float(np.sqrt(np.mean([np.var(losses, ddof=1) for losses in groups]) / len(TUNING)))


def rate_range(tuned: dict, error: float | None) -> tuple[float, float] | None:
    """Rates at which the validation loss is at most a standard error above the best, between those tried by lines."""
    known = _known(tuned)
    if not known or error is None:
        return None
    at, losses = np.log10([row[0] for row in known]), np.array([row[1] for row in known])
    fine = np.linspace(at[0], at[-1], 1001)
    within = fine[np.interp(fine, at, losses) <= losses.min() + error]
    return (10 ** float(within.min()), 10 ** float(within.max())) if len(within) else (10 ** at[losses.argmin()],) * 2


def _known(tuned: dict) -> list:
    """Of the rates tried those at which no run diverged."""
    return [row for row in tuned["rates"] if row[1] is not None]


# -- tables and statements ---------------------------------------------------------------------------------------------


def difference_text(against: dict | None) -> str:
    """Difference, and standard errors over seeds and over examples."""
    if against is None:
        return "—"
    return f"{against['difference']:+.4f} ± {against['seeds']:.4f}, ± {against['examples']:.4f}"


def tables(data: dict) -> dict[str, list[dict]]:
    """One table for each task, one of the longer runs, one of the rates."""
    turned, shuffled = (data["tasks"][name] for name in ("turned", "shuffled"))
    step = {m: found["median"] / data["seconds"]["lora"]["median"] for m, found in data["seconds"].items()}
    return {
        "rows": [_table_row(row) | {"step / LoRA": f"{step[row['method']]:.2f}"} for row in turned["results"]],
        "longer": list(map(_table_row, turned["longer"])),
        "shuffled": list(map(_table_row, shuffled["results"])),
        "rates": _rate_rows(data),
    }


def _table_row(row: dict) -> dict:
    return {
        "method": row["label"],
        "parameters": row["size"],
        "rate": f"{row['lr']:g}",
        "decay": f"{row['weight_decay']:g}",
        "as stored": text(row["parameters"], ",.0f"),
        "test accuracy": text(row["accuracy"], ".4f") + (f" ± {row['deviation']:.4f}" if row["deviation"] else ""),
        **{f"− {METHODS[m].label}": difference_text(found) for m, found in row["against"].items()},
    }


def _rate_rows(data: dict) -> list[dict]:
    rows = []
    for name, task in data["tasks"].items():
        error = standard_error(task)
        for tuned in task["tuned"]:
            span = rate_range(tuned, error)
            decades = "—" if span is None else f"{math.log10(span[1] / span[0]):.2f}"
            losses = ", ".join(f"{lr:g}: {text(loss, '.3f', none='diverged')}" for lr, loss, _ in tuned["rates"])
            rows.append({"task": name, "method": tuned["label"], "parameters": tuned["size"],
                         "validation loss by rate": losses, "decades within a standard error": decades})  # fmt: skip
    return rows


def statements(data: dict) -> dict[str, dict]:
    """What is claimed, and whether it held: twice a standard error over seeds and twice one over examples."""
    label, steps = METHODS[OURS].label, data["settings"]["task"]["steps"]
    claims: dict[str, dict] = {}

    def claim(words: str, rows: list[dict], method: str, size: str, rival: str, factor: float) -> None:
        [against] = [row["against"][rival] for row in rows if (row["method"], row["size"]) == (method, size)]
        claims[words] = finding(
            difference_text(against),
            [against is not None and against["difference"] >= factor * against[kind] for kind in ("seeds", "examples")],
        )

    for name, task in data["tasks"].items():
        claim(f"{name}: full fine-tuning is better than LoRA by two standard errors: directions limit",
              task["results"], "full", "equal", "lora", 2)  # fmt: skip
        for rival in RIVALS:
            for size, factor in (("equal", 2), ("three quarters", 2), ("half", -1)):
                what = "better by two standard errors" if factor > 0 else "worse by at most one standard error"
                words = {"equal": "equal parameters", "half": "half of the parameters"}.get(size, f"{size} of them")
                claim(f"{name}: {label}, {words}: {what} than {METHODS[rival].label}",
                      task["results"], OURS, size, rival, factor)  # fmt: skip
    for rival in RIVALS:
        claim(f"turned, {LONG} times the steps: {label} better by two standard errors than {METHODS[rival].label}",
              data["tasks"]["turned"]["longer"], OURS, "equal", rival, 2)  # fmt: skip
    for longer, short, long in ((1, "results", "longer"), (LONG, "longer", "longest")):
        was, now = (where(data["tasks"]["turned"][key], method="full")[0]["accuracy"] for key in (short, long))
        gained = None if None in (was, now) else now - was
        claims[f"turned: full fine-tuning has converged after {longer * steps} steps: 3 times as many gain at most 0.01"
               ] = finding(text(gained, "+.4f"), [gained is not None and gained <= 0.01])  # fmt: skip
    ratio = data["seconds"][OURS]["median"] / data["seconds"]["lora"]["median"]
    claims[f"a whole step of {label} takes at most 1.15 times that of LoRA"] = finding(f"{ratio:.2f}", [ratio <= 1.15])
    for name, task in data["tasks"].items():
        spans = {t["method"]: rate_range(t, standard_error(task)) for t in where(task["tuned"], size="equal")}
        widths = [math.log10(s[1] / s[0]) if (s := spans[m]) else math.nan for m in (OURS, "lora")]
        claims[f"{name}: rates within a standard error of the best: {label} has at least as many decades as LoRA"] = (
            finding("{:.2f} against {:.2f}".format(*widths), [widths[0] >= widths[1]])
        )
    return claims


# -- pictures ----------------------------------------------------------------------------------------------------------


def draw(data: dict) -> dict[str, Figure]:
    """Accuracy against parameters, accuracy against time, and the ranges of rates."""
    return {"": _sizes(data), "-time": _times(data), "-rates": _rates(data)}


def _sizes(data: dict) -> Figure:
    figure, panels = column_figure(len(data["tasks"]))
    for axes, (name, task) in zip(panels, data["tasks"].items(), strict=True):
        beside = 0.0
        for method in dict.fromkeys(row["method"] for row in task["results"]):
            rows = [row for row in where(task["results"], method=method) if row["accuracy"] is not None]
            if not rows:
                continue
            if method == "full":
                label = rows[0]["label"]
                axes.axhline(rows[0]["accuracy"], color=look(method)["color"], linewidth=0.8, label=label)
                continue
            at = [row["parameters"] / 1000 for row in rows]
            if method not in AT_ALL_SIZES:  # they would lie on each other
                beside += 0.03 * at[0]
                at = [x + beside for x in at]
            _with_errors(axes, at, rows)
        axes.set(ylabel="test accuracy", title=f"{name} pictures")
    panels[-1].set_xlabel(
        "parameters of the adapters, as stored (thousands);\nmethods of one size side by side to its right"
    )
    return shared_legend(figure, panels, _title(data, "mean and standard error"))


def _times(data: dict) -> Figure:
    figure, (axes,) = column_figure(1)
    task, steps = data["tasks"]["turned"], data["settings"]["task"]["steps"]
    for method, seconds in data["seconds"].items():
        points = [
            (number * steps * seconds["median"], row)
            for number, key in ((1, "results"), (LONG, "longer"))
            for row in where(task[key], method=method, size="equal")
            if row["accuracy"] is not None
        ]
        if points:
            _with_errors(axes, [at for at, _ in points], [row for _, row in points])
    axes.set(xscale="log", xlabel="seconds of training on one thread", ylabel="test accuracy")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    what = f"turned pictures, equal parameters, {steps} and {LONG * steps} steps"
    return shared_legend(figure, [axes], _title(data, what))


def _with_errors(axes, at: list[float], rows: list[dict]) -> None:
    """The mean accuracies of a method at several places, with their standard errors over the seeds."""
    looks = look(rows[0]["method"]) | {"linewidth": 0.8, "markersize": 4}
    means = [row["accuracy"] for row in rows]
    errors = [(row["deviation"] or 0.0) / math.sqrt(len(row["runs"])) for row in rows]
    axes.plot(at, means, label=rows[0]["label"], **looks)
    axes.errorbar(at, means, errors, fmt="none", color=looks["color"], linewidth=0.8, capsize=2)


def _rates(data: dict) -> Figure:
    shown = {name: where(task["tuned"], size="equal") for name, task in data["tasks"].items()}
    heights = list(map(len, shown.values()))
    figure = Figure(figsize=(WIDTH, 1.2 + 0.14 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    for axes, (name, task) in zip(panels, data["tasks"].items(), strict=True):
        error = standard_error(task)
        for y, tuned in enumerate(shown[name]):
            looks, span = look(tuned["method"]) | {"linestyle": "none"}, rate_range(tuned, error)
            tried = [row[0] for row in _known(tuned)]
            axes.plot(tried, [y] * len(tried), "|", color="0.6", markersize=5)
            if span is not None:
                axes.plot(span, [y, y], color=looks["color"], linewidth=3, alpha=0.4, solid_capstyle="butt")
            axes.plot(tuned["lr"], y, **looks | {"markersize": 4})
        labels = [tuned["label"] for tuned in shown[name]]
        axes.set(xscale="log", title=f"{name} pictures", yticks=range(len(labels)), ylim=(len(labels) - 0.5, -0.5))
        axes.set_yticklabels(labels, fontsize=6)
        axes.xaxis.set_minor_formatter(NullFormatter())
    panels[-1].set_xlabel("learning rate")
    figure.suptitle(_title(data, "rates within a standard error of the best; grey: those tried"), fontsize=7)
    return figure


def _title(data: dict, what: str) -> str:
    settings: Any = data["settings"]
    about = f"{what}; {settings['task']['test']} test pictures, {settings['seeds']} seeds"
    return "\n".join([data["title"], *textwrap.wrap(about, 55)])
