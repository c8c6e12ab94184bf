"""A discrete Schroedinger equation: complex, linear, with conserved norm and energy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import expm_multiply

from integrators.checks import check_array, check_integer, check_matrix, check_precision, check_rng
from integrators.linalg import haar, in_double
from integrators.lowrank import LowRank

from .fields import Array, Field, LinearField
from .linear_part import LinearPart
from .problem import Autonomous, best_approximation, check_complex_point


@dataclass(frozen=True, eq=False)
class Schroedinger(Autonomous):
    """Discrete Schroedinger equation: complex, linear, with conserved norm and energy.

    It is ``i Y' = H[Y]``, ``H[Y] = (D Y + Y D)/2 + Vc Y Vc`` with ``D = tridiag(-1, 2, -1)``, Vc = diag(potential). H
    is self-adjoint in the Frobenius inner product, hence ``||Y||_F`` and ``<Y, H[Y]>`` are conserved and the
    one-sided Lipschitz constant is 0; ``||H|| <= 4 + max_j potential_j^2`` is a Lipschitz constant (D has its
    eigenvalues in (0, 4)). A field costs O(n r^2). Points are complex numpy arrays.

    Parameters
    ----------
    potential : numpy array (n,)
        Real floating.
    P, Q : numpy arrays (n, p)
        ``Y(0) = P Q^H``.
    precision : numpy dtype
        Of the start, complex128 or complex64.

    Raises
    ------
    TypeError, ValueError
        `precision` is not complex or the shapes do not match.

    References
    ----------
    G. Ceruti, C. Lubich, BIT Numer. Math. 62 (2022) 23-44, doi:10.1007/s10543-021-00873-0.
    """

    potential: np.ndarray
    P: np.ndarray
    Q: np.ndarray
    precision: Any = np.complex128

    name = "schroedinger"
    one_sided_lipschitz = 0.0

    def __post_init__(self) -> None:
        check_array("potential", self.potential)
        v = np.asarray(self.potential)
        if v.ndim != 1 or not np.issubdtype(v.dtype, np.floating) or not np.all(np.isfinite(v)):
            raise ValueError(f"potential must be a finite real vector, got shape {v.shape}, dtype {v.dtype}")
        check_precision("potential", v)
        for name, X in (("P", self.P), ("Q", self.Q)):
            check_matrix(name, X)
        if self.P.shape != self.Q.shape or len(self.P) != len(v):
            raise ValueError(
                f"P and Q must be matrices with n = {len(v)} rows and equally many columns, "
                f"got shapes {self.P.shape} and {self.Q.shape}"
            )
        if np.dtype(self.precision) not in (np.complex64, np.complex128):
            raise TypeError(f"precision must be complex64 or complex128, got {np.dtype(self.precision)}")

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.potential), len(self.potential)

    @property
    def like(self) -> Array:
        return np.empty(0, self.precision)

    @property
    def lipschitz(self) -> float:
        """``4 + max_j potential_j^2``."""
        return 4.0 + float(np.max(self.potential**2))

    @cached_property
    def linear(self) -> LinearPart:
        """``-i (D Y + Y D)/2``, without the potential."""
        D = _second_difference(len(self.potential))
        return LinearPart(-0.5j * D, 0.5j * D)

    def initial(self, rank: int, rng: np.random.Generator) -> LowRank:
        """Best approximation of Y(0); random directions with zero singular values beyond its rank."""
        return best_approximation(self.P, self.Q, rank, rng, self.like)

    def field(self, t: float, Y: LowRank) -> Field:
        """``-i H[Y]`` with exact sub-flows, independent of t.

        Raises
        ------
        TypeError
            The point is real.
        """
        check_complex_point(Y)
        return SchroedingerField(Y, self)

    def reference(self, t: float) -> np.ndarray:
        """``exp(-i t H) Y(0)`` as a matrix, by the action of the exponential of the sparse n^2 x n^2 matrix."""
        start = (self.P @ self.Q.conj().T).astype(np.complex128)
        return expm_multiply(-1j * float(t) * self._hamiltonian, start.ravel()).reshape(self.shape)

    @cached_property
    def _hamiltonian(self) -> scipy.sparse.csr_array:
        D, Vc = _second_difference(len(self.potential)), scipy.sparse.diags_array(self.potential)
        identity = scipy.sparse.diags_array(np.ones(len(self.potential)))
        H = 0.5 * (scipy.sparse.kron(D, identity) + scipy.sparse.kron(identity, D)) + scipy.sparse.kron(Vc, Vc)
        return H.tocsr()

    def norm(self, Y: LowRank) -> float:
        """``||Y||_F`` from the factors, O(n r^2), in double precision."""
        return Y.in_double().norm()

    def energy(self, Y: LowRank) -> float:
        """``<Y, H[Y]> = Re tr(Y^H H[Y])`` from the factors, O(n r^2), in double precision.

        With ``K = U S``: ``1/2 tr(K^H D K V^H V) + 1/2 tr(K^H K V^H D V) + tr(K^H Vc K V^H Vc V)``.
        """
        Y = Y.in_double()
        K, V = Y.K, Y.V
        v = self.potential[:, None]

        def trace(left: np.ndarray, right: np.ndarray) -> float:
            return float(np.sum((K.conj().T @ left) * (V.conj().T @ right).T).real)

        return 0.5 * trace(_laplace(K), V) + 0.5 * trace(K, _laplace(V)) + trace(v * K, v * V)


@dataclass(frozen=True, eq=False)
class SchroedingerField(LinearField):
    """The field ``F = -i H[Y]`` of `Schroedinger` and its exact sub-flows, for any bases.

    With ``G = V^H V`` (the identity for orthonormal V), ``d = V^H D V``, ``v = V^H Vc V`` the K-flow is linear,

        K' = -i ( D K G / 2 + K d / 2 + Vc K v ),

    and in terms of the rows of K, one after the other, its matrix is a sum of three sparse Kronecker products, as
    ``A K B`` becomes ``(A (x) B^T) vec(K)``. The L-flow is the same with U for V and +i for -i, because
    ``H[Y]^H = H[Y^H]``; the S-flow has small matrices on both sides.

    Parameters
    ----------
    point : LowRank
        Y, of complex numpy arrays.
    problem : Schroedinger
    """

    problem: Schroedinger

    @cached_property
    def potential(self) -> np.ndarray:
        """(n,), in the precision of the point."""
        return self.problem.potential.astype(self.point.U.real.dtype)

    @property
    def owner(self) -> Schroedinger:
        return self.problem

    @property
    def linear(self) -> LinearPart:
        return self.problem.linear

    def left(self, U: Array) -> tuple[Array, ...]:
        return -0.5j * _laplace(U), U, -1j * self.potential[:, None] * U

    def right(self, V: Array) -> tuple[Array, ...]:
        return V, 0.5j * _laplace(V), self.potential[:, None] * V

    def flow_K(self, h: float) -> Array:
        return self._half_flow(self.point.K, self.point.V, -1j * float(h))

    def flow_L(self, h: float) -> Array:
        return self._half_flow(self.point.L, self.point.U, 1j * float(h))

    def flow_S(self, h: float, sign: int = 1) -> Array:
        Y = self.point
        (G, d, v), (g, e, w) = self._projections(Y.U), self._projections(Y.V)
        H = 0.5 * np.kron(d, g.T) + 0.5 * np.kron(G, e.T) + np.kron(v, w.T)
        return expm_multiply(sign * -1j * float(h) * H, in_double(Y.S).ravel()).reshape(Y.S.shape).astype(Y.S.dtype)

    def _half_flow(self, K: Array, V: Array, factor: complex) -> Array:
        """``exp(factor H_V) K`` with ``H_V[K] = H[K V^H] V``."""
        G, d, v = self._projections(V)
        D, Vc = _second_difference(len(K)), scipy.sparse.diags_array(self.potential)
        identity = scipy.sparse.diags_array(np.ones(len(K)))
        H = 0.5 * (scipy.sparse.kron(D, G.T) + scipy.sparse.kron(identity, d.T)) + scipy.sparse.kron(Vc, v.T)
        return expm_multiply(factor * H.tocsr(), in_double(K).ravel()).reshape(K.shape).astype(K.dtype)

    def _projections(self, V: Array) -> tuple[Array, Array, Array]:
        """``V^H V``, ``V^H D V``, ``V^H Vc V`` in double precision."""
        V = in_double(V)
        return tuple(V.conj().T @ X for X in (V, _laplace(V), self.potential[:, None] * V))


def schroedinger(rng: np.random.Generator, n: int = 100, precision: Any = np.complex128) -> Schroedinger:
    """The usual test: ``potential_j = 1 - cos(2 pi j / n)``, ``j = -n/2 .. n/2 - 1``, horizon 1.

    The start has random real orthogonal bases and singular values proportional to ``10^-i``, ``i = 1 .. n``, with
    Frobenius norm 1.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the bases.
    n : int
        Size.
    precision : numpy dtype
        Of the start, complex128 or complex64.
    """
    check_integer("n", n, least=2)
    check_rng(rng)
    s = 10.0 ** -np.arange(1, n + 1)
    potential = 1.0 - np.cos(2 * np.pi * (np.arange(n) - n // 2) / n)
    return Schroedinger(potential, haar(n, n, rng) * (s / np.linalg.norm(s)), haar(n, n, rng), precision)


def _laplace(X: np.ndarray) -> np.ndarray:
    """``D X`` for ``D = tridiag(-1, 2, -1)``."""
    Z = 2 * X
    Z[1:] -= X[:-1]
    Z[:-1] -= X[1:]
    return Z


def _second_difference(n: int) -> scipy.sparse.dia_array:
    return scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
