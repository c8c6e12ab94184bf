"""The Vlasov-Poisson equation in one position and one velocity: Landau damping and two streams."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from integrators.checks import check_integer, check_matrix, check_positive
from integrators.linalg import in_double
from integrators.lowrank import LowRank

from .fields import Array, Field, LinearField, Side
from .numerical import NumericallySolved
from .problem import Autonomous, best_approximation, check_real_point


class Moments(NamedTuple):
    """Integrals of f, v f and v^2 f / 2, and the energy of the electric field, ``1/2 int E^2 dx``."""

    mass: float
    momentum: float
    kinetic: float
    electric: float


@dataclass(frozen=True, eq=False)
class Vlasov(Autonomous, NumericallySolved):
    """Vlasov-Poisson equation of electrons: ``f_t = -v f_x + E f_v``, ``E_x = 1 - int f dv``, periodic in x and v.

    Rows are for the position in [0, length), columns for the velocity in [-bound, bound). Derivatives and the field are
    those of the trigonometric interpolant, by FFT: ``F(Y) = -D_x Y diag(v) + diag(E(Y)) Y D_v^T``, in
    O((m log m + n log n) r + (m + n) r^2). Mass is conserved to rounding, the total energy by the equation in
    continuous variables. The field is quadratic in Y, so there is no Lipschitz constant; an explicit step must stay
    below about 2.8 / (pi m bound / length) with RK4. The reference is numerical. Points are real numpy arrays.

    With a temperature T the unknown is ``Y = f / s``, ``s = e^{-v^2/(4 T)}``, whose norm is that of f weighted by
    ``e^{v^2/(2 T)}``. The derivative in v is then ``Y diag(s) D_v^T diag(s)^{-1}``, and moments are the products with
    s, v s and v^2 s / 2, which fall towards the ends of the grid: where a truncation keeps them apart from the rest
    (`integrators.Conservative`), their derivatives have no jump there.

    Parameters
    ----------
    P, Q : numpy arrays (m, p) and (n, p)
        ``f(0) = P Q^T``, real.
    length, bound : float
        Of the intervals.
    t_end : float
        Horizon.
    temperature : float, optional
        T; without it Y is f itself.

    Raises
    ------
    TypeError, ValueError
        The arrays are not real matrices with equally many columns, or the intervals are not positive.

    References
    ----------
    L. Einkemmer, C. Lubich, SIAM J. Sci. Comput. 40 (2018) B1330-B1360, doi:10.1137/18M116383X.
    """

    P: np.ndarray
    Q: np.ndarray
    length: float = 4 * math.pi
    bound: float = 6.0
    t_end: float = 40.0
    temperature: float | None = None

    name = "vlasov"
    usual_substep = "rk4"

    def __post_init__(self) -> None:
        for name, X in (("P", self.P), ("Q", self.Q)):
            check_matrix(name, X)
        if self.P.shape[1] != self.Q.shape[1] or np.iscomplexobj(self.like):
            raise ValueError(
                f"P and Q must be real with equally many columns, got {self.like.dtype} of shapes {self.P.shape} and "
                f"{self.Q.shape}"
            )
        for name in ("length", "bound", "t_end", "temperature"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check_positive(name, getattr(self, name)))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.P), len(self.Q)

    @property
    def like(self) -> Array:
        return np.empty(0, np.result_type(self.P, self.Q))

    @cached_property
    def velocities(self) -> np.ndarray:
        """(n,), in double precision."""
        n = len(self.Q)
        return self.bound * (2 * np.arange(n) / n - 1)

    @cached_property
    def scale(self) -> np.ndarray:
        """s (n,), in double precision; ones without a temperature."""
        if self.temperature is None:
            return np.ones(len(self.Q))
        return np.exp(-(self.velocities**2) / (4 * self.temperature))

    @cached_property
    def moment_functions(self) -> np.ndarray:
        """s, v s and v^2 s / 2 (n, 3): ``Y @ moment_functions`` are the densities of `moments` over the width in v."""
        v = self.velocities
        return np.stack([np.ones_like(v), v, v**2 / 2], axis=1) * self.scale[:, None]

    def initial(self, rank: int, rng: np.random.Generator) -> LowRank:
        """Best approximation of Y(0); random directions with zero singular values beyond its rank."""
        return best_approximation(self.P, self.Q / self.scale.astype(self.dtype)[:, None], rank, rng, self.like)

    def field(self, t: float, Y: LowRank) -> Field:
        """``-D_x Y diag(v) + diag(E(Y)) Y D_v^T``, or with s, independent of t.

        Raises
        ------
        TypeError
            The point is complex.
        """
        check_real_point(Y)
        return VlasovField(Y, self)

    def electric(self, density: np.ndarray) -> np.ndarray:
        """E (m,) of the density of electrons (m,): the integral of ``1 - density`` with mean 0."""
        k = wavenumbers(len(density), self.length)
        inverse = np.divide(1.0, 1j * k, out=np.zeros(len(k), complex), where=k != 0)
        return np.fft.irfft(inverse * np.fft.rfft(1.0 - density), len(density))

    def start_matrix(self) -> np.ndarray:
        return in_double(self.P) @ (in_double(self.Q) / self.scale[:, None]).T

    def rate(self, t: float, W: np.ndarray) -> np.ndarray:
        f = W * self.scale
        E = self.electric(2 * self.bound / len(self.Q) * f.sum(axis=1))
        of_v = derivative(f.T, 2 * self.bound).T / self.scale
        return -derivative(W, self.length) * self.velocities + E[:, None] * of_v

    def density(self, Y: LowRank) -> np.ndarray:
        """``int f dv`` (m,) in double precision, O((m + n) r)."""
        Y = Y.in_double()
        return 2 * self.bound / len(self.Q) * (Y.K @ (Y.V.T @ self.scale))

    def moments(self, Y: LowRank) -> Moments:
        """Mass, momentum, kinetic and electric energy, in double precision and O((m + n) r)."""
        W = Y.in_double()
        dx, dv = self.length / len(self.P), 2 * self.bound / len(self.Q)
        mass, momentum, kinetic = (dx * dv * (self.moment_functions.T @ W.V @ W.S.T @ W.U.sum(axis=0))).tolist()
        return Moments(mass, momentum, kinetic, float(0.5 * dx * np.sum(self.electric(self.density(Y)) ** 2)))


@dataclass(frozen=True, eq=False)
class VlasovField(LinearField):
    """The field of `Vlasov`: at a point it has the form of a linear one, with the E of that point.

    Parameters
    ----------
    point : LowRank
        Y, of real numpy arrays.
    problem : Vlasov
    """

    problem: Vlasov

    @property
    def owner(self) -> Vlasov:
        return self.problem

    @cached_property
    def of_U(self) -> Side:
        """Not noted, as E depends on the whole point."""
        return Side(self.point.U, self.left(self.point.U), None)

    def left(self, U: Array) -> tuple[Array, ...]:
        E = self.problem.electric(self.problem.density(self.point)).astype(U.dtype)
        return -derivative(U, self.problem.length), E[:, None] * U

    def right(self, V: Array) -> tuple[Array, ...]:
        v, s = (X.astype(V.dtype)[:, None] for X in (self.problem.velocities, self.problem.scale))
        return v * V, derivative(s * V, 2 * self.problem.bound) / s


def wavenumbers(n: int, length: float) -> np.ndarray:
    """Of the modes of rfft; 0 for the highest one of an even n, whose derivative vanishes on the grid."""
    k = 2 * math.pi / length * np.arange(n // 2 + 1)
    if n % 2 == 0:
        k[-1] = 0
    return k


def derivative(X: np.ndarray, length: float) -> np.ndarray:
    """Derivative of the trigonometric interpolant along the rows of a real periodic array."""
    k = wavenumbers(len(X), length)
    return np.fft.irfft(1j * k[:, None] * np.fft.rfft(X, axis=0), len(X), axis=0).astype(X.dtype)


def landau(m: int = 64, n: int = 256, alpha: float = 0.01, dtype: Any = np.float64) -> Vlasov:
    """Landau damping: ``f(0) = (1 + alpha cos(x/2)) e^{-v^2/2} / sqrt(2 pi)`` on [0, 4 pi) x [-6, 6), horizon 40.

    For a small alpha the electric field oscillates and its amplitude decays like ``e^{-0.153 t}``.

    Parameters
    ----------
    m, n : int
        Points in x and v, at least 4.
    alpha : float
        Positive.
    dtype : numpy dtype
        Real floating.
    """
    check_integer("m", m, least=4)
    check_integer("n", n, least=4)
    alpha = check_positive("alpha", alpha)
    x, v = 4 * np.pi * np.arange(m) / m, 6.0 * (2 * np.arange(n) / n - 1)
    P, Q = 1 + alpha * np.cos(x / 2), np.exp(-(v**2) / 2) / np.sqrt(2 * np.pi)
    return Vlasov(P[:, None].astype(dtype), Q[:, None].astype(dtype))


def two_stream(m: int = 128, n: int = 128, alpha: float = 1e-3, dtype: Any = np.float64) -> Vlasov:
    """Two-stream instability: streams of the velocities -2.4 and 2.4, ``1 + alpha cos(x/5)`` on [0, 10 pi), horizon 60.

    Parameters
    ----------
    m, n : int
        Points in x and v, at least 4. The velocities are in [-9, 9).
    alpha : float
        Positive.
    dtype : numpy dtype
        Real floating.
    """
    check_integer("m", m, least=4)
    check_integer("n", n, least=4)
    alpha = check_positive("alpha", alpha)
    x, v = 10 * np.pi * np.arange(m) / m, 9.0 * (2 * np.arange(n) / n - 1)
    P = 1 + alpha * np.cos(x / 5)
    Q = (np.exp(-((v - 2.4) ** 2) / 2) + np.exp(-((v + 2.4) ** 2) / 2)) / (2 * np.sqrt(2 * np.pi))
    return Vlasov(P[:, None].astype(dtype), Q[:, None].astype(dtype), 10 * math.pi, 9.0, 60.0)
