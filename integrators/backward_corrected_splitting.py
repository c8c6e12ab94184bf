"""Augmented backward-corrected projector-splitting integrator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from .integrator import Integrator
from .linalg import complement, concat, dagger
from .lowrank import LowRank
from .substeps import Euler, Substep
from .truncation import Tolerance, Truncation

__all__ = ["BackwardCorrectedSplitting", "galerkin_L"]


@dataclass(frozen=True, kw_only=True)
class BackwardCorrectedSplitting(Integrator):
    r"""Augmented backward-corrected projector splitting (abc-PSI): the L-step starts at Y0, so none runs backward.

    .. math::
        K' &= F(t, K V_0^H) V_0, & K(t_0) &= U_0 S_0, & \hat U &= \mathrm{orth}[U_0 \,|\, K(t_1)], \\
        L' &= F(t, \hat U L^H)^H \hat U, & L(t_0) &= V_0 S_0^H U_0^H \hat U, & L(t_1) &= \hat V \hat S^H,

    and :math:`\hat U \hat S \hat V^H = \hat U L(t_1)^H` is truncated. The augmented basis contains Y0, which takes the
    place of the backward S-step of projector splitting.

    Parameters
    ----------
    truncation : Truncation
        ``Tolerance(relative=1e-8)`` by default; ``FixedRank(r)`` makes it a method of fixed rank.
    substep : Substep
        For K and L; Euler by default.
    optimizer : Optimizer

    Notes
    -----
    Order 1, robust, two fields per step with Euler. The L-step is Galerkin in the matrices with columns in the span of
    U^, which contain Y0: norm and energy are kept, and gradient flows decay, up to the truncation. With Euler the step
    before truncation is :math:`\hat W = W - h \hat U \hat U^H G` for a gradient G = -F. Exact for F = A'(t) of rank r.
    Cost O((m + n) r^2).

    References
    ----------
    Kusch, Schotthöfer, Walter (2025), An augmented backward-corrected projector splitting integrator for dynamical
    low-rank training, arXiv:2502.03006.
    """

    truncation: Truncation = field(default_factory=lambda: Tolerance(relative=1e-8))  # type: ignore[misc]
    substep: Substep = field(default_factory=Euler)

    order: ClassVar[int] = 1
    robust: ClassVar[bool] = True
    rank_adaptive: ClassVar[bool] = True
    stackable: ClassVar[bool] = True

    def stages(self, t, state, h):
        """K for the basis, then L from Y0 in it."""
        Y = state.Y
        f = yield t, Y
        dK = yield from self.substep.K(t, Y, h, f)
        Y = Y.embed(concat(Y.U, complement(Y.U, dK)), Y.V)
        return (yield from galerkin_L(t, Y, h, self.substep))


def galerkin_L(t, Y: LowRank, h, substep: Substep):
    """``U L(t + h)^H`` from an L-step at Y, with new directions of V where it has any."""
    f = yield t, Y, "L"
    dL = yield from substep.L(t, Y, h, f)
    Vt = complement(Y.V, dL)  # L1 = V0 S0^H + dL has its columns in the span of [V0 | Vt]
    return LowRank(Y.U, concat(Y.S + dagger(dL) @ Y.V, dagger(dL) @ Vt), concat(Y.V, Vt))
