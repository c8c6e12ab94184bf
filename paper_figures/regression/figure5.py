r"""Figure 5 of the GeoLoRA paper: ``min 1/2 ||W - A||_F^2`` in single precision, and the largest stable steps.

The paper says: 0.00178 is the largest stable learning rate of SVD-LoRA; with it the loss is 1.7 after 1000 iterations
and the entries of S oscillate. GeoLoRA takes 0.1 and reaches single precision. AdaLoRA damps the oscillation but picks
a wrong rank and does not converge. Size, rank, target and start are those of :mod:`paper_figures.regression.problem`.

**The limit of SVD-LoRA.** At a minimiser ``U S V^T = A`` the Hessian of the loss in (U, S, V) is ``J^T J`` with the
Jacobian ``J (dU, dS, dV) = dU S V^T + U dS V^T + U S dV^T``. For the first singular vectors p, q of A put
``a = ||U^T p||`` and ``b = ||V^T q||``. Since ``sigma_1 = p^T U S V^T q`` is at most ``a ||S V^T q||`` and at most
``b ||S^T U^T p||``,

.. math:: \lambda_{max} \ge \|J^T p q^T\|^2 = \|S V^T q\|^2 + a^2 b^2 + \|S^T U^T p\|^2
          \ge \sigma_1^2 / a^2 + a^2 b^2 + \sigma_1^2 / b^2 \ge 3 \sigma_1^{4/3},

by the inequality of the means. Balanced factors ``P D^{1/3}, D^{1/3}, Q D^{1/3}`` attain it. So gradient descent is
linearly unstable at *every* minimiser for steps above ``2 / (3 sigma_1^{4/3})``. At the limit itself the linear
multiplier is -1: a 2-periodic oscillation that only higher-order terms damp, in the end with a loss ~ 1/k. Above it the
oscillation stays for good.

GeoLoRA is descent with a projected gradient: its limit is 2 / L = 2 whatever A.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from integrators import FullRank, GeoLoRA, LoRA, SVDLoRA

from ..pictures import look, shades
from ..statements import each, grouped, median_text, spread
from ..tasks import cases, rows
from .problem import (
    BUDGET,
    GEOLORA_RATE,
    RATE,
    SETTINGS,
    SIGMA,
    SINGLE,
    STEPS,
    TAU,
    TRUE_RANK,
    adalora_method,
    follow,
    norm,
    problem,
    stable,
    tolerance,
)

SETTLED = 1e-7
"""A run has settled if it takes its loss below this multiple of the start: for a relative error of W of 3e-4."""
QUARTERS = [-3.25, -3.0, -2.75, -2.5, -2.25]
OTHER_TARGETS = {
    "two equal singular values": {"rank": [2], "equal": [True]},
    "rank 2, Gaussian": {"rank": [2]},
    "100 x 100": {"size": [100]},
}
SCOPE: dict[str, tuple[Any, Any]] = {
    "seeds": (range(20), range(1)),
    "gammas": ([0.001, 0.01, 0.1, 0.5], [0.001]),
    "adalora_quarters": ([-4.0, -3.5, -3.25, -3.0, -2.75, -2.5, -2.25], [-2.75]),
    "lora_quarters": ([-3.0, -2.75, -2.5, -2.25, -2.0, -1.75, -1.5], [-2.25, -2.0]),
    "factors": ([0.98, 0.99, 0.995, 0.999, 1.0, 1.001, 1.005, 1.01, 1.02], [0.99]),
    "long": ([1.0, 1.001], []),
    "sigmas": ([10.0, SIGMA, 1000.0], []),
    "targets": (OTHER_TARGETS, {}),
}
"""Of a full and of a quick run; ``factors`` and ``long`` are rates of SVD-LoRA relative to :data:`RATE`."""


def stable_limit(sigma):
    """Largest linearly stable step of SVD-LoRA at any minimiser, ``2 / (3 sigma^{4/3})``."""
    return 2 / (3 * sigma ** (4 / 3))


def limit_from_start(sigma):
    """The same at the minimiser to which the gradient flow leads from orthonormal U, V and S = 0.

    The flow keeps ``U^T U - S S^T = I``: the first direction ends at s with ``s (1 + s^2) = sigma`` and
    ``u^2 = v^2 = 1 + s^2``, where the curvature is ``2 s^2 (1 + s^2) + (1 + s^2)^2``.
    """
    s = float(next(root.real for root in np.roots([1, 0, 1, -sigma]) if abs(root.imag) < 1e-9))
    return 2 / (2 * s**2 * (1 + s**2) + (1 + s**2) ** 2)


def ending(run, regression):
    """Final loss and relative error of W, or no loss if the run is not stable."""
    if not stable(run):
        return {"loss": None}
    return {"loss": float(run.losses[-1]), "relative_error": math.sqrt(2 * run.losses[-1]) / norm(regression)}


@functools.lru_cache(maxsize=16)
def recorded(method, rate, seed, steps, **target):
    """A run with S at every iteration; kept, since those of the first seed are judged and drawn."""
    return follow(method, problem(seed, **target), rate, seed, steps=steps, coefficients=True)


def oscillation(run):
    """Of the entry of S that moves most: share of sign flips in its last 500 increments, their size and decay."""
    moves = np.diff(run.coefficients, axis=0)
    sizes = np.abs(moves[-100:]).max(axis=0)
    i, j = np.unravel_index(sizes.argmax(), sizes.shape)
    entry = moves[-500:, i, j]
    half = len(entry)
    return {
        "flips": float(np.mean(entry[1:] * entry[:-1] < 0)),
        "amplitude": float(sizes[i, j]),
        "amplitude_ratio": float(np.abs(entry[-100:]).mean() / np.abs(entry[: half - 400]).mean()),
    }


# -- tasks: one seed each, JSON in and out -----------------------------------------------------------------------------


def svd_lora(seed, rate=RATE, steps=STEPS, **target):
    """Loss after the given steps, oscillation of S, and the exponent p in loss ~ k^p over the second half."""
    run = recorded(SVDLoRA(), rate, seed, steps, **target)
    if not stable(run):
        return {"loss": None}
    late = slice(steps // 2, None)
    slope = np.polyfit(np.log(run.steps[late]), np.log(run.losses[late]), 1)[0]
    return {"loss": float(run.losses[-1]), "exponent": float(slope), **oscillation(run)}


def svd_lora_limits(seed, quarters, **target):
    """Largest stable rate on the grid of quarter decades, and by bisection of two definitions."""
    regression = problem(seed, **target)

    def accepted(rate, factor=1.0):
        run = follow(SVDLoRA(), regression, rate, seed, every=STEPS)
        return stable(run) and bool(run.losses[-1] < factor * run.losses[0])

    limit = stable_limit(target.get("sigma", SIGMA))
    on_grid = [accepted(10**q) for q in quarters]
    first = on_grid.index(False) if False in on_grid else len(on_grid)
    return {
        "stable_on_grid": on_grid,
        "grid": quarters[first - 1] if first else None,
        "bisection": bisect(accepted, limit / 2, 4 * limit),
        "settled": bisect(lambda rate: accepted(rate, SETTLED), limit / 2, 2 * limit),
    }


def bisect(accepts, low, high, ratio=1.002):
    """An edge between a rate that is accepted and one that is not, to `ratio`; None if the ends do not enclose one."""
    if not accepts(low) or accepts(high):
        return None
    while high > ratio * low:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if accepts(middle) else (low, middle)
    return low


def geolora(seed, spare, rate=GEOLORA_RATE, **target):
    """Counted rank, columns, error, and when single precision was reached."""
    truncation = tolerance(spare)
    run = recorded(GeoLoRA(truncation=truncation), rate, seed, STEPS, **target)
    if run.diverged:
        return {"status": run.status}
    errors = np.sqrt(2 * run.losses) / norm(problem(seed, **target))
    below = np.flatnonzero(errors < SINGLE)
    d = run.singular_values[-1]
    [counted] = truncation.ranks([d[np.isfinite(d)]])
    return {
        "status": run.status,
        "rank": counted,
        "columns": int(run.ranks[-1]),
        "relative_error": float(errors[-1]),
        "largest_late_error": float(errors[STEPS // 2 :].max()),
        "iterations_to_single": int(run.steps[below[0]]) if len(below) else None,
        "amplitude": float(np.nanmax(np.abs(np.diff(run.coefficients[-101:], axis=0)))),
    }


def geolora_grid(seed, quarters, sigma):
    """The largest of the rates with which GeoLoRA ends finite and below its start."""
    method, regression = GeoLoRA.published(TAU), problem(seed, sigma=sigma)
    accepted = [q for q in quarters if stable(follow(method, regression, 10**q, seed, steps=200, every=200))]
    return {"grid": max(accepted, default=None)}


def rate_of(quarter):
    """The learning rate of a quarter decade; one of them is the paper's rate, rounded."""
    return RATE if quarter == -2.75 else 10**quarter


