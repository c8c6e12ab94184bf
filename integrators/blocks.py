"""Block diagonal matrices of low rank: their blocks as matrices of their own, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from array_api_compat import device

from .fields import Projections
from .linalg import array_namespace, columns, concat, double_svd, eps
from .lowrank import LowRank, diagonalise

__all__ = ["Block", "block_diagonal", "in_blocks"]

Array = Any


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
