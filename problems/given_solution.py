"""A nonlinear problem made to have a given solution of exact rank, for tests of the order of convergence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from integrators.checks import (
    check_integer,
    check_matrix,
    check_number,
    check_orthonormal,
    check_rng,
    check_shape,
    check_singular_values,
)
from integrators.linalg import array_namespace, gaussian, haar, in_double, is_complex
from integrators.lowrank import LowRank

from .fields import Array, DenseField, convert, noted
from .linear_part import LinearPart
from .problem import Problem, best_approximation


@dataclass(frozen=True, eq=False)
class GivenSolution(Problem):
    """Nonlinear equation made to have a given solution A(t) of exact rank.

    It is ``Y' = A'(t) + N(Y) - N(A(t))`` with ``N(Y) = M1 Y + Y M2 + sin(2 Y)``, the sine entry by entry. The
    solution from Y(0) = A(0) is

        A(t) = e^t P(t) diag(d) Q(t)^H,     P(t) = cos(t) P0 + sin(t) P1,     Q(t) = cos(2t) Q0 + sin(2t) Q1.

    ``[P0, P1]`` has orthonormal columns, hence ``P^H P = cos^2 I + sin^2 I = I``, and so has ``[Q0, Q1]``: A(t) has
    rank r and the singular values ``e^t d`` for all t. For complex data the sine acts on the real and on the
    imaginary part; its analytic continuation would grow exponentially and the solution would blow up. So N has the
    Lipschitz constant ``||M1||_2 + ||M2||_2 + 2`` throughout.

    Fields are dense, O(m n r), and take the library and dtype of the point (numpy or torch).

    Parameters
    ----------
    P : numpy array (m, 2r)
        ``[P0, P1]``, with orthonormal columns.
    Q : numpy array (n, 2r)
        ``[Q0, Q1]``, with orthonormal columns.
    singular_values : numpy array (r,)
        d, positive.
    M1, M2 : numpy arrays (m, m) and (n, n)

    Raises
    ------
    TypeError, ValueError
        An array is not as above.

    See Also
    --------
    given_solution : draws the data at random
    """

    P: np.ndarray
    Q: np.ndarray
    singular_values: np.ndarray
    M1: np.ndarray
    M2: np.ndarray

    name = "given-solution"

    def __post_init__(self) -> None:
        r = np.size(self.singular_values)
        for name in ("P", "Q", "M1", "M2"):
            check_matrix(name, getattr(self, name))
        for name, X in (("P", self.P), ("Q", self.Q)):
            if X.shape[1] != 2 * r:
                raise ValueError(
                    f"{name} must have 2 r = {2 * r} columns for r = {r} singular values, got {X.shape[1]}"
                )
            check_orthonormal(name, X)
        for name, M, n in (("M1", self.M1, self.shape[0]), ("M2", self.M2, self.shape[1])):
            if M.shape != (n, n):
                raise ValueError(f"{name} must have shape ({n}, {n}), got {M.shape}")
        check_singular_values(self.singular_values, self.shape)

    @property
    def shape(self) -> tuple[int, int]:
        return self.P.shape[0], self.Q.shape[0]

    @property
    def like(self) -> Array:
        return self.P

    @property
    def lipschitz(self) -> float:
        """``||M1||_2 + ||M2||_2 + 2``."""
        return float(np.linalg.norm(self.M1, 2) + np.linalg.norm(self.M2, 2)) + 2.0

    def time_lipschitz(self, t0: float, t1: float) -> float:
        """``(14 + 4 L) e^{t1} ||d||``, a bound of ``||A''|| + L ||A'||`` up to t1.

        P, Q, P' and Q'/2 have orthonormal columns, ``P'' = -P`` and ``Q'' = -4 Q``. So in
        ``A' = e^t (P D Q^H + P' D Q^H + P D Q'^H)`` the three terms are at most ``1 + 1 + 2`` times ``e^t ||d||``,
        and in ``A'' = e^t ((1 - 1 - 4) P D Q^H + 2 P' D Q^H + 2 P D Q'^H + 2 P' D Q'^H)`` the four are at most
        ``4 + 2 + 4 + 4`` times that.
        """
        size = math.exp(t1) * float(np.linalg.norm(self.singular_values))
        return (14.0 + 4.0 * self.lipschitz) * size

    @cached_property
    def linear(self) -> LinearPart:
        """``M1 Y + Y M2``."""
        return LinearPart(self.M1, self.M2.conj().T)

    def initial(self, rank: int, rng: np.random.Generator) -> LowRank:
        """Best approximation of A(0); random directions with zero singular values beyond its rank."""
        r = len(self.singular_values)
        return best_approximation(self.P[:, :r] * self.singular_values, self.Q[:, :r], rank, rng, self.like)

    def field(self, t: float, Y: LowRank) -> DenseField:
        A, dA, sine = noted(Y, "t", (self, t), lambda: self._at(t, Y.U))
        W = Y.full()
        M1, M2 = convert(self.M1, Y.U), convert(self.M2, Y.U)
        return GivenSolutionField(Y, dA + M1 @ (W - A) + (W - A) @ M2 + _sine(2 * W) - sine, self)

    def reference(self, t: float) -> np.ndarray:
        """A(t)."""
        return self._solution(t)[0]

    def _at(self, t: float, like: Array) -> tuple[Array, Array, Array]:
        """A(t), A'(t) and ``sin(2 A(t))``."""
        A, dA = (convert(X, like) for X in self._solution(float(t)))
        return A, dA, _sine(2 * A)

    def _solution(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """A(t) and A'(t), in double precision."""
        (P, dP), (Q, dQ) = _rotate(self.P, 1, t), _rotate(self.Q, 2, t)
        d = math.exp(t) * self.singular_values
        A = (P * d) @ Q.conj().T
        return A, A + (dP * d) @ Q.conj().T + (P * d) @ dQ.conj().T


@dataclass(frozen=True, eq=False)
class GivenSolutionField(DenseField):
    """The field of `GivenSolution`, with its linear part.

    Parameters
    ----------
    point : LowRank
    matrix : array (m, n)
        F.
    problem : GivenSolution
    """

    problem: GivenSolution

    @property
    def linear(self) -> LinearPart:
        return self.problem.linear


def given_solution(
    rng: np.random.Generator,
    shape: tuple[int, int] = (30, 24),
    rank: int = 4,
    smallest: float | None = None,
    dtype: Any = np.float64,
) -> GivenSolution:
    """Random `GivenSolution`: ``d_j = 2^-j sqrt(m n) / 4`` (j = 0, 1, ...), Gaussian M1, M2 of 2-norm 1/2.

    The factor of d makes the entries of A(t) so large, about 0.3 in root mean square at t = 0, that the sine is felt.
    (With small entries N is nearly linear and methods of first order show a higher order at practical step sizes.)

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the bases and of M1, M2.
    shape : (int, int)
        (m, n).
    rank : int
        Exact rank r of the solution, 2 r <= min(m, n).
    smallest : float, optional
        Replaces the last of the d_j, to test robustness to small singular values.
    dtype : numpy dtype
        Of the data, real or complex.

    Raises
    ------
    TypeError, ValueError
        2 r exceeds min(m, n), `smallest` is not positive, or `rng` is no generator.
    """
    check_rng(rng)
    check_integer("rank", rank)
    shape = check_shape(shape)
    if 2 * rank > min(shape):
        raise ValueError(f"rank {rank} exceeds min(m, n) / 2 = {min(shape) / 2:g}")
    d = math.sqrt(math.prod(shape)) / 4 * 2.0 ** -np.arange(rank)
    if smallest is not None:
        d[-1] = check_number("smallest", smallest)
    P, Q = (haar(n, 2 * rank, rng, dtype) for n in shape)
    M1, M2 = (_half_norm(gaussian((n, n), rng, dtype)).astype(dtype) for n in shape)
    return GivenSolution(P, Q, d, M1, M2)


def _rotate(X: np.ndarray, speed: int, t: float) -> tuple[np.ndarray, np.ndarray]:
    """``X0 cos(speed t) + X1 sin(speed t)`` for ``X = [X0, X1]``, and its derivative, in double precision."""
    X0, X1 = np.hsplit(in_double(X), 2)
    c, s = math.cos(speed * t), math.sin(speed * t)
    return c * X0 + s * X1, speed * (c * X1 - s * X0)


def _sine(X: Array) -> Array:
    """Sine of each entry, of its real and imaginary part where it is complex."""
    xp = array_namespace(X)
    return xp.sin(xp.real(X)) + 1j * xp.sin(xp.imag(X)) if is_complex(X) else xp.sin(X)


def _half_norm(M: np.ndarray) -> np.ndarray:
    """M scaled to the 2-norm 1/2."""
    return 0.5 * M / np.linalg.norm(M, 2)
