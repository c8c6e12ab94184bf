"""Matrix completion: a matrix known at some of its entries, with mini-batches of entries."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
import scipy.sparse

from integrators.checks import (
    check_array,
    check_integer,
    check_matrix,
    check_precision,
    check_rank,
    check_rng,
    described,
)
from integrators.linalg import norm
from integrators.lowrank import LowRank

from .fields import Array, Field, convert
from .problem import FiniteSum


@dataclass(frozen=True, eq=False)
class MatrixCompletion(FiniteSum):
    """Loss: squared distance to a matrix that is known at some of its entries.

    For N distinct observed entries in a set Omega

        min_W f(W) = (m n / (2 N)) sum_{(i,j) in Omega} |W_ij - a_ij|^2.

    The factor makes f an unbiased estimate of ``1/2 ||W - A||_F^2`` where the positions Omega are uniformly random,
    and makes a mini-batch a problem of the same form: f is the mean of ``f_ij = (m n / 2) |W_ij - a_ij|^2``, so with
    fewer entries the same formula holds with a smaller N (unbiased: see `FiniteSum`).

    With ``c = m n / N`` and the residual ``R_ij = W_ij - a_ij`` on Omega, 0 elsewhere:

    - gradient ``G = c R``, sparse with N entries; f is convex with ``L = c``, attained on Omega;
    - ``||G||_F = c ||R|| <= c (radius + ||a||)`` on a ball, attained at ``W = -radius a / ||a||``;
    - distinct entries are orthogonal, so for mini-batches of b entries
      ``E ||g||^2 = (b/N) (m n / b)^2 ||R||^2 = (N/b) ||G||^2`` and ``E ||g - G||^2 = (N/b - 1) ||G||^2``;
    - the minimum over all matrices is 0. Over rank r it is 0 if the data come from a matrix of rank at most r.

    Fields are sparse: O(N r + (m + n) r^2) operations and O(N r) memory, nothing of size m n.

    Parameters
    ----------
    rows, cols : numpy arrays (N,)
        Integers: distinct positions.
    values : numpy array (N,)
        a, real or complex floating. Points are numpy arrays too.
    size : (int, int)
        (m, n).
    batch_size : int, optional
        Entries per mini-batch; without it there is the full loss only.

    Raises
    ------
    TypeError, ValueError
        An array is not as above, a position lies outside or appears twice, or `batch_size` exceeds N.
    """

    rows: np.ndarray
    cols: np.ndarray
    values: np.ndarray
    size: tuple[int, int]
    batch_size: int | None = None

    name = "matrix-completion"
    convex = True

    def __post_init__(self) -> None:
        for name, n in zip(("m", "n"), self.size, strict=True):
            check_integer(name, n)
        check_array("values", self.values)
        for name, indices, n in (("rows", self.rows, self.size[0]), ("cols", self.cols, self.size[1])):
            if not isinstance(indices, np.ndarray) or not np.issubdtype(indices.dtype, np.integer):
                raise TypeError(f"{name} must be a numpy array of integers, got {_kind(indices)}")
            if indices.shape != np.shape(self.values) or indices.ndim != 1 or len(indices) == 0:
                raise ValueError(
                    f"{name} and values must be vectors of the same length, at least 1, "
                    f"got shapes {indices.shape} and {np.shape(self.values)}"
                )
            if indices.min() < 0 or indices.max() >= n:
                raise ValueError(f"{name} must lie between 0 and {n - 1}, got {indices.min()} to {indices.max()}")
        if not isinstance(self.values, np.ndarray) or not np.issubdtype(self.values.dtype, np.inexact):
            raise TypeError(f"values must be a numpy array of floating numbers, got {_kind(self.values)}")
        check_precision("values", self.values)
        if not np.all(np.isfinite(self.values)):
            raise ValueError("values must be finite, got NaN or infinite entries")
        if len(np.unique(self.rows.astype(np.int64) * self.size[1] + self.cols)) < self.samples:
            raise ValueError("rows and cols must name distinct positions, got one twice")
        self._check_batch_size()

    @property
    def shape(self) -> tuple[int, int]:
        return self.size

    @property
    def like(self) -> Array:
        return self.values

    @property
    def samples(self) -> int:
        """N, the number of observed entries."""
        return len(self.values)

    def subset(self, indices: np.ndarray) -> MatrixCompletion:
        """The problem of the chosen observations alone."""
        return MatrixCompletion(self.rows[indices], self.cols[indices], self.values[indices], self.size)

    def field(self, t: float, Y: LowRank) -> Field:
        """``-G(Y)``, sparse, independent of t."""
        return CompletionField(Y, self)

    def residual(self, Y: LowRank) -> np.ndarray:
        """``W_ij - a_ij`` on the observed entries, an array (N,) in double precision; O(N r + m r^2)."""
        Y = Y.in_double()
        return np.einsum("ir,ir->i", Y.K[self.rows], Y.V.conj()[self.cols]) - self.values

    def loss(self, Y: LowRank) -> float:
        return 0.5 * self.lipschitz * norm(self.residual(Y)) ** 2

    @property
    def lipschitz(self) -> float:
        """``m n / N``, attained."""
        return self.size[0] * self.size[1] / self.samples

    def gradient_bound(self, radius: float) -> float:
        """``(m n / N) (radius + ||a||)``, attained."""
        return self.lipschitz * (float(radius) + norm(self.values))

    def minimum(self, rank: int | None = None) -> float:
        """0; sharp without a rank, and where the data come from a matrix of rank at most `rank`."""
        if rank is not None:
            check_rank(rank, self.shape)
        return 0.0

    def variance(self, Y: LowRank) -> float:
        """``(N/b - 1) ||G||_F^2``, exact."""
        return self._excess * (self.lipschitz * norm(self.residual(Y))) ** 2

    def variance_bound(self, radius: float) -> float:
        """``(N/b - 1)`` times the square of the gradient bound, attained."""
        return self._excess * self.gradient_bound(radius) ** 2

    @property
    def _excess(self) -> float:
        """``N/b - 1``."""
        return self.samples / self._batch - 1


@dataclass(frozen=True, eq=False)
class CompletionField(Field):
    """The sparse field ``F = -(m n / N) R`` of `MatrixCompletion`.

    Parameters
    ----------
    point : LowRank
        Y, of numpy arrays.
    problem : MatrixCompletion
    """

    problem: MatrixCompletion

    @cached_property
    def matrix(self) -> scipy.sparse.coo_array:
        """F, (m, n) with N stored entries."""
        p = self.problem
        entries = convert(-p.lipschitz * p.residual(self.point), self.point.U)
        return scipy.sparse.coo_array((entries, (p.rows, p.cols)), shape=p.shape)

    def apply(self, X: Array) -> Array:
        return self.matrix @ X

    def apply_H(self, X: Array) -> Array:
        return self.matrix.conj().T @ X

    def full(self) -> Array:
        return self.matrix.toarray()


def completion(
    rng: np.random.Generator, target: np.ndarray, fraction: float, batch_size: int | None = None
) -> MatrixCompletion:
    """Completion of a dense matrix from entries at uniformly random positions.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the positions.
    target : numpy array (m, n)
    fraction : float
        Share of the entries that is observed, in (0, 1]; at least one entry.
    batch_size : int, optional
        Entries per mini-batch.

    Raises
    ------
    TypeError, ValueError
        `target` is no finite floating matrix, or `fraction` or `batch_size` is out of range.
    """
    check_rng(rng)
    check_matrix("target", target)
    if not isinstance(fraction, Real):
        raise TypeError(f"fraction must be a real number, got {described(fraction)}")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1], got {fraction}")
    m, n = target.shape
    chosen = np.sort(rng.choice(m * n, max(1, round(fraction * m * n)), replace=False, shuffle=False))
    rows, cols = np.divmod(chosen, n)
    return MatrixCompletion(rows, cols, target[rows, cols], (m, n), batch_size)


def _kind(X: Any) -> str:
    return f"an array of {X.dtype}" if isinstance(X, np.ndarray) else type(X).__name__
