"""The Riccati differential equation of optimal control: quadratic, with a closed solution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse

from integrators.checks import check_integer, check_matrix, check_rng
from integrators.linalg import dagger, haar, in_double
from integrators.lowrank import LowRank

from .fields import Array, Field, LinearField
from .linear_part import LinearPart
from .problem import Autonomous, best_approximation

Matrix = Any  # a dense numpy array or a scipy sparse array


@dataclass(frozen=True, eq=False)
class Riccati(Autonomous):
    """Riccati differential equation ``X' = A^H X + X A + C^H C - X D D^H X``.

    It is the equation of the optimal control of ``x' = A x + D u`` with the cost ``||C x||^2 + ||u||^2``, in the time
    that is left. The quadratic term has no global Lipschitz constant. Where X is positive semidefinite it stays so, and
    by comparison stays below the solution of the Lyapunov equation without the quadratic term.

    A field costs O((nnz + n (r + c + d)) r) and is never formed. Points are numpy arrays.

    Parameters
    ----------
    A : numpy or scipy sparse array (n, n)
    C : numpy array (c, n)
    D : numpy array (n, d)
    P : numpy array (n, p)
        ``X(0) = P P^H``.

    Raises
    ------
    TypeError, ValueError
        An array is not a finite floating matrix or the shapes do not match.
    """

    A: Matrix
    C: np.ndarray
    D: np.ndarray
    P: np.ndarray

    name = "riccati"

    def __post_init__(self) -> None:
        check_matrix("A", self.A.toarray() if scipy.sparse.issparse(self.A) else self.A)
        n = self.A.shape[0]
        for name, X in (("A", self.A), ("C", self.C.T), ("D", self.D), ("P", self.P)):
            if not scipy.sparse.issparse(X):
                check_matrix(name, X)
            if X.shape[0] != n or (name == "A" and X.shape[1] != n):
                expected = {"A": "square", "C": f"(c, {n})"}.get(name, f"({n}, {name.lower()})")
                raise ValueError(f"{name} must be {expected}, got shape {getattr(self, name).shape}")

    @property
    def shape(self) -> tuple[int, int]:
        return self.A.shape[0], self.A.shape[0]

    @property
    def like(self) -> Array:
        return np.empty(0, np.result_type(self.A.dtype, self.C, self.D, self.P))

    @cached_property
    def A_H(self) -> Matrix:
        """``A^H``, by rows where A is sparse."""
        return self.A.conj().T.tocsr() if scipy.sparse.issparse(self.A) else self.A.conj().T

    @cached_property
    def C_H(self) -> np.ndarray:
        """``C^H``."""
        return self.C.conj().T

    @cached_property
    def linear(self) -> LinearPart:
        """``A^H X + X A``."""
        return LinearPart(self.A_H, self.A_H)

    def initial(self, rank: int, rng: np.random.Generator) -> LowRank:
        """Best approximation of X(0); random directions with zero singular values beyond its rank."""
        return best_approximation(self.P, self.P, rank, rng, self.like)

    def field(self, t: float, Y: LowRank) -> Field:
        """``A^H Y + Y A + C^H C - Y D D^H Y``, independent of t."""
        return RiccatiField(Y, self)

    def reference(self, t: float) -> np.ndarray | None:
        """X(t) for t >= 0, in O(n^3 (1 + t ||H||)), by the linear equation of twice the size.

        Before 0 it is None: there the solution may end.

        With ``[Y; Z]' = H [Y; Z]``, ``H = [[-A, D D^H], [C^H C, A^H]]`` from ``[I; X(0)]`` the solution is
        ``X = Z Y^-1``, as is seen by differentiation. Since e^{tH} grows and its columns become parallel, it is taken
        in steps with ``||s H||_1 <= 1``, of which the next starts at X.
        """
        if t < 0:
            return None
        A = in_double(self.A.toarray() if scipy.sparse.issparse(self.A) else self.A)
        C, D, P = (in_double(X) for X in (self.C, self.D, self.P))
        n = len(A)
        H = np.block([[-A, D @ D.conj().T], [C.conj().T @ C, A.conj().T]])
        steps = max(1, math.ceil(float(t) * float(np.linalg.norm(H, 1))))
        E = scipy.linalg.expm(float(t) / steps * H)
        X = P @ P.conj().T
        for _ in range(steps):
            Y, Z = E[:n, :n] + E[:n, n:] @ X, E[n:, :n] + E[n:, n:] @ X
            X = np.linalg.solve(Y.conj().T, Z.conj().T).conj().T
        return X


@dataclass(frozen=True, eq=False)
class RiccatiField(LinearField):
    """The field of `Riccati`.

    For ``Y = U S V^H`` the quadratic term is ``U M V^H`` with ``M = S (V^H D) (D^H U) S``.

    Parameters
    ----------
    point : LowRank
        Y, of numpy arrays.
    problem : Riccati
    """

    problem: Riccati

    @property
    def owner(self) -> Riccati:
        return self.problem

    @property
    def constant(self) -> tuple[np.ndarray, np.ndarray]:
        return self.problem.C_H, self.problem.C_H

    @property
    def linear(self) -> LinearPart:
        return self.problem.linear

    def left(self, U: Array) -> tuple[Array, ...]:
        return self.problem.A_H @ U, U

    def right(self, V: Array) -> tuple[Array, ...]:
        return V, self.problem.A_H @ V

    @cached_property
    def _quadratic(self) -> Array:
        """M."""
        U, S, V = self.point
        return S @ (dagger(V) @ self.problem.D) @ (dagger(self.problem.D) @ U) @ S

    @cached_property
    def K(self) -> Array:
        U, _, V = self.point
        return super().K - U @ (self._quadratic @ (dagger(V) @ V))

    @cached_property
    def L(self) -> Array:
        U, _, V = self.point
        return super().L - V @ (dagger(self._quadratic) @ (dagger(U) @ U))

    @cached_property
    def S(self) -> Array:
        U, _, V = self.point
        return super().S - (dagger(U) @ U) @ self._quadratic @ (dagger(V) @ V)

    def apply(self, X: Array) -> Array:
        U, _, V = self.point
        return super().apply(X) - U @ (self._quadratic @ (dagger(V) @ X))

    def apply_H(self, X: Array) -> Array:
        U, _, V = self.point
        return super().apply_H(X) - V @ (dagger(self._quadratic) @ (dagger(U) @ X))


def riccati(n: int, rng: np.random.Generator, dtype: Any = np.float64) -> Riccati:
    """Riccati equation of the heat operator ``A = tridiag(1, -2, 1)`` with 5 outputs, 5 controls and a start of rank 1.

    The rows of C are orthonormal, times 2, 1/2, 1/8, ...; the columns of D are orthonormal; ``X(0) = x x^T`` with a
    random unit vector; the horizon is 1.

    Parameters
    ----------
    n : int
        Size, at least 2; above 500 A is a scipy sparse array.
    rng : numpy.random.Generator
        Source of C, D and x.
    dtype : numpy dtype
        Real floating.
    """
    check_integer("n", n, least=2)
    check_rng(rng)
    A = scipy.sparse.diags_array([1.0, -2.0, 1.0], offsets=[-1, 0, 1], shape=(n, n)).astype(dtype)
    columns = min(n, 5)
    C, D, x = (haar(n, k, rng).astype(dtype) for k in (columns, columns, 1))
    weights = (2.0 * 4.0 ** -np.arange(columns)).astype(dtype)
    return Riccati(A.toarray() if n <= 500 else A.tocsr(), weights[:, None] * C.T, D, x)
