"""Hypotheses that several theorems share."""

from __future__ import annotations

import math

from integrators import SGD, Euler, Exact, Integrator
from problems import LossProblem

from .certificate import Hypothesis


def substep_name(integrator: Integrator) -> str:
    """``Euler`` (also for a method without sub-steps), ``Exact``, or ``other``."""
    substep = getattr(integrator, "substep", None)
    if substep is None or isinstance(substep, Euler):
        return "Euler"
    return "Exact" if isinstance(substep, Exact) else "other"


def plain_descent(integrator: Integrator) -> Hypothesis:
    """The optimiser passes the gradient on as it is."""
    kind = type(integrator.optimizer)
    return Hypothesis("plain gradient descent", kind is SGD, f"the optimiser is {kind.__name__}")


def euler_steps(integrator: Integrator) -> Hypothesis:
    """Sub-steps, if any, are explicit Euler steps."""
    name = substep_name(integrator)
    return Hypothesis("explicit Euler steps", name == "Euler", name)


def exact_sub_flows(integrator: Integrator) -> Hypothesis:
    """The method has sub-steps, and they are exact."""
    name = substep_name(integrator)
    return Hypothesis("exact sub-flows", name == "Exact", f"sub-steps: {name}")


def no_rejection(integrator: Integrator) -> Hypothesis:
    """No step is repeated."""
    return Hypothesis("no step rejection", getattr(integrator, "rejection", None) is None)


def convex_loss(problem) -> Hypothesis:
    """The problem is the gradient flow of a convex loss."""
    convex = isinstance(problem, LossProblem) and bool(problem.convex)
    return Hypothesis("a convex loss", convex, getattr(problem, "name", ""))


def loss_lipschitz(problem) -> float:
    """Lipschitz constant of the gradient of a loss; NaN where the problem is no loss."""
    return problem.lipschitz if isinstance(problem, LossProblem) else math.nan


def lipschitz_gradient(problem) -> Hypothesis:
    """The problem is the gradient flow of a loss with 0 < L < infinity."""
    L = loss_lipschitz(problem)
    return Hypothesis("a loss with Lipschitz gradient", math.isfinite(L) and L > 0, f"L = {L:.4g}")


def stable_step(lam: float, L: float) -> Hypothesis:
    """``0 < lam < 2 / L``."""
    limit = 2 / L if L else math.inf
    return Hypothesis("0 < lam < 2 / L", 0 < lam * L < 2, f"lam = {lam:.4g}, 2 / L = {limit:.4g}")
