"""What the tables of fine-tuning share: methods tuned alike, at several sizes, and differences in pairs.

Rates and weight decays are tuned for each method and size, by the mean validation loss over seeds that are used for
nothing else. Results are those of other seeds; differences are paired, seed against seed and example against example.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from dlrt.finetune.data import Setting
from dlrt.finetune.loop import examples, fine_tune
from dlrt.finetune.methods import METHODS
from dlrt.plots import WIDTH, column_figure, shared_legend
from dlrt.runs import Task, best, rate, run_tasks, tune

from ..pictures import look
from ..statements import finding, where
from .compared import text

FIRST, ENDS = (-6, -5, -4), (-11, 1)
"""Half decades of the rate: those tried first, and the smallest and the largest ever tried."""
DECAYS = (0.1, 1.0)
"""Weight decays tried besides none, at the rate that is best without: the next one where one has paid."""
SEEDS = tuple(range(5))
"""Of the results."""


@dataclass(frozen=True)
class Study:
    """What is run on one task, where the runs are kept, and how much of it.

    Parameters
    ----------
    setting : Setting
    methods : tuple of str
        Names in ``METHODS``.
    ranks : mapping of str to int
        Ranks of the adapters, of a budget on average, by size: how many parameters they have. One is ``"equal"``.
    everywhere : tuple of str
        Methods that are run at all sizes.
    rivals : tuple of str
        Methods whose results at equal size all others are compared with.
    tuning : tuple of int
        Seeds of the tuning.
    journal : Path
    jobs, progress
        As in :func:`dlrt.runs.run_tasks`.
    quick : bool
        One rate, one seed of the tuning, two of the results.
    """

    setting: Setting
    methods: tuple[str, ...]
    ranks: Mapping[str, int]
    everywhere: tuple[str, ...]
    rivals: tuple[str, ...]
    tuning: tuple[int, ...]
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
        seeds = self.tuning[:1] if self.quick else self.tuning
        given = [
            {"method": m, "lr": lr, "weight_decay": decay, "rank": self.ranks[size], "seed": seed}
            for (m, size), lr, decay in wanted
            for seed in seeds
        ]
        records = self.run(given, steps, test=1)
        return [_mean(records[i : i + len(seeds)]) for i in range(0, len(records), len(seeds))]

    def tuned(self) -> list[dict]:
        """Each method and size with its best rate, its best weight decay at that rate, and all that was tried."""
        first, ends = (FIRST[1:2], (FIRST[1], FIRST[1])) if self.quick else (FIRST, ENDS)
        keys = [(m, size) for m in self.methods for size in (self.ranks if m in self.everywhere else ("equal",))]
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

    def results(self, tuned: list[dict], seeds: Sequence[int] = SEEDS, steps: int = 1) -> list[dict]:
        """A row for each method and size, with paired differences to the rivals."""
        seeds = seeds[:2] if self.quick else seeds
        given = [
            {key: row[key] for key in ("method", "lr", "weight_decay")} | {"rank": self.ranks[row["size"]], "seed": s}
            for row in tuned
            for s in seeds
        ]
        runs = iter(self.run(given, steps))
        found = {(row["method"], row["size"]): [next(runs) for _ in seeds] for row in tuned}
        rivals = {m: found[m, "equal"] for m in self.rivals if (m, "equal") in found}
        return [
            {key: row[key] for key in ("lr", "weight_decay")}
            | _row(row["method"], row["size"], group)
            | {"against": {m: paired(group, rival, self.setting.test) for m, rival in rivals.items()}}
            for row, group in zip(tuned, found.values(), strict=True)
        ]

    def longer(self, tuned: list[dict], methods: Iterable[str], steps: int) -> list[dict]:
        """Tuning for longer runs: the same rate or half a decade below, whichever is better on validation data."""
        rows = [row for row in tuned if row["method"] in methods and row["size"] == "equal"]
        lower = () if self.quick else (-1,)
        wanted = [(row, round(2 * math.log10(row["lr"])) + i) for row in rows for i in (*lower, 0)]
        given = [((row["method"], row["size"]), rate(k), row["weight_decay"]) for row, k in wanted]
        tried: dict[str, dict[int, dict]] = {row["method"]: {} for row in rows}
        for (row, k), record in zip(wanted, self.trials(given, steps), strict=True):
            tried[row["method"]][k] = record
        return [row | {"lr": rate(best(tried[row["method"]], _score))} for row in rows]


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


def standard_error(results: list[dict], seeds: int) -> float | None:
    """Of a validation loss that is a mean over a number of seeds: from the deviation of the results, methods pooled."""
    groups = [[run["validation_loss"] for run in row["runs"]] for row in results if not row["diverged"]]
    if not groups:
        return None
    return float(np.sqrt(np.mean([np.var(losses, ddof=1) for losses in groups]) / seeds))


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


def table_row(row: dict) -> dict:
    """A row of results in words."""
    return {
        "method": row["label"],
        "parameters": row["size"],
        "rate": f"{row['lr']:g}",
        "decay": f"{row['weight_decay']:g}",
        "as stored": text(row["parameters"], ",.0f"),
        "test accuracy": text(row["accuracy"], ".4f") + (f" ± {row['deviation']:.4f}" if row["deviation"] else ""),
        **{f"− {METHODS[m].label}": difference_text(found) for m, found in row["against"].items()},
    }


def rate_row(tuned: dict, error: float | None) -> dict:
    """What was tried of a method and size, in words, and how wide the range of good rates is."""
    span = rate_range(tuned, error)
    return {
        "method": tuned["label"],
        "parameters": tuned["size"],
        "validation loss by rate": ", ".join(
            f"{lr:g}: {text(loss, '.3f', none='diverged')}" for lr, loss, _ in tuned["rates"]
        ),
        "decades within a standard error": "—" if span is None else f"{math.log10(span[1] / span[0]):.2f}",
    }


def better(rows: list[dict], method: str, size: str, rival: str, errors: float) -> dict:
    """Whether a method leads by a number of standard errors, over seeds and over examples; below zero: trails by."""
    [row] = where(rows, method=method, size=size)
    against = row["against"][rival]
    holds = [against is not None and against["difference"] >= errors * against[kind] for kind in ("seeds", "examples")]
    return finding(difference_text(against), holds)


def wider(tuned: list[dict], error: float | None, method: str, rival: str) -> dict:
    """Whether a method has at least as many decades of good rates as another, both at equal size."""
    spans = [rate_range(where(tuned, method=m, size="equal")[0], error) for m in (method, rival)]
    widths = [math.log10(span[1] / span[0]) if span else math.nan for span in spans]
    return finding("{:.2f} against {:.2f}".format(*widths), [widths[0] >= widths[1]])


# -- pictures ----------------------------------------------------------------------------------------------------------


def draw_sizes(panels: Mapping[str, list[dict]], levels: Sequence[str], title: str, what: str) -> Figure:
    """Accuracy against parameters: mean and standard error of each method, one panel for each list of results.

    Methods of ``levels``, which have no adapters, are lines. Those of one size only would lie on each other and are put
    side by side.
    """
    figure, axes_ = column_figure(len(panels))
    for axes, (name, results) in zip(axes_, panels.items(), strict=True):
        beside = 0.0
        for method in dict.fromkeys(row["method"] for row in results):
            rows = [row for row in where(results, method=method) if row["accuracy"] is not None]
            if not rows:
                continue
            if method in levels:
                looks = {key: look(method)[key] for key in ("color", "linestyle")}
                axes.axhline(rows[0]["accuracy"], linewidth=0.8, label=rows[0]["label"], **looks)
                continue
            at = [row["parameters"] / 1000 for row in rows]
            if len(where(results, method=method)) == 1:
                beside += 0.03 * at[0]
                at = [x + beside for x in at]
            _with_errors(axes, at, rows)
        axes.set(ylabel="test accuracy", title=name)
    axes_[-1].set_xlabel("adapter parameters, as stored (thousands);\nmethods of one size side by side to its right")
    return shared_legend(figure, axes_, _title(title, f"mean and standard error; {what}"))


def draw_times(points: Mapping[str, list[tuple[float, dict]]], title: str, what: str) -> Figure:
    """Accuracy against seconds of training: of each method (seconds, row of results), with standard errors."""
    figure, (axes,) = column_figure(1)
    for of in points.values():
        there = [(at, row) for at, row in of if row["accuracy"] is not None]
        if there:
            _with_errors(axes, [at for at, _ in there], [row for _, row in there])
    axes.set(xscale="log", xlabel="seconds of training on one thread", ylabel="test accuracy")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 4, 5, 7)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    return shared_legend(figure, [axes], _title(title, what))


def _with_errors(axes, at: list[float], rows: list[dict]) -> None:
    """The mean accuracies of a method at several places, with their standard errors over the seeds."""
    looks = look(rows[0]["method"]) | {"linewidth": 0.8, "markersize": 4}
    means = [row["accuracy"] for row in rows]
    errors = [(row["deviation"] or 0.0) / math.sqrt(len(row["runs"])) for row in rows]
    axes.plot(at, means, label=rows[0]["label"], **looks)
    axes.errorbar(at, means, errors, fmt="none", color=looks["color"], linewidth=0.8, capsize=2)


def draw_rates(panels: Mapping[str, tuple[list[dict], float | None]], title: str, what: str) -> Figure:
    """Ranges of good rates at equal size: one panel for each list of what was tuned, with its standard error."""
    shown = {name: (where(tuned, size="equal"), error) for name, (tuned, error) in panels.items()}
    heights = [len(rows) for rows, _ in shown.values()]
    figure = Figure(figsize=(WIDTH, 1.2 + 0.14 * sum(heights)), layout="constrained")
    grid = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (name, (rows, error)) in zip(grid, shown.items(), strict=True):
        for y, tuned in enumerate(rows):
            looks, span = look(tuned["method"]) | {"linestyle": "none"}, rate_range(tuned, error)
            tried = [row[0] for row in _known(tuned)]
            axes.plot(tried, [y] * len(tried), "|", color="0.6", markersize=5)
            if span is not None:
                axes.plot(span, [y, y], color=looks["color"], linewidth=3, alpha=0.4, solid_capstyle="butt")
            axes.plot(tuned["lr"], y, **looks | {"markersize": 4})
        labels = [tuned["label"] for tuned in rows]
        axes.set(xscale="log", title=name, yticks=range(len(labels)), ylim=(len(labels) - 0.5, -0.5))
        axes.set_yticklabels(labels, fontsize=6)
        axes.xaxis.set_minor_formatter(NullFormatter())
    grid[-1].set_xlabel("learning rate")
    about = f"rates within a standard error of the best; grey: those tried; {what}"
    figure.suptitle(_title(title, about), fontsize=7)
    return figure


def _title(title: str, what: str) -> str:
    return "\n".join([title, *textwrap.wrap(what, 55)])
