"""Projector-splitting integrator, Lie and Strang."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .blocks import Block, in_blocks
from .checks import check_order
from .fields import parts_of
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

    A field that declares parts, ``F = F_1 + F_2 + ...``, is split into them too: order 1 follows one after the other
    over the whole step, order 2 the first ones over half of it, the last one over the whole, and the first ones again
    in reverse order. A part that changes one block of a block diagonal matrix alone moves it as a matrix of its own.
    With the parts of an equation of second order, ``A' = B`` and ``B' = f(A)``, in each of which the field is constant,
    these are the symplectic Euler and the leapfrog (Störmer-Verlet) scheme of low rank; Euler is exact as the substep.

    Parameters
    ----------
    order : 1 or 2
    substep : Substep
        Euler by default; use one of at least the method's order.
    optimizer : Optimizer

    Notes
    -----
    Three fields per step with Euler (Lie), five (Strang), and as many for each part that a step follows. Exact when
    F = A'(t) with A(t) of rank r and the sub-flows are exact. Cost O((m + n) r^2).

    The S-step runs backward and may blow up on stiff dissipative fields. What a K-step damped to ||R|| the S-step
    raises again, by a factor G, and with it the rounding of the K-step, which is eps G ||R|| already: from
    G = 1 / sqrt(eps) on the state says in its ``warning`` that the step is of no use. On the stiff heat equation errors
    leave the best approximation there.

    Raises ValueError if order is not 1 or 2.

    References
    ----------
    Lubich, Oseledets (2014), doi:10.1007/s10543-013-0454-0. Robust error bound: Kieri, Lubich, Walach (2016),
    doi:10.1137/15M1026791. Equations of second order: Hochbruck, Neher, Schrammer (2023),
    doi:10.1007/s10543-023-00941-7.
    """

    order: int = 1  # type: ignore[misc]
    substep: Substep = field(default_factory=Euler)

    robust: ClassVar[bool] = True
    stackable: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        check_order(self.order)

    def stages(self, t, state, h):
        """The parts of the field one after the other (Lie), or there and back (Strang)."""
        Y, growth = state.Y, 0.0
        f = yield t, Y
        places: list[Any] = [getattr(part, "block", None) for part in parts_of(f)]
        last = len(places) - 1
        if None in places:  # the matrix as a whole
            places = [None] * (last + 1)
        elif (Z := in_blocks(Y, places)) is not Y:
            Y, f = Z, None
        if self.order == 1:
            spans = [(k, t, h) for k in range(last + 1)]
        else:
            first = [(k, t, h / 2) for k in range(last)]
            spans = [*first, (last, t, h), *((k, t + h / 2, h / 2) for k in reversed(range(last)))]
        for k, start, length in spans:
            Y, grown = yield from self.of_part(k, places[k], start, Y, length, f)
            growth, f = max(growth, grown), None
        if growth <= eps(Y.S) ** -0.5:
            return Y
        return State(Y, state.memory, warning=f"the backward S-step multiplied ||S|| by {growth:.0e}, rounding with it")

    def of_part(self, k, place, t, Y, h, f):
        """The flow of the k-th part alone, of the block that it changes; the field at Y may be known."""
        block = None if place is None else Block(Y, *place)
        Z = Y if block is None else block.alone()
        if Z.rank == 0:
            return Y, 0.0
        stages = self.flow(t, Z, h)
        request = next(stages)
        try:
            while True:
                time, point, *part = request
                if f is None:
                    f = yield time, point if block is None else block.within(point), *part
                f = parts_of(f)[k]
                request, f = stages.send(f if block is None else block.seen(f, "".join(part))), None
        except StopIteration as stop:
            Z, growth = stop.value
        return (Z if block is None else block.within(Z)), growth

    def flow(self, t, Y, h):
        """K, S, L (Lie) or K, S, L, S, K (Strang); and how much the S-steps have grown."""
        if self.order == 1:
            Y = yield from self.K_step(t, Y, h)
            Y, growth = yield from self.S_step(t, Y, h)
            Y = yield from self.L_step(t, Y, h)
            return Y, growth
        Y = yield from self.K_step(t, Y, h / 2)
        Y, first = yield from self.S_step(t, Y, h / 2)
        Y = yield from self.L_step(t, Y, h)
        Y, second = yield from self.S_step(t + h / 2, Y, h / 2)
        Y = yield from self.K_step(t + h / 2, Y, h / 2)
        return Y, max(first, second)

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
