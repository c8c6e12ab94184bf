"""Radiative transfer in a slab: the plane source, in the variables of discrete ordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
from scipy.special import ndtr

from integrators.checks import check_integer
from integrators.lowrank import LowRank

from .cross_terms import LinearTerms, TermsField
from .fields import Array, Field


@dataclass(frozen=True, eq=False)
class RadiativeTransfer(LinearTerms):
    """Transfer of radiation with isotropic scattering, ``f_t + mu f_x = 1/2 int f dmu - f``, for mu in [-1, 1].

    Columns are for the nodes mu_q of the Gauss-Legendre rule with the weights w_q (S_N), in the variables
    ``sqrt(w_q) f(mu_q)``: an orthogonal change of basis makes them the Legendre moments of P_{N-1}. With upwind
    differences of width h in x, no radiation through the ends and ``s = sqrt(w / 2)``, of norm 1,

        Y' = -D Y diag(mu) + D2 Y diag(|mu|) + (Y s s^T - Y),
        D = tridiag(-1, 0, 1) / (2 h),   D2 = tridiag(1, -2, 1) / (2 h),

    in O((m + n) r + r^3). Scattering is applied as a matrix of rank 1. Made by `plane_source`.

    Parameters
    ----------
    nodes, weights : numpy arrays (n,)
        Of the rule.

    References
    ----------
    Z. Peng, R. G. McClarren, M. Frank, J. Comput. Phys. 421 (2020) 109735, doi:10.1016/j.jcp.2020.109735.
    """

    nodes: Any = None
    weights: Any = None

    usual_substep: ClassVar[str | None] = "rk4"  # exact sub-flows know nothing of the rank of scattering

    def field(self, t: float, Y: LowRank) -> Field:
        """The field with exact sub-flows, independent of t."""
        return TransferField(Y, self)

    def density(self, Y: LowRank) -> np.ndarray:
        """``int f dmu`` (m,) in double precision, O((m + n) r)."""
        Y = Y.in_double()
        return Y.K @ (Y.V.T @ np.sqrt(self.weights))


@dataclass(frozen=True, eq=False)
class TransferField(TermsField):
    """The field of `RadiativeTransfer`."""

    problem: RadiativeTransfer

    def right(self, V: Array) -> tuple[Array, ...]:
        mu, s = (X.astype(V.dtype)[:, None] for X in (self.problem.nodes, np.sqrt(self.problem.weights / 2)))
        return mu * V, abs(mu) * V, s * (s.T @ V) - V


def plane_source(m: int = 500, n: int = 100, dtype: Any = np.float64) -> RadiativeTransfer:
    """A short pulse at x = 0 in all directions, on [-5, 5] up to t = 3: its front moves with the speed 1.

    At the start ``int f dmu`` is a Gaussian of mass 1 and standard deviation 0.03, averaged over cells, so that Y(0)
    has rank 1. Mass is kept until radiation leaves: up to t = 3 to 1e-10 from 250 cells on.

    Parameters
    ----------
    m, n : int
        Cells, at least 3, and directions, at least 2.
    dtype : numpy dtype
        Real floating.
    """
    check_integer("m", m, least=3)
    check_integer("n", n, least=2)
    mu, w = np.polynomial.legendre.leggauss(n)
    h, s = 10.0 / m, np.sqrt(w / 2)
    central, second = (
        scipy.sparse.diags_array(np.array(stencil) / (2 * h), offsets=[-1, 0, 1], shape=(m, m)).astype(dtype).tocsr()
        for stencil in ((1.0, 0.0, -1.0), (1.0, -2.0, 1.0))
    )
    along, against = (scipy.sparse.diags_array(X).astype(dtype).tocsr() for X in (mu, abs(mu)))
    scattering = (np.outer(s, s) - np.eye(n)).astype(dtype)
    pulse = np.diff(ndtr(np.linspace(-5, 5, m + 1) / 0.03)) / h
    return RadiativeTransfer(
        ((central, along), (second, against), (None, scattering)),
        (pulse[:, None] / math.sqrt(2)).astype(dtype),  # f = density / 2, and sqrt(w) / 2 = s / sqrt(2)
        s[:, None].astype(dtype),
        "plane-source",
        3.0,
        mu,
        w,
    )