def adalora(seed, quarter, gamma, final=BUDGET[1], coefficients=False):
    """Loss, error, triplets that are not zero, and the numerical rank."""
    method, regression, rate = adalora_method(gamma, final), problem(seed), rate_of(quarter)
    run = recorded(method, rate, seed, STEPS) if coefficients else follow(method, regression, rate, seed, every=STEPS)
    if not stable(run):
        return {"loss": None}
    return ending(run, regression) | {
        "triplets": int(np.count_nonzero(np.diagonal(run.Y.S))),
        "rank": int(run.numerical_ranks[-1]),
        "amplitude": oscillation(run)["amplitude"] if coefficients else None,
    }


def lora(seed, quarter):
    """Loss and error of LoRA."""
    regression = problem(seed)
    return ending(follow(LoRA(), regression, 10**quarter, seed, every=STEPS), regression)


def full_rank(seed, rate=GEOLORA_RATE):
    """Loss and error of descent on the dense matrix."""
    regression = problem(seed)
    return ending(follow(FullRank(), regression, rate, seed, every=STEPS), regression)


# -- the figure --------------------------------------------------------------------------------------------------------


def compute(runs, quick):
    """Stable steps, losses and ranks for 20 seeds; quick: for one, without the other targets and the long runs."""
    given = {name: values[quick] for name, values in SCOPE.items()}
    seeds, few = list(given["seeds"]), list(given["seeds"][:3])
    factors, long, sigmas, targets = (given[key] for key in ("factors", "long", "sigmas", "targets"))
    groups = {
        "svd_lora": cases(svd_lora, seed=seeds),
        "limits": cases(svd_lora_limits, quarters=[QUARTERS], seed=seeds),
        "full_rank": cases(full_rank, seed=seeds),
        "adalora_tuning": cases(adalora, gamma=given["gammas"], quarter=given["adalora_quarters"], seed=few),
        "lora_tuning": cases(lora, quarter=given["lora_quarters"], seed=few),
        "geolora": cases(geolora, spare=[0], seed=seeds),
        "geolora_spare": cases(geolora, spare=[1], seed=seeds),
        **{f"factor {x}": cases(svd_lora, rate=[RATE * x], seed=few) for x in factors},
        "long_run": cases(svd_lora, rate=[RATE * x for x in long], steps=[20_000], seed=seeds[:2]),
    }
    for x in sigmas:
        groups[f"limits {x}"] = cases(svd_lora_limits, quarters=[[]], sigma=[x], seed=few)
        groups[f"grid {x}"] = cases(geolora_grid, quarters=[[-0.25, 0.0, 0.25, 0.5]], sigma=[x], seed=few)
    for name, target in targets.items():
        groups[name] = cases(svd_lora, **target, seed=seeds)
        groups[f"limits {name}"] = cases(svd_lora_limits, quarters=[QUARTERS], **target, seed=seeds)
    found = runs.groups(groups)

    # The baselines at their best, by the same rule
    best_adalora, adalora_table = _tuned(groups["adalora_tuning"], found["adalora_tuning"])
    best_lora, lora_table = _tuned(groups["lora_tuning"], found["lora_tuning"])
    chosen = {key: [value] for key, value in best_adalora.items()}
    found |= runs.groups(
        {
            "adalora": cases(adalora, **chosen, coefficients=[True], seed=seeds),
            "adalora_usual": cases(adalora, quarter=[-2.75], gamma=[0.1], coefficients=[True], seed=seeds),
            "adalora_true_rank": cases(adalora, **chosen, final=[TRUE_RANK], seed=seeds),
            "lora": cases(lora, quarter=[best_lora["quarter"]], seed=seeds),
        }
    )
    found["long_run"] = [
        {key: r[key] for key in ("rate", "loss", "exponent", "flips")}
        for r in rows(groups["long_run"], found["long_run"])
    ]
    shown = ("svd_lora", "limits", "adalora", "adalora_usual", "lora", "adalora_true_rank", "full_rank", "geolora")
    settings = SETTINGS | {
        "start": "W = 0, Haar-distributed orthonormal bases",
        "target": "Gaussian product of rank 5, scaled to sigma_1; generator default_rng([seed, 5])",
        "steps": STEPS,
        "rates": {"SVD-LoRA": RATE, "GeoLoRA": GEOLORA_RATE, "full rank": GEOLORA_RATE},
        "adalora": {"budget": list(BUDGET), "best": best_adalora, "beta": 0.85},
        "lora": best_lora,
        "stable": "finite and below its start after 1000 iterations",
        "settled": f"loss below {SETTLED} of its start after 1000 iterations",
        "seeds": seeds,
        "tuning_seeds": few,
    }
    return {
        "settings": settings,
        "analytic_limit": stable_limit(SIGMA),
        "analytic_limit_from_start": limit_from_start(SIGMA),
        "runs": {name: found[name] for name in (*shown, "geolora_spare", "long_run")},
        "sensitivity": [{"factor": x, "loss": _spread(found[f"factor {x}"], "loss")} for x in factors],
        "scaling": [
            {
                "sigma_1": x,
                "analytic_limit": stable_limit(x),
                "settled": _spread(found[f"limits {x}"], "settled"),
                "geolora_quarter_decade": [r["grid"] for r in found[f"grid {x}"]],
            }
            for x in sigmas
        ],
        "tuning": {"adalora": adalora_table, "lora": lora_table},
        "other_targets": [
            {
                "target": name,
                "loss": _spread(found[name], "loss"),
                "largest_stable_quarter": [r["grid"] for r in found[f"limits {name}"]],
                "bisection": _spread(found[f"limits {name}"], "bisection"),
                "settled": _spread(found[f"limits {name}"], "settled"),
            }
            for name in targets
        ],
        "curves": {
            name: {"step": c.steps[::20].tolist(), "loss": c.losses[::20].tolist()}
            for name, c in _curves(settings).items()
        },
    }


