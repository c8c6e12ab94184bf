r"""The linear part ``A Y + Y B`` that a field may declare, for methods that treat it apart because it is stiff.

A field with such a part answers ``f.linear_part(part)`` with an operator ``X -> A X + X B`` on the K, L or S of its
point, or (``"Y"``) on matrices of low rank; see :mod:`integrators.substeps` for what a method asks of it. All of it is
computed by numpy and scipy in double precision; points of other libraries are converted and results converted back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import cycle
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
from scipy.linalg.lapack import ztrsyl
from scipy.sparse.linalg import splu

from integrators.checks import check_orthonormal
from integrators.linalg import complement, in_double, to_numpy
from integrators.lowrank import LowRank

from .fields import convert

Array = Any  # a numpy array or a torch tensor
Matrix = Any  # a dense numpy array or a scipy sparse array

WHOLE = 128
"""Up to this number of rows a matrix is exponentiated whole, where a Krylov space would soon be as large."""
TOLERANCE = 1e-10
"""Relative change of the result at which a Krylov space is large enough."""


class Coefficient:
    """A square matrix, dense or sparse, in double precision, with what is computed from it alone."""

    def __init__(self, matrix: Matrix):
        self.matrix = _double(matrix)

    @property
    def sparse(self) -> bool:
        """Whether it is a sparse array."""
        return scipy.sparse.issparse(self.matrix)

    @cached_property
    def schur(self) -> tuple[np.ndarray, np.ndarray]:
        """T and Q of the complex Schur form ``Q T Q^H``."""
        return scipy.linalg.schur(self.matrix, output="complex")

    @cached_property
    def spectrum(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Eigenvalues and eigenvectors of a dense A that is Hermitian, or i times such a one; None for others."""
        A = self.matrix
        size = 100 * np.finfo(A.dtype).eps * np.linalg.norm(A)
        if not size < math.inf:  # NaN included
            return None
        for unit in (1.0, 1j):
            if np.linalg.norm(A.conj().T - np.conj(unit) / unit * A) <= size:
                w, Q = np.linalg.eigh(A if unit == 1.0 else A / unit)
                return unit * w, Q
        return None

    @cached_property
    def whole(self) -> Coefficient:
        """A as a dense matrix."""
        return Coefficient(self.matrix.toarray()) if self.sparse else self

    def spaces(self, X: np.ndarray, h: float) -> Iterator[tuple[np.ndarray, Coefficient, bool]]:
        """Orthonormal bases W of growing Krylov spaces that contain X, with ``W^H A W`` and whether it can grow.

        They are rational: each block is a resolvent ``(I - c A)^{-1}`` of the one before, with c = h/10, h/100, ... to
        the reciprocal of ``||A||`` in turn, so that decay on every time scale is met. Up to `WHOLE` rows the space is
        the whole from the beginning.
        """
        A, n = self.matrix, self.matrix.shape[0]
        if n <= WHOLE:
            while True:
                yield np.eye(n), self.whole, False
        dtype = np.result_type(A.dtype, X.dtype)
        scales = max(1, math.ceil(math.log10(max(1.0, abs(h) * abs(A).sum(axis=0).max()))))
        resolvents = cycle([self._resolvent(dtype, h / 10**j) for j in range(1, scales + 1)])
        W = block = X.astype(dtype)
        images, goal = A @ W, X.shape[1]
        while True:
            yield W, Coefficient(W.conj().T @ images), block.shape[1] > 0
            goal += max(2 * X.shape[1], W.shape[1] // 2)
            while block.shape[1] and W.shape[1] < goal:
                block = complement(W, next(resolvents)(block))
                W, images = np.hstack([W, block]), np.hstack([images, A @ block])

    def _resolvent(self, dtype: Any, c: float) -> Callable[[np.ndarray], np.ndarray]:
        """``(I - c A)^{-1}``, for arrays of this dtype."""
        A, n = self.matrix.astype(dtype), self.matrix.shape[0]
        if self.sparse:
            return splu((scipy.sparse.eye_array(n) - c * A).tocsc()).solve
        return partial(scipy.linalg.lu_solve, scipy.linalg.lu_factor(np.eye(n) - c * A))


class LinearPart:
    """The operator ``L: Y -> A Y + Y B`` of a problem, made once.

    Parameters
    ----------
    A, B_H : numpy or scipy sparse arrays (m, m) and (n, n)
        A and the conjugate transpose of B.
    """

    def __init__(self, A: Matrix, B_H: Matrix):
        self.A, self.B_H = Coefficient(A), Coefficient(B_H)

    def seen(self, Y: LowRank, part: str) -> Sylvester:
        """L on the K, L or S of a point with orthonormal bases, or on matrices ("Y").

        With ``a = U^H A U``, ``b = V^H B V`` it is ``A K + K b``, ``B^H L + L a^H``, ``a S + S b``.

        Raises
        ------
        ValueError
            A basis that is held fixed is not orthonormal.
        """
        if part == "Y":
            return Sylvester(self.A, self.B_H)
        left = self.A if part == "K" else _small("U", Y.U, self.A)
        right = self.B_H if part == "L" else _small("V", Y.V, self.B_H)
        return Sylvester(right, left) if part == "L" else Sylvester(left, right)


@dataclass(frozen=True, eq=False)
class Sylvester:
    r"""The operator ``L: X -> A X + X B``, its exponential and phi functions, and its resolvent.

    .. math:: \varphi_0(z) = e^z, \qquad \varphi_1(z) = (e^z - 1) / z, \qquad \varphi_2(z) = (e^z - 1 - z) / z^2 .

    Parameters
    ----------
    A, B_H : Coefficient
        A (m, m) and the conjugate transpose of B (n, n).
    """

    A: Coefficient
    B_H: Coefficient

    def __call__(self, X: Array) -> Array:
        """``A X + X B`` for an array."""
        Z = _double(to_numpy(X))
        return convert(self.A.matrix @ Z + (self.B_H.matrix @ Z.conj().T).conj().T, X)

    def phi(self, k: int, h: float, X: Any) -> Any:
        """``phi_k(h L) X`` for an array or a `LowRank`, of which a `LowRank` with orthonormal bases comes back.

        A and B are compressed to rational Krylov spaces that contain the columns and rows of X, where a small operator
        of the same kind is left, see `small_phi`. The spaces grow until the result stays the same to 1e-10; for a
        dissipative A their size depends little on ``h ||A||``. Up to 128 rows a matrix is not compressed.
        """
        if isinstance(X, LowRank):
            return LowRank(*(convert(M, X.S) for M in self._phi(k, float(h), _double_point(*map(to_numpy, X)))))
        one = np.eye(X.shape[-1])
        return convert(self._phi(k, float(h), _double_point(to_numpy(X), one, one)).full(), X)

    def _phi(self, k: int, h: float, X: LowRank) -> LowRank:
        X = X.orthonormalised()
        left, right = self.A.spaces(X.U, h), self.B_H.spaces(X.V, h)
        before = None
        while True:
            (U, a, grows), (V, b_H, also_grows) = next(left), next(right)
            Z = small_phi(k, h, a, b_H, (U.conj().T @ X.U) @ X.S @ (X.V.conj().T @ V))
            if not np.all(np.isfinite(Z)) or not (grows or also_grows):
                return _double_point(U, Z, V)
            if before is not None:
                change = Z.copy()
                change[: before.shape[0], : before.shape[1]] -= before
                if np.linalg.norm(change) <= TOLERANCE * np.linalg.norm(Z):
                    return _double_point(U, Z, V)
            before = Z

    def solve(self, h: float, R: Array) -> Array:
        """X with ``X - h (A X + X B) = R``, for an array R with few columns.

        With the Schur form ``B = Q T Q^H`` the columns of ``X Q`` follow one after the other, each from a system with a
        multiple of A: by a factorisation of its own where A is sparse, else from the Schur form of A.
        """
        h, Z = float(h), _double(to_numpy(R))
        T, Q = scipy.linalg.schur(self.B_H.matrix.conj().T, output="complex")
        Z = Z @ Q
        if self.A.sparse:
            X, one = np.empty_like(Z), scipy.sparse.eye_array(len(Z))
            for j in range(Z.shape[1]):
                right = Z[:, j] + h * (X[:, :j] @ T[:j, j])
                X[:, j] = splu(((1 - h * T[j, j]) * one - h * self.A.matrix).tocsc()).solve(right)
        else:
            T_A, P = self.A.schur
            X, scale, _ = ztrsyl(np.eye(len(T_A)) - h * T_A, -h * T, P.conj().T @ Z)
            X = P @ X / scale
        X = X @ Q.conj().T
        real = not any(np.iscomplexobj(M) for M in (self.A.matrix, self.B_H.matrix, to_numpy(R)))
        return convert(X.real if real else X, R)


@np.errstate(over="ignore", invalid="ignore")  # run backwards a stiff part overflows: the result is inf, no warning
def small_phi(k: int, h: float, A: Coefficient, B_H: Coefficient, X: np.ndarray) -> np.ndarray:
    r"""``phi_k(h L) X`` for ``L X = A X + X B`` with dense matrices.

    It follows from the eigenvalues of A and B where both are Hermitian or i times such. Else
    :math:`J_k(s) = s^k \varphi_k(s L) X` is the sum of :math:`s^{k+j} L^j X / (k + j)!`, taken for an s with
    ``s ||L|| <= 1``, and doubled: with ``E = e^{sL}``,

    .. math:: J_1(2s) = E J_1(s) + J_1(s), \qquad J_2(2s) = E J_2(s) + J_2(s) + s J_1(s),

    which for a dissipative L only adds and multiplies what decays.
    """
    if A.spectrum is not None and B_H.spectrum is not None:
        (w, Q), (u, P) = A.spectrum, B_H.spectrum
        return Q @ (scalar_phi(k, h * (w[:, None] + u.conj())) * (Q.conj().T @ X @ P)) @ P.conj().T
    a, b = A.matrix, B_H.matrix.conj().T
    norm = abs(h) * float(np.linalg.norm(a, 1) + np.linalg.norm(b, 1))
    if k == 0:
        return scipy.linalg.expm(h * a) @ X @ scipy.linalg.expm(h * b)
    if not math.isfinite(norm):
        return np.full_like(X, np.nan)
    doublings = max(0, math.ceil(math.log2(norm))) if norm else 0
    s = h / 2**doublings
    term: Any = X
    J1 = J2 = 0.0 * term
    for j in range(20):  # 1 / 20! < eps / 100
        J1, J2 = J1 + term / (j + 1), J2 + term / ((j + 1) * (j + 2))
        term = (a @ term + term @ b) * (s / (j + 1))
    J1, J2 = s * J1, s * s * J2
    left, right = scipy.linalg.expm(s * a), scipy.linalg.expm(s * b)
    for _ in range(doublings):
        J2 = left @ J2 @ right + J2 + s * J1
        J1 = left @ J1 @ right + J1
        left, right, s = left @ left, right @ right, 2 * s
    return J1 / h if k == 1 else J2 / h**2


def scalar_phi(k: int, z: np.ndarray) -> np.ndarray:
    """``phi_k(z)`` of each number: by its series up to |z| = 1/2, where the formula loses digits."""
    if k == 0:
        return np.exp(z)
    small = np.abs(z) <= 0.5
    near, far = np.where(small, z, 0.0), np.where(small, 1.0, z)
    series = sum(near**j / math.factorial(j + k) for j in range(16))  # 2^-16 / 17! < eps
    return np.where(small, series, np.expm1(far) / far if k == 1 else (np.expm1(far) - far) / far**2)


def _small(name: str, X: Array, M: Coefficient) -> Coefficient:
    """``X^H M X``."""
    X = to_numpy(X)
    check_orthonormal(name, X)
    return Coefficient(X.conj().T @ (M.matrix @ X))


def _double(X: Matrix) -> Any:
    """In double precision; a sparse array by columns, as its factorisation wants it."""
    if scipy.sparse.issparse(X):
        return scipy.sparse.csc_array(X).astype(np.result_type(X.dtype, np.float64))
    return in_double(X)


def _double_point(U: np.ndarray, S: np.ndarray, V: np.ndarray) -> LowRank:
    """``U S V^H`` in double precision, complex where one of them is."""
    dtype = np.result_type(U, S, V, np.float64)
    return LowRank(*(X.astype(dtype, copy=False) for X in (U, S, V)))
