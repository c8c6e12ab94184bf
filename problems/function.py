"""A matrix differential equation from a plain function of t and Y, without a class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from integrators.checks import check_array, check_instance, check_integer, check_matrix, described
from integrators.fields import Projections
from integrators.linalg import dagger, eps, norm, to_numpy
from integrators.lowrank import LowRank

from .fields import Array, DenseField, Field, OperatorField, convert
from .problem import Problem, best_approximation


@dataclass(frozen=True, eq=False)
class FunctionProblem(Problem):
    """Equation ``Y' = f(t, Y)`` with a plain function on its right-hand side; :func:`from_function` makes it.

    Its constants and its exact sub-flows are unknown.
    """

    size: tuple[int, int]
    f: Callable[[float, LowRank], Any]
    start: LowRank | None = None
    solution: Callable[[float], Any] | None = None

    @property
    def name(self) -> str:  # type: ignore[override]
        """That of the function."""
        return getattr(self.f, "__name__", type(self.f).__name__)

    def __post_init__(self) -> None:
        if self.start is not None:
            check_instance("start", self.start, LowRank)

    @property
    def shape(self) -> tuple[int, int]:
        return self.size

    @property
    def like(self) -> Array:
        """The S of the given start; numpy's float64 without one."""
        return np.empty((0, 0)) if self.start is None else self.start.S

    def initial(self, rank: int, rng: np.random.Generator) -> LowRank:
        """Best approximation of the given start; random directions with zero singular values beyond its rank.

        Raises
        ------
        ValueError
            No start was given.
        """
        if self.start is None:
            raise ValueError(f"{self.name} has no start: give initial to from_function, or start to dlrt.solve")
        return best_approximation(to_numpy(self.start.K), to_numpy(self.start.V), rank, rng, self.like)

    def field(self, t: float, Y: LowRank) -> Any:
        """f(t, Y), seen through the bases of Y. Cost O(m n r) where it is dense, else O((m + n) r^2)."""
        F = self.f(t, Y)
        if isinstance(F, (Field, Projections)):
            return F
        terms = [F] if isinstance(F, LowRank) else F
        if not (isinstance(terms, (list, tuple)) and terms and all(isinstance(Z, LowRank) for Z in terms)):
            check_array("what f returns", F)
            self._check_shape("what f returns", F)
            return DenseField(Y, _like(F, Y))
        for Z in terms:
            self._check_shape("a matrix that f returns", Z)
        sums = [LowRank(*(_like(X, Y) for X in Z)) for Z in terms]
        return OperatorField(
            Y,
            lambda X: _sum(Z.K @ (dagger(Z.V) @ X) for Z in sums),
            lambda X: _sum(Z.L @ (dagger(Z.U) @ X) for Z in sums),
        )

    def reference(self, t: float) -> Array | None:
        """The given solution at time t."""
        if self.solution is None:
            return None
        A = self.solution(t)
        self._check_shape("what reference returns", A)
        return A.full() if isinstance(A, LowRank) else A

    def _check_shape(self, name: str, X: Any) -> None:
        if tuple(np.shape(X) if not hasattr(X, "shape") else X.shape) != self.shape:
            raise ValueError(f"{name} must have shape {self.shape}, got {described(X)}")


def from_function(
    shape: tuple[int, int],
    f: Callable[[float, LowRank], Any],
    *,
    initial: Array | LowRank | None = None,
    reference: Callable[[float], Any] | None = None,
) -> FunctionProblem:
    """A plain function as a problem: the equation ``Y' = f(t, Y)`` for Y of shape (m, n).

    Parameters
    ----------
    shape : (int, int)
        (m, n).
    f : callable
        ``f(t, Y)`` takes the time and the point, an :class:`integrators.LowRank` with ``Y.U`` (m, r), ``Y.S`` (r, r),
        ``Y.V`` (n, r) and ``Y.full()``, the dense matrix ``U S V^H``. (Inside a step the bases need not be
        orthonormal.) It returns the derivative there, in one of these forms:

        - a dense (m, n) array: the simplest, cost O(m n r) for each evaluation and the memory of a dense matrix;
        - a `LowRank`, or a list of those whose sum is meant: nothing of size m n is formed. ``A Y + Y B + P Q^H`` is
          ``[LowRank(A @ Y.U, Y.S, Y.V), LowRank(Y.U, Y.S, B.conj().T @ Y.V), LowRank(P, I, Q)]``;
        - an :class:`integrators.Projections` at Y, for whoever wants to compute K, L and S alone.

        Of integers, or of another precision, it is converted to the dtype of Y.
    initial : array (m, n) or LowRank, optional
        The start. A run of rank r begins at its best approximation of rank r, filled up by random directions where r
        exceeds its rank; it gives library and dtype of the points. Without it, ``dlrt.solve`` needs a ``start``.
    reference : callable, optional
        ``reference(t)`` returns the exact solution, a dense array or a `LowRank`. With it, errors are recorded.

    Raises
    ------
    TypeError, ValueError
        An argument is not as above. What f returns is checked when it is called.

    Examples
    --------
    >>> A = np.diag(-np.arange(1.0, 6.0))
    >>> problem = from_function((5, 4), lambda t, Y: LowRank(A @ Y.U, Y.S, Y.V), initial=np.ones((5, 4)))
    >>> problem.initial(1, np.random.default_rng(0))
    LowRank(shape=(5, 4), rank=1, dtype=float64)
    """
    if not isinstance(shape, (tuple, list)) or len(shape) != 2:
        raise TypeError(f"shape must be a pair (m, n), got {described(shape)}")
    m, n = (check_integer(name, size) for name, size in zip(("m", "n"), shape, strict=True))
    if not callable(f):
        raise TypeError(f"f must be a function of t and Y, got {described(f)}")
    if reference is not None and not callable(reference):
        raise TypeError(f"reference must be a function of t, got {described(reference)}")
    if initial is not None and not isinstance(initial, LowRank):
        check_matrix("initial", initial)
        # without the directions that are rounding errors, in whose place random ones come
        initial = LowRank.from_dense(initial, tol=max(initial.shape) * eps(initial) * norm(initial))
    problem = FunctionProblem((m, n), f, initial, reference)
    if initial is not None:
        problem._check_shape("initial", initial)
    return problem


def _like(X: Array, Y: LowRank) -> Array:
    """The array X in library, device and dtype of Y."""
    return X if type(X) is type(Y.S) and X.dtype == Y.dtype else convert(to_numpy(X), Y.S)


def _sum(terms: Any) -> Array:
    first, *others = terms
    return sum(others, first)
