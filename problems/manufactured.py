"""Problems made from a symbolic solution: the field, its normal component and its constants are derived by sympy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from integrators.checks import check_instance, check_integer, check_number, check_shape
from integrators.linalg import array_namespace, dagger
from integrators.lowrank import LowRank

from .fields import Array, DenseField, Field, convert, noted
from .problem import Problem, best_approximation

Symbolic = Any  # a sympy expression or matrix


@dataclass(frozen=True, eq=False)
class Manufactured(Problem):
    """Equation derived by sympy from a given symbolic solution A(t) of low rank.

    It is ``Y' = A'(t) + g(Y) - g(A(t))`` with a real ``A(t) = U(t) S(t) V(t)^T + R(t)`` and g entry by entry. What
    sympy derives:

    - the field: A' by differentiation; A solves the equation, since g cancels on it;
    - the **normal component** ``N(t) = (I - P_U) A'(t) (I - P_V)`` along the low-rank part, with
      ``P_U = U (U^T U)^{-1} U^T``. It is zero for R = 0, because ``(U S V^T)' = U' S V^T + U S' V^T + U S V'^T``;
      else it is ``(I - P_U) R' (I - P_V)``;
    - **Lipschitz data**: in Y, ``L = sup |g'|`` and the one-sided ``l = sup g'`` over the real numbers (entry by
      entry, hence in the Frobenius norm too); in t,
      ``||F(s, Y) - F(t, Y)|| <= (sup ||A''|| + L sup ||A'||) |s - t|``, with suprema bounded rigorously by interval
      arithmetic on a subdivision of the time interval.

    Fields are dense, O(m n r). Where g = 0 the exact sub-flows are known: they add ``A(t + h) - A(t)``.

    Parameters
    ----------
    U, S, V : sympy matrices (m, r), (r, r), (n, r)
        Real functions of `t`.
    t : sympy symbol
    rest : sympy matrix (m, n), optional
        R(t), what the rank r leaves out.
    nonlinearity : pair (sympy expression, symbol), optional
        g(y) and y.
    t_end : float

    Raises
    ------
    ValueError
        Shapes do not match, or `sup g'` is beyond what sympy can find.

    See Also
    --------
    manufactured : a family of such problems by size, rank, and size of the rest
    """

    U: Symbolic
    S: Symbolic
    V: Symbolic
    t: Symbolic
    rest: Symbolic = None
    nonlinearity: tuple[Symbolic, Symbolic] | None = None
    t_end: float = 1.0

    name = "manufactured"

    def __post_init__(self) -> None:
        for name in "USV":
            if len(getattr(getattr(self, name), "shape", ())) != 2:
                raise TypeError(f"{name} must be a sympy matrix, got {getattr(self, name)!r}")
        r = self.S.shape
        if self.U.shape[1] != r[0] or self.V.shape[1] != r[1]:
            raise ValueError(
                f"U, S, V must have shapes (m, r), (r, r), (n, r), got {self.U.shape}, {r}, {self.V.shape}"
            )
        if self.rest is not None and self.rest.shape != self.shape:
            raise ValueError(f"rest must have shape {self.shape}, got {self.rest.shape}")

    # -- symbolic ----------------------------------------------------------------------------------------------------

    @cached_property
    def solution(self) -> Symbolic:
        """A(t)."""
        A = self.U * self.S * self.V.T
        return A if self.rest is None else A + self.rest

    @cached_property
    def velocity(self) -> Symbolic:
        """A'(t)."""
        return self.solution.diff(self.t)

    @cached_property
    def normal(self) -> Symbolic:
        """N(t), simplified: the zero matrix for a solution of exact rank."""
        import sympy

        def complement(X):
            gram = (X.T * X).applyfunc(sympy.trigsimp)
            return (sympy.eye(X.shape[0]) - X * gram.inv() * X.T).applyfunc(sympy.expand)

        def canonical(x):
            # sums of exponentials have a normal form, so what vanishes is seen to vanish
            return sympy.S.Zero if x.rewrite(sympy.exp).expand() == 0 else sympy.simplify(x)

        return (complement(self.U) * self.velocity * complement(self.V)).applyfunc(canonical)

    @cached_property
    def _slopes(self) -> tuple[float, float]:
        """Infimum and supremum of g' over the real numbers."""
        if self.nonlinearity is None:
            return 0.0, 0.0
        import sympy
        from sympy.calculus.util import maximum, minimum

        g, y = self.nonlinearity
        real = sympy.Symbol("y", real=True)
        slope = sympy.diff(g, y).subs(y, real)
        try:
            low, high = (float(bound(slope, real, sympy.S.Reals)) for bound in (minimum, maximum))
        except (NotImplementedError, TypeError, ValueError) as error:
            raise ValueError(f"sympy finds no extrema of the slope {slope} of the nonlinearity: {error}") from error
        return low, high

    # -- constants ---------------------------------------------------------------------------------------------------

    @property
    def lipschitz(self) -> float:
        """``sup |g'|``; infinite where it is not bounded."""
        return max(abs(x) for x in self._slopes)

    @property
    def one_sided_lipschitz(self) -> float:
        """``sup g'``: finite for ``g = -y^3`` too."""
        return self._slopes[1]

    def time_lipschitz(self, t0: float, t1: float) -> float:
        """``sup ||A''|| + L sup ||A'||`` over [t0, t1], rigorously bounded from above."""
        bound = self._largest(1, t0, t1) if self.lipschitz else 0.0
        return self._largest(2, t0, t1) + self.lipschitz * bound

    def normal_bound(self, t0: float, t1: float) -> float:
        """``sup ||N(t)||_F`` over [t0, t1], rigorously bounded from above."""
        return _largest_norm(self.normal, self.t, t0, t1)

    def _largest(self, order: int, t0: float, t1: float) -> float:
        return _largest_norm(self._derivatives[order], self.t, t0, t1)

    @cached_property
    def _derivatives(self) -> list[Symbolic]:
        return [self.solution, self.velocity, self.velocity.diff(self.t)]

    # -- the problem -------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        return self.U.shape[0], self.V.shape[0]

    @property
    def like(self) -> Array:
        return np.empty(0)

    def initial(self, rank: int, rng: np.random.Generator) -> LowRank:
        """Best approximation of A(0); random directions with zero singular values beyond its rank."""
        return best_approximation(self.reference(0.0), np.eye(self.shape[1]), rank, rng, self.like)

    def reference(self, t: float) -> np.ndarray:
        """A(t)."""
        return self._evaluate[0](float(t))

    def normal_component(self, t: float) -> np.ndarray:
        """N(t)."""
        return self._evaluate[2](float(t))

    def field(self, t: float, Y: LowRank) -> Field:
        """The field at a point; with exact sub-flows where g = 0."""
        A, dA = noted(Y, "t", (self, t), lambda: tuple(convert(f(float(t)), Y.U) for f in self._evaluate[:2]))
        if self.nonlinearity is None:
            return ManufacturedField(Y, dA, self, float(t))
        return DenseField(Y, dA + self._g(Y.full()) - self._g(A))

    @cached_property
    def _evaluate(self) -> tuple[Callable, ...]:
        import sympy

        def numeric(matrix):
            f = sympy.lambdify(self.t, matrix, "numpy")
            return lambda t: np.array(f(t), dtype=np.float64)

        return numeric(self.solution), numeric(self.velocity), numeric(self.normal)

    def _g(self, W: Array) -> Array:
        import sympy

        assert self.nonlinearity is not None
        g, y = self.nonlinearity
        library = array_namespace(W).__name__.split(".")[-1]
        if library not in self._nonlinear:
            self._nonlinear[library] = sympy.lambdify(y, g, library)
        return self._nonlinear[library](W)

    @cached_property
    def _nonlinear(self) -> dict[str, Callable]:
        """g for each array library it was asked for."""
        return {}

    def __getstate__(self) -> dict:
        """Without the compiled functions, which cannot be pickled; they are made again when needed."""
        names = ("U", "S", "V", "t", "rest", "nonlinearity", "t_end")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, eq=False)
