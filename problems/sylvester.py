"""Sylvester and Lyapunov differential equations, dense or sparse, with exact sub-flows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
from scipy.sparse.linalg import expm_multiply

from integrators.checks import check_integer, check_matrix, check_orthonormal, check_rng
from integrators.linalg import dagger, haar, in_double
from integrators.lowrank import LowRank

from .fields import Array, Field, LinearField
from .linear_part import LinearPart
from .problem import Autonomous, best_approximation

Matrix = Any  # a dense numpy array or a scipy sparse array
Factors = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Sylvester(Autonomous):
    """Sylvester differential equation ``X' = A X + X B + C``, dense or sparse.

    ``C = C1 C2^H`` and ``X(0) = P Q^H`` are given by their factors. The operator ``X -> A X + X B`` is a Kronecker
    sum, so in the Frobenius norm its Lipschitz constant is at most ``||A||_2 + ||B||_2``, and its one-sided constant
    (logarithmic norm) is ``mu(A) + mu(B)``, ``mu(A)`` the largest eigenvalue of ``(A + A^H)/2``. The field is applied
    in O((nnz + (m + n) (r + c)) r), c columns of C1, and never formed; where A and B are sparse nothing of size m n
    is. Points are numpy arrays.

    Parameters
    ----------
    A, B : numpy or scipy sparse arrays (m, m) and (n, n)
    C : pair of numpy arrays (m, c) and (n, c), optional
        C1 and C2; without it C = 0.
    start : pair of numpy arrays (m, p) and (n, p), optional
        P and Q; without it X(0) = 0.

    Raises
    ------
    TypeError, ValueError
        An array is not a finite floating matrix or the shapes do not match.
    """

    A: Matrix
    B: Matrix
    C: Factors | None = None
    start: Factors | None = None

    name = "sylvester"
    t_end = 0.5

    def __post_init__(self) -> None:
        for name, X in (("A", self.A), ("B", self.B)):
            if scipy.sparse.issparse(X):
                check_matrix(name, X.tocoo().data[None, :] if X.nnz else np.zeros((1, 1), X.dtype))
            else:
                check_matrix(name, X)
            if X.shape[0] != X.shape[1]:
                raise ValueError(f"{name} must be square, got shape {X.shape}")
        for name, pair in (("C", self.C), ("start", self.start)):
            if pair is None:
                continue
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise TypeError(f"{name} must be a pair of factors (left, right) or None, got {type(pair).__name__}")
            for side, X, n in zip(("left", "right"), pair, self.shape, strict=True):
                check_matrix(f"the {side} factor of {name}", X)
                if X.shape != (n, pair[0].shape[1]):
                    raise ValueError(
                        f"the {side} factor of {name} must have shape ({n}, {pair[0].shape[1]}), got {X.shape}"
                    )

    @property
    def shape(self) -> tuple[int, int]:
        return self.A.shape[0], self.B.shape[0]

    @property
    def like(self) -> Array:
        factors = [X for pair in (self.C, self.start) if pair is not None for X in pair]
        return np.empty(0, np.result_type(self.A.dtype, self.B.dtype, *factors))

    @cached_property
    def B_H(self) -> Matrix:
        """``B^H``, by rows where B is sparse."""
        return self.B.conj().T.tocsr() if scipy.sparse.issparse(self.B) else self.B.conj().T

    @cached_property
    def linear(self) -> LinearPart:
        """``A Y + Y B``."""
        return LinearPart(self.A, self.B_H)

    def initial(self, rank: int, rng: np.random.Generator) -> LowRank:
        """Best approximation of X(0); random directions with zero singular values beyond its rank."""
        P, Q = self.start if self.start is not None else (np.zeros((n, 0)) for n in self.shape)
        return best_approximation(P, Q, rank, rng, self.like)

    def field(self, t: float, Y: LowRank) -> Field:
        """``A Y + Y B + C`` with exact sub-flows, independent of t."""
        return SylvesterField(Y, self)

    def reference(self, t: float) -> np.ndarray | None:
        """X(t) by `affine_flow`, O(n^3); None where A or B is sparse."""
        if scipy.sparse.issparse(self.A) or scipy.sparse.issparse(self.B):
            return None
        X, C = (np.zeros(self.shape) if p is None else p[0] @ p[1].conj().T for p in (self.start, self.C))
        return affine_flow(self.A, self.B, C, X, t)

    @property
    def lipschitz(self) -> float:
        """``||A||_2 + ||B||_2``; for sparse matrices with the bound ``||A||_2^2 <= ||A||_1 ||A||_inf``."""
        return _norm(self.A) + _norm(self.B)

    @property
    def one_sided_lipschitz(self) -> float:
        """``mu(A) + mu(B)``, exact; for sparse matrices the upper bound by Gershgorin's circles."""
        return _logarithmic_norm(self.A) + _logarithmic_norm(self.B)