def _spread(rows, key):
    return spread(r.get(key) for r in rows)


def _tuned(tasks, results):
    """The best setting and the table of all: by the largest loss over the seeds, the faster one at single precision."""
    keys = [key for key in tasks[0][1] if key != "seed"]
    table = []
    for values, runs in grouped(rows(tasks, results), *keys).items():
        finite = all(r["loss"] is not None for r in runs)
        table.append(
            dict(zip(keys, values, strict=True))
            | {"largest_loss": max(r["loss"] for r in runs) if finite else None}
            | {"single_precision": finite and all(r["relative_error"] < SINGLE for r in runs)}
        )

    def merit(row):
        if row["single_precision"]:
            return 0.0, -row["quarter"]
        return (math.inf if row["largest_loss"] is None else row["largest_loss"]), 0.0

    best = min(table, key=merit)
    return {key: best[key] for key in keys}, table


def statements(data):
    """What is claimed of each method, seed by seed."""
    runs, limit = data["runs"], data["analytic_limit"]
    true = data["settings"]["true_rank"]

    def beside_svd_lora(name):
        return [r | {"svd_lora": s.get("amplitude")} for r, s in zip(runs[name], runs["svd_lora"], strict=True)]

    return {
        "SVD-LoRA: analytic limit 2/(3 σ₁^{4/3}); steps settle up to within 1 % of it": each(
            runs["limits"],
            f"{limit:.5f} (fitted); measured {{settled:.5f}}",
            lambda r: abs(r["settled"] / limit - 1) < 0.01,
            paper=f"{RATE} largest stable rate",
        ),
        "SVD-LoRA: largest stable rate on the grid of quarter decades is 10^-2.75 = 0.00178": each(
            runs["limits"], "10^{grid:.2f}", lambda r: r["grid"] == -2.75, paper=f"{RATE}"
        ),
        "SVD-LoRA: the largest stable rate by bisection lies in the same quarter decade, "
        "above the analytic limit": each(
            runs["limits"], "{bisection:.5f}", lambda r: limit < r["bisection"] < 10**-2.5
        ),
        f"SVD-LoRA at {RATE}: loss after {STEPS} iterations between 0.5 and 3": each(
            runs["svd_lora"], "{loss:.2f}", lambda r: 0.5 <= r["loss"] <= 3, paper="1.7"
        ),
        "SVD-LoRA: an entry of S flips the sign of its increment in each of the last 500 iterations": each(
            runs["svd_lora"], "{flips:.3f}", lambda r: r["flips"] == 1, paper="oscillation"
        ),
        "SVD-LoRA: the oscillation persists (increments of the last 100 iterations over those of 501 to 600)": each(
            runs["svd_lora"], "{amplitude_ratio:.2f}", lambda r: r["amplitude_ratio"] > 0.6, paper="oscillation"
        ),
        f"GeoLoRA (published, no spare direction) at {GEOLORA_RATE}: relative error of W below 1e-6": each(
            runs["geolora"], "{relative_error:.1e}", _precise, paper="single precision"
        ),
        "GeoLoRA stays below 1e-6 over the last 500 iterations": each(
            runs["geolora"],
            "{largest_late_error:.1e}",
            lambda r: r["largest_late_error"] < SINGLE,
            paper="single precision",
        ),
        "GeoLoRA: true rank": each(
            runs["geolora"], "{rank:.0f}", lambda r: r["rank"] == true, paper=f"rank of A (here {true})"
        ),
        "GeoLoRA with one spare direction: the same error, true rank plus the spare column": each(
            runs["geolora_spare"],
            "{relative_error:.1e}",
            lambda r: _precise(r) and (r["rank"], r["columns"]) == (true, true + 1),
        ),
        "AdaLoRA (budget 12 to 8, tuned): wrong number of triplets": each(
            runs["adalora"],
            "{triplets:.0f}, numerical rank {rank:.0f}",
            lambda r: r["triplets"] != true and r["rank"] != true,
            paper="wrong rank",
            missing=True,
        ),
        "AdaLoRA (tuned): does not converge, relative error above 1e-5": each(
            runs["adalora"], "{relative_error:.1e}", _far, paper="does not converge", missing=True
        ),
        "AdaLoRA (tuned): S oscillates less at the end than that of SVD-LoRA": each(
            beside_svd_lora("adalora"),
            "{amplitude:.1e} against {svd_lora:.1e} per step",
            lambda r: r["amplitude"] < r["svd_lora"],
            paper="damps the oscillation",
        ),
        "AdaLoRA with γ = 0.1 at 0.00178: S oscillates less at the end than that of SVD-LoRA": each(
            beside_svd_lora("adalora_usual"),
            "loss {loss:.3g}, increment {amplitude:.1e}",
            lambda r: r["amplitude"] < r["svd_lora"],
            paper="damps the oscillation",
        ),
        "AdaLoRA told the true rank (budget 12 to 5): still above 1e-5": each(
            runs["adalora_true_rank"], "{relative_error:.1e}", _far, missing=True
        ),
        "LoRA (tuned): relative error of W below 1e-6": each(runs["lora"], "{relative_error:.1e}", _precise),
        f"full-rank descent at {GEOLORA_RATE}: relative error of W below 1e-6": each(
            runs["full_rank"], "{relative_error:.1e}", _precise
        ),
    }


