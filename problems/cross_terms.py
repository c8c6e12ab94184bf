"""Linear equations with cross terms, whose fields may leave the tangent space: rotation, anisotropic diffusion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import expm_multiply

from integrators.checks import check_integer, check_matrix, check_number
from integrators.linalg import in_double
from integrators.lowrank import LowRank

from .fields import Array, Field, LinearField
from .linear_part import LinearPart
from .numerical import Computed
from .problem import Autonomous, best_approximation

Matrix = Any  # a dense numpy array or a scipy sparse array


@dataclass(frozen=True, eq=False)
class LinearTerms(Autonomous, Computed):
    """Linear equation ``Y' = sum_k A_k Y B_k`` with any number of terms, dense or sparse.

    Where two terms have both factors other than the identity the field may be normal to the tangent space: then no
    method that looks at the projected field alone can follow it, and BUG need not converge. A field costs
    O((nnz + (m + n) r) r) for each term and is never formed. Points are numpy arrays.

    Parameters
    ----------
    terms : tuple of pairs
        (A_k, B_k), numpy or scipy sparse arrays (m, m) and (n, n), or None for the identity.
    P, Q : numpy arrays (m, p) and (n, p)
        ``Y(0) = P Q^H``.
    label : str
        Name of the problem.
    t_end : float
        Its horizon.

    Raises
    ------
    TypeError, ValueError
        An array is not a finite floating matrix or the shapes do not match.

    References
    ----------
    D. Appelö, Y. Cheng, J. Sci. Comput. (2025), arXiv:2402.05347.
    """

    terms: tuple[tuple[Matrix, Matrix], ...]
    P: np.ndarray
    Q: np.ndarray
    label: str = "linear-terms"
    t_end: float = 1.0

    usual_substep: ClassVar[str | None] = "exact"

    @property
    def name(self) -> str:  # type: ignore[override]
        """The label."""
        return self.label

    def __post_init__(self) -> None:
        for name, X in (("P", self.P), ("Q", self.Q)):
            check_matrix(name, X)
        if self.P.shape[1] != self.Q.shape[1]:
            raise ValueError(f"P and Q must have equally many columns, got shapes {self.P.shape} and {self.Q.shape}")
        if not self.terms:
            raise ValueError("terms must hold at least one pair, got none")
        for k, pair in enumerate(self.terms):
            for side, X, n in zip("AB", pair, self.shape, strict=True):
                if X is None:
                    continue
                check_matrix(f"{side} of term {k}", X.toarray() if scipy.sparse.issparse(X) else X)
                if X.shape != (n, n):
                    raise ValueError(f"{side} of term {k} must have shape ({n}, {n}), got {X.shape}")

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.P), len(self.Q)

    @property
    def like(self) -> Array:
        return np.empty(
            0, np.result_type(self.P, self.Q, *(X.dtype for pair in self.terms for X in pair if X is not None))
        )

    @cached_property
    def adjoint(self) -> tuple[Matrix, ...]:
        """``B_k^H``, by rows where it is sparse; None for the identity."""
        return tuple(
            B if B is None else B.conj().T.tocsr() if scipy.sparse.issparse(B) else B.conj().T for _, B in self.terms
        )

    @cached_property
    def linear(self) -> LinearPart | None:
        """The terms of which one factor is the identity; None where there are none."""
        (m, n), pairs = self.shape, list(zip((A for A, _ in self.terms), self.adjoint, strict=True))
        A = [A for A, B_H in pairs if B_H is None and A is not None]
        B_H = [B_H for A, B_H in pairs if A is None and B_H is not None]
        if not A and not B_H:
            return None
        return LinearPart(sum(A, scipy.sparse.csr_array((m, m))), sum(B_H, scipy.sparse.csr_array((n, n))))

    def initial(self, rank: int, rng: np.random.Generator) -> LowRank:
        """Best approximation of Y(0); random directions with zero singular values beyond its rank."""
        return best_approximation(self.P, self.Q, rank, rng, self.like)

    def field(self, t: float, Y: LowRank) -> Field:
        """``sum_k A_k Y B_k`` with exact sub-flows, independent of t."""
        return TermsField(Y, self)

    def start_matrix(self) -> np.ndarray:
        start = in_double(self.P) @ in_double(self.Q).conj().T
        return start.astype(np.result_type(start, self.matrix.dtype))

    def moved(self, start: np.ndarray, before: float, t: float) -> np.ndarray:
        """By the action of the exponential of the sparse matrix of the equation, to rounding."""
        return expm_multiply((t - before) * self.matrix, start.ravel()).reshape(self.shape)

    @cached_property
    def matrix(self) -> scipy.sparse.csr_array:
        """``sum_k A_k (x) B_k^T``, which acts on the rows of Y one after the other, in double precision."""
        total: Any = 0
        for pair in self.terms:
            A, B = (
                scipy.sparse.eye_array(n) if X is None else scipy.sparse.csr_array(X) for X, n in zip(pair, self.shape)
            )
            total = total + scipy.sparse.kron(A, B.T)
        return total.tocsr().astype(np.result_type(total.dtype, np.float64))

    @cached_property
    def lipschitz(self) -> float:
        """The norm of the matrix, by ``||M||_2^2 <= ||M||_1 ||M||_inf``."""
        size = abs(self.matrix)
        return math.sqrt(size.sum(axis=0).max() * size.sum(axis=1).max())

    @cached_property
    def one_sided_lipschitz(self) -> float:
        """Largest eigenvalue of the Hermitian part of the matrix; above 900 unknowns Gershgorin's upper bound."""
        hermitian = ((self.matrix + self.matrix.conj().T) / 2).tocsr()
        if hermitian.shape[0] <= 900:
            return float(np.linalg.eigvalsh(hermitian.toarray())[-1])
        diagonal = hermitian.diagonal().real
        return float((diagonal + abs(hermitian).sum(axis=1) - abs(diagonal)).max())


