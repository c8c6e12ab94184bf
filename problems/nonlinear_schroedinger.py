"""A discrete nonlinear Schroedinger equation in real and in imaginary time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse

from integrators.checks import check_integer, check_matrix, check_number
from integrators.linalg import in_double
from integrators.lowrank import LowRank

from .cubic import CubicField
from .fields import Array, Field, OperatorField
from .linear_part import LinearPart
from .numerical import NumericallySolved
from .problem import Autonomous, best_approximation, check_complex_point


@dataclass(frozen=True, eq=False)
class NonlinearSchroedinger(Autonomous, NumericallySolved):
    """Discrete nonlinear Schroedinger equation ``Y' = i ( (M Y + Y M)/2 + g |Y|^2 Y )``, complex, of a lattice.

    M = tridiag(1, 0, 1) couples neighbours, the cubic term is taken entry by entry. With ``N(Y)`` for what stands in
    the brackets, ``||Y||_F`` and the energy ``E(Y) = -<Y, (M Y + Y M)/2> - g/2 sum_ij |Y_ij|^4``, of which -2 N is the
    gradient, are conserved: ``d/dt ||Y||^2 = 2 Re <Y, i N> = 0``, because <Y, N> is real, and
    ``E' = -2 Re <N, i N> = 0``. The linear part has the norm 2 at most; the cubic term has no Lipschitz constant for
    all Y.

    A field costs O(n r^4) where the rank is low, see `CubicField`, else O(n^2 r). The reference is numerical. Points
    are complex numpy arrays.

    Parameters
    ----------
    P, Q : numpy arrays (n, p)
        ``Y(0) = P Q^H``.
    g : float
        Positive: focusing, negative: defocusing.
    imaginary_time : bool
        Follow ``Y' = N(Y) - mu Y`` with ``mu = Re <Y, N(Y)> / ||Y||^2`` instead: it keeps ``||Y||``, and the energy
        falls, ``E' = -2 ||N - mu Y||^2``, to a ground state. Real where P and Q are.

    Raises
    ------
    TypeError, ValueError
        The shapes do not match, or the dtype is real in real time.

    References
    ----------
    G. Ceruti, C. Lubich, BIT Numer. Math. 62 (2022) 23-44, doi:10.1007/s10543-021-00873-0.
    """

    P: np.ndarray
    Q: np.ndarray
    g: float = 0.6
    imaginary_time: bool = False

    t_end = 5.0
    usual_substep = "rk4"  # Euler's method makes the norm grow, and with it the cubic term

    def __post_init__(self) -> None:
        for name, X in (("P", self.P), ("Q", self.Q)):
            check_matrix(name, X)
        if self.P.shape != self.Q.shape:
            raise ValueError(f"P and Q must have the same shape, got {self.P.shape} and {self.Q.shape}")
        if not self.imaginary_time and not np.iscomplexobj(self.like):
            raise TypeError(f"P and Q must be complex, got {self.like.dtype}: only imaginary time is real")
        object.__setattr__(self, "g", check_number("g", self.g))

    @property
    def name(self) -> str:  # type: ignore[override]
        """With the kind of time."""
        return "nonlinear-schroedinger" + ("-imaginary-time" if self.imaginary_time else "")

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.P), len(self.Q)

    @property
    def like(self) -> Array:
        return np.empty(0, np.result_type(self.P, self.Q))

    @cached_property
    def linear(self) -> LinearPart:
        """``i (M Y + Y M)/2``, without the i in imaginary time."""
        n, unit = len(self.P), 0.5 if self.imaginary_time else 0.5j
        M = scipy.sparse.diags_array([1.0, 1.0], offsets=[-1, 1], shape=(n, n))
        return LinearPart(unit * M, np.conj(unit) * M)

    def initial(self, rank: int, rng: np.random.Generator) -> LowRank:
        """Best approximation of Y(0); random directions with zero singular values beyond its rank."""
        return best_approximation(self.P, self.Q, rank, rng, self.like)

    def field(self, t: float, Y: LowRank) -> Field:
        """``i N(Y)`` or ``N(Y) - mu Y``, independent of t.

        Raises
        ------
        TypeError
            The point is real in real time.
        """
        f = NonlinearSchroedingerField(Y, self)
        if not self.imaginary_time:
            check_complex_point(Y)
            return f
        square = np.sum(np.abs(in_double(Y.core())) ** 2)
        mu = float(np.vdot(Y.S, f.S).real / square) if square else 0.0
        K, L = mu * Y.K, mu * Y.L
        return OperatorField(
            Y, lambda X: f.apply(X) - K @ (Y.V.conj().T @ X), lambda X: f.apply_H(X) - L @ (Y.U.conj().T @ X)
        )

    def start_matrix(self) -> np.ndarray:
        return in_double(self.P) @ in_double(self.Q).conj().T

    def rate(self, t: float, W: np.ndarray) -> np.ndarray:
        N = 0.5 * (neighbours(W) + neighbours(W.T).T) + self.g * np.abs(W) ** 2 * W
        if not self.imaginary_time:
            return 1j * N
        return N - (np.vdot(W, N).real / np.vdot(W, W).real) * W

    def energy(self, Y: LowRank) -> float:
        """E(Y), in double precision and O(n^2 r)."""
        W = Y.in_double().full()
        linear = 0.5 * (neighbours(W) + neighbours(W.T).T)
        return float(-np.vdot(W, linear).real - self.g / 2 * np.sum(np.abs(W) ** 4))


@dataclass(frozen=True, eq=False)
class NonlinearSchroedingerField(CubicField):
    """``i N(Y)`` of `NonlinearSchroedinger`, or ``N(Y)`` in imaginary time.

    Parameters
    ----------
    point : LowRank
        Y, of numpy arrays.
    problem : NonlinearSchroedinger
    """

    problem: NonlinearSchroedinger

    @property
    def owner(self) -> NonlinearSchroedinger:
        return self.problem

    @property
    def unit(self) -> complex:
        """i or 1."""
        return 1.0 if self.problem.imaginary_time else 1j

    @property
    def factor(self) -> complex:
        return self.unit * self.problem.g

    @property
    def linear(self) -> LinearPart:
        return self.problem.linear

    def left(self, U: Array) -> tuple[Array, ...]:
        return 0.5 * self.unit * neighbours(U), U

    def right(self, V: Array) -> tuple[Array, ...]:
        return V, 0.5 * np.conj(self.unit).item() * neighbours(V)


def neighbours(X: np.ndarray) -> np.ndarray:
    """``M X`` for ``M = tridiag(1, 0, 1)``."""
    Z = np.zeros_like(X)
    Z[1:] += X[:-1]
    Z[:-1] += X[1:]
    return Z


def nonlinear_schroedinger(
    n: int = 200, imaginary_time: bool = False, precision: Any = np.complex128
) -> NonlinearSchroedinger:
    """The usual test: two overlapping Gaussian packets of width 10 at (60, 50) and (50, 40), horizon 5.

    Their height is 1; the start has rank 2. On a grid of n < 100 points all lengths shrink by n / 100. In real time
    g = 0.6; in imaginary time g = -0.6, since the ground state of the focusing equation is a single point of the grid.

    Parameters
    ----------
    n : int
        Size, at least 2.
    imaginary_time : bool
    precision : numpy dtype
        Of the start: complex128 or complex64, in imaginary time float64 or float32 too.
    """
    check_integer("n", n, least=2)
    scale, j = min(1.0, n / 100), np.arange(1, n + 1)
    rows, columns = (
        np.stack([np.exp(-(((j - center * scale) / (10 * scale)) ** 2)) for center in centers], axis=1)
        for centers in ((60, 50), (50, 40))
    )
    g = -0.6 if imaginary_time else 0.6
    return NonlinearSchroedinger(rows.astype(precision), columns.astype(precision), g, imaginary_time)
