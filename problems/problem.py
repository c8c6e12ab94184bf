"""What every problem offers, and the lazy fields an integrator reads.

Conventions, used in the whole package. A matrix of low rank is given by a *point*: any object with arrays `U`
(m, rU), `S` (rU, rV), `V` (n, rV) that stands for ``Y = U S V^H``. The bases of a point need not be
orthonormal. A field evaluated at a point shows itself through the bases of this point,

    K = F V   (m, rV),     L = F^H U   (n, rU),     S = U^H F V   (rU, rV),

each computed when it is read, once. Problems are immutable; all their data are fields of a frozen dataclass,
so they can be pickled and sent to other processes.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

Array = Any  # a numpy array or a torch tensor


# ----------------------------------------------------------------------------------------------------
# small helpers on arrays of either library
# ----------------------------------------------------------------------------------------------------


def transpose(X: Array) -> Array:
    """Transpose ``X^T``, without conjugation."""
    return array_namespace(X).matrix_transpose(X)


def adjoint(X: Array) -> Array:
    """Conjugate transpose ``X^H``."""
    return array_namespace(X).conj(transpose(X))


def is_complex(X: Array) -> bool:
    """Whether the entries of an array are complex."""
    return bool(array_namespace(X).isdtype(X.dtype, "complex floating"))


def in_double(X: Array) -> Array:
    """The same array in double precision (float64 or complex128), same library, same device."""
    xp = array_namespace(X)
    return xp.astype(X, xp.complex128 if is_complex(X) else xp.float64)


def norm(X: Array) -> float:
    """Frobenius norm, accumulated in double precision."""
    xp = array_namespace(X)
    return float(xp.linalg.vector_norm(in_double(X)))


def convert(X: np.ndarray, like: Array) -> Array:
    """The numpy array `X` as an array of the library, dtype and device of `like`.

    Raises
    ------
    TypeError
        If `X` is complex and `like` is real: the imaginary part would be lost.
    """
    if np.iscomplexobj(X) and not is_complex(like):
        raise TypeError(f"a complex problem needs a complex point, got a point of dtype {like.dtype}")
    return array_namespace(like).asarray(X, dtype=like.dtype, device=device(like))


def full(Y: Any) -> Array:
    """The dense matrix ``U S V^H`` of a point, in double precision."""
    return in_double(Y.U) @ in_double(Y.S) @ adjoint(in_double(Y.V))


def orthonormal(n: int, rank: int, rng: np.random.Generator, dtype: Any = np.float64) -> np.ndarray:
    """Random (n, rank) matrix with orthonormal columns, Haar distributed.

    The Q factor of a Gaussian matrix is Haar distributed once R is made to have a positive diagonal (F.
    Mezzadri, arXiv:math-ph/0609050). Drawn in double precision and rounded to the numpy `dtype`.
    """
    check_rng(rng)
    Z = rng.standard_normal((n, rank))
    if np.issubdtype(dtype, np.complexfloating):
        Z = Z + 1j * rng.standard_normal((n, rank))
    Q, R = np.linalg.qr(Z)
    diagonal = np.diagonal(R)
    return (Q * (diagonal / np.abs(diagonal))).astype(dtype)


def best_approximation(P: np.ndarray, Q: np.ndarray, rank: int, rng: np.random.Generator, like: Array) -> tuple:
    """Best approximation of ``P Q^H`` of the given rank as a triple (U, S, V) with orthonormal U and V.

    Where `rank` exceeds the number of columns, random directions orthogonal to the others fill the bases and
    the matching entries of S are zero.

    Parameters
    ----------
    P, Q : (m, p) and (n, p) numpy arrays
    rank : at most min(m, n)
    rng : source of the filling directions
    like : array whose library, dtype and device the triple takes

    Notes
    -----
    Cost O((m + n) (p + rank)^2): QR of the factors, then the SVD of a small core.
    """
    check_rank(rank, (P.shape[0], Q.shape[0]))
    check_rng(rng)
    (U, R_U), (V, R_V) = (np.linalg.qr(X.astype(np.result_type(X, np.float64))) for X in (P, Q))
    left, s, right_H = np.linalg.svd(R_U @ R_V.conj().T)
    U, V, s = U @ left[:, :rank], V @ right_H.conj().T[:, :rank], s[:rank]
    U, V = (_fill(X, rank, rng) for X in (U, V))
    S = np.zeros((rank, rank))
    S[range(len(s)), range(len(s))] = s
    return tuple(convert(X, like) for X in (U, S, V))


def _fill(U: np.ndarray, rank: int, rng: np.random.Generator) -> np.ndarray:
    """Random orthonormal columns appended to the orthonormal `U` until it has `rank` of them."""
    missing = rank - U.shape[1]
    if missing <= 0:
        return U
    Z = orthonormal(U.shape[0], missing, rng, U.dtype)
    for _ in range(2):  # twice is enough for orthogonality to rounding
        Z = np.linalg.qr(Z - U @ (U.conj().T @ Z))[0]
    return np.hstack([U, Z])


# ----------------------------------------------------------------------------------------------------
# checks of what users pass
# ----------------------------------------------------------------------------------------------------


def check_matrix(name: str, X: Array) -> None:
    """Refuse what is not a finite two-dimensional array of floating point numbers, naming the argument.

    Raises
    ------
    TypeError
        If `X` is no array or its entries are not real or complex floating point numbers.
    ValueError
        If `X` is not two-dimensional, is empty, or has NaN or infinite entries.
    """
    try:
        xp = array_namespace(X)
    except TypeError:
        raise TypeError(f"{name} must be a numpy array or torch tensor, got {type(X).__name__}") from None
    if X.ndim != 2:
        raise ValueError(f"{name} must be a matrix (2 dimensions), got {X.ndim} dimensions, shape {tuple(X.shape)}")
    if min(X.shape) == 0:
        raise ValueError(f"{name} must not be empty, got shape {tuple(X.shape)}")
    if not xp.isdtype(X.dtype, ("real floating", "complex floating")):
        raise TypeError(f"{name} must have a real or complex floating dtype, got {X.dtype}")
    if not bool(xp.all(xp.isfinite(X))):
        raise ValueError(f"{name} must be finite, got NaN or infinite entries")


def check_rank(rank: int, shape: tuple[int, int]) -> None:
    """Refuse a rank that is no integer between 1 and min(m, n).

    Raises
    ------
    TypeError
        If `rank` is not an integer.
    ValueError
        If it is below 1 or exceeds min(m, n).
    """
    check_integer("rank", rank)
    if rank > min(shape):
        raise ValueError(f"rank {rank} exceeds min(m, n) = {min(shape)}")


def check_integer(name: str, value: int, least: int = 1) -> None:
    """Refuse what is not an integer of at least `least` (TypeError, ValueError)."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_singular_values(d: np.ndarray, shape: tuple[int, int]) -> None:
    """Refuse what is not a vector of 1 to min(m, n) positive, finite numbers (ValueError)."""
    if np.ndim(d) != 1 or not 1 <= len(d) <= min(shape):
        raise ValueError(f"singular_values must be 1 to min(m, n) = {min(shape)} numbers, got shape {np.shape(d)}")
    if not np.all(np.isfinite(d) & (np.asarray(d) > 0)):
        raise ValueError(f"singular_values must be positive and finite, got {d}")


