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

from .checks import check_instance, check_integer, check_order
from .linalg import array_namespace
from .lowrank import LowRank

__all__ = [
    "RK4", "Euler", "Exact", "Exponential", "Heun", "Implicit", "NoLinearPart", "Repeated", "Substep", "linear_part",
]  # fmt: skip

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


# -- a stiff linear part -----------------------------------------------------------------------------------------------


class NoLinearPart:
    """The linear operator L = 0, for fields that declare none; what a field's own operator is asked for."""

    def __call__(self, X: Any) -> Any:
        """``L X`` of an array."""
        return 0.0 * X

    def phi(self, k: int, h: float, X: Any) -> Any:
        """``phi_k(h L) X`` of an array or a LowRank: here X / k!."""
        c = 1.0 / math.factorial(k)
        return LowRank(X.U, c * X.S, X.V) if isinstance(X, LowRank) else c * X

    def solve(self, h: float, R: Any) -> Any:
        """X with ``X - h L X = R``."""
        return R


def linear_part(f: Any, part: str) -> Any:
    """The linear operator L that the field f = L + N declares by ``f.linear_part(part)``.

    It acts on K, L or S, or on matrices of low rank ("Y"), as :class:`NoLinearPart` does, which stands for fields that
    declare nothing: those of a network, and directions of an optimiser.
    """
    declared = getattr(f, "linear_part", None)
    found = declared(part) if declared is not None else None
    return NoLinearPart() if found is None else found


@dataclass(frozen=True)
class Exponential(Substep):
    r"""Exponential Runge-Kutta method of order 1 or 2: the linear part L of the field, F = L + N, is solved exactly.

    With :math:`\varphi_1(z) = (e^z - 1)/z` and :math:`\varphi_2(z) = (e^z - 1 - z)/z^2`, for X' = F(t, X):

    .. math::
        \hat X = X_0 + h \varphi_1(h L) F(t_0, X_0), \qquad
        X_1 = \hat X + h \varphi_2(h L) \big(N(t_1, \hat X) - N(t_0, X_0)\big),

    where order 1 ends with :math:`\hat X`, exponential Euler, which is exact for constant N. No step size is too long
    for L, whatever its norm, where N has a moderate Lipschitz constant; only the backward S-step of a splitting stays
    unstable. A field that declares no linear part has L = 0: Euler's and Heun's methods.

    Raises ValueError if order is not 1 or 2.

    References
    ----------
    Cox, Matthews (2002), doi:10.1006/jcph.2002.6995. Stiff order: Hochbruck, Ostermann (2010),
    doi:10.1017/S0962492910000048.
    """

    order: int = 1  # type: ignore[misc]

    def __post_init__(self):
        check_order(self.order)

    def advance(self, t, X0, h, f, part, point, sign) -> Increment:
        """The increment, one further field for order 2; with the minus sign L and N change theirs."""
        L, F, h = linear_part(f, part), getattr(f, part), float(h)
        dX = sign * h * L.phi(1, sign * h, F)
        if self.order == 2:
            f = yield t + h, point(X0 + dX), part
            dX = dX + sign * h * L.phi(2, sign * h, getattr(f, part) - F - L(dX))
        return dX


@dataclass(frozen=True)
class Implicit(Substep):
    r"""Linearly implicit method of order 1 or 2: the linear part L of the field is treated by an implicit method.

    For X' = F(t, X), of order 1

    .. math:: (I - h L)(X_1 - X_0) = h F(t_0, X_0),

    which for F = L + C is the implicit Euler method, and of order 2 Rosenbrock's method ROS2,
    :math:`\gamma = 1 - 1/\sqrt 2`:

    .. math::
        (I - \gamma h L) k_1 = F(t_0, X_0), \quad (I - \gamma h L) k_2 = F(t_1, X_0 + h k_1) - 2 k_1, \quad
        X_1 = X_0 + \tfrac{3}{2} h k_1 + \tfrac{1}{2} h k_2 ,

    which has this order whatever L is. Both are L-stable: no step size is too long for a dissipative L. Of the backward
    S-step of a splitting they are no remedy. Without a linear part of the field L = 0: Euler's and Heun's methods.

    Raises ValueError if order is not 1 or 2.

    References
    ----------
    Verwer, Spee, Blom, Hundsdorfer (1999), doi:10.1137/S1064827597326651.
    """

    order: int = 1  # type: ignore[misc]

    def __post_init__(self):
        check_order(self.order)

    def advance(self, t, X0, h, f, part, point, sign) -> Increment:
        """The increment, one further field for order 2."""
        L, F, s = linear_part(f, part), getattr(f, part), sign * float(h)
        if self.order == 1:
            return L.solve(s, s * F)
        gamma = 1.0 - 0.5**0.5
        k1 = L.solve(gamma * s, F)
        f = yield t + h, point(X0 + s * k1), part
        return s * (1.5 * k1 + 0.5 * L.solve(gamma * s, getattr(f, part) - 2.0 * k1))


def _identity(r, Y: LowRank):
    return array_namespace(Y.S).eye(r, dtype=Y.S.dtype, device=device(Y.S))


def _combine(weights, slopes, h):
    """h sum_i w_i k_i over the non-zero weights, h w_i rounded first (a Python float keeps the dtype of k_i)."""
    first, *others = ((h * w, k) for w, k in zip(weights, slopes, strict=True) if w)
    total = first[0] * first[1]
    for w, k in others:
        total += w * k
    return total
