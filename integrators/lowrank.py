"""The low-rank matrix ``Y = U S V^H``: the one data structure of the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from array_api_compat import device

from .checks import check_array, check_number, check_precision, check_rank, check_rng, check_shape, described
from .linalg import (
    array_namespace,
    columns,
    concat,
    dagger,
    double_svd,
    eps,
    gaussian,
    haar,
    in_double,
    is_complex,
    is_floating,
    qr,
    rotate,
    to_numpy,
)

__all__ = ["LowRank"]

Array = Any


@dataclass(frozen=True, eq=False)
class LowRank:
    r"""A matrix of low rank in factored form, :math:`Y = U S V^H`.

    Parameters
    ----------
    U : array (..., m, rU)
    S : array (..., rU, rV)
    V : array (..., n, rV)
        numpy or torch arrays of one dtype. Methods on the manifold of rank-r matrices keep U and V orthonormal. The
        points of a K-step (``U = K, S = I``), of an L-step and of LoRA-type methods are not: nothing here but
        :meth:`project` and :meth:`embed` assumes it. The S of an augmented matrix need not be square. Leading
        axes make a stack of matrices, on which everything here works; :meth:`random` and :meth:`zeros` draw one
        matrix.
    ranks : sequence of int, optional
        Of the matrices of a stack, where they differ: the further columns of U and V and entries of S are zero.

    Raises
    ------
    TypeError
        The entries are not floating-point numbers.
    ValueError
        The shapes or dtypes do not fit.
    """

    U: Array
    S: Array
    V: Array
    ranks: Sequence[int] | None = field(default=None, kw_only=True)

    notes: ClassVar[dict[str, dict] | None] = None
    """What fields have computed in this step from U, from V, and from neither, see :meth:`with_notes`; mostly None."""

    def __post_init__(self):
        U, S, V = self.U, self.S, self.V
        for name, X in (("U", U), ("S", S), ("V", V)):
            if getattr(X, "ndim", 0) < 2:
                raise ValueError(f"{name} must be an array with at least 2 axes, got {described(X)}")
        if tuple(S.shape[-2:]) != (U.shape[-1], V.shape[-1]):
            raise ValueError(f"S has shape {tuple(S.shape)}, expected (..., {U.shape[-1]}, {V.shape[-1]}) from U and V")
        if not U.dtype == S.dtype == V.dtype:
            raise ValueError(f"U, S and V must have one dtype, got {U.dtype}, {S.dtype} and {V.dtype}")
        if not is_floating(U):
            raise TypeError(f"U, S and V must have a real or complex floating dtype, got {U.dtype}")

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., m, n)."""
        return (*self.U.shape[:-1], self.V.shape[-2])

    @property
    def rank(self) -> int:
        """Number of columns of the narrower basis: an upper bound of the rank of Y."""
        return min(self.S.shape[-2:])

    @property
    def dtype(self):
        """dtype of the factors."""
        return self.U.dtype

    def __repr__(self):
        """Shape, rank and dtype."""
        return f"LowRank(shape={self.shape}, rank={self.rank}, dtype={self.dtype})"

    @cached_property
    def columns(self) -> tuple[Array, Array]:
        """Which columns of U (..., rU) and of V (..., rV) are not zero."""
        return columns(self.U), columns(self.V)

    @property
    def widths(self) -> tuple[Any, Any]:
        """Numbers of columns of U and V; those that are not zero of each matrix of a stack, as arrays (..., 1, 1)."""
        if self.U.ndim == 2:
            return tuple(self.S.shape)  # type: ignore[return-value]
        xp = array_namespace(self.U)
        dtype = xp.real(self.S).dtype if is_complex(self.S) else self.dtype
        rU, rV = (xp.sum(xp.astype(used, dtype), axis=-1)[..., None, None] for used in self.columns)
        return rU, rV

    # -- views -----------------------------------------------------------------------------------------------------

    def __iter__(self):
        """U, S and V, for unpacking."""
        return iter((self.U, self.S, self.V))

    @property
    def H(self) -> LowRank:
        """The conjugate transpose ``V S^H U^H``."""
        return LowRank(self.V, dagger(self.S), self.U)

    @property
    def K(self) -> Array:
        """``U S`` (..., m, rV), so that Y = K V^H."""
        return self.U @ self.S

    @property
    def L(self) -> Array:
        """``V S^H`` (..., n, rU), so that Y = U L^H."""
        return self.V @ dagger(self.S)

    def replace(self, **factors: Array) -> LowRank:
        """The matrix with other factors instead of those named; it shares the notes on a basis that stays."""
        Y = LowRank(**(dict(zip("USV", self, strict=True)) | factors))
        if self.notes is None:
            return Y
        return Y.with_notes(**{name: notes for name, notes in self.notes.items() if name not in factors})

    def with_notes(self, **notes: dict) -> LowRank:
        """The matrix with room for what fields compute from U or V, or from neither, to be used at further points.

        :meth:`Integrator.advance` gives it to the start of a step, and :meth:`replace` and :meth:`embed` pass it on.
        No other matrix has it and it does not outlive the step, so that nothing out of date is ever used as long as
        no array is changed in place *during* a step.
        """
        Y = LowRank(*self)
        object.__setattr__(Y, "notes", {"U": {}, "V": {}, "t": {}} | notes)
        return Y

    def full(self) -> Array:
        """The dense matrix (..., m, n). Cost O(m n r): for tests, plots and small problems."""
        return self.K @ dagger(self.V)

    def in_double(self) -> LowRank:
        """The same matrix with its factors in double precision."""
        return LowRank(*map(in_double, self))

    # -- numbers ---------------------------------------------------------------------------------------------------

    def core(self) -> Array:
        """A small matrix with the singular values of Y, from QR factors of U and V. Cost O((m + n) r^2)."""
        return qr(self.U)[1] @ self.S @ dagger(qr(self.V)[1])

    def singular_values(self) -> Array:
        """Singular values, largest first, in double precision; U and V may be any. Cost O((m + n) r^2)."""
        return double_svd(self.core())[1]

    def norm(self) -> Any:
        """Frobenius norm, a float (for a stack an array); U and V may be any. Cost O((m + n) r^2)."""
        norms = array_namespace(self.U).linalg.vector_norm(self.singular_values(), axis=-1)
        return norms if norms.ndim else float(norms)

    def orthonormalised(self) -> LowRank:
        """The same matrix with orthonormal U and V and a square S.

        It is this one, bit for bit, where all that is so already, U and V up to 100 eps.
        """
        xp = array_namespace(self.U)

        def defect(X):
            one = xp.eye(X.shape[-1], dtype=X.dtype, device=device(X))
            return float(xp.max(xp.abs(dagger(X) @ X - one))) if X.shape[-1] else 0.0

        Y = self
        if not max(defect(Y.U), defect(Y.V)) <= 100 * eps(Y.U):
            (U, R), (V, T) = qr(Y.U), qr(Y.V)
            Y = LowRank(U, R @ Y.S @ dagger(T), V)
        if Y.S.shape[-2] == Y.S.shape[-1]:
            return Y
        P, d, Q = double_svd(Y.S)
        return diagonalise(Y, P, d, Q, Y.rank)

    # -- geometry (U and V orthonormal) ----------------------------------------------------------------------------

    def project(self, Z: Array | LowRank) -> LowRank:
        r"""Tangent projection :math:`P(Y) Z = U U^H Z + Z V V^H - U U^H Z V V^H`, for orthonormal U and V.

        Parameters
        ----------
        Z : array (m, n) or LowRank of that shape

        Returns
        -------
        LowRank
            Of rank at most 2 r. No m x m or n x n projector is formed: O(m n r) for dense Z, O((m + n) r^2) for a
            low-rank one.

        Raises
        ------
        TypeError, ValueError
            Z is no matrix of the shape of this one.
        """
        if not isinstance(Z, LowRank):
            check_array("Z", Z)
        if tuple(Z.shape[-2:]) != tuple(self.shape[-2:]):
            raise ValueError(f"Z must have shape {tuple(self.shape)}, got {tuple(Z.shape)}")
        if isinstance(Z, LowRank):
            ZV, ZHU = Z.K @ (dagger(Z.V) @ self.V), Z.L @ (dagger(Z.U) @ self.U)
        else:
            ZV, ZHU = Z @ self.V, dagger(Z) @ self.U
        return sum_of_two(self.U, ZHU, ZV - self.U @ (dagger(self.U) @ ZV), self.V)

    def embed(self, U: Array, V: Array) -> LowRank:
        """``U U^H Y V V^H`` in the orthonormal bases U and V: the same matrix wherever they contain the old bases."""
        for name, X, n in (("U", U, self.shape[-2]), ("V", V, self.shape[-1])):
            check_array(name, X)
            if X.ndim < 2 or X.shape[-2] != n:
                raise ValueError(f"{name} must have {n} rows, got shape {tuple(X.shape)}")
        return self.replace(U=U, S=(dagger(U) @ self.U) @ self.S @ (dagger(self.V) @ V), V=V)

    # -- constructors ----------------------------------------------------------------------------------------------

    @classmethod
    def from_dense(cls, A: Array, rank: int | None = None, tol: float | None = None) -> LowRank:
        """Best approximation of ``A`` (m, n) of the given rank, or of the smallest rank with error <= tol (Frobenius).

        Integers and booleans are taken as float64. With ``rank``, A may be a stack (..., m, n).

        Raises
        ------
        TypeError
            A is no array of numbers in single or double precision.
        ValueError
            Not exactly one of ``rank`` and ``tol`` is given, or one does not fit; A has no two axes or no entries.
        FloatingPointError
            A has NaN or infinite entries.
        """
        if (rank is None) == (tol is None):
            raise ValueError(f"from_dense takes either rank or tol, got rank={rank} and tol={tol}")
        xp = check_array("A", A)
        if A.ndim < 2 or 0 in A.shape:
            raise ValueError(f"A must be a matrix with entries, got shape {tuple(A.shape)}")
        if xp.isdtype(A.dtype, ("integral", "bool")):
            A = xp.astype(A, xp.float64)
        check_precision("A", A)
        P, d, Q = double_svd(A)
        if rank is None:
            if A.ndim > 2:
                raise ValueError(f"from_dense of a stack needs a rank, got tol={tol} for shape {tuple(A.shape)}")
            tails = np.sqrt(np.cumsum(np.square(to_numpy(d)[::-1])))[::-1]
            rank = max(1, int(np.sum(tails > check_number("tol", tol, 0.0))))
        rank = check_rank(rank, A.shape)
        S = xp.astype(d[..., :rank, None] * xp.eye(rank, dtype=d.dtype, device=device(d)), A.dtype)
        return cls(xp.astype(P[..., :, :rank], A.dtype), S, xp.astype(Q[..., :, :rank], A.dtype))

    @classmethod
    def random(
        cls, shape, rank: int, rng: np.random.Generator, like: Array | None = None, singular_values=None
    ) -> LowRank:
        """Haar-distributed orthonormal bases and given singular values.

        Parameters
        ----------
        shape : (int, int)
        rank : int
            1 <= rank <= min(shape).
        rng : numpy.random.Generator
        like : array, optional
            Gives library, dtype and device; numpy's float64 without it.
        singular_values : sequence of ``rank`` floats, optional
            Without it S is Gaussian.

        Raises
        ------
        ValueError
            The rank exceeds min(shape) or does not fit the singular values, or these are not finite.
        TypeError
            ``rng`` is not a numpy Generator, or ``like`` has no floating dtype.
        """
        shape = check_shape(shape)
        rank = check_rank(rank, shape)
        check_rng(rng)
        like = np.zeros(()) if like is None else like
        xp = array_namespace(like)
        wide = np.complex128 if is_complex(like) else np.float64
        U, V = (haar(n, rank, rng, wide) for n in shape)
        if singular_values is None:
            S = gaussian((rank, rank), rng, wide)
        elif len(singular_values) == rank:
            S = np.diag(np.asarray([check_number("singular_values", d) for d in singular_values]))
        else:
            raise ValueError(f"singular_values must have rank = {rank} entries, got {len(singular_values)}")
        return cls(*(xp.asarray(X, dtype=like.dtype, device=device(like)) for X in (U, S, V)))

    @classmethod
    def zeros(cls, shape, rank: int, rng: np.random.Generator, like: Array | None = None) -> LowRank:
        """The zero matrix in random orthonormal bases (S = 0): the usual start of an adapter."""
        return cls.random(shape, rank, rng, like, singular_values=[0.0] * check_rank(rank, check_shape(shape)))


def sum_of_two(A: Array, B: Array, C: Array, D: Array) -> LowRank:
    """``A B^H + C D^H`` for A (..., m, p), B (..., n, p), C (..., m, q), D (..., n, q); nothing is orthonormalised."""
    xp = array_namespace(A)
    rank = A.shape[-1] + C.shape[-1]
    one = xp.eye(rank, dtype=A.dtype, device=device(A))
    return LowRank(concat(A, C), xp.broadcast_to(one, (*A.shape[:-2], rank, rank)), concat(B, D))


def diagonalise(Y: LowRank, P: Array, d: Array, Q: Array, rank: int) -> LowRank:
    """Y in the bases of its first ``rank`` singular vectors, from the double SVD P, d, Q of its S."""
    xp = array_namespace(Y.S)
    S = xp.astype(d[..., :rank, None] * xp.eye(rank, dtype=d.dtype, device=device(d)), Y.S.dtype)
    return LowRank(rotate(Y.U, P[..., :rank]), S, rotate(Y.V, Q[..., :rank]))
