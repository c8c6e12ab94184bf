"""Monotone decrease along gradient flows with exact sub-flows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from integrators import AugmentedBUG, Exact, FixedRank, FullRank
from problems import LossProblem, MatrixRegression, synthetic

from .certificate import Certificate, Constant, Hypothesis
from .theorem import (
    FAILURES,
    Theorem,
    bases,
    dense,
    eps_of,
    field_at,
    gradient_bound,
    lipschitz,
    norm,
    plain_descent,
    rounding,
    series,
    start_of,
    substep_name,
    with_substep,
    with_truncation,
)


@dataclass(frozen=True)
class Decay(Theorem):
    r"""Augmented BUG decreases the loss for *every* step size, up to the truncation error.

    With an exact S-flow, a convex loss f, and ``alpha = ||U^^H G(Y^) V^||_F``, the gradient that is left in the
    Galerkin space at the end of the step:

    .. math:: f(\hat Y) \le f(Y_0) - h\, \alpha^2, \qquad f(Y_1) \le f(\hat Y) + B\,\vartheta .

    Hypotheses: a convex loss; exact sub-flows; any h > 0.

    Proof. Y0 is in the Galerkin space, so ``Y^`` is the end of the gradient flow of f restricted to a linear space,
    ``f(Y^) = f(Y0) - int ||U^^H G V^||^2 dt``. For convex f the norm of the gradient does not increase along its flow
    (``d/dt ||Y'||^2 = -2 <Y', Hess Y'> <= 0``), so the integrand is at least alpha^2. The second line is the mean
    value theorem (see :class:`Descent` for B).

    What is compared: ``h alpha^2`` (left) with the measured decrease (right), before and after truncation. Slack:
    rounding.

    Source: Ceruti, Kusch, Lubich (2022), doi:10.1007/s10543-021-00907-7, Theorem 5, with the constant derived above.
    """

    steps: int = 8
    rank: int = 3
    seed: int = 0

    name = "decay"
    statement = "f(Y^) <= f(Y0) - h ||U^^H G V^||^2 for every h, exact sub-flows"
    source = "Ceruti, Kusch, Lubich (2022), Theorem 5; constant derived"

    def promises(self, integrator):
        """Augmented BUG."""
        if isinstance(integrator, AugmentedBUG):
            return True, "the start is in the Galerkin space"
        if isinstance(integrator, FullRank):
            return True, "the gradient flow itself"
        return False, "a step is no gradient flow in a space that contains the start"

    def configured(self, integrator):
        """Exact sub-flows; truncation back to the rank of the start."""
        return with_truncation(with_substep(integrator, Exact()), FixedRank(self.rank))

    def problems(self):
        """Regression, whose sub-flows are known."""
        rng = np.random.default_rng(7)
        return {"matrix-regression": MatrixRegression(synthetic((16, 12), [2.0**-j for j in range(8)], rng))}

    def cases(self, integrator, full=False):
        """Step sizes far beyond 2 / L too."""
        for h in (0.01, 0.1, 1.0, 10.0) if full else (0.05, 5.0):
            yield self.check(self.configured(integrator), self.problems()["matrix-regression"], step_size=h)

    @np.errstate(all="ignore")
    def check(self, integrator, problem, *, step_size=0.1, steps=None, rank=None) -> Certificate:
        """Along a run from the problem's start."""
        convex = isinstance(problem, LossProblem) and bool(problem.convex)
        hypotheses = [
            Hypothesis("a convex loss", convex, getattr(problem, "name", "")),
            Hypothesis(
                "exact sub-flows", substep_name(integrator) == "Exact", f"sub-steps: {substep_name(integrator)}"
            ),
            plain_descent(integrator),
        ]
        if not all(x.met for x in hypotheses):
            return self.certificate(integrator, problem, hypotheses)
        h, L = float(step_size), lipschitz(problem)
        state = integrator.init(start_of(problem, rank or self.rank, np.random.default_rng(self.seed), norm=1.0))
        before, after = [], []
        for k in range(steps or self.steps):
            try:
                step = integrator.step(problem.field, k * h, state, h)
            except FAILURES:
                before.append((k + 1, np.inf, 0.0, 0.0))
                break
            f0, Y0 = problem.loss(state.Y), dense(state.Y)
            U, V = bases(step.augmented)
            G = -field_at(problem, 0.0, step.augmented)
            promised = h * norm(U.conj().T @ G @ V) ** 2
            Y1, Y2 = dense(step.augmented), dense(step.state.Y)
            theta = norm(Y1 - Y2)
            B = gradient_bound(problem, G, theta, max(norm(Y1), norm(Y2)), L)
            slack = rounding(state.Y, norm(Y0), norm(Y1)) * (norm(G) + L * norm(Y1 - Y0)) + 100 * eps_of(state.Y) * f0
            before.append((k + 1, promised, f0 - problem.loss(step.augmented), slack))
            after.append((k + 1, promised, f0 - problem.loss(step.state.Y) + B * theta, slack))
            state = step.state
        found = [
            series("decrease before truncation", "step", before, "h alpha^2", "measured decrease"),
            series("decrease after truncation", "step", after, "h alpha^2", "measured decrease + B theta"),
        ]
        constants = {"h": Constant(h, "step size of the check"), "L": Constant(L, "enters B only")}
        return self.certificate(integrator, problem, hypotheses, found, constants)
