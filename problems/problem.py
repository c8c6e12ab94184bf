"""What every problem offers: a start, the field, the solution where it is known, and the constants theorems ask for.

Problems are immutable: all their data are fields of a frozen dataclass, so they can be pickled and sent to other
processes. Points are :class:`integrators.LowRank` matrices; fields are those of :mod:`problems.fields`.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from array_api_compat import device

from integrators.checks import check_integer, check_number, check_rank, check_rng
from integrators.linalg import array_namespace, haar, in_double, is_complex
from integrators.lowrank import LowRank

from .fields import Array, Field, convert


class Problem(ABC):
    """A matrix differential equation ``Y' = F(t, Y)`` for Y of shape (m, n).

    To add a problem, write a frozen dataclass (``eq=False``) that derives from this class and gives `name`, `shape`,
    `like`, `initial` and `field`; `reference` where a solution is known; `t_end` where 1 is no good horizon; and the
    constants of the field that can be derived, each with its derivation: `lipschitz`, `one_sided_lipschitz` and
    `time_lipschitz`, all in the Frobenius norm.
    """

    name: str
    t_end: float = 1.0
    usual_substep: ClassVar[str | None] = None
    """Name of the substep for a first comparison, where one step of Euler's method is of no use; None: any will do."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(m, n)."""

    @property
    @abstractmethod
    def like(self) -> Array:
        """An array of the library, dtype and device in which the problem starts."""

    @property
    def dtype(self) -> Any:
        """The dtype of `initial`."""
        return self.like.dtype

    @abstractmethod
    def initial(self, rank: int, rng: np.random.Generator) -> LowRank:
        """The start, of the given rank from 1 to min(m, n), with orthonormal bases, in the problem's dtype."""

    @abstractmethod
    def field(self, t: float, Y: LowRank) -> Field:
        """The field F(t, Y) at a point."""

    def reference(self, t: float) -> Array | None:
        """The exact solution at time t as a dense double precision array; None where none is known."""
        return None

    def error(self, t: float, Y: LowRank) -> float:
        """Frobenius distance of a point to the reference, measured in double precision.

        Raises
        ------
        ValueError
            The problem has no reference solution.
        """
        exact = self.reference(t)
        if exact is None:
            raise ValueError(f"{self.name} has no reference solution to measure an error against")
        W = Y.in_double().full()
        xp = array_namespace(W)
        return float(xp.linalg.vector_norm(W - xp.asarray(exact, device=device(W))))

    @property
    def lipschitz(self) -> float:
        """Smallest known L with ``||F(t, X) - F(t, Y)|| <= L ||X - Y||``; infinite where none is known."""
        return math.inf

    @property
    def one_sided_lipschitz(self) -> float:
        """Smallest known l with ``Re <F(t, X) - F(t, Y), X - Y> <= l ||X - Y||^2``.

        Two exact solutions part by the factor ``e^{l t}`` at most. By the inequality of Cauchy and Schwarz l = L will
        always do.
        """
        return self.lipschitz

    def time_lipschitz(self, t0: float, t1: float) -> float | None:
        """A bound of ``||F(s, Y) - F(t, Y)|| / |s - t|`` on [t0, t1] for every Y; None where none is known."""
        return None


class Autonomous(Problem):
    """A problem whose field does not depend on time."""

    def time_lipschitz(self, t0: float, t1: float) -> float:
        """0: the field does not depend on time."""
        return 0.0


class LossProblem(Autonomous):
    """A loss f(W) on (m, n) matrices; its gradient flow is the differential equation, ``F = -grad f``.

    The gradient is that of the real inner product ``Re tr(A^H B)``, so ``f(W + D) = f(W) + Re tr(G^H D) + o(D)`` for
    real and complex W. `lipschitz` is the Lipschitz constant of the gradient.

    Attributes
    ----------
    convex : bool
        Whether f is convex.
    """

    convex: bool = False

    @property
    def stochastic(self) -> bool:
        """Whether `minibatch` draws at random."""
        return False

    @abstractmethod
    def loss(self, Y: LowRank) -> float:
        """f at a point, accumulated in double precision."""

    def gradient(self, Y: LowRank) -> Field:
        """grad f at a point."""
        return -self.field(0.0, Y)

    @property
    def one_sided_lipschitz(self) -> float:
        """0 for a convex f, because its gradient is monotone: ``Re <grad f(X) - grad f(Y), X - Y> >= 0``; else L."""
        return 0.0 if self.convex else self.lipschitz

    @abstractmethod
    def gradient_bound(self, radius: float) -> float:
        """A bound of ``||grad f(W)||_F`` on the ball ``||W||_F <= radius``."""

    @abstractmethod
    def minimum(self, rank: int | None = None) -> float:
        """Lower bound of f on the matrices of rank at most `rank` (None: on all); the class says if it is sharp."""

    def initial(self, rank: int, rng: np.random.Generator, norm: float = 0.0) -> LowRank:
        """Random orthonormal bases and an S of given size.

        Parameters
        ----------
        rank : int
            1 to min(m, n).
        rng : numpy.random.Generator
            Source of the bases (Haar distributed) and of S, drawn in the order U, V, S.
        norm : float
            Frobenius norm of the start. The default 0 gives S = 0, the usual start of an adapter; otherwise S is
            Gaussian, scaled to this norm.
        """
        norm = check_number("norm", norm, least=0.0)
        Y = LowRank.zeros(self.shape, rank, rng, self.like)
        if not norm:
            return Y
        S = rng.standard_normal((rank, rank)).astype(np.complex128 if is_complex(self.like) else np.float64)
        return LowRank(Y.U, convert(S * (norm / np.linalg.norm(S)), self.like), Y.V)

    def minibatch(self, rng: np.random.Generator) -> LossProblem:
        """The loss of one random mini-batch; the problem itself where nothing is random."""
        return self

    def variance(self, Y: LowRank) -> float:
        """``E ||g - G||_F^2`` at a point, where g is the gradient of a mini-batch and G = E g the full gradient."""
        return 0.0

    def variance_bound(self, radius: float) -> float:
        """A bound of `variance` on the ball ``||W||_F <= radius``."""
        return 0.0


