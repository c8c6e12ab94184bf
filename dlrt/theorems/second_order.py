"""Second order: a robust bound with explicit constants for affine equations, and measured orders for others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from integrators import FixedRank, Heun, MidpointBUG, RungeKuttaBUG, SecondOrderParallelBUG
from problems import Sylvester, lyapunov, synthetic

from ..registry import with_options
from .certificate import Constant, Hypothesis, Series
from .hypotheses import plain_descent
from .local_error import nonlinear
from .measure import basis, dense, failed, field_at, norm, normal_part, rounding, run, start_of
from .theorem import Measured, Theorem, with_truncation

COEFFICIENTS = {RungeKuttaBUG: 1 / 2, MidpointBUG: 1.0, SecondOrderParallelBUG: (1 + math.sqrt(3)) / 2}
"""c of the local error; derived below."""
SIGMAS = (1e-1, 1e-4, 1e-9, 1e-14)


def _underived(method) -> str:
    if isinstance(method, MidpointBUG) and method.columns == 3:
        return "the half step is truncated, by an amount that is not known before"
    return "constants are derived for order 2" if method.order != 2 else ""


@dataclass(frozen=True)
class SecondOrder(Theorem):
    r"""The error of the methods of order 2 is of second order, whatever the singular values.

    Let F be affine, ``F(Y) = F(0) + A Y`` with ``||A|| <= L`` and ``Re <A Y, Y> <= l ||Y||^2``. A step from Y0 to the
    truncated Y1 differs from the exact flow by at most

    .. math::
        d = h\,\varepsilon_1 + c\,L h^2 \varepsilon_0 + \tfrac16 L^2 h^3 e^{\max(l, 0) h} \|F(Y_0)\| + \vartheta,

    so the errors obey ``e_{k+1} <= e^{lh} e_k + d_k``. Here theta is the truncation error, ``eps_0`` the norm of the
    part of F(Y0) that is normal to the tangent space at Y0, and ``eps_1`` that of F(Z) in the bases
    ``U = orth[U0 | F(Y0) V0]``, ``V = orth[V0 | F(Y0)^H U0]`` with ``Z = Y0 + h/2 U U^H F(Y0) V V^H``. c is 1/2 for
    Runge-Kutta BUG, 1 for midpoint BUG, and ``(1 + sqrt 3)/2`` for second-order parallel BUG. No singular value enters.
    Where the field is tangential along the flow (a Sylvester equation with C = 0) the error is of order h^2 alone.

    Hypotheses: plain descent; Heun's method for K, L and S.

    Proof. The exact flow is ``Y0 + h F0 + h^2/2 A F0`` up to ``L^2 h^3 e^{lh} ||F0|| / 6``, since ``W' = e^{sA} F0``.
    Everything of F0 but its normal part lies in (U, V): ``||F0 - U U^H F0 V V^H|| <= eps_0``, hence
    ``||F(Y0 + h/2 F0) - F(Z)|| <= L h eps_0 / 2``. *Runge-Kutta BUG*: the result is ``Pi (Y0 + h F(Z))``, the bases of
    Pi contain U, V, F(Z) V and F(Z)^H U, so Pi leaves out eps_1 of F(Z). *Midpoint BUG*: with the same Pi it is
    ``Y0 + h Pi F0 + h^2/2 Pi A Pi F0``; the difference is ``h (I - Pi) F(Y0 + h/2 F0) + h^2/2 Pi A (I - Pi) F0``.
    *Second-order parallel BUG*: with the tangent projection P at (U, V) it is ``Y0 + h P F0 + h^2/2 P A F0``, but that
    A is applied to F0 less parts of norm eps_0, in three blocks that are orthogonal to each other.

    What is compared: error and bound with each step's own numbers, on a Sylvester equation of exact rank and over its
    smallest singular value; on a Lyapunov equation with a plateau; and, measured, on a nonlinear equation of exact rank
    the slope over h (at least 1.75), and the error over its smallest singular value (at most twice that for 1e-1).
    Slack of the bound: accumulated rounding.

    Source: Ceruti, Einkemmer, Kusch, Lubich (2024), doi:10.1007/s10543-024-01032-x; Kusch (2024), arXiv:2403.02834;
    Nobile, Riffaud (2025), arXiv:2502.07040. Their constants are not explicit; those here are derived above.
    """

    rank: int = 4
    steps: int = 10
    seed: int = 0

    name = "second-order"
    statement = "error of order h^2 down to the normal part of the field, free of singular values"
    source = "Ceruti et al. (2024), Kusch (2024), Nobile and Riffaud (2025); constants derived"

    own_problem = "affine and nonlinear equations"
    promised = dict.fromkeys(COEFFICIENTS, "its local error is derived")
    unless = dict.fromkeys(COEFFICIENTS, _underived)

    def configured(self, integrator):
        """Heun's method for K, L and S; truncation to the rank of the start."""
        return with_truncation(with_options(integrator, substep=Heun()), FixedRank(self.rank))

    def hypotheses(self, integrator, problem):
        """Plain descent, Heun's method in sub-steps."""
        substep = getattr(integrator, "substep", None)
        fits = substep is None or isinstance(substep, Heun)
        yield Hypothesis("Heun's method for K, L and S", fits, "no sub-steps" if substep is None else repr(substep))
        yield plain_descent(integrator)

    def measure(self, integrator, problem):
        """All series."""
        c = next((c for kind, c in COEFFICIENTS.items() if isinstance(integrator, kind)), 1.0)
        exact = self.bound(integrator, sylvester(0.1), c)
        plateau = self.bound(integrator, lyapunov(16, np.random.default_rng(7)), c)
        over = [(sigma, *self.bound(integrator, sylvester(sigma), c)[-1][1:]) for sigma in SIGMAS]
        slopes, growth = self.order(integrator), self.growth(integrator)
        labels = "measured error", "bound"
        found = [
            Series.of("bound at exact rank", "t", exact, *labels),
            Series.of("bound over sigma_min", "sigma_min", over, *labels),
            Series.of("bound with a plateau", "t", plateau, *labels),
            Series.of("slope over h", "h", slopes, "2 - measured slope", "0.25"),
            Series.of("error free of sigma_min", "sigma_min", growth, "error", "twice that at 1e-1"),
        ]
        return Measured(found, {"c": Constant(c, "derived; 1 for methods without a derivation")})

    def bound(self, integrator, problem, c: float) -> list[tuple]:
        """Error and bound of an affine equation at the end of each step."""
        h, L, l = problem.t_end / self.steps, problem.lipschitz, problem.one_sided_lipschitz
        first = integrator.init(start_of(problem, self.rank, np.random.default_rng(self.seed)))
        own, slack = problem.error(0.0, first.Y), rounding(first.Y, norm(dense(first.Y)))
        rows: list[tuple] = []
        for k, state, step in run(integrator, problem.field, first, h, self.steps):
            if step is None or not math.isfinite(error := problem.error(k * h, step.state.Y)):
                return [*rows, failed(k * h)]
            Y0, F0 = dense(state.Y), field_at(problem, 0.0, state.Y)
            U0, V0 = basis(state.Y.U), basis(state.Y.V)
            U, V = basis(np.hstack([U0, F0 @ V0])), basis(np.hstack([V0, F0.conj().T @ U0]))
            Z = Y0 + h / 2 * U @ (U.conj().T @ F0 @ V) @ V.conj().T
            normal = norm(normal_part(F0, U0, V0)), norm(normal_part(rate(problem, Z), U, V))
            theta = norm(dense(step.augmented) - dense(step.state.Y))
            third = L**2 * h**3 / 6 * math.exp(max(l, 0.0) * h) * norm(F0)
            own = math.exp(l * h) * own + h * normal[1] + c * L * h**2 * normal[0] + third + theta
            slack = math.exp(max(l, 0.0) * h) * slack + rounding(step.state.Y, norm(Y0), h * norm(F0))
            rows.append((k * h, error, own, slack))
        return rows

    def order(self, integrator) -> list[tuple]:
        """``(h, 2 - slope, 0.25, 0)`` on a nonlinear equation of exact rank."""
        h = np.array([0.4 / n for n in (10, 20, 40)])
        errors = [self.error(integrator, nonlinear(None), n) for n in (10, 20, 40)]
        slope = float(np.polyfit(np.log(h), np.log(errors), 1)[0]) if np.all(np.isfinite(errors)) else math.nan
        return [(h[-1], 2.0 - slope, 0.25, 0.0)]

    def growth(self, integrator) -> list[tuple]:
        """The error on it over its smallest singular value."""
        errors = [self.error(integrator, nonlinear(sigma), 20) for sigma in SIGMAS]
        return [(sigma, error, 2 * errors[0], 0.0) for sigma, error in zip(SIGMAS, errors, strict=True)]

    def error(self, integrator, problem, steps: int) -> float:
        """Of a run to t = 0.4; infinite where it fails."""
        state = integrator.init(start_of(problem, self.rank, np.random.default_rng(self.seed)))
        for _, _, step in run(integrator, problem.field, state, 0.4 / steps, steps):
            if step is None:
                return math.inf
            state = step.state
        return problem.error(0.4, state.Y)


def sylvester(smallest: float) -> Sylvester:
    """``X' = A X + X B`` with matrices of size 1, from a start of rank 4 with the last singular value given."""
    rng = np.random.default_rng(21)
    A, B = (X / np.linalg.norm(X, 2) for X in (rng.standard_normal((n, n)) for n in (14, 12)))
    start = synthetic((14, 12), [1.0, 0.5, 0.25, smallest], rng)
    P, d, Q = np.linalg.svd(start)
    d[3] = smallest  # which the sum of four matrices has to 1e-16 only
    return Sylvester(A, B, start=(P[:, :4] * d[:4], Q[:4].T))


def rate(problem: Sylvester, W: np.ndarray) -> np.ndarray:
    """The field of a Sylvester equation at a dense matrix."""
    C = 0.0 if problem.C is None else problem.C[0] @ problem.C[1].conj().T
    return problem.A @ W + W @ problem.B + C
