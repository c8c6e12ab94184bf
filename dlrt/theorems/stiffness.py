"""The largest stable step size, and how it depends on the largest singular value."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from integrators import AugmentedBUG, FixedRank, FullRank, GeoLoRA, LoRA, LowRank, ParallelBUG, State, SVDLoRA
from integrators.linalg import haar
from problems import MatrixRegression

from .certificate import Constant, Series
from .hypotheses import euler_steps, plain_descent
from .measure import dense, norm, run
from .theorem import FACTORS, SEQUENTIAL, Measured, Theorem, with_truncation

RESOLUTION = 0.01
"""Relative resolution of the measured step sizes."""
ALL_SIGMAS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""The values of sigma_1 of the large sweep."""


def predicted_rate(integrator, sigma: float, balanced: bool) -> tuple[float, str]:
    r"""The largest stable step size near a minimiser of ``||W - A||^2 / 2`` of rank r with ``||A||_2 = sigma``.

    At a minimiser W = A the gradient vanishes, so the Hessian in the factors is ``J^H J`` with J the derivative of
    the factors' product, and has the nonzero eigenvalues of ``J J^H = P^``. On ``Z = u_1 v_1^H`` the operator P^ of
    :class:`~dlrt.theorems.Stationary` is ``2 sigma^2 + 1`` for orthonormal U, V, and with all three factors
    balanced (``U Sigma^{1/3}``, ``Sigma^{1/3}``, ``V Sigma^{1/3}``) each term is ``sigma^{4/3}``; for
    ``B = U Sigma``, ``A = V^H`` it is ``sigma^2 + 1``, for balanced B, A ``2 sigma``. These are the largest
    eigenvalues for sigma >= 1 (that of u_i v_j^H has ``sigma_i sigma_j`` type products below them). Descent is
    linearly stable up to 2 over that.
    """
    if isinstance(integrator, SVDLoRA):
        return (
            (2 / (3 * sigma ** (4 / 3)), "2/(3 sigma^(4/3))")
            if balanced
            else (2 / (2 * sigma**2 + 1), "2/(2 sigma^2+1)")
        )
    if isinstance(integrator, LoRA):
        return (1 / sigma, "2/(2 sigma)") if balanced else (2 / (sigma**2 + 1), "2/(sigma^2+1)")
    return 2.0, "2/L"


