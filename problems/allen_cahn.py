"""The Allen-Cahn equation: reaction and diffusion, a gradient flow that is not linear."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse

from integrators.checks import check_integer, check_matrix, check_positive
from integrators.linalg import in_double
from integrators.lowrank import LowRank

from .cubic import CubicField
from .fields import Array, Field
from .linear_part import LinearPart
from .numerical import NumericallySolved
from .problem import Autonomous, approximation_of_svd, check_real_point


@dataclass(frozen=True, eq=False)
class AllenCahn(Autonomous, NumericallySolved):
    """Allen-Cahn equation: ``X' = eps (A X + X A) + X - X^3``, the power entry by entry.

    A is the second difference on a periodic grid of n points and width ``2 pi / n``. It is the gradient flow of
    ``E(X) = -eps/2 <X, A X + X A> - ||X||_F^2 / 2 + sum_ij X_ij^4 / 4``, which therefore falls, and where all entries
    are in [-1, 1] they stay there. The cubic term is monotone, ``-<X^3 - Y^3, X - Y> <= 0``, and A is negative
    semidefinite, hence the one-sided Lipschitz constant is 1; there is no Lipschitz constant for all X. On the entries
    in [-1, 1] it is ``8 eps / dx^2 + 2``, and an explicit step must be smaller than 2 over that.

    A field costs O(n r^4) where the rank is low, see `CubicField`, else O(n^2 r). The reference is numerical. Points
    are numpy arrays.

    Parameters
    ----------
    start : numpy array (n, n)
        X(0), real.
    eps : float
        Coefficient of diffusion.

    Raises
    ------
    TypeError, ValueError
        The start is not a real square matrix, or eps is not positive.
    """

    start: np.ndarray
    eps: float = 0.01

    name = "allen-cahn"
    t_end = 10.0
    one_sided_lipschitz = 1.0

    def __post_init__(self) -> None:
        check_matrix("start", self.start)
        if self.start.shape[0] != self.start.shape[1] or np.iscomplexobj(self.start):
            raise ValueError(f"start must be real and square, got {self.start.dtype} of shape {self.start.shape}")
        object.__setattr__(self, "eps", check_positive("eps", self.eps))

    @property
    def shape(self) -> tuple[int, int]:
        return self.start.shape

    @property
    def like(self) -> Array:
        return self.start

    @property
    def diffusivity(self) -> float:
        """``eps / dx^2``."""
        return self.eps / (2 * math.pi / len(self.start)) ** 2

    @cached_property
    def linear(self) -> LinearPart:
        """``eps (A X + X A) + X``."""
        n = len(self.start)
        next_to = scipy.sparse.diags_array([1.0, 1.0], offsets=[1, 1 - n], shape=(n, n))
        one = scipy.sparse.eye_array(n)
        A = self.diffusivity * (next_to + next_to.T - 2 * one)
        return LinearPart(A + one, A)

    def initial(self, rank: int, rng: np.random.Generator) -> LowRank:
        """Best approximation of X(0); random directions with zero singular values beyond its numerical rank."""
        return approximation_of_svd(self._svd, rank, rng, self.like)

    @cached_property
    def _svd(self) -> Any:
        return np.linalg.svd(in_double(self.start))

    def field(self, t: float, Y: LowRank) -> Field:
        """``eps (A Y + Y A) + Y - Y^3``, independent of t.

        Raises
        ------
        TypeError
            The point is complex.
        """
        check_real_point(Y)
        return AllenCahnField(Y, self)

    def start_matrix(self) -> np.ndarray:
        return in_double(self.start)

    def rate(self, t: float, W: np.ndarray) -> np.ndarray:
        return self.diffusivity * (second_difference(W) + second_difference(W.T).T) + W - W**3

    def energy(self, Y: LowRank) -> float:
        """E(Y), in double precision and O(n^2 r)."""
        W = Y.in_double().full()
        gradients = np.sum((np.roll(W, -1, 0) - W) ** 2) + np.sum((np.roll(W, -1, 1) - W) ** 2)
        return float(self.diffusivity / 2 * gradients - np.sum(W**2) / 2 + np.sum(W**4) / 4)


@dataclass(frozen=True, eq=False)
class AllenCahnField(CubicField):
    """The field of `AllenCahn`: ``(d A + I) Y + Y (d A)`` with the diffusivity d, and the cubic term.

    Parameters
    ----------
    point : LowRank
        Y, of real numpy arrays.
    problem : AllenCahn
    """

    problem: AllenCahn

    factor = -1.0  # type: ignore[assignment]

    @property
    def owner(self) -> AllenCahn:
        return self.problem

    @property
    def linear(self) -> LinearPart:
        return self.problem.linear

    def left(self, U: Array) -> tuple[Array, ...]:
        return self.problem.diffusivity * second_difference(U) + U, U

    def right(self, V: Array) -> tuple[Array, ...]:
        return V, self.problem.diffusivity * second_difference(V)


def second_difference(X: np.ndarray) -> np.ndarray:
    """Second difference of the rows of a periodic array, not divided by the squared width."""
    return np.roll(X, 1, 0) - 2 * X + np.roll(X, -1, 0)


def allen_cahn(n: int = 128, eps: float = 0.01, dtype: Any = np.float64) -> AllenCahn:
    """The usual test on [0, 2 pi]^2, with the horizon 10.

    The start is ``(e^{-tan^2 x} + e^{-tan^2 y}) sin x sin y / (1 + e^{|csc(-x/2)|} + e^{|csc(-y/2)|})``. Its entries
    are small, grow by reaction, and end in [-1, 1].

    Parameters
    ----------
    n : int
        Size, at least 3.
    eps : float
    dtype : numpy dtype
        Real floating.
    """
    check_integer("n", n, least=3)
    x = 2 * np.pi * np.arange(n) / n
    with np.errstate(over="ignore", divide="ignore"):  # at x = 0 the cosecant and its exponential are infinite: 0
        bump, wall = np.exp(-(np.tan(x) ** 2)), np.exp(np.abs(1 / np.sin(-x / 2)))
        start = (bump[:, None] + bump) * np.outer(np.sin(x), np.sin(x)) / (1 + wall[:, None] + wall)
    return AllenCahn(start.astype(dtype), eps)