@dataclass(frozen=True, eq=False)
class TermsField(LinearField):
    """The field of `LinearTerms` and its exact sub-flows, for any bases.

    With ``a_k = U^H A_k U`` and ``b_k = V^H B_k V`` they are ``K' = sum_k A_k K b_k``, ``L' = sum_k B_k^H L a_k^H`` and
    ``S' = +- sum_k a_k S b_k``, of which each is solved by the action of an exponential.

    Parameters
    ----------
    point : LowRank
        Y, of numpy arrays.
    problem : LinearTerms
    """

    problem: LinearTerms

    @property
    def owner(self) -> LinearTerms:
        return self.problem

    @property
    def linear(self) -> LinearPart | None:
        return self.problem.linear

    def left(self, U: Array) -> tuple[Array, ...]:
        return tuple(U if A is None else A @ U for A, _ in self.problem.terms)

    def right(self, V: Array) -> tuple[Array, ...]:
        return tuple(V if B_H is None else B_H @ V for B_H in self.problem.adjoint)

    def flow_K(self, h: float) -> Array:
        V, K = in_double(self.point.V), self.point.K
        small = [(V.conj().T @ in_double(BV)).conj().T for BV in self.right(self.point.V)]
        return _flow(h, [A for A, _ in self.problem.terms], small, K)

    def flow_L(self, h: float) -> Array:
        U, L = in_double(self.point.U), self.point.L
        small = [(U.conj().T @ in_double(AU)).conj().T for AU in self.left(self.point.U)]
        return _flow(h, self.problem.adjoint, small, L)

    def flow_S(self, h: float, sign: int = 1) -> Array:
        U, S, V = self.point
        small = [in_double(U).conj().T @ in_double(AU) for AU in self.left(U)]
        other = [(in_double(V).conj().T @ in_double(BV)).conj().T for BV in self.right(V)]
        return _flow(sign * h, small, other, S)


