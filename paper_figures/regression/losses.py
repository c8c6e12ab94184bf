r"""Loss of all methods on the matrix regression of Figure 5, each at its own best learning rate.

Problem, start (W = 0 in random bases of rank 10), precision and number of iterations are those of
:mod:`paper_figures.regression.problem`. Each method takes its rate from one grid of quarter decades by one rule: the
one with the fewest gradient evaluations to a relative error of W of 1e-3 (median over three seeds that are not shown),
and where none gets there the lowest loss at the end. The curvature of the loss is 1, so descent on the dense matrix is
done after one step with rate 1; what is compared is how near a method with few directions comes to that. All run at
the paper's rate of GeoLoRA, 0.1, too: there a method is as fast as it has few tapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from dlrt.plots import WIDTH
from dlrt.registry import with_options
from integrators import INTEGRATORS, Integrator, count_evaluations

from ..pictures import band, legend_above, look
from ..statements import finding
from ..tasks import cases
from .problem import GEOLORA_RATE, SETTINGS, SINGLE, STEPS, adalora_method, follow, norm, problem, start_rank, tolerance

QUARTERS = [q / 4 for q in range(-16, 2)]
SEEDS, TUNING_SEEDS = 12, (100, 101, 102)
NEAR = 1e-3
"""Relative error of W to which gradient evaluations are counted."""


@dataclass(frozen=True)
class Method:
    """A method, and whether it moves on the manifold (or on the dense matrix)."""

    label: str
    integrator: Integrator
    riemannian: bool = True


METHODS = {
    "full": Method("full rank", INTEGRATORS["full-rank"]),
    "lora": Method("LoRA", INTEGRATORS["lora"], riemannian=False),
    "svd-lora": Method("SVD-LoRA", INTEGRATORS["svd-lora"], riemannian=False),
    "adalora": Method("AdaLoRA", adalora_method(0.001), riemannian=False),
    "splitting": Method("projector splitting", INTEGRATORS["projector-splitting"]),
    "bug": Method("BUG", INTEGRATORS["bug"]),
    "augmented-bug": Method("augmented BUG", with_options(INTEGRATORS["augmented-bug"], truncation=tolerance(1))),
    "parallel-bug": Method("parallel BUG", with_options(INTEGRATORS["parallel-bug"], truncation=tolerance(1))),
    "geolora": Method("GeoLoRA", with_options(INTEGRATORS["geolora"], truncation=tolerance(1))),
}


def descend(*, method: str, quarter: float, seed: int, **options) -> dict:
    """One run: relative error of W after each iteration at which it is recorded, and the rank at the end.

    Options are those of :func:`follow`: the number of steps, where it is not 1000.

    A run that is not finite ends where it was so last. Recorded are the first 20 iterations, then 30 a decade.
    """
    chosen, regression = METHODS[method], problem(seed)
    run = follow(chosen.integrator, regression, 10**quarter, seed, **options)
    errors = np.sqrt(2 * run.losses) / norm(regression)
    near = np.flatnonzero(errors < NEAR)
    kept = [k for k in recorded() if k < len(errors)]
    return {
        "diverged": bool(run.diverged or not errors[-1] < 1),
        "errors": [float(f"{errors[k]:.5g}") for k in kept],
        "near": int(near[0]) * count_evaluations(chosen.integrator) if len(near) else None,
        "end": float(errors[-1]) if math.isfinite(errors[-1]) else None,
        "rank": int(run.numerical_ranks[-1]),
    }


def recorded() -> list[int]:
    """Numbers of the iterations that are kept."""
    later = np.round(np.logspace(np.log10(20), np.log10(STEPS), 51)).astype(int)
    return sorted({*range(21), *later.tolist()})


# -- the figure --------------------------------------------------------------------------------------------------------


def compute(runs, quick: bool) -> dict:
    """Tune all methods alike on 3 seeds and run them on 12 others; quick: one seed each, two rates, 100 iterations."""
    seeds, tuning = (range(1), TUNING_SEEDS[:1]) if quick else (range(SEEDS), TUNING_SEEDS)
    quarters, short = ([-2.0, 0.0], {"steps": [100]}) if quick else (QUARTERS, {})
    tuned = {(m, q): cases(descend, method=[m], quarter=[q], seed=tuning, **short) for m in METHODS for q in quarters}
    merits: dict[str, dict[float, tuple]] = {m: {} for m in METHODS}
    for (m, q), records in runs.groups(tuned).items():
        merits[m][q] = _merit(records)
    best = {m: min(merits[m], key=merits[m].__getitem__) for m in METHODS}
    same = dict.fromkeys(METHODS, math.log10(GEOLORA_RATE))
    shown = [("best", m, q) for m, q in best.items()] + [("same", m, q) for m, q in same.items()]
    found = runs.groups({f"{w} {m}": cases(descend, method=[m], quarter=[q], seed=seeds, **short) for w, m, q in shown})
    return {
        "settings": SETTINGS
        | {
            "rank": {m: start_rank(METHODS[m].integrator) for m in METHODS},
            "seeds": list(seeds),
            "tuning_seeds": list(tuning),
            "quarters": quarters,
            "rule": f"fewest gradient evaluations to a relative error of {NEAR:g}, then the least error at the end",
            "iterations": recorded(),
            "same_rate": GEOLORA_RATE,
        },
        "methods": [
            {
                "method": m,
                "label": METHODS[m].label,
                "evaluations": count_evaluations(METHODS[m].integrator),
                "rate": 10 ** best[m],
                "at_the_end_of_the_grid": best[m] in (quarters[0], quarters[-1]),
                "tried": [[10**q, *merit] for q, merit in merits[m].items()],
                "quartiles": _quartiles(found[f"best {m}"]),
                "runs": [_ends(r) for r in found[f"best {m}"]],
                "quartiles_at_same_rate": _quartiles(found[f"same {m}"]),
                "at_same_rate": [_ends(r) for r in found[f"same {m}"]],
            }
            for m in METHODS
        ],
    }


def _merit(records: list[dict]) -> tuple[float, float]:
    """Medians of evaluations to NEAR and of the error at the end, the smaller the better; 1e9 for never."""
    near = np.median([1e9 if r["near"] is None else r["near"] for r in records])
    end = np.median([1e9 if r["diverged"] or r["end"] is None else r["end"] for r in records])
    return float(near), float(end)


def _ends(record: dict) -> dict:
    return {key: record[key] for key in ("diverged", "near", "end", "rank")}


def _quartiles(records: list[dict]) -> list[list[float]]:
    """First quartile, median, third quartile over the seeds as long as all are finite."""
    shortest = min(len(r["errors"]) for r in records)
    table = np.quantile([r["errors"][:shortest] for r in records], [0.25, 0.5, 0.75], axis=0)
    return [[float(f"{x:.4g}") for x in row] for row in table]


def statements(data: dict) -> dict[str, dict]:
    """What is claimed of rates, gradients and precision, seed by seed."""
    by = {m["method"]: m for m in data["methods"]}
    riemannian = [m for m in METHODS if METHODS[m].riemannian]
    factors = [m for m in METHODS if not METHODS[m].riemannian]

    def values(method, key, which="runs"):
        return [math.inf if r[key] is None else r[key] for r in by[method][which]]

    def evaluations(method, which):
        middle = np.median(values(method, "near", which))
        return "never" if math.isinf(middle) else f"{middle:.0f}"

    def rates(methods):
        return ", ".join(f"{METHODS[m].label} {by[m]['rate']:.2g}" for m in methods)

    def fewer(other, which, at):
        pairs = zip(values("geolora", "near", which), values(other, "near", which), strict=True)
        return f"{at}: GeoLoRA takes fewer gradients than {METHODS[other].label} to an error of {NEAR:g}", finding(
            f"{evaluations('geolora', which)} against {evaluations(other, which)}", [a < b for a, b in pairs]
        )

    def precise(method, which="runs", paper="reaches single precision"):
        ends = values(method, "end", which)
        return finding(f"{np.median(ends):.1e}", [end < SINGLE for end in ends], paper)

    several = [m for m in METHODS if by[m]["evaluations"] > 1]
    same = f"rate {data['settings']['same_rate']:g}"
    papers = {"geolora": "reaches single precision", "adalora": "does not converge"}
    return {
        "best rates: those of the methods on the manifold are at least ten times the others'": finding(
            f"{rates(riemannian)}; {rates(factors)}",
            [by[a]["rate"] >= 10 * by[b]["rate"] for a in riemannian for b in factors],
            paper="0.1 for GeoLoRA, 0.00178 for SVD-LoRA",
        ),
        **dict(fewer(other, "runs", "best rates") for other in [*factors, *several]),
        **dict(fewer(other, "at_same_rate", same) for other in several),
        **{
            f"{METHODS[m].label} reaches single precision (error below {SINGLE:g}) in {STEPS} iterations": precise(
                m, paper=papers.get(m, "—")
            )
            for m in METHODS
        },
        f"{same}: GeoLoRA reaches single precision": precise("geolora", "at_same_rate"),
        f"{same}: LoRA, SVD-LoRA and AdaLoRA diverge or end above their start": finding(
            ", ".join(f"{METHODS[m].label} {sum(r['diverged'] for r in by[m]['at_same_rate'])}" for m in factors),
            [r["diverged"] for m in factors for r in by[m]["at_same_rate"]],
        ),
    }


def draw(data: dict) -> Figure:
    """Relative error over gradient evaluations, at the best rates and at the same one: medians and quartiles."""
    iterations = np.array(data["settings"]["iterations"])
    figure = Figure(figsize=(WIDTH, 5.0), layout="constrained")
    best, same = figure.subplots(2, 1, sharex=True, sharey=True)
    for i, m in enumerate(data["methods"]):
        looks = look(m["method"]) | {"markersize": 3, "markevery": (0.013 * i, 0.12)}
        for axes, key in ((best, "quartiles"), (same, "quartiles_at_same_rate")):
            if axes is same and not METHODS[m["method"]].riemannian:
                continue
            low, middle, high = (np.array(row) for row in m[key])
            x = m["evaluations"] * iterations[: len(middle)]
            band(axes, x, low, middle, high, label=f"{m['label']} ({m['rate']:.2g})", **looks)
    best.set_xscale("symlog", linthresh=1)
    best.set(yscale="log", xlim=(0, 3 * STEPS), ylim=(5e-8, 2), title="each at its best rate (in brackets)")
    rate = data["settings"]["same_rate"]
    same.set(xlabel="gradient evaluations", title=f"rate {rate:g} (the factor methods diverge)")
    for axes in (best, same):
        axes.set_ylabel("relative error of W")
    legend_above(figure, best)
    return figure