def _precise(row):
    return row["relative_error"] < SINGLE


def _far(row):
    return row["relative_error"] > 1e-5


def tables(data):
    """Limits for other targets and rates, for the README."""
    return {
        "limits": [
            {
                "σ₁": f"{r['sigma_1']:.4g}",
                "analytic limit": f"{r['analytic_limit']:.4g}",
                "SVD-LoRA settles up to (bisection)": f"{r['settled']['median']:.4g}",
                "GeoLoRA: largest stable quarter decade": " to ".join(
                    f"10^{q} = {10**q:.2f}" for q in sorted(set(r["geolora_quarter_decade"]))
                ),
            }
            for r in data["scaling"]
        ],
        "window": [
            {"rate / 0.00178": f"{r['factor']:g}", "loss": median_text(r["loss"], ".2g")} for r in data["sensitivity"]
        ],
        "targets": [
            {
                "other targets, 20 seeds": r["target"],
                "loss at 0.00178": median_text(r["loss"]),
                "largest stable quarter decade": ", ".join(
                    f"10^{q:g} in {r['largest_stable_quarter'].count(q)} of {len(r['largest_stable_quarter'])}"
                    for q in sorted(set(r["largest_stable_quarter"]))
                ),
                "an edge, by bisection": median_text(r["bisection"], ".5f"),
                "settles up to": f"{r['settled']['median']:.5f}",
            }
            for r in data["other_targets"]
        ],
    }


