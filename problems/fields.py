"""The lazy fields that an integrator reads: F at a point Y, seen through the bases of Y.

A point is an :class:`integrators.LowRank`, ``Y = U S V^H`` with U (m, rU), S (rU, rV), V (n, rV); its bases need not
be orthonormal. A field shows itself through them,

    K = F V   (m, rV),     L = F^H U   (n, rU),     S = U^H F V   (rU, rV),

each computed once, when it is first read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import device

from integrators.linalg import array_namespace, dagger, is_complex
from integrators.lowrank import LowRank

Array = Any  # a numpy array or a torch tensor


def convert(X: np.ndarray, like: Array) -> Array:
    """The numpy array X as an array of the library, dtype and device of `like`.

    Raises
    ------
    TypeError
        X is complex and `like` is real: the imaginary part would be lost.
    """
    if np.iscomplexobj(X) and not is_complex(like):
        raise TypeError(f"a complex problem needs a complex point, got a point of dtype {like.dtype}")
    return array_namespace(like).asarray(X, dtype=like.dtype, device=device(like))


@dataclass(frozen=True, eq=False)
class Field(ABC):
    """A matrix field F evaluated at a point, seen through the bases of the point.

    A subclass gives the products with F; this class derives K, L and S from them, lazily and once.

    Parameters
    ----------
    point : LowRank
        Y, of shape (m, n).
    """

    point: LowRank

    @abstractmethod
    def apply(self, X: Array) -> Array:
        """``F X`` for X of shape (n, p)."""

    @abstractmethod
    def apply_H(self, X: Array) -> Array:
        """``F^H X`` for X of shape (m, p)."""

    @cached_property
    def K(self) -> Array:
        """``F V``, shape (m, rV)."""
        return self.apply(self.point.V)

    @cached_property
    def L(self) -> Array:
        """``F^H U``, shape (n, rU)."""
        return self.apply_H(self.point.U)

    @cached_property
    def S(self) -> Array:
        """``U^H F V``, shape (rU, rV)."""
        return dagger(self.point.U) @ self.K

    def full(self) -> Array:
        """F itself as a dense (m, n) array; for small problems and tests."""
        V = self.point.V
        return self.apply(array_namespace(V).eye(V.shape[0], dtype=V.dtype, device=device(V)))

    def __neg__(self) -> Field:
        """The field -F at the same point."""
        return OperatorField(self.point, lambda X: -self.apply(X), lambda X: -self.apply_H(X))

    def flow_K(self, h: float) -> Array:
        """K(t+h) of ``K' = F(t, K V^H) V``, K(t) = U S, exactly.

        Raises
        ------
        NotImplementedError
            No closed form of the sub-flows is known for this field.
        """
        raise self._unknown_flow

    def flow_L(self, h: float) -> Array:
        """L(t+h) of ``L' = F(t, U L^H)^H U``, L(t) = V S^H, exactly; raises as `flow_K`."""
        raise self._unknown_flow

    def flow_S(self, h: float, sign: int = 1) -> Array:
        """S(t+h) of ``S' = sign U^H F(t, U S V^H) V``, S(t) = S, exactly; raises as `flow_K`.

        Time runs from t to t + h for both signs.
        """
        raise self._unknown_flow

    @property
    def _unknown_flow(self) -> NotImplementedError:
        return NotImplementedError(f"{type(self).__name__} has no exact sub-flows: choose a numerical substep")


@dataclass(frozen=True, eq=False)
class DenseField(Field):
    """A field given by its dense matrix; K and L cost O(m n r).

    Parameters
    ----------
    point : LowRank
        Y, of shape (m, n).
    matrix : array (m, n)
        F.
    """

    matrix: Array

    def apply(self, X: Array) -> Array:
        return self.matrix @ X

    def apply_H(self, X: Array) -> Array:
        return dagger(self.matrix) @ X

    def full(self) -> Array:
        return self.matrix


@dataclass(frozen=True, eq=False)
class OperatorField(Field):
    """A structured field (sparse, of low rank, ...) given by its products and never formed.

    Parameters
    ----------
    point : LowRank
        Y, of shape (m, n).
    product : callable
        Takes X (n, p) and returns ``F X``.
    product_H : callable
        Takes X (m, p) and returns ``F^H X``.
    """

    product: Callable[[Array], Array]
    product_H: Callable[[Array], Array]

    def apply(self, X: Array) -> Array:
        return self.product(X)

    def apply_H(self, X: Array) -> Array:
        return self.product_H(X)