def check_orthonormal(name: str, U: np.ndarray) -> None:
    """Refuse a matrix whose columns are not orthonormal up to 10^4 rounding errors (ValueError)."""
    defect = float(np.abs(U.conj().T @ U - np.eye(U.shape[1])).max())
    if not defect <= 1e4 * np.finfo(U.dtype).eps:
        raise ValueError(f"{name} must have orthonormal columns, got ||{name}^H {name} - I|| = {defect:.1e}")


def check_rng(rng: np.random.Generator) -> None:
    """Refuse what is not an explicit numpy generator (TypeError)."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator, got {type(rng).__name__}")


# ----------------------------------------------------------------------------------------------------
# fields
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Field(ABC):
    """A matrix field F evaluated at a point (t, Y), seen through the bases of Y.

    A subclass gives the products with F; this class derives K, L and S from them, lazily and once.

    Parameters
    ----------
    point : object with arrays U, S, V
    """

    point: Any

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
        return adjoint(self.point.U) @ self.K

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
            If no closed form of the sub-flows is known for this field.
        """
        raise NotImplementedError(f"{type(self).__name__} has no exact sub-flows: choose a numerical substep")

    def flow_L(self, h: float) -> Array:
        """L(t+h) of ``L' = F(t, U L^H)^H U``, L(t) = V S^H, exactly; raises as `flow_K`."""
        raise NotImplementedError(f"{type(self).__name__} has no exact sub-flows: choose a numerical substep")

    def flow_S(self, h: float, sign: int = 1) -> Array:
        """S(t+h) of ``S' = sign U^H F(t, U S V^H) V``, S(t) = S, exactly; raises as `flow_K`.

        Time runs from t to t + h for both signs.
        """
        raise NotImplementedError(f"{type(self).__name__} has no exact sub-flows: choose a numerical substep")