def _curves(settings):
    """The runs that are drawn, recorded at every iteration."""
    best = settings["adalora"]["best"]
    methods = {
        "SVD-LoRA": (SVDLoRA(), RATE),
        "AdaLoRA": (adalora_method(best["gamma"]), rate_of(best["quarter"])),
        "GeoLoRA": (GeoLoRA.published(TAU), GEOLORA_RATE),
        "LoRA": (LoRA(), 10 ** settings["lora"]["quarter"]),
        "full rank": (FullRank(), GEOLORA_RATE),
    }
    return {name: recorded(method, rate, settings["seeds"][0], STEPS) for name, (method, rate) in methods.items()}


def draw(data):
    """Entries of S for the three methods of the paper, and the loss of all methods below them."""
    curves = _curves(data["settings"])
    figure = Figure(figsize=(6.8, 4.3), layout="constrained")
    parts: Any = figure.subfigures(2, 1)
    top, bottom = parts
    panels = top.subplots(1, 3)
    for axes, letter, name in zip(panels, "abc", ("SVD-LoRA", "AdaLoRA", "GeoLoRA"), strict=True):
        run = curves[name]
        _draw_entries(axes, run)
        axes.set_title(f"({letter}) {name}, λ = {run.step_sizes[0]:.3g}")
        axes.set_xlabel("iteration")
        _inset(axes, run)
    panels[0].set_ylabel("entries of S")

    axes = bottom.subplots()
    for i, name in enumerate(("full rank", "SVD-LoRA", "AdaLoRA", "GeoLoRA", "LoRA")):
        run = curves[name]
        label, markers = f"{name}, λ = {run.step_sizes[0]:.3g}", (20 * i, 100)
        axes.semilogy(run.steps, run.losses, label=label, markevery=markers, **look(name.lower().replace(" ", "-")))
    axes.set(xlabel="iteration", ylabel="loss", xlim=(0, STEPS))
    bottom.legend(loc="outside right upper", frameon=False, handlelength=2.5)
    return figure


