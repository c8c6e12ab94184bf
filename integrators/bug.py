"""Basis update & Galerkin (BUG) integrator of fixed rank."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from .integrator import Integrator
from .linalg import orth
from .lowrank import LowRank
from .substeps import Euler, Substep

__all__ = ["BUG"]


@dataclass(frozen=True, kw_only=True)
class BUG(Integrator):
    r"""Basis update & Galerkin (BUG) integrator of fixed rank.

    Both bases are updated from the old point, then S by a Galerkin step in the new bases.

    .. math::
        K' &= F(t, K V_0^H) V_0, & K(t_0) &= U_0 S_0, & U_1 &= \mathrm{orth}(K(t_1)), \\
        L' &= F(t, U_0 L^H)^H U_0, & L(t_0) &= V_0 S_0^H, & V_1 &= \mathrm{orth}(L(t_1)), \\
        S' &= U_1^H F(t, U_1 S V_1^H) V_1, & S(t_0) &= U_1^H U_0 S_0 V_0^H V_1.

    Parameters
    ----------
    substep : Substep
        For K, L and S; Euler by default.
    optimizer : Optimizer

    Notes
    -----
    Order 1, robust to small singular values, no backward step. Two fields per step with Euler. Exact when F = A'(t)
    with A(t) of rank r and the sub-flows are exact. Cost O((m + n) r^2).

    References
    ----------
    Ceruti, Lubich (2022), An unconventional robust integrator for dynamical low-rank approximation,
    doi:10.1007/s10543-021-00873-0.
    """

    substep: Substep = field(default_factory=Euler)

    order: ClassVar[int] = 1
    robust: ClassVar[bool] = True
    stackable: ClassVar[bool] = True

    def stages(self, t, state, h):
        """K and L from the old bases, S in the new."""
        Y = state.Y
        f = yield t, Y
        U1 = orth(Y.K + (yield from self.substep.K(t, Y, h, f)), Y.V)
        V1 = orth(Y.L + (yield from self.substep.L(t, Y, h, f)), Y.U)
        Y = Y.embed(U1, V1)
        f = yield t, Y, "S"
        return LowRank(U1, Y.S + (yield from self.substep.S(t, Y, h, f)), V1)
