r"""How the small differential equations inside a step are advanced.

With the bases of a point :math:`Y = U S V^H` held fixed, K, L and S follow

.. math:: K' = F(t, K V^H)\, V, \qquad L' = F(t, U L^H)^H U, \qquad S' = \pm\, U^H F(t, U S V^H)\, V .

A substep advances one of them from t to t + h and returns its *increment* (``K1 - K0`` and so on): with
orthonormal ``Ut`` perpendicular to U, ``Ut^H K1 = Ut^H dK`` holds, and the right-hand side is free of cancellation.
Each method is a generator in the sense of :class:`integrators.Integrator`: it is given the field ``f`` at (t, Y),
which it never asks for again, and yields the further points it needs.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar

from array_api_compat import device

from .checks import check_instance, check_integer
from .linalg import array_namespace
from .lowrank import LowRank

__all__ = ["RK4", "Euler", "Exact", "Heun", "Repeated", "Substep"]

Increment = Generator[tuple, Any, Any]


class Substep:
    """One-step method for the K-, L- and S-equations.

    A subclass gives ``order`` and :meth:`advance`; the three public generators below say what is advanced.
    """

    order: ClassVar[Any]

    def K(self, t: float, Y: LowRank, h: float, f) -> Increment:
        """Increment of K (m, r) over [t, t + h] with V fixed."""
        one = _identity(Y.S.shape[-1], Y)
        return self.advance(t, Y.K, h, f, "K", lambda K: Y.replace(U=K, S=one), 1)

    def L(self, t: float, Y: LowRank, h: float, f) -> Increment:
        """Increment of L (n, r) over [t, t + h] with U fixed."""
        one = _identity(Y.S.shape[-2], Y)
        return self.advance(t, Y.L, h, f, "L", lambda L: Y.replace(S=one, V=L), 1)

    def S(self, t: float, Y: LowRank, h: float, f, sign: int = 1) -> Increment:
        """Increment of S (rU, rV) over [t, t + h], U and V fixed; ``sign=-1``: backward step of splitting methods."""
        return self.advance(t, Y.S, h, f, "S", lambda S: Y.replace(S=S), sign)

    def advance(self, t, X0, h, f, part, point, sign) -> Increment:
        """Increment of X from X' = sign ``part``(F(t, point(X))), X(t) = X0; ``f`` is F(t, point(X0))."""
        raise TypeError(f"{type(self).__name__} must define advance(t, X0, h, f, part, point, sign)")


@dataclass(frozen=True)
class RungeKutta(Substep):
    """Explicit Runge-Kutta method with the tableau ``A, b, c`` of the subclass (Hairer, Norsett, Wanner I, II.1)."""

    A: ClassVar[tuple[tuple[float, ...], ...]]
    b: ClassVar[tuple[float, ...]]
    c: ClassVar[tuple[float, ...]]

    def advance(self, t, X0, h, f, part, point, sign) -> Increment:
        """k_i = F(t + c_i h, X0 + sign h sum_j a_ij k_j), increment sign h sum_i b_i k_i."""
        slopes = [getattr(f, part)]
        for a, c in zip(self.A[1:], self.c[1:], strict=True):
            f = yield t + c * h, point(X0 + _combine(a, slopes, sign * h)), part
            slopes.append(getattr(f, part))
        return _combine(self.b, slopes, sign * h)


class Euler(RungeKutta):
    """Explicit Euler: order 1, no field beyond the given one."""

    order, A, b, c = 1, ((),), (1.0,), (0.0,)


class Heun(RungeKutta):
    """Heun's method (explicit trapezoidal rule): order 2, one further field."""

    order, A, b, c = 2, ((), (1.0,)), (0.5, 0.5), (0.0, 1.0)


class RK4(RungeKutta):
    """The classical Runge-Kutta method: order 4, three further fields."""

    order = 4
    A = ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0))
    b, c = (1 / 6, 1 / 3, 1 / 3, 1 / 6), (0.0, 0.5, 0.5, 1.0)


@dataclass(frozen=True)
class Repeated(Substep):
    """Several substeps of equal size, ``n`` of size h / n, of another explicit substep.

    Raises TypeError unless n is an integer and the other a substep, ValueError unless n is at least 1.
    """

    substep: Substep
    n: int

    def __post_init__(self):
        check_instance("substep", self.substep, Substep, "Heun()")
        check_integer("n", self.n)

    @property
    def order(self) -> float:  # type: ignore[override]
        """That of the repeated substep."""
        return self.substep.order

    def advance(self, t, X0, h, f, part, point, sign) -> Increment:
        """The sum of the increments over n equal parts of [t, t + h]."""
        h, increment = h / self.n, 0.0
        for i in range(self.n):
            if i:
                f = yield t + i * h, point(X0 + increment), part
            increment = increment + (
                yield from self.substep.advance(t + i * h, X0 + increment, h, f, part, point, sign)
            )
        return increment


@dataclass(frozen=True)
class Exact(Substep):
    """The exact sub-flow, from the field itself: ``f.flow_K(h)``, ``f.flow_L(h)``, ``f.flow_S(h, sign)``.

    Raises TypeError where the field does not know its sub-flows.
    """

    order: ClassVar[Any] = math.inf

    def advance(self, t, X0, h, f, part, point, sign) -> Increment:
        """X(t + h) - X0, without a further field."""
        flow = getattr(f, f"flow_{part}", None)
        if flow is None:
            raise TypeError(
                f"Exact needs a field with flow_{part}; {type(f).__name__} has none: use Euler, Heun or RK4"
            )
        X1 = flow(h, sign) if part == "S" else flow(h)
        return X1 - X0
        yield  # a generator like the others, though it asks for nothing


def _identity(r, Y: LowRank):
    return array_namespace(Y.S).eye(r, dtype=Y.S.dtype, device=device(Y.S))


def _combine(weights, slopes, h):
    """h sum_i w_i k_i over the non-zero weights, h w_i rounded first (a Python float keeps the dtype of k_i)."""
    first, *others = ((h * w, k) for w, k in zip(weights, slopes, strict=True) if w)
    total = first[0] * first[1]
    for w, k in others:
        total += w * k
    return total
