"""A rotating matrix of low rank: the solution is given, the field is its time derivative."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from integrators.checks import check_integer, check_matrix, check_number, check_rng, check_singular_values
from integrators.linalg import dagger, gaussian
from integrators.lowrank import LowRank

from .fields import Array, Field, convert, noted
from .problem import Problem, best_approximation


@dataclass(frozen=True, eq=False)
class Rotating(Problem):
    """Rotating matrix: a given solution of low rank, whose time derivative is the field.

    The solution is ``A(t) = e^{t W1} e^t D e^{t W2}``, D diagonal (m, n), W1 and W2 skew-Hermitian, and
    ``Y' = A'(t)``: the field does not depend on Y. With the first r columns ``P(t)`` of ``e^{t W1}`` and ``Q(t)`` of
    ``e^{-t W2} = (e^{t W2})^H`` this is

        A(t) = e^t P(t) diag(d) Q(t)^H,     A' = e^t ( (P + W1 P) diag(d) Q^H - P diag(d) (W2 Q)^H ),

    of rank r with the singular values ``e^t d`` for all t. The skew matrices are diagonalised once,
    ``W = X diag(i w) X^H``, so P and Q cost O((m^2 + n^2) r) at every new time and the field O((m + n) r^2) after
    that. ``||A'(t)||_F <= e^t (1 + ||W1||_2 + ||W2||_2) ||d||_2``; the Lipschitz constant in Y is 0.

    Fields take the library and dtype of the point (numpy or torch); the computation inside is in double precision.

    Parameters
    ----------
    W1, W2 : numpy arrays (m, m) and (n, n)
        Skew-Hermitian.
    singular_values : numpy array (r,)
        d, positive, r <= min(m, n).

    Raises
    ------
    TypeError, ValueError
        A matrix is not finite, floating, square and skew-Hermitian or `singular_values` is not as above.

    References
    ----------
    E. Kieri, C. Lubich, H. Walach, SIAM J. Numer. Anal. 54 (2016) 1020-1038, doi:10.1137/15M1026791.
    """

    W1: np.ndarray
    W2: np.ndarray
    singular_values: np.ndarray

    name = "rotating"
    lipschitz = 0.0

    def __post_init__(self) -> None:
        for name, W in (("W1", self.W1), ("W2", self.W2)):
            check_matrix(name, W)
            if W.shape[0] != W.shape[1]:
                raise ValueError(f"{name} must be square, got shape {W.shape}")
            if np.abs(W + W.conj().T).max() > 100 * np.finfo(W.dtype).eps * np.abs(W).max():
                raise ValueError(f"{name} must be skew-Hermitian, W^H = -W, got a matrix that is not")
        check_singular_values(self.singular_values, self.shape)

    @property
    def shape(self) -> tuple[int, int]:
        return self.W1.shape[0], self.W2.shape[0]

    @property
    def like(self) -> Array:
        return np.empty(0, np.result_type(self.W1, self.W2))

    def initial(self, rank: int, rng: np.random.Generator) -> LowRank:
        """Best approximation of A(0) = D; random directions with zero singular values beyond its rank."""
        P, Q = self.factors(0.0)
        return best_approximation(P * self.singular_values, Q, rank, rng, self.like)

    def field(self, t: float, Y: LowRank) -> Field:
        """``A'(t)`` with exact sub-flows."""
        return RotatingField(Y, self, float(t))

    def time_lipschitz(self, t0: float, t1: float) -> float:
        """``((1 + ||W1||_2^2)^{1/2} + ||W2||_2)^2 e^{t1} ||d||``, a bound of ``||A''||`` up to t1.

        ``A'' = (I + W1)^2 A + 2 (I + W1) A W2 + A W2^2``, where ``||I + W1||_2 = (1 + ||W1||_2^2)^{1/2}`` because W1
        is skew-Hermitian, and ``||A|| = e^t ||d||``.
        """
        w1, w2 = (float(np.linalg.norm(W, 2)) for W in (self.W1, self.W2))
        return (math.hypot(1.0, w1) + w2) ** 2 * (math.exp(t1) * float(np.linalg.norm(self.singular_values)))

    def reference(self, t: float) -> np.ndarray:
        """A(t)."""
        P, Q = self.factors(t)
        return (P * (math.exp(t) * self.singular_values)) @ Q.conj().T

    def factors(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Orthonormal P(t) (m, r) and Q(t) (n, r), in double precision."""
        (w1, X1), (w2, X2) = self._eigen
        r = len(self.singular_values)
        P = (X1 * np.exp(1j * t * w1)) @ X1[:r].conj().T
        Q = (X2 * np.exp(-1j * t * w2)) @ X2[:r].conj().T
        return tuple(X if np.iscomplexobj(W) else X.real for X, W in ((P, self.W1), (Q, self.W2)))

    @cached_property
    def _eigen(self) -> tuple:
        return tuple(np.linalg.eigh(-1j * W.astype(np.complex128)) for W in (self.W1, self.W2))


@dataclass(frozen=True, eq=False)
class RotatingField(Field):
    """The field ``F = A'(t)`` of `Rotating`; the sub-flows add the increment ``D = A(t+h) - A(t)``.

    As F does not depend on Y, ``K(t+h) = K + D V``, ``L(t+h) = L + D^H U``, ``S(t+h) = S +- U^H D V``, for any bases.

    Parameters
    ----------
    point : LowRank
        Y.
    problem : Rotating
    t : float
    """

    problem: Rotating
    t: float

    @cached_property
    def _factors(self) -> tuple[Array, Array]:
        return noted(self.point, "t", (self.problem, self.t), self._velocity)

    def _velocity(self) -> tuple[Array, Array]:
        """Left and right with A'(t) = left right^H, 2r columns each."""
        p, d = self.problem, math.exp(self.t) * self.problem.singular_values
        P, Q = p.factors(self.t)
        left, right = np.hstack([(P + p.W1 @ P) * d, -P * d]), np.hstack([Q, p.W2 @ Q])
        return convert(left, self.point.U), convert(right, self.point.U)

    def _increment(self, h: float) -> tuple[Array, Array]:
        return noted(self.point, "t", (self.problem, self.t, h), lambda: self._difference(h))

    def _difference(self, h: float) -> tuple[Array, Array]:
        """Left and right with A(t+h) - A(t) = left right^H."""
        p = self.problem
        (P0, Q0), (P1, Q1) = p.factors(self.t), p.factors(self.t + h)
        d0, d1 = (math.exp(s) * p.singular_values for s in (self.t, self.t + h))
        left, right = np.hstack([P1 * d1, -P0 * d0]), np.hstack([Q1, Q0])
        return convert(left, self.point.U), convert(right, self.point.U)

    def apply(self, X: Array) -> Array:
        left, right = self._factors
        return left @ (dagger(right) @ X)

    def apply_H(self, X: Array) -> Array:
        left, right = self._factors
        return right @ (dagger(left) @ X)

    def flow_K(self, h: float) -> Array:
        left, right = self._increment(h)
        return self.point.K + left @ (dagger(right) @ self.point.V)

    def flow_L(self, h: float) -> Array:
        left, right = self._increment(h)
        return self.point.L + right @ (dagger(left) @ self.point.U)

    def flow_S(self, h: float, sign: int = 1) -> Array:
        U, S, V = self.point
        left, right = self._increment(h)
        return S + sign * (dagger(U) @ left) @ (dagger(right) @ V)


def rotating(
    rng: np.random.Generator,
    shape: tuple[int, int] = (100, 100),
    rank: int | None = None,
    smallest: float | None = None,
    dtype: Any = np.float64,
) -> Rotating:
    """The usual rotating matrix: ``d_j = 2^-j`` (j = 1, 2, ...), random skew-Hermitian W1, W2 of 2-norm 1.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of W1, W2.
    shape : (int, int)
        (m, n).
    rank : int, optional
        Exact rank of A(t); min(m, n) without it.
    smallest : float, optional
        Replaces the last of the d_j, to test robustness to small singular values.
    dtype : numpy dtype
        Of the start, real or complex.
    """
    check_rng(rng)
    for name, n in zip(("m", "n"), shape, strict=True):
        check_integer(name, n, least=2)
    r = min(shape) if rank is None else rank
    check_integer("rank", r)
    d = 2.0 ** -np.arange(1, r + 1)
    if smallest is not None:
        d[-1] = check_number("smallest", smallest)
    W1, W2 = (_skew(n, rng, dtype) for n in shape)
    return Rotating(W1, W2, d)


def _skew(n: int, rng: np.random.Generator, dtype: Any) -> np.ndarray:
    W = gaussian((n, n), rng, dtype)
    W = W - W.conj().T
    return (W / np.linalg.norm(W, 2)).astype(dtype)
