"""The lazy fields that an integrator reads: F at a point Y, seen through the bases of Y.

A point is an :class:`integrators.LowRank`, ``Y = U S V^H`` with U (m, rU), S (rU, rV), V (n, rV); its bases need not
be orthonormal. A field shows itself through them,

    K = F V   (m, rV),     L = F^H U   (n, rU),     S = U^H F V   (rU, rV),

each computed once, when it is first read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import matmul
from typing import TYPE_CHECKING, Any

import numpy as np
from array_api_compat import device

from integrators.linalg import array_namespace, dagger, eps, is_complex, taken, units
from integrators.lowrank import LowRank

if TYPE_CHECKING:
    from .linear_part import LinearPart

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

    def rows(self, p: Sequence[int]) -> Array:
        """The rows ``F[p, :]``, shape (|p|, n)."""
        return dagger(self.apply_H(units(self.point.U, p)))

    def columns(self, q: Sequence[int]) -> Array:
        """The columns ``F[:, q]``, shape (m, |q|)."""
        return self.apply(units(self.point.V, q))

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
    def linear(self) -> LinearPart | None:
        """A linear part ``A Y + Y B`` of F, which does not depend on time; None where none is declared."""
        return None

    def linear_part(self, part: str) -> Any:
        """That linear part as an operator on K, L or S, or on matrices of low rank ("Y"); None where there is none."""
        return None if self.linear is None else self.linear.seen(self.point, part)

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

    def rows(self, p: Sequence[int]) -> Array:
        return taken(self.matrix, p, 0)

    def columns(self, q: Sequence[int]) -> Array:
        return taken(self.matrix, q, 1)

    def full(self) -> Array:
        return self.matrix


@dataclass(frozen=True, eq=False)
class LinearField(Field):
    """An affine field ``F(Y) = sum_k A_k Y B_k + C`` with ``C = C1 C2^H`` of low rank, never formed.

    With ``a_k = U^H A_k U`` and ``b_k = V^H B_k V``

        K = sum_k (A_k U) S b_k + C V,   L = sum_k (B_k^H V) S^H a_k^H + C^H U,   S = sum_k a_k S b_k + U^H C V.

    During a step what depends on one basis alone is noted at the point (`LowRank.with_notes`) and used again at every
    point with the same basis: in the stages of a K-step all but ``A_k K``, in those of an S-step everything, which then
    cost O(r^3). A subclass gives the products.
    """

    @abstractmethod
    def left(self, U: Array) -> tuple[Array, ...]:
        """``A_k U`` of every term; U itself, the same object, where A_k is the identity."""

    @abstractmethod
    def right(self, V: Array) -> tuple[Array, ...]:
        """``B_k^H V`` of every term; V itself where B_k is the identity."""

    @property
    def owner(self) -> Any:
        """What the coefficients belong to, usually the problem: notes are kept for it."""
        return self

    @property
    def constant(self) -> tuple[Array, Array] | None:
        """C1 (m, c) and C2 (n, c); None where C = 0."""
        return None

    @cached_property
    def of_U(self) -> Side:
        """``A_k U``, ``a_k``, ``C^H U``."""
        U = self.point.U
        return noted(self.point, "U", self.owner, lambda: Side(U, self.left(U), self.constant))

    @cached_property
    def of_V(self) -> Side:
        """``B_k^H V``, ``b_k^H``, ``C V``."""
        V, C = self.point.V, self.constant
        return noted(self.point, "V", self.owner, lambda: Side(V, self.right(V), C and C[::-1]))

    @cached_property
    def K(self) -> Array:
        return self.of_U.through(self.point.S, self.of_V)

    @cached_property
    def L(self) -> Array:
        return self.of_V.through(dagger(self.point.S), self.of_U)

    @cached_property
    def S(self) -> Array:
        S, left, right = self.point.S, self.of_U, self.of_V
        terms = [_product(a, S, b_H) for a, b_H in zip(left.small, right.small_H, strict=True)]
        return _total([], terms if self.constant is None else [*terms, dagger(left.inner) @ right.inner])

    def apply(self, X: Array) -> Array:
        left, right, S = self.of_U.products, self.of_V.products, self.point.S
        F = sum(AU @ (S @ (dagger(BV) @ X)) for AU, BV in zip(left, right, strict=True))
        return F if self.constant is None else F + self.constant[0] @ (dagger(self.constant[1]) @ X)

    def apply_H(self, X: Array) -> Array:
        left, right, S = self.of_U.products, self.of_V.products, self.point.S
        F = sum(BV @ (dagger(S) @ (dagger(AU) @ X)) for AU, BV in zip(left, right, strict=True))
        return F if self.constant is None else F + self.constant[1] @ (dagger(self.constant[0]) @ X)


@dataclass(frozen=True, eq=False)
class NonlinearField(LinearField):
    """A field ``F(Y) = sum_k A_k Y B_k + C + N(Y)`` whose nonlinear part is known at the point, if possible by factors.

    A subclass gives the linear terms, as for `LinearField`, and N. A product with p vectors costs O((m + n) R p) for
    R columns of the factors, O(m n p) for the dense matrix.
    """

    @property
    @abstractmethod
    def nonlinear(self) -> tuple[Array, Array] | Array:
        """P (m, R) and Q (n, R) of ``N(Y) = P Q^H``, or N(Y) itself (m, n); computed once."""

    def _times(self, X: Array) -> Array:
        N = self.nonlinear
        return N[0] @ (dagger(N[1]) @ X) if isinstance(N, tuple) else N @ X

    def _H_times(self, X: Array) -> Array:
        N = self.nonlinear
        return N[1] @ (dagger(N[0]) @ X) if isinstance(N, tuple) else dagger(N) @ X

    @cached_property
    def K(self) -> Array:
        return super().K + self._times(self.point.V)

    @cached_property
    def L(self) -> Array:
        return super().L + self._H_times(self.point.U)

    @cached_property
    def S(self) -> Array:
        return super().S + dagger(self.point.U) @ self._times(self.point.V)

    def apply(self, X: Array) -> Array:
        return super().apply(X) + self._times(X)

    def apply_H(self, X: Array) -> Array:
        return super().apply_H(X) + self._H_times(X)


class Side:
    """What a `LinearField` computes from one basis X of a point, U or V; below in the letters of U.

    Parameters
    ----------
    X : array
        U.
    products : tuple of arrays
        ``A_k U``.
    C : pair of arrays, optional
        C1 and C2.
    """

    def __init__(self, X: Array, products: tuple[Array, ...], C: tuple[Array, Array] | None):
        self.X, self.products, self.C = X, products, C

    @cached_property
    def small(self) -> tuple[Any, ...]:
        """``a_k = U^H A_k U``; None for the identity, where A_k is that and U orthonormal up to 100 eps."""
        return tuple(_gram(self.X) if AX is self.X else dagger(self.X) @ AX for AX in self.products)

    @cached_property
    def small_H(self) -> tuple[Any, ...]:
        """``a_k^H``."""
        return tuple(None if a is None else dagger(a) for a in self.small)

    @cached_property
    def inner(self) -> Array | None:
        """``C1^H U``; None for C = 0."""
        return None if self.C is None else dagger(self.C[0]) @ self.X

    @cached_property
    def outer(self) -> Array | None:
        """``C^H U``; None for C = 0."""
        return None if self.C is None else self.C[1] @ self.inner

    def through(self, S: Array, other: Side) -> Array:
        """``sum_k (A_k U) S b_k + C V`` with the other basis V."""
        S = None if _is_identity(S, 0.0) else S  # as in the stages of K- and L-steps
        new: list[Array] = []
        kept = [] if other.outer is None else [other.outer]
        for AX, b_H in zip(self.products, other.small_H, strict=True):
            M = _product(S, b_H)
            (kept if M is None else new).append(_product(AX, M))
        return _total(new, kept)


def noted(Y: LowRank, about: str, key: Any, compute: Callable[[], Any]) -> Any:
    """``compute()``, or what is noted for the key at the point (`LowRank.with_notes`) since an earlier stage of a step.

    Parameters
    ----------
    Y : LowRank
    about : {"U", "V", "t"}
        The factor that the value depends on; "t" where it depends on none of them.
    key : hashable
        Whatever else it depends on: the problem, the time.
    compute : callable
    """
    notes = {} if Y.notes is None else Y.notes[about]
    if key not in notes:
        notes[key] = compute()
    return notes[key]


def _product(*factors: Array | None) -> Any:
    """The product of matrices, None being the identity."""
    given = [X for X in factors if X is not None]
    return reduce(matmul, given) if given else None


def _total(new: list[Array], kept: list[Array]) -> Array:
    """The sum of all arrays, in the memory of a new one where there is one; the kept ones stay as they are."""
    if not new and len(kept) > 1:
        new, kept = [kept[0] + kept[1]], kept[2:]
    first, *others = [*new, *kept]
    for X in others:
        first += X
    return first


def _gram(X: Array) -> Array | None:
    """``X^H X``; None for the identity, up to 100 eps."""
    G = dagger(X) @ X
    return None if _is_identity(G, 100 * eps(G)) else G


def _is_identity(M: Array, tolerance: float) -> bool:
    xp, (rows, columns) = array_namespace(M), M.shape
    if rows != columns:
        return False
    return bool(xp.all(xp.abs(M - xp.eye(rows, dtype=M.dtype, device=device(M))) <= tolerance))


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
