"""A nonlinear wave equation, of second order in time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from integrators.checks import check_integer, check_number, check_positive
from integrators.lowrank import LowRank

from .allen_cahn import second_difference
from .cubic import CubicField
from .fields import Array
from .second_order import SecondOrder


@dataclass(frozen=True, eq=False)
class KleinGordon(SecondOrder):
    """Nonlinear Klein-Gordon equation ``A'' = eps (D A + A D) - A - g A^3``, the power entry by entry.

    D is the second difference on a periodic grid of width ``2 pi / m``, or ``2 pi / n``. With ``B = A'`` the energy
    ``H = ||B||_F^2 / 2 - eps/2 <A, D A + A D> + ||A||_F^2 / 2 + g/4 sum_ij A_ij^4`` is conserved. The cubic term has no
    Lipschitz constant for all A. On the entries in [-1, 1] the highest frequency is at most the root of
    ``4 eps (1/dx^2 + 1/dy^2) + 1 + 3 g``, and the leapfrog scheme needs a step smaller than 2 over that.

    f(A) costs O(n r^4) where the rank is low, see `CubicField`, else O(n^2 r).

    Parameters
    ----------
    position, velocity : numpy arrays (m, n)
        As in `SecondOrder`.
    eps : float
        Square of the speed of waves.
    g : float
        Coefficient of the cubic term; 0 makes the equation linear.

    Raises
    ------
    TypeError, ValueError
        As in `SecondOrder`, or eps is not positive.

    References
    ----------
    M. Hochbruck, M. Neher, S. Schrammer, BIT Numer. Math. 63 (2023), doi:10.1007/s10543-023-00941-7.
    """

    eps: float = 0.1
    g: float = 1.0
    t_end: float = 5.0

    name = "klein-gordon"
    usual_substep = "heun"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("eps", "t_end"):
            object.__setattr__(self, name, check_positive(name, getattr(self, name)))
        object.__setattr__(self, "g", check_number("g", self.g))

    @property
    def coefficients(self) -> tuple[float, float]:
        """``eps / dx^2`` and ``eps / dy^2``."""
        m, n = self.position.shape
        return self.eps / (2 * math.pi / m) ** 2, self.eps / (2 * math.pi / n) ** 2

    def force(self, A: LowRank) -> KleinGordonForce:
        return KleinGordonForce(A, self)

    def dense_force(self, A: np.ndarray) -> np.ndarray:
        x, y = self.coefficients
        return x * second_difference(A) + y * second_difference(A.T).T - A - self.g * A**3

    def energy(self, Y: LowRank) -> float:
        """H, in double precision and O(n^2 r)."""
        W = Y.in_double()
        A, B = self.position_of(W).full(), self.velocity_of(W).full()
        gradients = sum(c * np.sum((np.roll(A, -1, axis) - A) ** 2) for axis, c in enumerate(self.coefficients))
        return float((np.sum(B**2) + gradients + np.sum(A**2)) / 2 + self.g / 4 * np.sum(A**4))


@dataclass(frozen=True, eq=False)
class KleinGordonForce(CubicField):
    """The right side of `KleinGordon`: ``(x D - I) A + A (y D) - g A^3`` with the two coefficients.

    Parameters
    ----------
    point : LowRank
        A, of real numpy arrays.
    problem : KleinGordon
    """

    problem: KleinGordon

    @property
    def owner(self) -> KleinGordon:
        return self.problem

    @property
    def factor(self) -> float:
        return -self.problem.g

    def left(self, U: Array) -> tuple[Array, ...]:
        return self.problem.coefficients[0] * second_difference(U) - U, U

    def right(self, V: Array) -> tuple[Array, ...]:
        return V, self.problem.coefficients[1] * second_difference(V)


def klein_gordon(n: int = 64, eps: float = 0.1, g: float = 1.0, dtype: Any = np.float64) -> KleinGordon:
    """Two bumps on [0, 2 pi]^2, one of which moves, with the horizon 5.

    ``A(0) = b(x - 2) b(y - 5/2) + b(x - 4) b(y - 4) / 2`` and ``A'(0) = -b'(x - 2) b(y - 5/2) / 2`` with
    ``b(x) = e^{cos x / w - 1 / w}``, w = 1/4: ranks 2 and 1.

    Parameters
    ----------
    n : int
        Size, at least 3: Y is (2 n, 2 n).
    eps, g : float
    dtype : numpy dtype
        Real floating.
    """
    check_integer("n", n, least=3)
    x = 2 * np.pi * np.arange(n) / n

    def bump(center: float) -> np.ndarray:
        return np.exp(4 * np.cos(x - center) - 4)

    position = np.outer(bump(2.0), bump(2.5)) + np.outer(bump(4.0), bump(4.0)) / 2
    velocity = np.outer(2 * np.sin(x - 2.0) * bump(2.0), bump(2.5))
    return KleinGordon(position.astype(dtype), velocity.astype(dtype), eps, g)