@dataclass(frozen=True, eq=False)
class SylvesterField(LinearField):
    """The field ``F(Y) = A Y + Y B + C`` of `Sylvester` and its exact sub-flows.

    For orthonormal bases, with ``a = U^H A U``, ``b = V^H B V``, all three are Sylvester equations of their own:

        K' = A K + K b + C V,     L' = B^H L + L a^H + C^H U,     S' = +-(a S + S b + U^H C V),

    solved by `affine_flow`; the minus sign runs the last one backwards, as it does not depend on time.

    Parameters
    ----------
    point : LowRank
        Y, of numpy arrays.
    problem : Sylvester

    Raises
    ------
    ValueError
        V is not orthonormal in `flow_K`, U in `flow_L`, either of them in `flow_S`.
    """

    problem: Sylvester

    @property
    def owner(self) -> Sylvester:
        return self.problem

    @property
    def constant(self) -> Factors | None:
        return self.problem.C

    @property
    def linear(self) -> LinearPart:
        return self.problem.linear

    def left(self, U: Array) -> tuple[Array, ...]:
        return self.problem.A @ U, U

    def right(self, V: Array) -> tuple[Array, ...]:
        return V, self.problem.B_H @ V

    def flow_K(self, h: float) -> Array:
        K, right = self.point.K, self.of_V
        check_orthonormal("V", right.X)
        return affine_flow(self.problem.A, right.small_H[1], right.outer, K, h).astype(K.dtype)

    def flow_L(self, h: float) -> Array:
        L, left = self.point.L, self.of_U
        check_orthonormal("U", left.X)
        return affine_flow(self.problem.B_H, dagger(left.small[0]), left.outer, L, h).astype(L.dtype)

    def flow_S(self, h: float, sign: int = 1) -> Array:
        S, left, right = self.point.S, self.of_U, self.of_V
        check_orthonormal("U", left.X)
        check_orthonormal("V", right.X)
        C = None if self.constant is None else dagger(left.inner) @ right.inner
        return affine_flow(left.small[0], right.small_H[1], C, S, sign * h).astype(S.dtype)


