"""The viscous Burgers equation with random starts: each column is a sample."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from integrators.checks import check_integer, check_matrix, check_positive, check_rng
from integrators.linalg import in_double
from integrators.lowrank import LowRank

from .fields import Array, Field, NonlinearField
from .numerical import NumericallySolved
from .problem import Autonomous, best_approximation, check_real_point
from .vlasov import derivative


@dataclass(frozen=True, eq=False)
class StochasticBurgers(Autonomous, NumericallySolved):
    """Burgers equation ``u_t = nu u_xx - (u^2)_x / 2`` for many starts at once, periodic on [0, 2 pi).

    Rows are for x, columns for samples, which the equation does not couple: ``Y' = nu D^2 Y - D (Y o Y) / 2`` with the
    entrywise product and the derivative D of the trigonometric interpolant, by FFT. The mean over x of every sample is
    kept to rounding. A field costs O((m log m + n) r^2) where the rank is low, ``r (r + 1)/2 (m + n) <= m n``, else
    O(m n (log m + r)). It is quadratic in Y, so there is no Lipschitz constant. The reference is numerical. Points are
    real numpy arrays.

    Parameters
    ----------
    P, Q : numpy arrays (m, p) and (n, p)
        ``Y(0) = P Q^T``, real.
    nu : float
        Viscosity. Fronts have the width nu over their height, and the grid must resolve it.

    Raises
    ------
    TypeError, ValueError
        The arrays are not real matrices with equally many columns, or nu is not positive.

    References
    ----------
    T. P. Sapsis, P. F. J. Lermusiaux, Physica D 238 (2009) 2347-2360, doi:10.1016/j.physd.2009.09.017.
    """

    P: np.ndarray
    Q: np.ndarray
    nu: float = 0.1

    name = "stochastic-burgers"
    t_end = 1.0
    usual_substep = "rk4"  # Euler's method needs h < 2 nu / u^2

    def __post_init__(self) -> None:
        for name, X in (("P", self.P), ("Q", self.Q)):
            check_matrix(name, X)
        if self.P.shape[1] != self.Q.shape[1] or np.iscomplexobj(self.like):
            raise ValueError(
                f"P and Q must be real with equally many columns, got {self.like.dtype} of shapes {self.P.shape} and "
                f"{self.Q.shape}"
            )
        object.__setattr__(self, "nu", check_positive("nu", self.nu))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.P), len(self.Q)

    @property
    def like(self) -> Array:
        return np.empty(0, np.result_type(self.P, self.Q))

    def initial(self, rank: int, rng: np.random.Generator) -> LowRank:
        """Best approximation of Y(0); random directions with zero singular values beyond its rank."""
        return best_approximation(self.P, self.Q, rank, rng, self.like)

    def field(self, t: float, Y: LowRank) -> Field:
        """``nu D^2 Y - D (Y o Y) / 2``, independent of t.

        Raises
        ------
        TypeError
            The point is complex.
        """
        check_real_point(Y)
        return BurgersField(Y, self)

    def start_matrix(self) -> np.ndarray:
        return in_double(self.P) @ in_double(self.Q).T

    def rate(self, t: float, W: np.ndarray) -> np.ndarray:
        return slope(self.nu * slope(W) - W**2 / 2)


@dataclass(frozen=True, eq=False)
class BurgersField(NonlinearField):
    """The field of `StochasticBurgers`.

    With ``Y = K V^T`` the square is ``sum_{a <= b} c_ab (K_a o K_b) (V_a o V_b)^T``, c = 1 for a = b and 2 else.

    Parameters
    ----------
    point : LowRank
        Y, of real numpy arrays.
    problem : StochasticBurgers
    """

    problem: StochasticBurgers

    @property
    def owner(self) -> StochasticBurgers:
        return self.problem

    def left(self, U: Array) -> tuple[Array, ...]:
        return (self.problem.nu * slope(slope(U)),)

    def right(self, V: Array) -> tuple[Array, ...]:
        return (V,)

    @cached_property
    def nonlinear(self) -> tuple[np.ndarray, np.ndarray] | np.ndarray:
        K, V = self.point.K, self.point.V
        (m, r), n = K.shape, len(V)
        if r * (r + 1) // 2 * (m + n) > m * n:
            return -slope((K @ V.T) ** 2) / 2
        a, b = np.triu_indices(r)
        weights = np.where(a == b, 0.5, 1.0).astype(K.dtype)
        return -slope(K[:, a] * K[:, b] * weights), V[:, a] * V[:, b]


def slope(X: np.ndarray) -> np.ndarray:
    """``D X``."""
    return derivative(X, 2 * np.pi)


def stochastic_burgers(
    rng: np.random.Generator, m: int = 128, n: int = 100, modes: int = 4, nu: float = 0.1, dtype: Any = np.float64
) -> StochasticBurgers:
    """A wave with random disturbances that steepens to fronts, with the horizon 1.

    The start is ``sin x + sum_k xi_k 2^-(k+1) sin(k x + phi_k)`` with xi_k normally distributed for each sample and
    phases phi_k that are the same for all. It has rank 1 + modes, and its mean over x is 0.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the phases and of the samples.
    m, n : int
        Points, at least 4, and samples.
    modes : int
        Disturbances; fewer than m / 2.
    nu : float
    dtype : numpy dtype
        Real floating.
    """
    check_rng(rng)
    check_integer("m", m, least=4)
    check_integer("n", n)
    if check_integer("modes", modes) >= m / 2:
        raise ValueError(f"modes must be less than m / 2 = {m / 2:g}, got {modes}")
    x, k = 2 * np.pi * np.arange(m)[:, None] / m, np.arange(1, modes + 1)
    P = np.hstack([np.sin(x), 2.0 ** -(k + 1) * np.sin(k * x + rng.uniform(0, 2 * np.pi, modes))])
    Q = np.hstack([np.ones((n, 1)), rng.standard_normal((n, modes))])
    return StochasticBurgers(P.astype(dtype), Q.astype(dtype), nu)