class ManufacturedField(DenseField):
    """The field ``F = A'(t)`` of `Manufactured` with g = 0; the sub-flows add the increment ``A(t + h) - A(t)``.

    Parameters
    ----------
    point : LowRank
        Y, real.
    matrix : array (m, n)
        A'(t).
    problem : Manufactured
    t : float
    """

    problem: Manufactured
    t: float

    def _increment(self, h: float) -> Array:
        return convert(self.problem.reference(self.t + h) - self.problem.reference(self.t), self.point.U)

    def flow_K(self, h: float) -> Array:
        return self.point.K + self._increment(h) @ self.point.V

    def flow_L(self, h: float) -> Array:
        return self.point.L + dagger(self._increment(h)) @ self.point.U

    def flow_S(self, h: float, sign: int = 1) -> Array:
        Y = self.point
        return Y.S + sign * (dagger(Y.U) @ self._increment(h) @ Y.V)


def manufactured(
    shape: tuple[int, int] = (7, 6), rank: int = 2, rest: float = 0.0, nonlinearity: str | None = "sin(2*y)/2"
) -> Manufactured:
    """A family with orthonormal bases of known motion.

    ``u_j = cos(j t) e_{2j-1} + sin(j t) e_{2j}``, v_j likewise with speed j + 1, ``S = e^{t/2} diag(2^{1-j})`` plus
    ``sin(t) / 4`` above the diagonal, and ``R = rest sin(t) e_m e_n^T``, normal to all bases: the normal component is
    ``rest |cos t|`` exactly.

    Parameters
    ----------
    shape : (int, int)
        (m, n), both at least 2 rank + 1.
    rank : int
        r.
    rest : float
        Size of what rank r leaves out.
    nonlinearity : str or None
        g(y) as text for sympy: a formula of the caller's own program, since sympy evaluates the text.

    Raises
    ------
    ValueError
        The shape is too small.
    """
    import sympy

    check_integer("rank", rank)
    if nonlinearity is not None:
        check_instance("nonlinearity", nonlinearity, str)
    rest, shape = check_number("rest", rest), check_shape(shape)
    if min(shape) < 2 * rank + 1:
        raise ValueError(f"shape must be at least 2 rank + 1 = {2 * rank + 1}, got {shape}")
    t, y = sympy.Symbol("t", real=True), sympy.Symbol("y", real=True)

    def moving(n, speed):
        X = sympy.zeros(n, rank)
        for j in range(rank):
            X[2 * j, j], X[2 * j + 1, j] = sympy.cos((j + speed) * t), sympy.sin((j + speed) * t)
        return X

    S = sympy.zeros(rank, rank)
    for j in range(rank):
        S[j, j] = sympy.exp(t / 2) / 2**j
        if j:
            S[j - 1, j] = sympy.sin(t) / 4
    R = None
    if rest:
        R = sympy.zeros(*shape)
        R[shape[0] - 1, shape[1] - 1] = sympy.Float(rest) * sympy.sin(t)
    g = None if nonlinearity is None else (sympy.sympify(nonlinearity, locals={"y": y}), y)
    return Manufactured(moving(shape[0], 1), S, moving(shape[1], 2), t, R, g)


def _largest_norm(matrix: Symbolic, t: Symbolic, t0: float, t1: float, parts: int = 16) -> float:
    """Upper bound of the Frobenius norm of a matrix function on [t0, t1], by interval arithmetic on `parts` pieces."""
    import mpmath  # type: ignore[import-untyped]
    import sympy

    iv = mpmath.iv
    functions = {name: getattr(iv, name) for name in ("sin", "cos", "exp", "sqrt", "log", "tan")}
    entries = [x for x in matrix if x != 0]
    if not entries:
        return 0.0
    f = sympy.lambdify(t, entries, modules=[functions])  # rational constants become floats
    width, largest = (t1 - t0) / parts, 0.0
    for i in range(parts):
        a, b = t0 + i * width, max(t1, t0 + (i + 1) * width) if i == parts - 1 else t0 + (i + 1) * width
        total = sum((iv.mpf(x) ** 2 for x in f(iv.mpf([a, b]))), iv.mpf(0))
        largest = max(largest, float(iv.sqrt(total).b))
    return largest * (1 + 1e-12)  # more than what rounding of the constants can change
