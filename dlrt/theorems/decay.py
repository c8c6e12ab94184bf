"""Monotone decrease along gradient flows with exact sub-flows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from integrators import (
    DRSVD,
    AugmentedBUG,
    BackwardCorrectedSplitting,
    Exact,
    FixedRank,
    FullRank,
    MidpointBUG,
    ParallelBUG,
)
from problems import MatrixRegression, synthetic

from ..registry import with_options
from .certificate import Constant, Series
from .hypotheses import convex_loss, exact_sub_flows, plain_descent
from .measure import bases, dense, eps_of, failed, gradient_at, norm, rounding, run, start_of, truncated
from .theorem import SEQUENTIAL, Measured, Theorem, with_truncation


@dataclass(frozen=True)
class Decay(Theorem):
    r"""Methods whose last step is Galerkin from Y0 decrease the loss for *every* step size, up to the truncation error.

    With an exact S-flow, a convex loss f, and ``alpha = ||U^^H G(Y^) V^||_F``, the gradient that is left in the
    Galerkin space at the end of the step:

    .. math:: f(\hat Y) \le f(Y_0) - h\, \alpha^2, \qquad f(Y_1) \le f(\hat Y) + B\,\vartheta .

    Hypotheses: a convex loss; exact sub-flows; any h > 0.

    Proof. Y0 is in the Galerkin space, so ``Y^`` is the end of the gradient flow of f restricted to a linear space,
    ``f(Y^) = f(Y0) - int ||U^^H G V^||^2 dt`` (``||U^^H G||`` for backward-corrected splitting and DRSVD, which is no
    less). For convex f the norm of the gradient does not increase along its flow (``d/dt ||Y'||^2 = -2 <Y', Hess Y'> <=
    0``), so the integrand is at least alpha^2. The second line is the mean value theorem (see :class:`Descent` for B).

    What is compared: ``h alpha^2`` (left) with the measured decrease (right), before and after truncation. Slack:
    rounding.

    Source: Ceruti, Kusch, Lubich (2022), doi:10.1007/s10543-021-00907-7, Theorem 5, with the constant derived above.
    """

    step_size: float = 0.1
    steps: int = 8
    rank: int = 3
    seed: int = 0

    name = "decay"
    statement = "f(Y^) <= f(Y0) - h ||U^^H G V^||^2 for every h, exact sub-flows"
    source = "Ceruti, Kusch, Lubich (2022), Theorem 5; constant derived"

    promised = dict.fromkeys(
        (AugmentedBUG, BackwardCorrectedSplitting, DRSVD, MidpointBUG), "the start is in the Galerkin space"
    ) | {FullRank: "the gradient flow itself"}
    doubts = dict.fromkeys((ParallelBUG, *SEQUENTIAL), "a step is no gradient flow in a space that contains the start")

    def configured(self, integrator):
        """Exact sub-flows; truncation back to the rank of the start."""
        return with_truncation(with_options(integrator, substep=Exact()), FixedRank(self.rank))

    def problems(self):
        """Regression, whose sub-flows are known."""
        rng = np.random.default_rng(7)
        return {"matrix-regression": MatrixRegression(synthetic((16, 12), [2.0**-j for j in range(8)], rng))}

    def settings(self, full):
        """Step sizes far beyond 2 / L too."""
        for h in (0.01, 0.1, 1.0, 10.0) if full else (0.05, 5.0):
            yield replace(self, step_size=h), self.problems()["matrix-regression"]

    def hypotheses(self, integrator, problem):
        """A convex loss, exact sub-flows, no memory."""
        return convex_loss(problem), exact_sub_flows(integrator), plain_descent(integrator)

    def measure(self, integrator, problem):
        """Along a run from the problem's start."""
        h, L = float(self.step_size), problem.lipschitz
        first = integrator.init(start_of(problem, self.rank, np.random.default_rng(self.seed), norm=1.0))
        before, after = [], []
        for k, state, step in run(integrator, problem.field, first, h, self.steps):
            if step is None:
                before.append(failed(k))
                break
            f0, Y0, Y1 = problem.loss(state.Y), dense(state.Y), dense(step.augmented)
            U, V = bases(step.augmented)
            G = gradient_at(problem, step.augmented)
            promised = h * norm(U.conj().T @ G @ V) ** 2
            theta, B = truncated(problem, step, L)
            slack = rounding(state.Y, norm(Y0), norm(Y1)) * (norm(G) + L * norm(Y1 - Y0)) + 100 * eps_of(state.Y) * f0
            before.append((k, promised, f0 - problem.loss(step.augmented), slack))
            after.append((k, promised, f0 - problem.loss(step.state.Y) + B * theta, slack))
        found = [
            Series.of("decrease before truncation", "step", before, "h alpha^2", "measured decrease"),
            Series.of("decrease after truncation", "step", after, "h alpha^2", "measured decrease + B theta"),
        ]
        return Measured(found, {"h": Constant(h, "step size of the check"), "L": Constant(L, "enters B only")})
