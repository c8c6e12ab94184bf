"""Projector-splitting integrator, Lie and Strang."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from .checks import check_order
from .integrator import Integrator
from .linalg import dagger, eps, norm, qr
from .state import State
from .substeps import Euler, Substep

__all__ = ["ProjectorSplitting"]


@dataclass(frozen=True, kw_only=True)
class ProjectorSplitting(Integrator):
    r"""Projector-splitting integrator of fixed rank, Lie (order 1) or Strang (order 2).

    The tangent projection :math:`P(Y) F = F V V^H - U U^H F V V^H + U U^H F` is split term by term.

    .. math::
        \text{K:}\quad & K' = F(t, K V_0^H) V_0, & K(t_0) &= U_0 S_0, & K(t_1) &= U_1 R, \\
        \text{S:}\quad & S' = -U_1^H F(t, U_1 S V_0^H) V_0, & S(t_0) &= R, \\
        \text{L:}\quad & L' = F(t, U_1 L^H)^H U_1, & L(t_0) &= V_0 S(t_1)^H, & L(t_1) &= V_1 S_1^H.

    ``order=1`` is this Lie splitting; ``order=2`` the Strang splitting: K and S over the first half of the step, L over
    the whole (the two half L-steps in between share their basis, so they are one), then S and K over the second half.

    Parameters
    ----------
    order : 1 or 2
    substep : Substep
        Euler by default; use one of at least the method's order.
    optimizer : Optimizer

    Notes
    -----
    Three fields per step with Euler (Lie), five (Strang). Exact when F = A'(t) with A(t) of rank r and the sub-flows
    are exact. Cost O((m + n) r^2).

    The S-step runs backward and may blow up on stiff dissipative fields. What a K-step damped to ||R|| the S-step
    raises again, by a factor G, and with it the rounding of the K-step, which is eps G ||R|| already: from
    G = 1 / sqrt(eps) on the state says in its ``warning`` that the step is of no use. On the stiff heat equation errors
    leave the best approximation there.

    Raises ValueError if order is not 1 or 2.

    References
    ----------
    Lubich, Oseledets (2014), doi:10.1007/s10543-013-0454-0. Robust error bound: Kieri, Lubich, Walach (2016),
    doi:10.1137/15M1026791.
    """

    order: int = 1  # type: ignore[misc]
    substep: Substep = field(default_factory=Euler)

    robust: ClassVar[bool] = True
    stackable: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        check_order(self.order)

    def stages(self, t, state, h):
        """K, S, L (Lie) or K, S, L, S, K (Strang)."""
        Y = state.Y
        if self.order == 1:
            Y = yield from self.K_step(t, Y, h)
            Y, growth = yield from self.S_step(t, Y, h)
            Y = yield from self.L_step(t, Y, h)
        else:
            Y = yield from self.K_step(t, Y, h / 2)
            Y, first = yield from self.S_step(t, Y, h / 2)
            Y = yield from self.L_step(t, Y, h)
            Y, second = yield from self.S_step(t + h / 2, Y, h / 2)
            Y = yield from self.K_step(t + h / 2, Y, h / 2)
            growth = max(first, second)
        if growth <= eps(Y.S) ** -0.5:
            return Y
        return State(Y, state.memory, warning=f"the backward S-step multiplied ||S|| by {growth:.0e}, rounding with it")

    def K_step(self, t, Y, h):
        """K1 = U1 R with V fixed."""
        f = yield t, Y
        U, R = qr(Y.K + (yield from self.substep.K(t, Y, h, f)), Y.V)
        return Y.replace(U=U, S=R)

    def S_step(self, t, Y, h):
        """S backward, with U and V fixed, and how much its norm has grown (not looked at in stacks)."""
        f = yield t, Y, "S"
        S = Y.S + (yield from self.substep.S(t, Y, h, f, sign=-1))
        return Y.replace(S=S), 0.0 if S.ndim > 2 else norm(S) / (norm(Y.S) or math.inf)

    def L_step(self, t, Y, h):
        """L1 = V1 R with U fixed, S = R^H."""
        f = yield t, Y, "L"
        V, R = qr(Y.L + (yield from self.substep.L(t, Y, h, f)), Y.U)
        return Y.replace(S=dagger(R), V=V)
