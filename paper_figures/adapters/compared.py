"""How Table 4 compares methods: all tuned alike, means over seeds, comparisons seed by seed, and the picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dlrt.finetune.comparison import ENDS, FIRST, compare
from dlrt.plots import column_figure, shared_legend

from ..pictures import look

SEEDS = 3


def compared(
    train: Callable, methods: Mapping, given: dict, runs, quick: bool, ends: tuple[int, int] = ENDS, **options
) -> list[dict]:
    """All methods, each at its best rate; quick: one rate and one seed."""
    return compare(
        train,
        methods,
        given,
        seeds=1 if quick else SEEDS,
        journal=runs.journal,
        first=FIRST[1:2] if quick else FIRST,
        ends=(FIRST[1], FIRST[1]) if quick else ends,
        jobs=runs.jobs,
        progress=runs.progress,
        **options,
    )


def summary(row: dict, methods: Mapping, runs: list[dict], **means: str) -> dict:
    """A method with its runs, means over the finished ones by name and key, and the deviation of the test result."""
    done = [run for run in runs if run["status"] == "finished"]
    return {
        "method": row["method"],
        "label": methods[row["method"]].label,
        "lr": row["lr"],
        "tried": row["tried"],
        "runs": runs,
        "diverged": len(runs) - len(done),
        "deviation": float(np.std([run["test"] for run in done], ddof=1)) if len(done) > 1 else None,
        **{name: float(np.mean([run[key] for run in done])) if done else None for name, key in means.items()},
    }


def text(value: float | None, form: str, unit: float = 1.0, none: str = "—") -> str:
    """A number that need not be there."""
    return none if value is None else format(value / unit, form)


def mean_text(method: dict, key: str, form: str, unit: float = 1.0) -> str:
    """A mean with the standard deviation, where it has one."""
    deviation = method["deviation"]
    return text(method[key], form, unit) + ("" if deviation is None else " ± " + text(deviation, form, unit))


def against(pair: Sequence[dict], key: str, form: str, unit: float = 1.0, none: str = "—") -> str:
    """The means of two methods."""
    return " against ".join(text(m[key], form, unit, none) for m in pair)


def seed_by_seed(pair: Sequence[dict], key: str, missing: float, holds: Callable[[Any, Any], Any]) -> list[bool]:
    """Whether something holds of two methods, run by run; a run that diverged has the value `missing`."""
    one, other = ([missing if run[key] is None else run[key] for run in m["runs"]] for m in pair)
    return [bool(holds(a, b)) for a, b in zip(one, other, strict=True)]


def draw_against_size(
    methods: list[dict], key: str, *, levels: dict[str, str], ylabel: str, title: str, unit: float = 1.0
) -> Figure:
    """A mean over seeds and its standard deviation against the parameters of the adapters.

    Parameters
    ----------
    methods : list of dict
        With ``method``, ``label``, ``parameters``, ``deviation`` and the mean as `key`, None where all runs diverged.
    key : str
    levels : dict
        Methods without adapters and their labels: their means are drawn as lines.
    ylabel, title : str
    unit : float
        Of the axis of the means.
    """
    figure, (axes,) = column_figure(1)
    for m in (m for m in methods if m[key] is not None):
        looks = look(m["method"])
        if m["method"] in levels:
            label = levels[m["method"]]
            axes.axhline(m[key] / unit, color=looks["color"], linestyle=looks["linestyle"], label=label)
            continue
        axes.errorbar(
            m["parameters"] / 1000,
            m[key] / unit,
            (m["deviation"] or 0.0) / unit,
            **looks | {"linestyle": "none", "markersize": 5, "capsize": 2, "label": m["label"]},
        )
    axes.set(xlabel="trained parameters of the adapters (thousands)", ylabel=ylabel, title=title)
    return shared_legend(figure, [axes])
