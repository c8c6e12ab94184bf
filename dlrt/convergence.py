"""Order of convergence: errors at the end time against the step size, for tests and figures alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from integrators.checks import check_integer, check_positive
from integrators.linalg import to_numpy

from .solve import solve


@dataclass(frozen=True, eq=False)
class Convergence:
    """Errors of one integrator at one time for several step sizes; made by `convergence`.

    Attributes
    ----------
    steps : ndarray of int (n,)
        Numbers of steps, ascending.
    step_sizes : ndarray (n,)
        The step sizes, end time over `steps`.
    errors : ndarray (n,)
        Frobenius errors at the end time; nan where the run diverged.
    floors : ndarray (n,)
        What no step size can go below: the best approximation of the reference by a matrix of the rank reached,
        and rounding, taken as 100 eps times the norm of the reference; nan where the run diverged.
    evaluations : ndarray of int (n,)
        Field evaluations of each run.
    """

    steps: np.ndarray
    step_sizes: np.ndarray
    errors: np.ndarray
    floors: np.ndarray
    evaluations: np.ndarray

    @property
    def orders(self):
        """ndarray (n - 1,): orders seen between neighbours, log(e_i / e_{i+1}) / log(h_i / h_{i+1})."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.diff(np.log(self.errors)) / np.diff(np.log(self.step_sizes))

    @property
    def usable(self):
        """ndarray of bool (n,): the errors that say something about the order: finite, and above ten floors."""
        return np.isfinite(self.errors) & (self.errors > 10 * self.floors)

    @property
    def order(self):
        """Least-squares slope of log(error) over log(step size) in the `usable` range; nan for fewer than two."""
        used = self.usable
        if used.sum() < 2:
            return float("nan")
        return float(np.polyfit(np.log(self.step_sizes[used]), np.log(self.errors[used]), 1)[0])

    def table(self):
        """The numbers as aligned text, one line per step size; a star marks errors the slope does not use."""
        lines = [f"{'steps':>8} {'step size':>11} {'error':>11} {'order':>6} {'evaluations':>12}"]
        for i, order in enumerate([np.nan, *self.orders]):
            shown = "" if np.isnan(order) else f"{order:.2f}"
            line = f"{self.steps[i]:>8} {self.step_sizes[i]:>11.4g} {self.errors[i]:>11.4g} {shown:>6}"
            lines.append(f"{line} {self.evaluations[i]:>12}{'' if self.usable[i] else ' *'}")
        return "\n".join([*lines, f"order {self.order:.2f} (least squares)"])


def convergence(integrator, problem, steps, *, rank=None, start=None, seed=None, t_end=None):
    """Solve a problem with several numbers of steps, measure the errors at the end and estimate the order.

    Parameters
    ----------
    integrator : integrators.Integrator
    problem : problems.Problem
        One with a reference solution.
    steps : sequence of int
        At least two different numbers of steps to the end time, each at least 1; they are sorted.
    rank, start, seed : optional
        As in `solve`; all runs have the same start.
    t_end : float, optional
        End time; the problem's own ``t_end`` without it.

    Returns
    -------
    Convergence

    Raises
    ------
    TypeError, ValueError
        Bad arguments, or a problem without a reference solution. Divergence is not an error but a nan.
    RuntimeError
        A run failed by an exception; the message holds its text.

    Notes
    -----
    Costs one run for each entry of `steps` and a dense singular value decomposition of the reference.
    """
    try:
        steps = sorted({check_integer("steps", n, 1) for n in steps})
    except TypeError as error:
        raise TypeError(f"steps must be a sequence of integers, got {steps!r}") from error
    if len(steps) < 2:
        raise ValueError(f"steps must hold at least two different numbers, got {steps}")
    t_end = check_positive("t_end", getattr(problem, "t_end", None) if t_end is None else t_end)
    if seed is not None:
        seed = check_integer("seed", seed, 0)  # a generator would go on from run to run
    reference = problem.reference(t_end)
    if reference is None:
        raise ValueError(f"problem must have a reference solution, got {problem!r}")
    singular_values = np.linalg.svd(to_numpy(reference), compute_uv=False)

    errors, floors, evaluations = [], [], []
    for n in steps:
        run = solve(
            integrator,
            problem,
            step_size=t_end / n,
            steps=n,
            start=start,
            rank=rank,
            seed=seed,
            every=n,
        ).checked()
        evaluations.append(run.evaluations[-1])
        errors.append(np.nan if run.diverged else run.errors[-1])
        eps = np.finfo(to_numpy(run.Y.S).dtype).eps
        floor = np.linalg.norm(singular_values[run.ranks[-1] :]) + 100 * eps * np.linalg.norm(singular_values)
        floors.append(np.nan if run.diverged else floor)
    return Convergence(
        steps=np.array(steps),
        step_sizes=t_end / np.array(steps),
        errors=np.array(errors),
        floors=np.array(floors),
        evaluations=np.array(evaluations),
    )
