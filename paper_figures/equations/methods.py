"""What is measured of every low-rank method with an order: order, robustness, plateau, and largest stable step.

All methods of the registry, those of other packages apart, at a fixed rank and with the substep of the registry.

- *order*: slope of the error over the step size on two nonlinear equations whose solution has the rank of the method.
- *small singular values*: the largest error with a last singular value of 1e-4 to 1e-14 over that with 1e-1, at one
  step size.
- *plateau*: the error over that of the best approximation, where the solution has full rank and steps are short.
- *stability*: h L for the largest step with which a run from a start with all frequencies comes to rest, with L the
  Lipschitz constant of the field (Allen-Cahn's for entries in [-1, 1]); found by doubling and bisection to 5 %. For
  Euler's method it is 2. With exact sub-flows a step of up to `LARGEST` is tried.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dlrt import convergence, solve
from dlrt.accuracy import ended
from dlrt.registry import ORIGINS, takes, with_options
from integrators import INTEGRATORS, Exact, FixedRank, FullRank, Integrator, LowRank, State, Tolerance, combine
from problems import Problem, allen_cahn, given_solution, lyapunov, manufactured, rotating

from ..pictures import look
from ..statements import each
from ..tasks import cases

STEPS = (16, 32, 64, 128)
SMALLEST = (1e-1, 1e-4, 1e-8, 1e-11, 1e-14)
LARGEST, LEAST = 1024.0, 2.0**-6
"""Of h L."""
TOLERANCE = 0.2
"""Between measured and declared order."""
BOUNDED = 2.5
"""Factor by which the error may grow as the last singular value falls: what the contract of methods allows."""


def methods() -> list[str]:
    """Names of the methods of this project that follow the field at low rank."""
    ours = INTEGRATORS.keys() - ORIGINS["integrator"].keys()
    return [name for name, m in INTEGRATORS.items() if name in ours and m.order and not isinstance(m, FullRank)]


def held(name: str, rank: int) -> Integrator:
    """The method of this name at this rank."""
    method: Any = INTEGRATORS[name]
    if not method.rank_adaptive:
        return method
    rejects = getattr(method, "rejection", None) is not None  # it compares with a tolerance
    rule = Tolerance(absolute=0.0, max_rank=rank) if rejects else FixedRank(rank)
    return replace(method, truncation=rule)


# -- measurements --------------------------------------------------------------------------------------------------


def _rng(seed: int = 5) -> np.random.Generator:
    return np.random.default_rng(seed)


@functools.cache
def equation_of(name: str) -> Problem:
    """The equation of this name, made once: sympy takes half a second for the manufactured one."""
    return {
        "given-solution": lambda: given_solution(_rng(), (16, 12), 4),
        "manufactured": lambda: manufactured((7, 6), 2),
        "lyapunov": lambda: lyapunov(16, _rng(), stiff=True),
        "allen-cahn": lambda: allen_cahn(32),
    }[name]()


EQUATIONS = {"given-solution": 4, "manufactured": 2}
"""Nonlinear equations with solutions of exact rank, and that rank."""
LIPSCHITZ = {"lyapunov": 8.0 * 17**2, "allen-cahn": 8 * 0.01 / (2 * math.pi / 32) ** 2 + 2.0}
"""Bounds of the Lipschitz constants of equations whose solutions come to rest: 4/dx^2 for each second difference."""
REST = 0.1
"""Relative change in the last step of a run that is at rest: twice the solution where the highest frequency swings."""


def order(*, method: str, equation: str, steps: tuple[int, ...] = STEPS) -> dict:
    """Errors over the number of steps, and the slope."""
    rank = EQUATIONS[equation]
    try:
        found = convergence(held(method, rank), equation_of(equation), steps, rank=rank)
    except RuntimeError:  # the method needs what the equation has not
        return {"order": None, "errors": []}
    return {"order": _number(found.order), "errors": [_number(e) for e in found.errors]}


def small_values(*, method: str, steps: int = 32) -> dict:
    """Errors on the first of the equations as the last singular value of its solution falls."""
    errors = []
    for smallest in SMALLEST:
        problem = given_solution(_rng(), (16, 12), 4, smallest)
        run = solve(held(method, 4), problem, step_size=1 / steps, steps=steps, rank=4, every=steps)
        errors.append(float(run.errors[-1]) if ended(run) else math.inf)
    return {"errors": [_number(e) for e in errors], "growth": _number(max(errors[1:]) / errors[0])}


def plateau(*, method: str, steps: int = 200, rank: int = 4) -> dict:
    """Error at t = 1 on a rotating matrix with singular values 2^-j, over that of the best approximation."""
    problem = rotating(_rng(), (40, 40))
    run = solve(held(method, rank), problem, step_size=1 / steps, steps=steps, rank=rank, every=steps)
    d = np.linalg.svd(problem.reference(1.0), compute_uv=False)
    return {"ratio": _number(run.errors[-1] / np.linalg.norm(d[rank:])) if ended(run) else None}


def stable_step(*, method: str, equation: str, exact: bool = False, steps: int = 100, rank: int = 6) -> dict:
    """h L for the largest stable step; None where none is, `LARGEST` where all are."""
    problem, lipschitz, integrator = equation_of(equation), LIPSCHITZ[equation], held(method, rank)
    if exact:
        integrator = with_options(integrator, substep=Exact())
    start = problem.initial(rank, _rng())
    noise = LowRank.random(problem.shape, rank, _rng(6), singular_values=np.full(rank, 1e-3 * start.norm()))
    start = combine([(1.0, start), (1.0, noise)])
    [(start, _)] = FixedRank(rank)([State(start)])

    def stable(hl: float) -> bool:
        run = solve(integrator, problem, start=start, step_size=hl / lipschitz, steps=steps - 1, every=steps)
        if not ended(run):
            return False
        last = solve(integrator, problem, start=run, step_size=hl / lipschitz, steps=1)
        change = combine([(1.0, last.Y), (-1.0, run.Y)]).norm()
        return ended(last) and change <= REST * min(last.Y.norm(), run.Y.norm())

    low = 0.5
    while not stable(low):
        low /= 2
        if low < LEAST:
            return {"hL": None}
    high = 2 * low
    while high <= LARGEST and stable(high):
        low, high = high, 2 * high
    if high > LARGEST:
        return {"hL": LARGEST}
    while high > 1.05 * low:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if stable(middle) else (low, middle)
    return {"hL": float(f"{low:.3g}")}


def _number(x: float) -> float | None:
    """Four digits; None where it is not finite."""
    return float(f"{x:.4g}") if math.isfinite(x) else None


# -- the item ------------------------------------------------------------------------------------------------------


def compute(runs, quick: bool) -> dict:
    """All measurements of all methods, each a task of its own."""
    names = methods()
    steps = {"steps": [(8, 16)]} if quick else {}
    one = {"steps": [4]} if quick else {}
    with_flows = [name for name in names if "substep" in takes(INTEGRATORS[name])]
    groups = {
        **{equation: cases(order, method=names, equation=[equation], **steps) for equation in EQUATIONS},
        "small values": cases(small_values, method=names, **one),
        "plateau": cases(plateau, method=names, **one),
        "lyapunov": cases(stable_step, method=names, equation=["lyapunov"], **one),
        "lyapunov exact": cases(stable_step, method=with_flows, equation=["lyapunov"], exact=[True], **one),
        "allen-cahn": cases(stable_step, method=names, equation=["allen-cahn"], **one),
    }
    found = runs.groups(groups)
    by_name = {
        group: {task[1]["method"]: result for task, result in zip(groups[group], results, strict=True)}
        for group, results in found.items()
    }
    return {
        "settings": {"steps": STEPS, "smallest": SMALLEST, "largest": LARGEST},
        "methods": [
            {
                "method": name,
                "declared": INTEGRATORS[name].order,
                "robust": INTEGRATORS[name].robust,
                "orders": {equation: by_name[equation][name]["order"] for equation in EQUATIONS},
                "errors": by_name["small values"][name]["errors"],
                "growth": by_name["small values"][name]["growth"],
                "plateau": by_name["plateau"][name]["ratio"],
                "stable": {equation: by_name[equation][name]["hL"] for equation in LIPSCHITZ},
                "exact": by_name["lyapunov exact"].get(name, {}).get("hL"),
            }
            for name in names
        ],
    }


def statements(data: dict) -> dict[str, dict]:
    """What is claimed, method by method."""
    rows = [m | {f"order on {e}": m["orders"][e] for e in EQUATIONS} | m["stable"] for m in data["methods"]]
    robust = [row for row in rows if row["robust"]]
    exact = [row for row in rows if row["exact"] is not None]
    explicit = [row | {"first": row["lyapunov"]} for row in rows if row["declared"] == 1]
    found = {
        f"order within {TOLERANCE} of the declared one, {equation}": each(
            [row | {"off": _off(row, equation)} for row in rows],
            "off by {off.range:.2f}",
            lambda row: row["off"] <= TOLERANCE,
        )
        for equation in EQUATIONS
    }
    return found | {
        f"methods called robust: the error grows by at most {BOUNDED} as the last singular value falls": each(
            robust, "{growth.range:.2f}", lambda row: row["growth"] <= BOUNDED
        ),
        "short steps come within 10 % of the best approximation of the rank": each(
            rows, "{plateau.range:.3f} times its error", lambda row: row["plateau"] <= 1.1
        ),
        "explicit methods of order 1 on the stiff Lyapunov equation: h L is at most 2": each(
            explicit, "{first.range:.2g}", lambda row: row["first"] <= 2.05, missing=True
        ),
        "with exact sub-flows every step that was tried is stable there": each(
            exact, "{exact.range:.4g}", lambda row: row["exact"] >= LARGEST
        ),
    }


def _off(row: dict, equation: str) -> float | None:
    found = row["orders"][equation]
    return None if found is None else abs(found - row["declared"])


def tables(data: dict) -> dict[str, list[dict]]:
    """The table for the README."""
    return {
        "rows": [
            {
                "method": m["method"],
                "order": f"{m['declared']}",
                **{f"measured, {e}": _shown(m["orders"][e], ".2f") for e in EQUATIONS},
                "error, last σ 1e-1": _shown(m["errors"][0], ".1e"),
                "to 1e-14": _shown(m["growth"], ".2f", after=" ×"),
                "plateau": _shown(m["plateau"], ".3f", after=" ×"),
                "h L, Lyapunov": _shown(m["stable"]["lyapunov"], ".2g"),
                "exact sub-flows": _shown(m["exact"], ".2g") if m["exact"] != LARGEST else f"> {LARGEST:.0f}",
                "h L, Allen-Cahn": _shown(m["stable"]["allen-cahn"], ".2g"),
            }
            for m in data["methods"]
        ]
    }


def _shown(value: float | None, form: str, after: str = "") -> str:
    return "—" if value is None else f"{value:{form}}{after}"


def draw(data: dict) -> Figure:
    """A line for each method: its orders, what small singular values do to its error, and its largest stable step."""
    rows = data["methods"][::-1]
    figure = Figure(figsize=(7.0, 1.0 + 0.17 * len(rows)), layout="constrained")
    orders, growth, stable = figure.subplots(1, 3, sharey=True)

    def point(axes, row, value, marker, filled):
        if value is not None:
            colour = look(rows[row]["method"])["color"]
            axes.plot(value, row, marker, color=colour, markerfacecolor=colour if filled else "none")

    for i, m in enumerate(rows):
        for equation, (marker, filled) in zip(EQUATIONS, (("o", True), ("s", False)), strict=True):
            point(orders, i, m["orders"][equation], marker, filled)
        point(growth, i, m["growth"], "o" if m["robust"] else "x", True)
        point(stable, i, m["stable"]["lyapunov"], "o", True)
        point(stable, i, m["stable"]["allen-cahn"], "s", False)
        point(stable, i, m["exact"], ">", True)
    orders.set(xlabel="order of convergence", xticks=(1, 2, 3, 4), yticks=range(len(rows)))
    orders.set_yticklabels([m["method"] for m in rows])
    growth.set(xlabel="growth of the error\nas the last σ falls to 1e-14")
    growth.axvline(1.0, color="0.4", linewidth=0.8, linestyle=":")
    stable.set(xlabel="h L of the largest\nstable step", xscale="log")
    stable.axvline(2.0, color="0.4", linewidth=0.8, linestyle=":")
    for axes, entries in (
        (orders, {"given solution": ("o", True), "manufactured": ("s", False)}),
        (growth, {"called robust": ("o", True), "not": ("x", True)}),
        (stable, {"Lyapunov": ("o", True), "Allen-Cahn": ("s", False), "exact sub-flows": (">", True)}),
    ):
        for label, (marker, filled) in entries.items():
            axes.plot([], [], marker, color="0.3", markerfacecolor="0.3" if filled else "none", label=label)
        axes.legend(
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            frameon=False,
            ncols=2,
            fontsize=6,
            handletextpad=0.1,
            columnspacing=0.6,
        )
    return figure
