r"""Loss of all methods on the matrix regression of Figure 5, each at its own best learning rate.

Problem, start (W = 0 in random bases of rank 10), precision and number of iterations are those of
:mod:`paper_figures.figure5`. Each method takes its rate from one grid of quarter decades by one rule: the one with the
fewest gradient evaluations to a relative error of W of 1e-3 (median over three seeds that are not shown), and where
none gets there the lowest loss at the end. The curvature of the loss is 1, so descent on the dense matrix is done after
one step with rate 1; what is compared is how near a method with few directions comes to that.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlrt import solve
from integrators import (
    BUG,
    AugmentedBUG,
    FullRank,
    GeoLoRA,
    Integrator,
    LoRA,
    ParallelBUG,
    ProjectorSplitting,
    SVDLoRA,
    Tolerance,
)

from .figure5 import BUDGET, GEOLORA_RATE, RANK, SIGMA, SINGLE, SIZE, STEPS, TAU, TRUE_RANK, adalora_method, problem
from .tasks import markdown, run_tasks, statement, versions, write_json

logger = logging.getLogger(__name__)

QUARTERS = [q / 4 for q in range(-16, 2)]
SEEDS, TUNING_SEEDS = 12, (100, 101, 102)
NEAR = 1e-3
"""Relative error of W to which gradient evaluations are counted."""


@dataclass(frozen=True)
class Method:
    """A method, the rank it starts with, and whether it moves on the manifold (or on the dense matrix)."""

    label: str
    make: Callable[[], Integrator]
    riemannian: bool = True
    rank: int = RANK


def _tolerance():
    return Tolerance(relative=TAU, spare=1)


METHODS = {
    "full": Method("full rank", FullRank),
    "lora": Method("LoRA", LoRA, riemannian=False),
    "svd-lora": Method("SVD-LoRA", SVDLoRA, riemannian=False),
    "adalora": Method("AdaLoRA", lambda: adalora_method(0.001, BUDGET[1]), riemannian=False, rank=BUDGET[0]),
    "splitting": Method("projector splitting", ProjectorSplitting),
    "bug": Method("BUG", BUG),
    "augmented-bug": Method("augmented BUG", lambda: AugmentedBUG(truncation=_tolerance())),
    "parallel-bug": Method("parallel BUG", lambda: ParallelBUG(truncation=_tolerance())),
    "geolora": Method("GeoLoRA", lambda: GeoLoRA(truncation=_tolerance())),
}


def descend(*, method: str, quarter: float, seed: int) -> dict:
    """One run: relative error of W after each iteration at which it is recorded, and the rank at the end.

    A run that is not finite ends where it was so last. Recorded are the first 20 iterations, then 30 a decade.
    """
    chosen, regression = METHODS[method], problem(seed)
    integrator = chosen.make()
    size = float(np.linalg.norm(regression.target.astype(np.float64)))
    run = solve(integrator, regression, step_size=10**quarter, steps=STEPS, rank=chosen.rank, seed=seed)
    errors = np.sqrt(2 * run.losses) / size
    near = np.flatnonzero(errors < NEAR)
    kept = [k for k in recorded() if k < len(errors)]
    return {
        "diverged": bool(run.diverged or not errors[-1] < 1),
        "errors": [float(f"{errors[k]:.5g}") for k in kept],
        "near": int(near[0]) * integrator.evaluations if len(near) else None,
        "end": float(errors[-1]) if math.isfinite(errors[-1]) else None,
        "rank": int(run.numerical_ranks[-1]),
    }


def recorded() -> list[int]:
    """Numbers of the iterations that are kept."""
    later = np.round(np.logspace(np.log10(20), np.log10(STEPS), 51)).astype(int)
    return sorted({*range(21), *later.tolist()})


# -- the figure --------------------------------------------------------------------------------------------------------


def run(out: Path, quick: bool = False, jobs: int = 1, progress=None) -> dict:
    """Tune all methods alike, run them, and draw the figure.

    Parameters
    ----------
    out : Path
        Folder for ``losses.json``, ``losses.png``, ``losses.pdf`` and the journal of finished runs.
    quick : bool
        2 seeds in place of 12, one for tuning, and every other half decade.
    jobs : int
        Runs at the same time.
    progress : callable, optional
        Called as ``progress(done, total)``.

    Returns
    -------
    dict
        What is in ``losses.json``.
    """
    out = Path(out)
    seeds, tuning = (range(2), TUNING_SEEDS[:1]) if quick else (range(SEEDS), TUNING_SEEDS)
    quarters = [-3.0, -2.0, -1.0, 0.0] if quick else QUARTERS
    journal = out / "losses.journal"
    grid = [(m, q, s) for m in METHODS for q in quarters for s in tuning]
    found = dict(zip(grid, _runs(grid, journal, jobs, progress), strict=True))
    best = {m: min(quarters, key=lambda q, m=m: _merit([found[m, q, s] for s in tuning])) for m in METHODS}
    at_paper = math.log10(GEOLORA_RATE)
    shown = [(m, best[m], s) for m in METHODS for s in seeds]
    same = [(m, at_paper, s) for m in METHODS for s in seeds]
    records = _runs(shown + same, journal, jobs, progress)
    result = {
        "schema_version": 1,
        "figure": "losses",
        "quick": quick,
        "settings": {
            "shape": [SIZE, SIZE],
            "true_rank": TRUE_RANK,
            "rank": {m: METHODS[m].rank for m in METHODS},
            "sigma_1": SIGMA,
            "dtype": "float32",
            "tau": TAU,
            "seeds": list(seeds),
            "tuning_seeds": list(tuning),
            "quarters": quarters,
            "rule": f"fewest gradient evaluations to a relative error of {NEAR:g}, then the least error at the end",
            "iterations": recorded(),
            "same_rate": GEOLORA_RATE,
        },
        "versions": versions(),
        "methods": [
            {
                "method": m,
                "label": METHODS[m].label,
                "evaluations": METHODS[m].make().evaluations,
                "rate": 10 ** best[m],
                "at_the_end_of_the_grid": best[m] in (quarters[0], quarters[-1]),
                "tried": [[10**q, *_merit([found[m, q, s] for s in tuning])] for q in quarters],
                "quartiles": _quartiles([r["errors"] for r in records[i * len(seeds) : (i + 1) * len(seeds)]]),
                "runs": [_ends(r) for r in records[i * len(seeds) : (i + 1) * len(seeds)]],
                "at_same_rate": [
                    _ends(r) for r in records[len(shown) + i * len(seeds) : len(shown) + (i + 1) * len(seeds)]
                ],
            }
            for i, m in enumerate(METHODS)
        ],
    }
    result["statements"] = _statements(result)
    write_json(out / "losses.json", result)

    from dlrt.plots import save_figure

    save_figure(draw(result), out / "losses")
    for line in markdown(result["statements"]):
        logger.info("%s", line)
    return result


def _runs(wanted, journal, jobs, progress) -> list[dict]:
    tasks = [(descend, {"method": m, "quarter": q, "seed": s}) for m, q, s in wanted]
    return run_tasks(tasks, journal=journal, jobs=jobs, progress=progress)


def _merit(records: list[dict]) -> tuple[float, float]:
    """Medians of evaluations to NEAR and of the error at the end, the smaller the better; 1e9 for never."""
    near = np.median([1e9 if r["near"] is None else r["near"] for r in records])
    end = np.median([1e9 if r["diverged"] or r["end"] is None else r["end"] for r in records])
    return float(near), float(end)


def _ends(record: dict) -> dict:
    return {key: record[key] for key in ("diverged", "near", "end", "rank")}


def _quartiles(errors: list[list[float]]) -> list[list[float]]:
    """First quartile, median, third quartile over the seeds as long as all are finite."""
    shortest = min(map(len, errors))
    table = np.quantile([e[:shortest] for e in errors], [0.25, 0.5, 0.75], axis=0)
    return [[float(f"{x:.4g}") for x in row] for row in table]


def _statements(data: dict) -> list[dict]:
    by = {m["method"]: m for m in data["methods"]}
    riemannian = [m for m in METHODS if METHODS[m].riemannian]
    factors = [m for m in METHODS if not METHODS[m].riemannian]

    def near(method):
        return [math.inf if r["near"] is None else r["near"] for r in by[method]["runs"]]

    def single(method, which="runs"):
        return [r["end"] is not None and r["end"] < SINGLE for r in by[method][which]]

    def evaluations(method):
        middle = np.median(near(method))
        return "never" if math.isinf(middle) else f"{middle:.0f}"

    def listed(methods, text):
        return ", ".join(f"{METHODS[m].label} {text(m)}" for m in methods)

    def fewer(method, other):
        return statement(
            f"{METHODS[method].label} takes fewer gradients than {METHODS[other].label} to an error of {NEAR:g}",
            f"{evaluations(method)} against {evaluations(other)}",
            [a < b for a, b in zip(near(method), near(other), strict=True)],
        )

    return [
        statement(
            "best rates: those of the methods on the manifold are at least ten times the others'",
            f"{listed(riemannian, lambda m: format(by[m]['rate'], '.2g'))}; "
            f"{listed(factors, lambda m: format(by[m]['rate'], '.2g'))}",
            [by[a]["rate"] >= 10 * by[b]["rate"] for a in riemannian for b in factors],
            paper="0.1 for GeoLoRA, 0.00178 for SVD-LoRA",
        ),
        *(fewer("geolora", other) for other in ("lora", "svd-lora", "adalora", "splitting", "bug", "augmented-bug")),
        *(
            statement(
                f"{METHODS[m].label} reaches single precision (error below {SINGLE:g}) in {STEPS} iterations",
                f"{np.median([math.inf if r['end'] is None else r['end'] for r in by[m]['runs']]):.1e}",
                single(m),
                paper={"geolora": "reaches single precision", "adalora": "does not converge"}.get(m, "—"),
            )
            for m in METHODS
        ),
        statement(
            f"at the rate {data['settings']['same_rate']:g} GeoLoRA reaches single precision",
            f"{np.median([math.inf if r['end'] is None else r['end'] for r in by['geolora']['at_same_rate']]):.1e}",
            single("geolora", "at_same_rate"),
            paper="reaches single precision",
        ),
        statement(
            f"at the rate {data['settings']['same_rate']:g} the factor methods diverge or end above their start",
            listed(factors, lambda m: f"{sum(r['diverged'] for r in by[m]['at_same_rate'])}"),
            [r["diverged"] for m in factors for r in by[m]["at_same_rate"]],
        ),
    ]


def draw(data: dict):
    """Relative error over iterations and over gradient evaluations: medians, with quartiles as bands."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from dlrt.plots import STYLE, WIDTH, LineStyle

    iterations = np.array(data["settings"]["iterations"])
    with rc_context(STYLE | {"lines.markersize": 3}):
        figure = Figure(figsize=(WIDTH, 5.0), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(2, 1, sharey=True)
        for i, m in enumerate(data["methods"]):
            low, middle, high = (np.array(row) for row in m["quartiles"])
            for axes, tapes in ((panels[0], 1), (panels[1], m["evaluations"])):
                x = tapes * iterations[: len(middle)]
                style = LineStyle(i).keywords()
                axes.plot(x, middle, label=f"{m['label']} ({m['rate']:.2g})", markevery=0.12, **style)
                axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
        for axes, label in zip(panels, ("iteration", "gradient evaluations"), strict=True):
            axes.set_xscale("symlog", linthresh=1)
            axes.set_yscale("log")
            axes.set(xlabel=label, ylabel="relative error of W")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
        panels[0].set_title("each at its best rate (in brackets)")
    return figure
