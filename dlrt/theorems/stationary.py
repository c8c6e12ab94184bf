"""Points where simultaneous descent rests although the projected gradient does not vanish."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from integrators import AugmentedBUG, FullRank, GeoLoRA, LowRank, ParallelBUG
from problems import MatrixRegression

from .certificate import Certificate, Constant, Hypothesis
from .theorem import (
    FAILURES,
    Theorem,
    bases,
    dense,
    field_at,
    norm,
    plain_descent,
    rounding,
    series,
    substep_name,
    tangent_part,
)

CASES = ("column", "row")


def resting_point(which: str, size: int = 6, gradient: float = 0.5) -> tuple[LowRank, MatrixRegression]:
    r"""A point of singular S and a regression problem with ``P^ G = 0`` and ``P G = G != 0`` there, without any
    rounding.

    With unit vectors e_i, ``U = V = [e_1, e_2]``, ``S = diag(1, 0)``, and the gradient

    - ``column``: ``G = g e_3 e_2^T``, so ``G V S^T = g e_3 (S e_2)^T = 0``, ``U^T G = 0``;
    - ``row``: ``G = g e_2 e_3^T``, so ``G V = 0``, ``G^T U S = g e_3 (e_2^T S) = 0``.

    The target of the regression is ``A = W - G``. All numbers are powers of two.
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

    def promises(self, integrator):
        """As for descent."""
        if isinstance(integrator, (GeoLoRA, ParallelBUG, AugmentedBUG, FullRank)):
            return True, "it descends by an orthogonal projection of G that contains P G"
        return False, "its points of rest are not those of P G" if not integrator.manifold else "no such bound is known"

    def problems(self):
        """The two points."""
        return {which: resting_point(which)[1] for which in CASES}

    @np.errstate(all="ignore")
    def check(self, integrator, problem=None, *, step_size=None) -> Certificate:
        """Both points; ``problem`` is not used, since each point brings its own."""
        lam = float(step_size or self.step_size)
        hypotheses = [
            plain_descent(integrator),
            Hypothesis("explicit Euler steps", substep_name(integrator) == "Euler", substep_name(integrator)),
            Hypothesis("0 < lam < 2 / L", 0 < lam < 2, f"lam = {lam:.4g}, L = 1"),
        ]
        if not all(h.met for h in hypotheses):
            return self.certificate(integrator, "resting points", hypotheses)
        found, notes = [], []
        for which in CASES:
            Y, regression = resting_point(which)
            G = -field_at(regression, 0.0, Y)
            U, V = bases(Y)
            promised = lam * (1 - 0.5 * lam) * norm(tangent_part(G, U, V)) ** 2
            state = integrator.init(Y)
            try:
                step = integrator.step(regression.field, 0.0, state, lam)
                gain = regression.loss(state.Y) - regression.loss(step.augmented)
                if norm(dense(step.augmented) - dense(state.Y)) == 0:
                    notes.append(f"rests exactly at the point {which!r}, where ||P G|| = {norm(G):.3g}")
            except FAILURES:
                gain = -np.inf
            slack = rounding(Y, norm(dense(Y)), lam * norm(G)) * norm(G)
            found.append(
                series(
                    f"leaves the point ({which})",
                    "lam",
                    [(lam, promised, gain, slack)],
                    "promised decrease",
                    "measured",
                )
            )
        return self.certificate(
            integrator, "resting points", hypotheses, found, {"L": Constant(1.0, "regression")}, notes
        )

    def cases(self, integrator, full=False):
        """Both points at once."""
        yield self.check(self.configured(integrator))
