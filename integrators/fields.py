r"""Fields as an integrator sees them, and tangent vectors: projections onto the bases of a point.

A field F at a point :math:`Y = U S V^H` is seen through the point's own bases,

.. math:: K = F V, \qquad L = F^H U, \qquad S = U^H F V,

and these three are all that a method reads. For orthonormal U and V they are the tangent vector
:math:`P(Y) F = K V^H + U L^H - U S V^H`. Everything here takes stacks (leading axes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from array_api_compat import device

from .checks import check_instance, described
from .linalg import array_namespace, columns, concat, dagger, double_svd, eps, qr
from .lowrank import LowRank, diagonalise, sum_of_two

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


class Block:
    """A block on the diagonal of a matrix with block diagonal U, S and V, as a matrix of low rank of its own.

    Parameters
    ----------
    Y : LowRank
    rows, columns : slice
        Where the block is.
    """

    def __init__(self, Y: LowRank, rows: slice, columns: slice):
        self.Y, self.rows, self.columns = Y, rows, columns
        self.left, self.right = _used(Y.U[rows, :]), _used(Y.V[columns, :])

    def alone(self) -> LowRank:
        """The block (m, n)."""
        U, S, V = self.Y
        return LowRank(U[self.rows, self.left], S[self.left, self.right], V[self.columns, self.right])

    def within(self, Z: LowRank) -> LowRank:
        """The whole matrix with Z in the place of the block."""
        U = _replaced(self.Y.U, self.rows, self.left, Z.U)
        S = _replaced(self.Y.S, self.left, self.right, Z.S)
        return LowRank(U, S, _replaced(self.Y.V, self.columns, self.right, Z.V))

    def seen(self, f: Any, part: str) -> Projections:
        """A field through the bases of the block, the parts that a request names (all three: "")."""
        places = {"K": (self.rows, self.right), "L": (self.columns, self.left), "S": (self.left, self.right)}
        return Projections(**{name: getattr(f, name)[places[name]] for name in part or places})


def in_blocks(Y: LowRank, places: Sequence[tuple[slice, slice]], rank: int | None = None) -> LowRank:
    """The diagonal blocks of a matrix in block diagonal U, S and V, to a rank; itself where it is that already.

    What is between the blocks is left out: rounding, where a block diagonal matrix has been added to others and
    truncated. The blocks have the largest singular values of all, and zero ones evenly.

    Parameters
    ----------
    Y : LowRank
        Orthonormal bases.
    places : sequence of pairs of slices
        Rows and columns of each block, in order; together all rows and columns.
    rank : int, optional
        Of all blocks together; that of Y without it.
    """
    rank, xp = Y.rank if rank is None else rank, array_namespace(Y.S)
    Z = block_diagonal([Block(Y, *place).alone() for place in places])
    if Z.S.shape == Y.S.shape == (rank, rank) and all(bool(xp.all(A == B)) for A, B in zip(Z, Y, strict=True)):
        return Y
    parts = [LowRank(Y.U[rows, :], Y.S, Y.V[columns, :]).orthonormalised() for rows, columns in places]
    svds = [double_svd(Z.S) for Z in parts]
    zero = max(float(x) for _, d, _ in svds for x in d[:1]) * eps(Y.S) * max(Y.shape)
    order = sorted((-float(x) if x > zero else 0.0, i, k) for k, (_, d, _) in enumerate(svds) for i, x in enumerate(d))
    ranks = [sum(k == j for *_, k in order[:rank]) for j in range(len(parts))]
    return block_diagonal([diagonalise(Z, P, d, Q, r) for Z, (P, d, Q), r in zip(parts, svds, ranks, strict=True)])


def block_diagonal(blocks: Sequence[LowRank]) -> LowRank:
    """The block diagonal matrix of these, with block diagonal U, S and V."""
    return LowRank(*(_diagonal(factors) for factors in zip(*blocks, strict=True)))


def _diagonal(blocks: Sequence[Array]) -> Array:
    xp, width, rows, before = array_namespace(blocks[0]), sum(X.shape[1] for X in blocks), [], 0
    for X in blocks:
        left, right = (
            xp.zeros((X.shape[0], k), dtype=X.dtype, device=device(X)) for k in (before, width - before - X.shape[1])
        )
        rows.append(concat(left, X, right))
        before += X.shape[1]
    return concat(*rows, axis=-2)


def _used(X: Array) -> slice:
    """From the first to the last column that is not zero."""
    where = [j for j, used in enumerate(columns(X)) if used]
    return slice(where[0], where[-1] + 1) if where else slice(0, 0)


def _replaced(X: Array, rows: slice, columns: slice, Z: Array) -> Array:
    """X with Z in some rows and columns."""
    left, middle, right = X[:, : columns.start], X[:, columns], X[:, columns.stop :]
    return concat(left, concat(middle[: rows.start], Z, middle[rows.stop :], axis=-2), right)


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
