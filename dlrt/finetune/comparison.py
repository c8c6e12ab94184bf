"""Methods compared on one fine-tuning problem: rates tuned alike, then several seeds, then the time of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dlrt.runs import best, late_loss, rate, run_tasks, tune

from .data import Setting
from .loop import fine_tune, time_steps

FIRST = (-7, -6, -5)
"""Half decades that are tried first: 3.2e-4, 1e-3, 3.2e-3."""
ENDS = (-14, 0)


def compare(
    setting: Setting,
    methods: Iterable[str],
    *,
    seeds: int,
    journal: Path,
    jobs: int = 1,
    progress: Callable | None = None,
    grid: Sequence[int] | None = None,
    **options,
) -> list[dict]:
    """Tune the rate of each method, and run it with several seeds.

    The rates are half decades. Three are tried with the first seed; while the best one is the smallest or the largest
    tried, the next one is tried too. Best is the highest accuracy on the validation data (then the lowest training
    loss over the last tenth). Test data are not looked at for it.

    Parameters
    ----------
    setting : Setting
    methods : iterable of str
        Of ``finetuning.METHODS``.
    seeds : int
        Runs at the chosen rate, that of the tuning included.
    grid : sequence of int, optional
        Half decades to try, these alone.
    options
        Further arguments of :func:`fine_tune`.

    Returns
    -------
    list of dict
        For each method ``method``, the chosen ``lr``, ``tried`` (rate, validation accuracy or None, loss), ``runs``.
    """
    methods = list(methods)

    def runs(wanted: Iterable[tuple[str, int, int]]) -> list[dict]:
        tasks = [
            (fine_tune, {"setting": setting.json(), "method": method, "lr": rate(k), "seed": seed, **options})
            for method, k, seed in wanted
        ]
        return run_tasks(tasks, journal=journal, jobs=jobs, progress=progress)

    tried = tune(
        methods,
        lambda wanted: runs((method, k, 0) for method, k in wanted),
        first=FIRST if grid is None else grid,
        ends=ENDS,
        extend=grid is None,
    )
    chosen = {method: best(records) for method, records in tried.items()}
    final = [(method, chosen[method], seed) for method in methods for seed in range(seeds)]
    found: dict[str, list[dict]] = {method: [] for method in methods}
    for (method, _, _), record in zip(final, runs(final), strict=True):
        found[method].append(record)
    return [
        {
            "method": method,
            "lr": rate(chosen[method]),
            "tried": [
                [rate(k), record.get("validation"), late_loss(record) if record["losses"] else None]
                for k, record in sorted(tried[method].items())
            ],
            "runs": found[method],
        }
        for method in methods
    ]


def times(setting: Setting, chosen: list[dict], *, rounds: int, journal: Path, **options) -> dict[str, dict]:
    """Seconds of a training step of each method at its rate, on one thread, alternating in one process."""
    arguments = {
        "setting": setting.json(),
        "rates": {row["method"]: row["lr"] for row in chosen},
        "rounds": rounds,
        **options,
    }
    [found] = run_tasks([(time_steps, arguments)], journal=journal)
    return found


def draw_against_size(
    methods: list[dict], key: str, *, levels: dict[str, tuple[str, str]], ylabel: str, title: str, unit: float = 1.0
):
    """A mean over seeds and its standard deviation against the parameters of the adapters.

    Parameters
    ----------
    methods : list of dict
        With ``method``, ``label``, ``parameters``, ``deviation`` and the mean as `key`, None where all runs diverged.
    key : str
    levels : dict
        Methods without adapters, to (line style, label): their means are drawn as lines.
    ylabel, title : str
    unit : float
        Of the axis of the means.
    """
    from matplotlib import rc_context

    from dlrt.plots import STYLE, LineStyle, column_figure, shared_legend

    with rc_context(STYLE):
        figure, (axes,) = column_figure(1)
        for i, m in enumerate(methods):
            style = LineStyle(i).keywords()
            if m[key] is None:
                continue
            if m["method"] in levels:
                line, label = levels[m["method"]]
                axes.axhline(m[key] / unit, color=style["color"], linestyle=line, label=label)
                continue
            axes.errorbar(
                m["parameters"] / 1000,
                m[key] / unit,
                (m["deviation"] or 0.0) / unit,
                color=style["color"],
                marker=style["marker"],
                markersize=5,
                linestyle="none",
                capsize=2,
                label=m["label"],
            )
        axes.set(xlabel="trained parameters of the adapters (thousands)", ylabel=ylabel, title=title)
        return shared_legend(figure, [axes])
