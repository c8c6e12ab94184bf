"""Points where simultaneous descent rests although the projected gradient does not vanish."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from integrators import (
    AugmentedBUG,
    BackwardCorrectedSplitting,
    FullRank,
    GeoLoRA,
    LowRank,
    ParallelBUG,
    ProjectedRungeKutta,
    SecondOrderParallelBUG,
)
from problems import MatrixRegression

from .certificate import Constant, Hypothesis, Series
from .hypotheses import euler_steps, plain_descent
from .measure import attempt, bases, dense, gradient_at, norm, rounding, tangent_part
from .theorem import FACTORS, SEQUENTIAL, Measured, Theorem, one_euler_step

CASES = ("column", "row")


def resting_point(which: str, size: int = 6, gradient: float = 0.5) -> tuple[LowRank, MatrixRegression]:
    r"""A point of singular S and a regression problem with ``P^ G = 0`` and ``P G = G != 0`` there.

    There is no rounding: all numbers are powers of two. With unit vectors e_i, ``U = V = [e_1, e_2]``,
    ``S = diag(1, 0)``, and the gradient

    - ``column``: ``G = g e_3 e_2^T``, so ``G V S^T = g e_3 (S e_2)^T = 0``, ``U^T G = 0``;
    - ``row``: ``G = g e_2 e_3^T``, so ``G V = 0``, ``G^T U S = g e_3 (e_2^T S) = 0``.

    The target of the regression is ``A = W - G``.
    """
    if which not in CASES:
        raise ValueError(f"which must be one of {', '.join(CASES)}, got {which!r}")
    e = np.eye(size)
    U, V, S = e[:, :2], e[:, :2], np.diag([1.0, 0.0])
    G = gradient * (np.outer(e[2], e[1]) if which == "column" else np.outer(e[1], e[2]))
    return LowRank(U, S, V), MatrixRegression(U @ S @ V.T - G)


@dataclass(frozen=True)
class Stationary(Theorem):
    r"""Every point of rest is a point with P(W) G = 0 (Figure 1 of the GeoLoRA paper).

    Simultaneous descent on the factors of ``W = U S V^H`` follows, to first order, ``-P^ G`` with

    .. math:: \hat P G = G\, V S^H S V^H + U U^H G V V^H + U S S^H U^H G .

    P^ is self-adjoint and positive semi-definite, ``<G, P^ G> = ||G V S^H||^2 + ||U^H G V||^2 + ||S^H U^H G||^2``. For
    invertible S its kernel is that of P; for singular S it is larger: at :func:`resting_point` ``P^ G = 0`` but
    ``P G = G != 0``. A step of simultaneous descent leaves such a point exactly where it is; a Riemannian step descends
    by ``lam (1 - L lam / 2) ||P G||^2``.

    Hypotheses: plain descent, Euler steps, ``0 < lam < 2 / L``; U and V orthonormal.

    What is compared: the promised decrease (left) with the measured one (right) at the two points of rest. AdaLoRA
    rests at the first and the second, SVD-LoRA at both, LoRA (``B = U S``, ``A = V^H``) at the second alone.

    Source: Schotthöfer et al. (2025), arXiv:2410.18720, Figure 1; the points are constructed above.
    """

    step_size: float = 0.5

    name = "stationary-points"
    statement = "no rest where P(W) G != 0: f decreases by lam (1 - L lam / 2) ||P G||^2"
    source = "GeoLoRA (arXiv:2410.18720), Figure 1; points constructed"

    own_problem = "resting points"
    promised = dict.fromkeys(
        (
            GeoLoRA,
            ParallelBUG,
            AugmentedBUG,
            BackwardCorrectedSplitting,
            SecondOrderParallelBUG,
            ProjectedRungeKutta,
            FullRank,
        ),
        "it descends by an orthogonal projection of G that contains P G",
    )
    unless = {ProjectedRungeKutta: one_euler_step}
    doubts = dict.fromkeys(FACTORS, "its points of rest are not those of P G") | dict.fromkeys(
        SEQUENTIAL, "no such bound is known"
    )

    def hypotheses(self, integrator, problem):
        """Plain descent by Euler steps of stable size (L = 1)."""
        lam = float(self.step_size)
        yield from (plain_descent(integrator), euler_steps(integrator))
        yield Hypothesis("0 < lam < 2 / L", 0 < lam < 2, f"lam = {lam:.4g}, L = 1")

    def measure(self, integrator, problem):
        """One step from each of the two points."""
        lam = float(self.step_size)
        found, notes = [], []
        for which in CASES:
            Y, regression = resting_point(which)
            G = gradient_at(regression, Y)
            promised = lam * (1 - 0.5 * lam) * norm(tangent_part(G, *bases(Y))) ** 2
            state = integrator.init(Y)
            step, gain = attempt(integrator, regression.field, state, lam), -math.inf
            if step is not None:
                gain = regression.loss(state.Y) - regression.loss(step.augmented)
                if norm(dense(step.augmented) - dense(state.Y)) == 0:
                    notes.append(f"rests exactly at the point {which!r}, where ||P G|| = {norm(G):.3g}")
            row = (lam, promised, gain, rounding(Y, norm(dense(Y)), lam * norm(G)) * norm(G))
            found.append(Series.of(f"leaves the point ({which})", "lam", [row], "promised decrease", "measured"))
        return Measured(found, {"L": Constant(1.0, "regression")}, notes)
