"""Matrix regression: the distance to a given dense matrix, the simplest loss, every constant known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from integrators.checks import check_matrix, check_rank
from integrators.linalg import array_namespace, dagger, in_double, norm, to_numpy
from integrators.lowrank import LowRank

from .fields import Array, Field
from .problem import LossProblem, best_approximation


@dataclass(frozen=True, eq=False)
class MatrixRegression(LossProblem):
    """Loss: half the squared distance to a given matrix, ``f(W) = 1/2 ||W - A||_F^2``.

    The gradient is ``G = W - A``, so f is convex (in W, not in the factors). As ``F(X) - F(Y) = -(X - Y)``, the
    Lipschitz constant is 1 and the one-sided one -1. On the ball ``||W|| <= R`` the triangle inequality gives
    ``||G|| <= R + ||A||``, attained at ``W = -R A / ||A||``. By the Eckart-Young theorem the minimum over rank r is
    ``1/2 sum_{j>r} sigma_j(A)^2``. The full gradient flow is ``W(t) = A + e^{-t} (W(0) - A)``.

    Parameters
    ----------
    target : array (m, n)
        A, of numpy or torch, real or complex floating.
    start : array (m, n), optional
        W(0), like `target`. With it the problem is an initial value problem: `initial` is the best approximation of
        W(0) and `reference` the full gradient flow from it. Without it the start is random (`LossProblem.initial`) and
        there is no reference.

    Raises
    ------
    TypeError, ValueError
        `target` or `start` is not a finite floating matrix, or their shapes or dtypes differ.

    Notes
    -----
    K and L of a field cost O(m n r); W is not formed. `loss` forms W once in double precision, because the expanded
    square would lose half of the digits near the minimum.
    """

    target: Array
    start: Array | None = None

    name = "matrix-regression"
    convex = True
    lipschitz = 1.0
    one_sided_lipschitz = -1.0

    def __post_init__(self) -> None:
        check_matrix("target", self.target)
        if self.start is not None:
            check_matrix("start", self.start)
            if tuple(self.start.shape) != self.shape:
                raise ValueError(f"start must have the shape {self.shape} of target, got {tuple(self.start.shape)}")
            if self.start.dtype != self.target.dtype:
                raise TypeError(f"start must have the dtype {self.target.dtype} of target, got {self.start.dtype}")

    @property
    def shape(self) -> tuple[int, int]:
        return tuple(self.target.shape)

    @property
    def like(self) -> Array:
        return self.target

    def initial(self, rank: int, rng: np.random.Generator, norm: float = 0.0) -> LowRank:
        """Random bases and an S of the given norm, or the best approximation of `start` where that is given.

        Raises
        ------
        ValueError
            `norm` is not zero although `start` is given, or `rank` exceeds min(m, n).
        """
        if self.start is None:
            return super().initial(rank, rng, norm)
        if norm:
            raise ValueError(f"norm must be 0 for a problem with a given start, got {norm}")
        U, s, V_H = np.linalg.svd(to_numpy(in_double(self.start)), full_matrices=False)
        return best_approximation(U * s, V_H.conj().T, rank, rng, self.like)

    def field(self, t: float, Y: LowRank) -> Field:
        """``A - Y`` with exact sub-flows, independent of t."""
        return RegressionField(Y, self.target)

    def loss(self, Y: LowRank) -> float:
        return 0.5 * norm(Y.in_double().full() - in_double(self.target)) ** 2

    def gradient_bound(self, radius: float) -> float:
        """``radius + ||A||_F``, attained."""
        return float(radius) + norm(self.target)

    def minimum(self, rank: int | None = None) -> float:
        """``1/2 sum_{j>rank} sigma_j(A)^2``, attained; 0 for None."""
        if rank is None:
            return 0.0
        return 0.5 * math.fsum(s * s for s in self._singular_values[check_rank(rank, self.shape) :])

    @cached_property
    def _singular_values(self) -> list[float]:
        A = in_double(self.target)
        return [float(s) for s in array_namespace(A).linalg.svdvals(A)]

    def reference(self, t: float) -> Array | None:
        """``A + e^{-t} (W(0) - A)`` where `start` is given."""
        if self.start is None:
            return None
        A = in_double(self.target)
        return A + math.exp(-t) * (in_double(self.start) - A)


@dataclass(frozen=True, eq=False)
class RegressionField(Field):
    """The field ``F(Y) = A - Y`` and its exact sub-flows.

    With ``G_V = V^H V`` and ``G_U = U^H U`` (identities for orthonormal bases, but any bases are accepted) they read

        K' = A V - K G_V,     L' = A^H U - L G_U,     S' = +-(U^H A V - G_U S G_V).

    In the eigenbases ``G = Q diag(g) Q^H`` every entry x obeys a scalar equation ``x' = c - g x``, hence
    ``x(h) = e^{-g h} x(0) + h phi(g h) c`` with ``phi(z) = (1 - e^{-z}) / z``, ``phi(0) = 1``.

    Parameters
    ----------
    point : LowRank
        Y, of the library and dtype of A.
    target : array (m, n)
        A.
    """

    target: Array

    def apply(self, X: Array) -> Array:
        Y = self.point
        return self.target @ X - Y.U @ (Y.S @ (dagger(Y.V) @ X))

    def apply_H(self, X: Array) -> Array:
        Y = self.point
        return dagger(self.target) @ X - Y.V @ (dagger(Y.S) @ (dagger(Y.U) @ X))

    def full(self) -> Array:
        return self.target - self.point.full()

    def flow_K(self, h: float) -> Array:
        U, S, V = self.point
        g, Q = _gram(V)
        return _relax(U @ (S @ Q), self.target @ (V @ Q), g, float(h)) @ dagger(Q)

    def flow_L(self, h: float) -> Array:
        U, S, V = self.point
        g, Q = _gram(U)
        return _relax(V @ (dagger(S) @ Q), dagger(self.target) @ (U @ Q), g, float(h)) @ dagger(Q)

    def flow_S(self, h: float, sign: int = 1) -> Array:
        U, S, V = self.point
        (g_U, Q_U), (g_V, Q_V) = _gram(U), _gram(V)
        c = dagger(U @ Q_U) @ (self.target @ (V @ Q_V))
        x = dagger(Q_U) @ S @ Q_V
        # running with the opposite sign is running backwards, because the field does not depend on time
        return Q_U @ _relax(x, c, g_U[:, None] * g_V[None, :], sign * float(h)) @ dagger(Q_V)


def _gram(U: Array) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors of U^H U."""
    return array_namespace(U).linalg.eigh(dagger(U) @ U)


def _relax(x: Array, c: Array, g: Array, h: float) -> Array:
    """x(h) of ``x' = c - g x``, entry by entry."""
    xp = array_namespace(x)
    z = h * g
    safe = xp.where(z == 0, xp.ones_like(z), z)
    phi = xp.where(z == 0, xp.ones_like(z), -xp.expm1(-safe) / safe)
    return xp.exp(-z) * x + (h * phi) * c