class FiniteSum(LossProblem):
    """A mean of N losses, ``f = (1/N) sum_i f_i``, with mini-batches of `batch_size` drawn without replacement.

    The loss of a mini-batch B with b elements is ``f_B = (1/b) sum_{i in B} f_i``. A uniformly drawn subset contains
    each i with probability b/N, hence ``E f_B = (1/b) sum_i (b/N) f_i = f``, and by linearity
    ``E grad f_B = grad f``: mini-batch gradients are unbiased. Their variance is that of a mean drawn without
    replacement from a finite population,

        E ||g - G||^2 = (N - b) / (b (N - 1)) * ( (1/N) sum_i ||grad f_i||^2 - ||G||^2 ).

    A subclass gives `samples` (N), `batch_size` (None: no mini-batches) and `subset`.
    """

    batch_size: int | None

    @property
    @abstractmethod
    def samples(self) -> int:
        """N, the number of losses in the mean."""

    @abstractmethod
    def subset(self, indices: np.ndarray) -> LossProblem:
        """The mean of the chosen losses alone, as a deterministic problem."""

    @property
    def stochastic(self) -> bool:
        return self._batch < self.samples

    def minibatch(self, rng: np.random.Generator) -> LossProblem:
        check_rng(rng)
        if not self.stochastic:
            return self
        return self.subset(rng.choice(self.samples, self._batch, replace=False, shuffle=False))

    def enumerate_minibatches(self) -> Iterator[LossProblem]:
        """All mini-batches, each equally probable, so that expectations can be computed exactly.

        Raises
        ------
        ValueError
            There are more than 100,000 of them.
        """
        b = self._batch
        if math.comb(self.samples, b) > 100_000:
            raise ValueError(
                f"{math.comb(self.samples, b)} mini-batches ({b} of {self.samples}) are too many to enumerate"
            )
        return (self.subset(np.array(chosen)) for chosen in itertools.combinations(range(self.samples), b))

    def _check_batch_size(self) -> None:
        if self.batch_size is not None and check_integer("batch_size", self.batch_size) > self.samples:
            raise ValueError(f"batch_size {self.batch_size} exceeds the number of samples {self.samples}")

    def _population_factor(self) -> float:
        """``(N - b) / (b (N - 1))``, zero for the full batch."""
        return (self.samples - self._batch) / (self._batch * (self.samples - 1)) if self.stochastic else 0.0

    @property
    def _batch(self) -> int:
        """b, N without mini-batches."""
        return self.samples if self.batch_size is None else self.batch_size


def check_real_point(Y: LowRank) -> None:
    """Raise TypeError where a real problem is given a complex point."""
    if np.iscomplexobj(Y.U):
        raise TypeError(f"a real problem needs a real point, got a point of dtype {Y.U.dtype}")


def check_complex_point(Y: LowRank) -> None:
    """Raise TypeError where a complex problem is given a real point."""
    if not np.iscomplexobj(Y.U):
        raise TypeError(f"a complex problem needs a complex point, got a point of dtype {Y.U.dtype}")


def best_approximation(P: np.ndarray, Q: np.ndarray, rank: int, rng: np.random.Generator, like: Array) -> LowRank:
    """Best approximation of ``P Q^H`` of the given rank, with orthonormal bases.

    Where `rank` exceeds the number of columns, random directions orthogonal to the others fill the bases and the
    matching entries of S are zero. Cost O((m + n) (p + rank)^2): QR of the factors, then the SVD of a small core.

    Parameters
    ----------
    P, Q : numpy arrays (m, p) and (n, p)
    rank : int
        1 to min(m, n).
    rng : numpy.random.Generator
        Source of the filling directions.
    like : array
        Gives library, dtype and device of the result.
    """
    rank = check_rank(rank, (P.shape[0], Q.shape[0]))
    check_rng(rng)
    (U, R_U), (V, R_V) = (np.linalg.qr(in_double(X)) for X in (P, Q))
    left, s, right_H = np.linalg.svd(R_U @ R_V.conj().T)
    U, V, s = U @ left[:, :rank], V @ right_H.conj().T[:, :rank], s[:rank]
    U, V = (_fill(X, rank, rng) for X in (U, V))
    S = np.zeros((rank, rank))
    S[range(len(s)), range(len(s))] = s
    return LowRank(*(convert(X, like) for X in (U, S, V)))


def approximation_of_svd(svd: Any, rank: int, rng: np.random.Generator, like: Array) -> LowRank:
    """`best_approximation` of a matrix by its singular value decomposition P, s, Q^H, in double precision.

    Directions beyond the numerical rank in the dtype of `like` are random, with singular values zero.
    """
    P, s, Q_H = svd
    r = int(np.sum(s > len(s) * np.finfo(like.dtype).eps * s[0]))
    return best_approximation(P[:, :r] * s[:r], Q_H[:r].T, rank, rng, like)


def _fill(U: np.ndarray, rank: int, rng: np.random.Generator) -> np.ndarray:
    """Random orthonormal columns appended to the orthonormal `U` until it has `rank` of them."""
    missing = rank - U.shape[1]
    if missing <= 0:
        return U
    Z = haar(U.shape[0], missing, rng, U.dtype)
    for _ in range(2):  # twice is enough for orthogonality to rounding
        Z = np.linalg.qr(Z - U @ (U.conj().T @ Z))[0]
    return np.hstack([U, Z])