@dataclass(frozen=True)
class Stiffness(Theorem):
    r"""The stable step size is 2 / L, whatever the singular values.

    On a regression loss (L = 1), near a minimiser ``W = A`` of rank r, GeoLoRA's error evolves to first order as
    ``D <- (I - lam P(A)) D``: stable for ``lam < 2``, for every sigma_1. Simultaneous descent is stable up to
    :func:`predicted_rate` only.

    Hypotheses: plain descent, Euler steps; start within 1e-7 of the minimiser; rank fixed at r.

    Proof. By the Riemannian step identity ``W^ - A = (W - A) - lam P(W) (W - A)``, and ``P(W) - P(A) = O(||W - A||)``
    at fixed A; truncation to rank r has the derivative P(A) at A. So tangential errors are multiplied by ``1 - lam``.

    What is compared: ``2 / L`` less the resolution of the measurement, 1 % (left), with the largest step size (right)
    for which the distance from the minimiser after 160 steps has not grown, by bisection; for sigma_1 from 1 to 100,
    with orthonormal and, for methods of factors, balanced start. For LoRA and SVD-LoRA a second series compares the
    measured rate with the prediction for them; its slack is the resolution.

    Source: Schotthöfer et al. (2025), arXiv:2410.18720, section 3 and Figure 5; rates derived above.
    """

    sigmas: tuple[float, ...] = (1.0, 10.0, 100.0)
    rank: int = 2
    seed: int = 0
    steps: int = 160

    name = "stiffness"
    statement = "stable for every lam < 2 / L, whatever sigma_1"
    source = "GeoLoRA (arXiv:2410.18720), section 3; rates derived"

    own_problem = "matrix-regression"
    promised = dict.fromkeys(
        (GeoLoRA, ParallelBUG, FullRank), "errors near a minimiser are multiplied by I - lam P"
    ) | {AugmentedBUG: "errors near a minimiser are multiplied by I minus lam times an orthogonal projection"}
    doubts = dict.fromkeys(SEQUENTIAL, "products of sub-steps have their own stability limits") | dict.fromkeys(
        FACTORS, "its Hessian grows with sigma_1"
    )

    def configured(self, integrator):
        """Rank fixed at that of the minimiser."""
        return with_truncation(super().configured(integrator), FixedRank(self.rank))

    def settings(self, full):
        """Three values of sigma_1, or seven."""
        yield replace(self, sigmas=ALL_SIGMAS) if full else self, None

    def hypotheses(self, integrator, problem):
        """Plain descent by Euler steps."""
        return plain_descent(integrator), euler_steps(integrator)

    def measure(self, integrator, problem):
        """Bisection for each sigma_1; the regression problems are made here."""
        found = []
        predicts = isinstance(integrator, (LoRA, SVDLoRA))
        for balanced in (False, True) if predicts else (False,):
            rows, own, formula = [], [], ""
            for sigma in self.sigmas:
                rate = self.largest_rate(integrator, sigma, balanced)
                rows.append((sigma, 2.0 * (1 - RESOLUTION), rate, 0.0))
                predicted, formula = predicted_rate(integrator, sigma, balanced)
                own.append((sigma, abs(rate / predicted - 1), 0.0, RESOLUTION))
            kind = " from balanced factors" if balanced else ""
            found.append(Series.of(f"largest stable step{kind}", "sigma_1", rows, "2/L less 1 %", "measured"))
            if predicts:
                found.append(Series.of(f"prediction{kind}", "sigma_1", own, f"|measured / ({formula}) - 1|", "0"))
        constants = {"L": Constant(1.0, "regression"), "resolution": Constant(RESOLUTION, "of the bisection")}
        return Measured(found, constants)

    def largest_rate(self, integrator, sigma: float, balanced: bool) -> float:
        """Largest step size, up to 3, for which a small perturbation of the minimiser does not grow."""
        lo, hi = 1e-7, 3.0
        if self.stable(integrator, sigma, balanced, hi):
            return hi
        while hi / lo > 1 + RESOLUTION / 4:
            middle = float(np.sqrt(lo * hi))
            lo, hi = (middle, hi) if self.stable(integrator, sigma, balanced, middle) else (lo, middle)
        return lo

    def stable(self, integrator, sigma: float, balanced: bool, lam: float) -> bool:
        """Whether the distance from the minimiser has not grown after all steps."""
        rng = np.random.default_rng(self.seed)
        m, n, r = 8, 7, self.rank
        U, V = haar(m, r, rng), haar(n, r, rng)
        d = np.geomspace(sigma, max(1.0, sigma / 4), r)
        A = (U * d) @ V.T
        # a perturbation in the stiffest direction and, smaller, in all others
        size = 1e-7 * sigma
        E = size * (np.outer(U[:, 0], V[:, 0]) + 0.1 * rng.standard_normal((m, n)))
        start = LowRank.from_dense(A + E, rank=r)
        if balanced and isinstance(integrator, SVDLoRA):
            c = np.diag(start.S) ** (1 / 3)
            state = State(LowRank(start.U * c, np.diag(c), start.V * c), integrator.init(start).memory)
        elif balanced:
            c = np.sqrt(np.diag(start.S))
            state = State(LowRank(start.U * c, np.eye(r), start.V * c), integrator.init(start).memory)
        else:
            state = integrator.init(start)
        problem = MatrixRegression(A)
        first = norm(dense(state.Y) - A)
        for k, _, step in run(integrator, problem.field, state, lam, self.steps):
            if step is None:
                return False
            state = step.state
            if k % 20 == 0 and not norm(dense(state.Y) - A) < 30 * first:
                return False
        return bool(norm(dense(state.Y) - A) <= first)
