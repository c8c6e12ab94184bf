"""Relaxation of a plasma by the Fokker-Planck equation of Lenard and Bernstein: mass, momentum and energy are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from integrators.checks import check_integer, check_number
from integrators.linalg import in_double
from integrators.lowrank import LowRank

from .sylvester import Sylvester


class Moments(NamedTuple):
    """Of a distribution of two velocities: integrals of f, v f, and |v|^2 f / 2."""

    mass: float
    momentum: tuple[float, float]
    energy: float


@dataclass(frozen=True, eq=False)
class FokkerPlanck(Sylvester):
    """Lenard-Bernstein operator in two velocities, ``f_t = div_v ( (v - u) f + T grad f )``, as a Sylvester equation.

    u is the mean velocity of f and T its temperature. The equation keeps both, so they are those of the start, and the
    operator is a sum of one for each velocity, ``X' = A X + X B``; rows are for the first velocity. Made by
    `fokker_planck`.

    Parameters
    ----------
    velocities : numpy array (n,)
        The grid in both directions, equally spaced.
    """

    velocities: Any = None

    name = "fokker-planck"
    t_end = 1.0

    def moments(self, Y: LowRank) -> Moments:
        """Mass, momentum and energy from the factors, O(n r), in double precision."""
        Y, v = Y.in_double(), in_double(self.velocities)
        powers = np.stack([np.ones_like(v), v, v**2])
        M = (v[1] - v[0]) ** 2 * ((powers @ Y.U) @ Y.S @ (powers @ Y.V).T)
        return Moments(float(M[0, 0]), (float(M[1, 0]), float(M[0, 1])), float(M[2, 0] + M[0, 2]) / 2)


def fokker_planck(n: int = 100, bound: float = 10.0, dtype: Any = np.float64) -> FokkerPlanck:
    """Two streams with unequal temperatures that relax to one Maxwellian.

    The start is the sum of Maxwellians with the masses 1 and 1/2, the velocities (-1.5, 0) and (2, 1) and the
    temperatures (0.5, 1) and (0.5, 0.25), of rank 2; the horizon is 1, the time unit that of a collision.

    On a grid of width d the flux between v_i and v_i + d is ``(v_i + d/2 - u)(f_i + f_{i+1})/2 + T (f_{i+1} - f_i)/d``
    and there is none through the ends, so that the sum of f is kept to rounding. Summation by parts gives for the first
    moments ``-sum_i (v_i - u) f_i``, which is 0, and for the second ones of both directions together
    ``-2 sum f (|v|^2 + d^2/2 - v u - 2 T)``, which is 0 for ``2 T = <|v|^2> + d^2/2 - |u|^2``: this T is taken. So
    momentum and energy are kept up to what of f lies at the ends, below 1e-7 of it for the bound 10.

    Parameters
    ----------
    n : int
        Points in each direction, at least 3.
    bound : float
        The velocities are from -bound to bound.
    dtype : numpy dtype
        Real floating.

    References
    ----------
    A. Lenard, I. B. Bernstein, Phys. Rev. 112 (1958) 1456-1459, doi:10.1103/PhysRev.112.1456.
    """
    check_integer("n", n, least=3)
    bound = check_number("bound", bound, least=1.0)
    v = np.linspace(-bound, bound, n)
    d = v[1] - v[0]

    def maxwellian(u, T):
        return np.exp(-((v - u) ** 2) / (2 * T)) / np.sqrt(2 * np.pi * T)

    P = np.stack([maxwellian(-1.5, 0.5), 0.5 * maxwellian(2.0, 0.5)], axis=1)
    Q = np.stack([maxwellian(0.0, 1.0), maxwellian(1.0, 0.25)], axis=1)
    mass = np.sum(P.sum(axis=0) * Q.sum(axis=0))
    means = [np.sum((v @ X) * Z.sum(axis=0)) / mass for X, Z in ((P, Q), (Q, P))]
    squares = [np.sum((v**2 @ X) * Z.sum(axis=0)) / mass for X, Z in ((P, Q), (Q, P))]
    T = (sum(squares) + d**2 / 2 - sum(u**2 for u in means)) / 2
    divergence = (np.eye(n, n - 1) - np.eye(n, n - 1, -1)) / d

    def operator(u):
        drift = 0.5 * (v[:-1] + d / 2 - u)[:, None]
        left, right = np.eye(n - 1, n), np.eye(n - 1, n, 1)
        return (divergence @ (drift * (left + right) + T / d * (right - left))).astype(dtype)

    A, B = operator(means[0]), operator(means[1]).T.copy()
    return FokkerPlanck(A, B, start=(P.astype(dtype), Q.astype(dtype)), velocities=v)
