"""Equations of second order, as equations of first order for a block diagonal matrix of position and velocity."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg

from integrators.blocks import Block, block_diagonal, in_blocks
from integrators.checks import check_matrix, check_rank
from integrators.linalg import in_double
from integrators.lowrank import LowRank

from .fields import Array, Field, OperatorField
from .numerical import NumericallySolved
from .problem import Autonomous, approximation_of_svd, check_real_point


@dataclass(frozen=True, eq=False)
class SecondOrder(Autonomous, NumericallySolved):
    """Equation ``A'' = f(A)`` of second order for a real A (m, n), by a matrix that holds A and its derivative.

    The point is ``Y = diag(A, B)`` (2 m, 2 n), and ``Y' = diag(B, f(A))``. U, S and V of a block diagonal matrix can be
    block diagonal too, A and B having ranks of their own. The field declares two parts, ``diag(B, 0)`` and
    ``diag(0, f(A))``: along the flow of each the field is constant. `integrators.ProjectorSplitting` splits between
    them, and its bases stay block diagonal; all other methods see the sum.

    A subclass gives `force` and `dense_force`. The reference is numerical. Points are numpy arrays.

    Parameters
    ----------
    position, velocity : numpy arrays (m, n)
        A(0) and A'(0), real.

    Raises
    ------
    TypeError, ValueError
        They are not real matrices of the same shape.
    """

    position: np.ndarray
    velocity: np.ndarray

    def __post_init__(self) -> None:
        for name in ("position", "velocity"):
            check_matrix(name, getattr(self, name))
        if self.position.shape != self.velocity.shape or np.iscomplexobj(self.like):
            raise ValueError(
                f"position and velocity must be real and have the same shape, got {self.like.dtype} of shapes "
                f"{self.position.shape} and {self.velocity.shape}"
            )

    @abstractmethod
    def force(self, A: LowRank) -> Field:
        """f(A); the bases of A need not be orthonormal."""

    @abstractmethod
    def dense_force(self, A: np.ndarray) -> np.ndarray:
        """f(A) of a dense matrix (m, n) in double precision."""

    @property
    def shape(self) -> tuple[int, int]:
        m, n = self.position.shape
        return 2 * m, 2 * n

    @property
    def like(self) -> Array:
        return np.empty(0, np.result_type(self.position, self.velocity))

    @property
    def blocks(self) -> list[tuple[slice, slice]]:
        """Rows and columns of A and of B."""
        m, n = self.position.shape
        return [(slice(0, m), slice(0, n)), (slice(m, 2 * m), slice(n, 2 * n))]

    def initial(self, rank: int, rng: np.random.Generator) -> LowRank:
        """Best approximation of Y(0) in block diagonal bases.

        Directions beyond the numerical ranks of A(0) and A'(0) have singular values zero, and make the ranks of the two
        as equal as they can be.
        """
        rank, most = check_rank(rank, self.shape), min(self.position.shape)
        starts = [approximation_of_svd(svd, min(rank, most), rng, self.like) for svd in self._svds]
        return in_blocks(block_diagonal(starts), self.blocks, rank)

    @cached_property
    def _svds(self) -> list[Any]:
        return [np.linalg.svd(in_double(X), full_matrices=False) for X in (self.position, self.velocity)]

    def field(self, t: float, Y: LowRank) -> Field:
        """``diag(B, f(A))``, independent of t.

        Raises
        ------
        TypeError
            The point is complex.
        """
        check_real_point(Y)
        return SecondOrderField(Y, self)

    def position_of(self, Y: LowRank) -> LowRank:
        """A (m, n), the upper block of a point; its bases are not orthonormal."""
        return Block(Y, *self.blocks[0]).alone()

    def velocity_of(self, Y: LowRank) -> LowRank:
        """B (m, n), the lower block of a point; its bases are not orthonormal."""
        return Block(Y, *self.blocks[1]).alone()

    def start_matrix(self) -> np.ndarray:
        return scipy.linalg.block_diag(in_double(self.position), in_double(self.velocity))

    def rate(self, t: float, W: np.ndarray) -> np.ndarray:
        m, n = self.position.shape
        return scipy.linalg.block_diag(W[m:, n:], self.dense_force(W[:m, :n]))


@dataclass(frozen=True, eq=False)
class SecondOrderField(Field):
    """The field of `SecondOrder`: the sum of ``diag(B, 0)`` and ``diag(0, f(A))``.

    Parameters
    ----------
    point : LowRank
        Y, of real numpy arrays.
    problem : SecondOrder
    """

    problem: SecondOrder

    @cached_property
    def parts(self) -> tuple[Field, Field]:
        """The two fields."""
        B, A = self.problem.velocity_of(self.point), self.problem.position_of(self.point)
        f = self.problem.force(A)
        return (
            self._block(0, lambda X: B.K @ (B.V.T @ X), lambda X: B.V @ (B.K.T @ X)),
            self._block(1, f.apply, f.apply_H),
        )

    def _block(self, i: int, product: Callable, product_H: Callable) -> Field:
        """``diag(F, 0)`` (i = 0) or ``diag(0, F)`` (i = 1) by the products with F."""

        def alone(function: Callable, X: Array) -> Array:
            FX = function(np.split(X, 2)[i])
            return np.concatenate((FX, np.zeros_like(FX)) if i == 0 else (np.zeros_like(FX), FX))

        return PartField(self.point, lambda X: alone(product, X), lambda X: alone(product_H, X), self.problem.blocks[i])

    def apply(self, X: Array) -> Array:
        return sum(part.apply(X) for part in self.parts)

    def apply_H(self, X: Array) -> Array:
        return sum(part.apply_H(X) for part in self.parts)


@dataclass(frozen=True, eq=False)
class PartField(OperatorField):
    """A field that changes one block alone, at ``block = (rows, columns)``, two slices.

    Parameters
    ----------
    point, product, product_H
        As of `OperatorField`.
    block : pair of slices
    """

    block: tuple[slice, slice]