@np.errstate(over="ignore", invalid="ignore")  # a stiff S-flow run backwards overflows: the result is inf, no warning
def affine_flow(A: Matrix, B: np.ndarray, C: np.ndarray | None, X: np.ndarray, t: float) -> np.ndarray:
    """X(t) of ``X' = A X + X B + C``, X(0) = X, for any real t, in double precision.

    By variation of constants ``X(t) = e^{tA} X e^{tB} + J(t)`` with ``J(t) = int_0^t e^{sA} C e^{sB} ds``. Van Loan's
    block triangular exponential gives it,

        exp( s [[A, C], [0, -B]] ) = [[e^{sA}, J(s) e^{-sB}], [0, e^{-sB}]],

    as is seen by differentiating the upper right block. The growth of ``e^{-sB}`` for a dissipative B would spoil the
    result, so it is used for a short time, ``||sB||_1 <= 1``, and doubled by ``J(2s) = J(s) + e^{sA} J(s) e^{sB}``,
    which only multiplies what decays.

    Parameters
    ----------
    A : numpy or scipy sparse array (m, m)
        Where it is sparse it enters by products alone, a number of them that grows like ``|t| ||A||_1``.
    B : numpy array (k, k)
    C : numpy array (m, k) or None
        None for 0.
    X : numpy array (m, k)
    t : float

    References
    ----------
    C. F. Van Loan, IEEE Trans. Automat. Control 23 (1978) 395-404, doi:10.1109/TAC.1978.1101743.
    """
    t = float(t)
    X, B = in_double(X), in_double(B)
    doublings = max(0, math.ceil(math.log2(max(abs(t) * float(np.linalg.norm(B, 1)), 1.0))))
    s = t / 2**doublings
    exp_B = scipy.linalg.expm(s * B)
    if scipy.sparse.issparse(A):
        J = np.zeros_like(X)
        if C is not None:
            block = scipy.sparse.block_array([[A, scipy.sparse.csr_array(C)], [None, scipy.sparse.csr_array(-B)]])
            J = expm_multiply(s * block.tocsr(), np.eye(sum(X.shape), X.shape[1], -X.shape[0]))[: len(X)] @ exp_B
        for k in range(doublings):
            if C is not None:
                J = J + expm_multiply(2**k * s * A, J) @ exp_B
            exp_B = exp_B @ exp_B
        return expm_multiply(t * A, X) @ exp_B + J
    C = np.zeros_like(X) if C is None else C
    m, k = X.shape
    block = scipy.linalg.expm(s * np.block([[A, C], [np.zeros((k, m)), -B]]))
    exp_A, J = block[:m, :m], block[:m, m:] @ exp_B
    for _ in range(doublings):
        J = J + exp_A @ J @ exp_B
        exp_A, exp_B = exp_A @ exp_A, exp_B @ exp_B
    return exp_A @ X @ exp_B + J


def lyapunov(
    n: int, rng: np.random.Generator, symmetric: bool = True, stiff: bool = False, dtype: Any = np.float64
) -> Sylvester:
    """``X' = A X + X A^T + C`` for the one-dimensional heat operator, with or without convection.

    ``A = tridiag(1, -2, 1)``, symmetric; otherwise ``tridiag(1, -2, 1) + 1/2 tridiag(-1, 0, 1)``, central differences
    of diffusion and convection (cell Peclet number ``v dx / (2 kappa) = 1/2``). The convection is skew-symmetric, so
    ``(A + A^T)/2`` and the one-sided Lipschitz constant are those of the heat operator. ``C = Q diag(10^-k) Q^T``, k
    = 0..9, with random orthonormal Q and ``||C||_F = 10``; ``X(0) = x x^T`` with a random unit vector x. The usual
    size is n = 100, the horizon 0.5.

    Parameters
    ----------
    n : int
        Size; above 500 A is a scipy sparse array and nothing of size n^2 is ever formed.
    rng : numpy.random.Generator
        Source of Q and x.
    symmetric : bool
        Without convection.
    stiff : bool
        A divided by the square of the grid width ``1/(n + 1)``.
    dtype : numpy dtype
        Real floating.
    """
    check_integer("n", n, least=2)
    check_rng(rng)
    convection = 0.0 if symmetric else 0.5
    scale = float((n + 1) ** 2) if stiff else 1.0
    A = scipy.sparse.diags_array(
        [scale * (1 - convection), -2 * scale, scale * (1 + convection)], offsets=[-1, 0, 1], shape=(n, n)
    ).astype(dtype)
    A = A.toarray() if n <= 500 else A.tocsr()
    columns = min(n, 10)
    d = 10.0 ** -np.arange(columns)
    Q = haar(n, columns, rng)
    x = haar(n, 1, rng).astype(dtype)
    return Sylvester(A, A.T, ((Q * (10 * d / np.linalg.norm(d))).astype(dtype), Q.astype(dtype)), (x, x))


def _norm(A: Matrix) -> float:
    if scipy.sparse.issparse(A):
        return math.sqrt(abs(A).sum(axis=0).max() * abs(A).sum(axis=1).max())
    return float(np.linalg.norm(A, 2))


def _logarithmic_norm(A: Matrix) -> float:
    hermitian = (A + A.conj().T) / 2
    if scipy.sparse.issparse(A):
        diagonal = hermitian.diagonal().real
        return float((diagonal + abs(hermitian).sum(axis=1) - abs(diagonal)).max())
    return float(np.linalg.eigvalsh(hermitian)[-1])
