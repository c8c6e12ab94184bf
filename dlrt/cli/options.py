"""What commands that run methods on a problem share: their options, and the problem and methods made of them."""

from __future__ import annotations

import functools
import math
from typing import Annotated

import numpy as np
import typer

from integrators import INTEGRATORS, LowRank, Tolerance
from integrators.checks import check_integer

from .terminal import option

LEAST = {"rank": 1, "steps": 1, "seeds": 1, "spare": 0, "size": 2, "true_rank": 1, "batch_size": 1}
MOST = 10**9
"""Steps to the time horizon that are taken for a mistake: days of work."""
OF_PROBLEMS = ("size", "true_rank", "batch_size", "target", "dtype")
running, of_methods, of_problem = (
    functools.partial(typer.Option, rich_help_panel=panel)
    for panel in ("What to run", "Options of the methods (each takes those that it has)", "The problem")
)

Problem = Annotated[str, typer.Argument(help="Name of a problem, see [bold]dlrt list[/bold].")]
Atol = Annotated[float | None, running(help="Absolute tolerance beside --rtol, in the Frobenius norm. Default: 1e-6.")]
Tau = Annotated[
    float | None,
    of_methods(help="Relative truncation tolerance of methods whose rank adapts. Default: 0.1 for losses, else 1e-6."),
]
Spare = Annotated[
    int | None,
    of_methods(help="Directions kept beyond the tolerance, of the same methods; 0 is as published. Default: 1."),
]
Substep = Annotated[
    str | None,
    of_methods(
        help="How K, L and S are advanced: euler, heun, rk4, exact (where the problem knows the solution), or "
        "exponential or implicit (in a linear part that the problem declares, else euler). "
        "Default: exact for stiff equations and those with cross terms, rk4 for nonlinear-schroedinger, "
        "landau-damping, two-stream, plane-source and stochastic-burgers, heun for klein-gordon, else euler, or heun "
        "for methods of order 2. For methods that split a step into those of K, L and S."
    ),
]
Optimizer = Annotated[str | None, of_methods(help="sgd, momentum or adam; all methods. Default: their own.")]
Target = Annotated[
    str | None,
    of_problem(
        help="[bold]synthetic[/bold], [bold]elevation[/bold] or a file (.npy, .npz, .mtx, .csv, image): "
        "matrix-regression, matrix-completion, linear-least-squares. Default: synthetic."
    ),
]
Size = Annotated[
    int | None,
    of_problem(
        help="Rows and columns; all problems unless a target is given. "
        "Default: 100, but allen-cahn, anisotropic-diffusion, solid-body-rotation, stochastic-burgers and klein-gordon "
        "64, toggle-switch 51, given-solution 30, landau-damping and two-stream 16, manufactured 7."
    ),
]
TrueRank = Annotated[
    int | None,
    of_problem(
        help="Rank of the synthetic target (5) or of the solution: rotating (full), given-solution (4), "
        "manufactured (2)."
    ),
]
BatchSize = Annotated[
    int | None,
    of_problem(
        help="Number of entries or samples in a mini-batch: matrix-completion, linear-least-squares. "
        "Default: the full loss."
    ),
]
Dtype = Annotated[
    str | None,
    of_problem(help="float64 or float32 (complex problems: that precision); not for manufactured. Default: float64."),
]


def check_least(settings):
    """ValueError for a number among the options that is too small."""
    for name, least in LEAST.items():
        if settings.get(name) is not None:
            check_integer(option(name), settings[name], least)


def problem_of(name, settings):
    """The problem with the options among the settings that are given, which must all apply to it."""
    from ..references import kept
    from ..registry import PROBLEMS, build_problem, lookup, uses

    given = {option: settings[option] for option in OF_PROBLEMS if settings[option] is not None}
    known = uses(lookup("problem", name, PROBLEMS))
    for unused in given.keys() - set(known):
        raise ValueError(f"{name} takes no {option(unused)}; it takes {', '.join(map(option, known))}")
    return kept(build_problem(name, given))


def methods_of(names, usual, *, max_rank=None, **given):
    """The methods with the options given, each of which must apply to one of them, and the usual values of others.

    Parameters
    ----------
    names : str
        With commas between.
    usual : dict
        ``tau`` and ``substep`` (a name, or None for the methods' own) where none is given.
    max_rank : int, optional
        Of methods whose rank adapts.
    given : str to value
        ``tau``, ``spare``, ``substep``, ``optimizer``; None where not given.
    """
    from ..registry import OPTIMIZERS, SUBSTEPS, lookup, takes, with_options

    chosen = {name: lookup("integrator", name, INTEGRATORS) for name in map(str.strip, names.split(","))}
    usual = {"spare": 1, "optimizer": None} | usual
    tau, spare, substep, optimizer = (
        usual[name] if given[name] is None else given[name] for name in ("tau", "spare", "substep", "optimizer")
    )
    parts = {
        "truncation": Tolerance(relative=tau, spare=spare, max_rank=max_rank),
        "substep": None if substep is None else lookup("substep", substep, SUBSTEPS)(),
        "optimizer": None if optimizer is None else lookup("optimizer", optimizer, OPTIMIZERS)(),
    }
    for name, part in (("tau", "truncation"), ("spare", "truncation"), ("substep", "substep")):
        if given[name] is not None and not any(part in takes(method) for method in chosen.values()):
            able = ", ".join(label for label, method in INTEGRATORS.items() if part in takes(method))
            raise ValueError(f"{option(name)} applies to none of {', '.join(chosen)}, but to {able}")
    return {name: with_options(method, **parts) for name, method in chosen.items()}


def given_of(settings):
    """What is given to the methods among the settings."""
    return {name: settings[name] for name in ("tau", "spare", "substep", "optimizer")}


def usual_of(problem, step_sizes):
    """What methods of a comparison or a run have where nothing is given."""
    return {"tau": 0.1 if hasattr(problem, "loss") else 1e-6, "substep": usual_substep(problem, step_sizes)}


def check_substep(name, problem, substep):
    """ValueError for exact sub-flows of a problem that has none."""
    if substep == "exact" and not knows_flows(problem):
        raise ValueError(f"--substep exact is not for {name}, which has no exact sub-flows; euler, heun, rk4 are")


def usual_substep(problem, step_sizes=None):
    """The substep for a first look: exact where others would be unstable, or the problem's; None: the methods' own."""
    return "exact" if is_stiff(problem, step_sizes) else getattr(problem, "usual_substep", None)


def is_stiff(problem, step_sizes):
    """Whether explicit steps of these sizes are unstable, ``h L > 2``, and the problem knows its exact sub-flows."""
    if hasattr(problem, "loss"):
        return False
    largest = max(step_sizes) if step_sizes else problem.t_end / 50
    return math.isfinite(problem.lipschitz) and largest * problem.lipschitz > 2 and knows_flows(problem)


def knows_flows(problem):
    """Whether the sub-flows are known in closed form."""
    Y = LowRank(*problem.initial(1, np.random.default_rng(0)))
    try:
        problem.field(0.0, Y).flow_S(1e-3 * problem.t_end)
    except (NotImplementedError, AttributeError):
        return False
    return True


def usual_rank(problem):
    """8, but at most half of the rows or columns."""
    return min(8, max(1, min(problem.shape) // 2))


def steps_to_end(problem, h):
    """Number of steps of about this size to the time horizon, at least 1; ValueError for days of work."""
    n = max(1, round(min(problem.t_end / h, MOST)))
    if n == MOST:
        raise ValueError(f"step size {h:g} would take {MOST} steps or more to t = {problem.t_end:g}")
    return n
