"""Dynamical generalised Nystroem method."""

from __future__ import annotations

from dataclasses import dataclass

from .linalg import array_namespace, complement, concat, dagger, eps, qr
from .lowrank import LowRank
from .sketches import PowerIterated
from .state import State

__all__ = ["DynamicalNystroem"]


@dataclass(frozen=True, kw_only=True)
class DynamicalNystroem(PowerIterated):
    r"""Dynamical generalised Nyström method (DGN): sketches of both sides, and the core between them.

    With :math:`Q_1 = \mathrm{orth}[U_0 | Q]` and :math:`Q_2 = \mathrm{orth}[V_0 | Q']`, where Q is the range that
    :class:`~integrators.DRSVD` finds, from r + p random columns, and Q' the co-range, likewise from r + 2 p:

    .. math::
        B' &= F(t, B Q_2^H)\, Q_2, & B(t_0) &= Y_0 Q_2, \\
        C' &= F(t, Q_1 C^H)^H Q_1, & C(t_0) &= Y_0^H Q_1, \\
        D' &= Q_1^H F(t, Q_1 D Q_2^H)\, Q_2, & D(t_0) &= Q_1^H Y_0 Q_2,

    and :math:`Y_1 = B(t_1)\, D_r(t_1)^+\, C(t_1)^H`, with D truncated before it is inverted; of what is left, singular
    values below eps^(3/4) of the largest (2e-12 in double precision) are taken as zero.

    Parameters
    ----------
    truncation : Truncation
        Of D and of the result; ``Tolerance(relative=1e-8)`` by default.
    substep : Substep
        For B, C and D; Euler by default.
    power : int
        Power iterations, 1 by default, see :class:`~integrators.DRSVD`.
    seed, oversampling : int
        Of the sketches; oversampling is p.
    optimizer : Optimizer

    Notes
    -----
    Order 1. B, C and D may run in parallel. 4 power + 4 fields per step with Euler (the first, at Y0, moves nothing).
    Exact for F = A'(t) of rank r. It divides by the singular values of D that the truncation keeps: no error bound free
    of them is known. Cost O((m + n) (r + p)^2).

    Raises TypeError or ValueError if power, seed or oversampling is not an integer >= 0.

    References
    ----------
    Carrel (2024), Randomised methods for dynamical low-rank approximation, arXiv:2410.17091.
    """

    def stages(self, t, state, h):
        """Range and co-range, then B, C and D from Y0 in them."""
        Y = state.Y
        yield from self.first_field(t, Y)
        (m, n), r, p = Y.shape, Y.rank, self.oversampling
        Omega, Psi = self.sketches(state, (n, r + p), (m, r + 2 * p))
        Q1 = yield from self.basis(t, Y, h, "K", Omega)
        Q2 = yield from self.basis(t, Y, h, "L", Psi)
        Y = Y.embed(concat(Y.U, complement(Y.U, Q1)), concat(Y.V, complement(Y.V, Q2)))
        f = yield t, Y
        B = Y.K + (yield from self.substep.K(t, Y, h, f))
        C = Y.L + (yield from self.substep.L(t, Y, h, f))
        D = Y.S + (yield from self.substep.S(t, Y, h, f))
        [(Dr, _)] = self.truncation([State(LowRank(Y.U, D, Y.V))])
        xp = array_namespace(D)
        d = xp.real(xp.linalg.diagonal(Dr.S))
        kept = d > eps(D) ** 0.75 * xp.max(d)
        inverse = xp.where(kept, 1 / xp.where(kept, d, xp.ones_like(d)), xp.zeros_like(d))
        U, R = qr(B @ (dagger(Y.V) @ Dr.V))
        V, T = qr(C @ (dagger(Y.U) @ Dr.U))
        return LowRank(U, (R * xp.astype(inverse, R.dtype)) @ dagger(T), V)