def _flow(h: float, left: Any, right: Any, X: np.ndarray) -> np.ndarray:
    """X(h) of ``X' = sum_k left_k X right_k``, None being the identity."""
    total: Any = 0
    for A, b in zip(left, right, strict=True):
        A = scipy.sparse.eye_array(len(X)) if A is None else scipy.sparse.csr_array(A)
        total = total + scipy.sparse.kron(A, scipy.sparse.csr_array(b.T))
    start = in_double(X).ravel()
    moved = expm_multiply(float(h) * total.tocsr(), start.astype(np.result_type(start, total.dtype)))
    return moved.reshape(X.shape).astype(X.dtype)


def solid_body_rotation(n: int = 64, dtype: Any = np.float64) -> LinearTerms:
    """Rotation of a Gaussian, ``u_t = y u_x - x u_y`` on [-1, 1]^2 with central differences: norm conserved.

    The start is ``exp(-(x/0.3)^2 - (y/0.1)^2)``, of rank 1; the horizon an eighth of a turn, where the rank is largest.
    For an even start of rank 1 the field is normal to the tangent space: ``U^T D U = U^T x U = 0`` and so for V, so
    that K, L and S vanish, and a method that only sees these stands still. With the rows for x and the columns for y
    the terms are ``D Y diag(y) - diag(x) Y D^T``; all matrices of the kind ``D (x) diag(y)`` are skew-symmetric.

    Parameters
    ----------
    n : int
        Size, at least 3.
    dtype : numpy dtype
        Real floating.
    """
    check_integer("n", n, least=3)
    x = (-1 + (2 * np.arange(n) + 1) / n).astype(dtype)
    D = scipy.sparse.diags_array([-n / 4, n / 4], offsets=[-1, 1], shape=(n, n)).astype(dtype).tocsr()
    X = scipy.sparse.diags_array(x).tocsr()
    P, Q = (np.exp(-((x[:, None] / dtype(width)) ** 2)).astype(dtype) for width in (0.3, 0.1))
    return LinearTerms(((D, X), (-X, D.T.tocsr())), P, Q, "solid-body-rotation", math.pi / 4)


def anisotropic_diffusion(n: int = 64, ratio: float = 0.1, dtype: Any = np.float64) -> LinearTerms:
    """Diffusion with unequal coefficients along the diagonals, ``u_t = a (u_xx + u_yy) + 2 b u_xy``, periodic.

    The coefficients along (1, 1) and (1, -1) are 1 and `ratio`, so ``a = (1 + ratio)/2``, ``b = (1 - ratio)/2``. On
    [0, 2 pi]^2 with n points and width h the terms are those of ``D2 = tridiag(1, -2, 1)/h^2`` and
    ``D1 = tridiag(-1, 0, 1)/(2 h)``. A wave decays with the rate
    ``a ((2 - 2 cos p) + (2 - 2 cos q)) + 2 b sin p sin q`` over h^2, not negative since ``sin^2 p <= 2 - 2 cos p`` and
    |b| < a. The start is ``exp(-4 sin^2(x/2) - 16 sin^2(y/2))``, of rank 1, the horizon 0.5.

    Parameters
    ----------
    n : int
        Size, at least 3.
    ratio : float
        Not negative.
    dtype : numpy dtype
        Real floating.
    """
    check_integer("n", n, least=3)
    ratio = check_number("ratio", ratio, least=0.0)
    a, b, h = (1 + ratio) / 2, (1 - ratio) / 2, 2 * math.pi / n
    right = scipy.sparse.diags_array([1.0, 1.0], offsets=[1, 1 - n], shape=(n, n))
    D2 = (((right + right.T) - 2 * scipy.sparse.eye_array(n)) * (a / h**2)).astype(dtype).tocsr()
    D1 = ((right - right.T) / (2 * h)).astype(dtype).tocsr()
    x = 2 * np.pi * np.arange(n)[:, None] / n
    P, Q = (np.exp(-c * np.sin(x / 2) ** 2).astype(dtype) for c in (4, 16))
    terms = ((D2, None), (None, D2), ((2 * b * D1).astype(dtype), D1.T.tocsr()))
    return LinearTerms(terms, P, Q, "anisotropic-diffusion", 0.5)