def _draw_entries(axes, run):
    """Every entry of S over the iterations, the five largest at the end in colour."""
    entries = run.coefficients.reshape(len(run.steps), -1)
    shown = [k for k in range(entries.shape[1]) if np.nanmax(np.abs(entries[:, k])) > 0]
    strongest = sorted(shown, key=lambda k: -np.nan_to_num(np.abs(entries[-1, k])))
    looks = [shade | {"marker": "", "linewidth": 1.1} for shade in shades(5)]
    looks += [{"color": "0.7", "linewidth": 0.5}] * (len(strongest) - 5)
    for k, chosen in reversed(list(zip(strongest, looks, strict=False))):
        axes.plot(run.steps, entries[:, k], **chosen)


def _inset(axes, run):
    """Over the curves: the entry that moves most in the last 40 iterations, less its mean."""
    late = run.coefficients[-41:]
    moves = np.abs(np.diff(late, axis=0)).max(axis=0)
    i, j = np.unravel_index(np.nanargmax(moves), moves.shape)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.6 * (high - low))
    inset = axes.inset_axes([0.3, 0.74, 0.66, 0.22])
    inset.plot(run.steps[-41:], late[:, i, j] - late[:, i, j].mean(), color="black", linewidth=0.7)
    inset.set(ylim=(-0.03, 0.03), xlim=(STEPS - 40, STEPS))
    inset.tick_params(labelsize=5, pad=1)
