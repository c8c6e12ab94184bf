"""Fields with the entrywise cubic term ``|Y|^2 Y``, in factors where the rank is low enough."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement

import numpy as np

from integrators.linalg import dagger, units
from integrators.lowrank import LowRank

from .fields import Array, LinearField, NonlinearField


def cube(Y: LowRank) -> tuple[np.ndarray, np.ndarray]:
    """Factors P (m, R) and Q (n, R) of the entrywise ``|Y|^2 Y = P Q^H``, of numpy arrays.

    With ``Y = K V^H`` the entries are ``sum_{abc} K_a K_b conj(K_c) conj(V_a V_b conj(V_c))``: products of columns
    (Khatri-Rao). Equal products are taken once with their number as a weight, so that R is ``r (r + 1) (r + 2) / 6``
    for real and ``r^2 (r + 1) / 2`` for complex Y, r columns of V. Cost O((m + n) R).
    """
    K, V = Y.K, Y.V
    a, b, c, weights = _products(V.shape[1], np.iscomplexobj(K))
    return (K[:, a] * K[:, b]) * (K[:, c].conj() * weights.astype(K.real.dtype)), V[:, a] * V[:, b] * V[:, c].conj()


def columns(Y: LowRank) -> int:
    """R of `cube`."""
    r = Y.V.shape[1]
    return r * r * (r + 1) // 2 if np.iscomplexobj(Y.V) else r * (r + 1) * (r + 2) // 6


def _products(r: int, is_complex: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Indices a, b, c of the different products, and how often each occurs."""
    if is_complex:
        pairs = np.array(list(combinations_with_replacement(range(r), 2))).reshape(-1, 2)
        a, b = np.repeat(pairs, r, axis=0).T
        c = np.tile(np.arange(r), len(pairs))
        return a, b, c, np.where(a == b, 1, 2)
    a, b, c = np.array(list(combinations_with_replacement(range(r), 3))).reshape(-1, 3).T
    different = 1 + (a != b) + (b != c)  # a <= b <= c
    return a, b, c, np.array([0, 1, 3, 6])[different]


@dataclass(frozen=True, eq=False)
class CubicField(NonlinearField):
    """A field ``F(Y) = sum_k A_k Y B_k + C + g |Y|^2 Y``, the cubic term entry by entry.

    A subclass gives the linear terms, as for `LinearField`, and the factor g. The cubic term is never formed where its
    factors are smaller than it, ``R (m + n) <= m n`` with the R of `cube`: O((m + n) r^3) for each product with a
    vector; else it is dense, O(m n r). Points are numpy arrays.
    """

    @property
    @abstractmethod
    def factor(self) -> complex:
        """g."""

    @cached_property
    def nonlinear(self) -> tuple[np.ndarray, np.ndarray] | np.ndarray:
        Y = self.point
        m, n = Y.shape
        if columns(Y) * (m + n) <= m * n:
            P, Q = cube(Y)
            return self._scaled(P), Q
        W = Y.full()
        return self._scaled(np.abs(W) ** 2 * W)

    def _scaled(self, X: np.ndarray) -> np.ndarray:
        return (self.factor * X).astype(self.point.dtype, copy=False)

    def rows(self, p: Sequence[int]) -> Array:
        W = self.point.K[p] @ self.point.V.conj().T
        return dagger(LinearField.apply_H(self, units(self.point.U, p))) + self._scaled(np.abs(W) ** 2 * W)

    def columns(self, q: Sequence[int]) -> Array:
        W = self.point.K @ self.point.V[q].conj().T
        return LinearField.apply(self, units(self.point.V, q)) + self._scaled(np.abs(W) ** 2 * W)