@dataclass(frozen=True, eq=False)
class DenseField(Field):
    """A field given by its dense matrix; K and L cost O(m n r).

    Parameters
    ----------
    point : object with arrays U, S, V
    matrix : (m, n) array
    """

    matrix: Array

    def apply(self, X: Array) -> Array:
        return self.matrix @ X

    def apply_H(self, X: Array) -> Array:
        return adjoint(self.matrix) @ X

    def full(self) -> Array:
        return self.matrix


@dataclass(frozen=True, eq=False)
class OperatorField(Field):
    """A structured field (sparse, of low rank, ...) given by its products, never formed.

    Parameters
    ----------
    point : object with arrays U, S, V
    product : function of X (n, p) that returns ``F X``
    product_H : function of X (m, p) that returns ``F^H X``
    """

    product: Callable[[Array], Array]
    product_H: Callable[[Array], Array]

    def apply(self, X: Array) -> Array:
        return self.product(X)

    def apply_H(self, X: Array) -> Array:
        return self.product_H(X)


# ----------------------------------------------------------------------------------------------------
# problems
# ----------------------------------------------------------------------------------------------------


class Problem(ABC):
    """A matrix differential equation ``Y' = F(t, Y)``, Y of shape (m, n).

    To add a problem, write a frozen dataclass (``eq=False``) that derives from this class and gives `name`,
    `shape`, `like`, `initial` and `field`; `reference` where a solution is known; `t_end` where 1 is no good
    horizon.
    """

    name: str
    t_end: float = 1.0

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(m, n)."""

    @property
    @abstractmethod
    def like(self) -> Array:
        """An array of the library, dtype and device in which the problem starts."""

    @property
    def dtype(self) -> Any:
        """The dtype of `initial`."""
        return self.like.dtype

    @abstractmethod
    def initial(self, rank: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
        """Start (U, S, V), orthonormal U (m, rank) and V (n, rank), S (rank, rank), in the problem's
        dtype."""

    @abstractmethod
    def field(self, t: float, Y: Any) -> Field:
        """The field F(t, Y) at a point."""

    def reference(self, t: float) -> Array | None:
        """The exact solution at time t as a dense double precision array; None where none is known."""
        return None

    def error(self, t: float, Y: Any) -> float:
        """Frobenius distance of a point to the reference, measured in double precision.

        Raises
        ------
        ValueError
            If the problem has no reference solution.
        """
        exact = self.reference(t)
        if exact is None:
            raise ValueError(f"{self.name} has no reference solution to measure an error against")
        W = full(Y)
        xp = array_namespace(W)
        return float(xp.linalg.vector_norm(W - xp.asarray(exact, device=device(W))))


class LossProblem(Problem):
    """A loss f(W) on (m, n) matrices; its gradient flow is the differential equation, ``F = -grad f``.

    The gradient is that of the real inner product ``Re tr(A^H B)``, so ``f(W + D) = f(W) + Re tr(G^H D) +
    o(D)`` for real and complex W.

    Attributes
    ----------
    convex : whether f is convex
    """

    convex: bool = False

    @property
    def stochastic(self) -> bool:
        """Whether `minibatch` draws at random."""
        return False

    @abstractmethod
    def loss(self, Y: Any) -> float:
        """f at a point, accumulated in double precision."""

    def gradient(self, Y: Any) -> Field:
        """grad f at a point."""
        return -self.field(0.0, Y)

    @property
    @abstractmethod
    def lipschitz(self) -> float:
        """Smallest known L with ``||grad f(X) - grad f(Y)|| <= L ||X - Y||`` in the Frobenius norm."""

    @abstractmethod
    def gradient_bound(self, radius: float) -> float:
        """A bound of ``||grad f(W)||_F`` on the ball ``||W||_F <= radius``."""

    @abstractmethod
    def minimum(self, rank: int | None = None) -> float:
        """Lower bound of f on the matrices of rank at most `rank` (None: on all); the class says if sharp."""

    def initial(self, rank: int, rng: np.random.Generator, norm: float = 0.0) -> tuple[Array, Array, Array]:
        """Random orthonormal bases and an S of given size.

        Parameters
        ----------
        rank : 1 to min(m, n)
        rng : source of the bases (Haar distributed) and of S, drawn in the order U, V, S
        norm : Frobenius norm of the start. The default 0 gives S = 0, the usual start of an adapter;
            otherwise S is Gaussian, scaled to this norm.
        """
        check_rank(rank, self.shape)
        if not 0 <= norm < math.inf:
            raise ValueError(f"norm must be finite and not negative, got {norm}")
        dtype = np.complex128 if is_complex(self.like) else np.float64
        U, V = (orthonormal(n, rank, rng, dtype) for n in self.shape)
        S = np.zeros((rank, rank), dtype)
        if norm:
            S += rng.standard_normal((rank, rank))
            S *= norm / np.linalg.norm(S)
        return tuple(convert(X, self.like) for X in (U, S, V))

    def minibatch(self, rng: np.random.Generator) -> LossProblem:
        """The loss of one random mini-batch; the problem itself where nothing is random."""
        return self

    def variance(self, Y: Any) -> float:
        """``E ||g - G||_F^2`` at a point, g the gradient of a mini-batch and G = E g the full gradient."""
        return 0.0

    def variance_bound(self, radius: float) -> float:
        """A bound of `variance` on the ball ``||W||_F <= radius``."""
        return 0.0


class FiniteSum(LossProblem):
    """A mean of N losses, ``f = (1/N) sum_i f_i``, with mini-batches of `batch_size` drawn without
    replacement.

    The loss of a mini-batch B with b elements is ``f_B = (1/b) sum_{i in B} f_i``. A uniformly drawn subset
    contains
    each i with probability b/N, hence ``E f_B = (1/b) sum_i (b/N) f_i = f``, and by linearity ``E grad f_B =
    grad f``: mini-batch gradients are unbiased. Their variance is that of a mean drawn without replacement
    from a finite population,

        E ||g - G||^2 = (N - b) / (b (N - 1)) * ( (1/N) sum_i ||grad f_i||^2 - ||G||^2 ).

    A subclass gives `samples` (N), `batch_size` (None: no mini-batches) and `subset`.
    """

    batch_size: int | None

    @property
    @abstractmethod
    def samples(self) -> int:
        """N, the number of losses in the mean."""

    @abstractmethod
    def subset(self, indices: np.ndarray) -> LossProblem:
        """The mean of the chosen losses alone, as a deterministic problem."""

    @property
    def stochastic(self) -> bool:
        return self._batch < self.samples

    def minibatch(self, rng: np.random.Generator) -> LossProblem:
        check_rng(rng)
        if not self.stochastic:
            return self
        return self.subset(rng.choice(self.samples, self._batch, replace=False, shuffle=False))

    def enumerate_minibatches(self) -> Iterator[LossProblem]:
        """All mini-batches, each equally probable, so that expectations can be computed exactly.

        Raises
        ------
        ValueError
            If there are more than 100,000 of them.
        """
        b = self._batch
        if math.comb(self.samples, b) > 100_000:
            raise ValueError(
                f"{math.comb(self.samples, b)} mini-batches ({b} of {self.samples}) are too many to enumerate"
            )
        return (self.subset(np.array(chosen)) for chosen in itertools.combinations(range(self.samples), b))

    def _check_batch_size(self) -> None:
        if self.batch_size is None:
            return
        check_integer("batch_size", self.batch_size)
        if self.batch_size > self.samples:
            raise ValueError(f"batch_size {self.batch_size} exceeds the number of samples {self.samples}")

    def _population_factor(self) -> float:
        """``(N - b) / (b (N - 1))``, zero for the full batch."""
        return (self.samples - self._batch) / (self._batch * (self.samples - 1)) if self.stochastic else 0.0

    @property
    def _batch(self) -> int:
        """b, N without mini-batches."""
        return self.samples if self.batch_size is None else self.batch_size
