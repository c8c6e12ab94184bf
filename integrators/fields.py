r"""Fields as an integrator sees them, and tangent vectors: projections onto the bases of a point.

A field F at a point :math:`Y = U S V^H` is seen through the point's own bases,

.. math:: K = F V, \qquad L = F^H U, \qquad S = U^H F V,

and these three are all that a method reads. For orthonormal U and V they are the tangent vector
:math:`P(Y) F = K V^H + U L^H - U S V^H`. Everything here takes stacks (leading axes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .checks import check_instance, described
from .linalg import concat, dagger, qr
from .lowrank import LowRank, sum_of_two

__all__ = ["PARTS", "Projections", "combine", "seen", "tangent"]

Array = Any
PARTS = ("K", "L", "S")


class Projections:
    """A field, or a tangent vector, through the bases of a point.

    Anything with the attributes K, L and S that a method reads is accepted in its place; a problem's field computes
    them when they are read.

    Parameters
    ----------
    K : array (..., m, rV), optional
        ``F V``.
    L : array (..., n, rU), optional
        ``F^H U``.
    S : array (..., rU, rV), optional
        ``U^H F V``. A part that was not asked for may be left out.
    complements : pair of arrays, optional
        Orthonormal bases of what K has outside of the span of U, and L outside of that of V, where they are known.
    """

    K: Array
    L: Array
    S: Array
    complements: tuple[Array, Array] | None

    def __init__(self, K: Array = None, L: Array = None, S: Array = None, complements=None):
        self.K, self.L, self.S, self.complements = K, L, S, complements

    @classmethod
    def of(cls, F: Array, Y: LowRank) -> Projections:
        """Those of the dense matrix F (..., m, n) at Y. Cost O(m n r)."""
        K = F @ Y.V
        return cls(K, dagger(F) @ Y.U, dagger(Y.U) @ K)


def parts_of(f: Any) -> tuple:
    """The fields whose sum a field declares to be by its attribute ``parts``; itself without."""
    return getattr(f, "parts", None) or (f,)


def tangent(Y: LowRank, f: Any) -> LowRank:
    r"""The tangent vector :math:`K V^H + U L^H - U S V^H` at Y as a matrix of rank at most 2 r, from its projections.

    Its bases are not orthonormal. Its squared norm is ``||K||^2 + ||L||^2 - ||S||^2``. Cost O((m + n) r^2).
    """
    check_instance("Y", Y, LowRank)
    if not all(hasattr(f, name) for name in "KLS"):
        raise TypeError(f"f must have the projections K, L and S, got {described(f)}")
    return sum_of_two(Y.U, f.L, f.K - Y.U @ f.S, Y.V)


def seen(M: Any, Y: LowRank, point: LowRank, part: str) -> Array:
    """One projection of the tangent vector M at Y through the bases of another point. Cost O((m + n) r^2)."""
    if part == "L":
        return M.L @ (dagger(Y.U) @ point.U) + Y.V @ (dagger(M.K - Y.U @ M.S) @ point.U)
    MV = M.K @ (dagger(Y.V) @ point.V) + Y.U @ (dagger(M.L - Y.V @ dagger(M.S)) @ point.V)
    return MV if part == "K" else dagger(point.U) @ MV


def combine(terms: Sequence[tuple[float, LowRank]]) -> LowRank:
    """The sum of ``c_i Y_i`` over pairs (c_i, Y_i) in orthonormal bases, without forming the matrix.

    Its rank is the sum of the ranks, at most min(m, n). Cost O((m + n) r^2), r that sum.
    """
    terms = list(terms)
    if not terms:
        raise ValueError("terms must hold at least one pair (c, Y), got none")
    for _, Y in terms:
        check_instance("the second of each of terms", Y, LowRank)
    (U, R), (V, T) = (qr(concat(*(getattr(Y, X) for _, Y in terms))) for X in "UV")
    S, i, j = 0.0, 0, 0
    for c, Y in terms:  # R and T fall into blocks of columns, one for each term
        k, l = Y.S.shape[-2:]
        S = S + c * (R[..., :, i : i + k] @ Y.S @ dagger(T[..., :, j : j + l]))
        i, j = i + k, j + l
    return LowRank(U, S, V)
