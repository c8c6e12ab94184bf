r"""Step-size control: the largest steps whose errors stay below a tolerance, and the matrix between two steps.

**Estimate.** Step doubling serves every method of known order p: one step of size h to :math:`Y_1` and two of size h/2
to :math:`Y_2` have errors of which the former is :math:`2^p` times the latter, up to higher orders, so

.. math:: e = \|Y_2 - Y_1\|_F / (2^p - 1)

is the error of :math:`Y_2` in this step. A step is accepted where :math:`e \le a + \rho \max(\|Y_0\|_F, \|Y_2\|_F)`
with the tolerances a (``atol``) and :math:`\rho` (``rtol``). The run goes on from the extrapolated matrix
:math:`Y_2 + (Y_2 - Y_1) / (2^p - 1)`, of order p + 1, truncated by the rule of the method or to the rank of
:math:`Y_2`. So the error at the end is proportional to the tolerance, as it is for the pairs of scipy, and a method of
order 1 does not need as many steps as the tolerance has inverse units. Wherever truncation cuts, it is a best
approximation: it never moves the matrix by more than e, whatever the singular values.

An embedded estimate would cost less per step, but goes on without extrapolation, at order p. Tried with the projected
Runge-Kutta methods and RK-BUG of orders p and p - 1 on four equations it saved up to 30 % of the evaluations at order 3
and rtol = 1e-2, and took up to 1.7 times as many at 1e-4; at order 2 it took up to 2.4 times as many at 1e-3, and 3 to
5 times at 1e-4. So there is none.

**Truncation.** A `Tolerance` of the method follows the error tolerance: in a step of size h of a run over an interval
of length T each of three truncations cuts at most :math:`(h/T)\,(a + \rho\|Y_0\|_F)`, so that what a whole run cuts is
of the size of the tolerance. Less would keep the errors in time as directions of their own; more, a share of the
tolerance in every step, would add up. So does one inside `Conservative`, whose moments the extrapolation keeps, as its
coefficients have the sum 1. Other rules, such as a fixed rank, stay as they are.

**Controller.** The next step is :math:`0.9\, h\, E_n^{-0.7/(p+1)} E_{n-1}^{0.4/(p+1)}` with E the ratio of e to what is
allowed (Gustafsson's PI controller), between a fifth of h and five times h; after a rejection
:math:`0.9\, h\, E^{-1/(p+1)}`, and the step that is then accepted is followed by none larger.

References
----------
Hairer, Norsett, Wanner (1993), Solving Ordinary Differential Equations I, section II.4, doi:10.1007/978-3-540-78862-1.
Gustafsson (1991), ACM Trans. Math. Softw. 17, 533-554, doi:10.1145/210232.210242.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from integrators import SGD, Conservative, FixedRank, Integrator, LowRank, State, Tolerance, combine, tangent
from integrators.checks import check_not_negative, check_number
from integrators.linalg import eps

NOT_FINITE = FloatingPointError, OverflowError, np.linalg.LinAlgError
"""What a step raises that meets numbers which are not finite."""
SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0
RTOL, ATOL = 1e-3, 1e-6


@dataclass(frozen=True)
class Tolerances:
    """What the error of a step may be: ``atol + rtol ||Y||_F``.

    Raises ValueError for an rtol below 100 eps of the dtype of the start, which no double step could meet.
    """

    rtol: float
    atol: float

    @classmethod
    def of(cls, rtol: float | None, atol: float | None, start: LowRank) -> Tolerances:
        """Those given, or the usual ones of scipy."""
        rtol = check_not_negative("rtol", RTOL if rtol is None else rtol)
        least = 100 * eps(start.S)
        if rtol < least:
            raise ValueError(f"rtol must be at least 100 eps = {least:.1e} in {start.dtype}, got {rtol:g}")
        return cls(check_number("rtol", rtol), check_number("atol", ATOL if atol is None else atol, least=0.0))

    def allowed(self, *sizes: float) -> float:
        """``atol + rtol max(sizes)``."""
        return self.atol + self.rtol * max(sizes)


def check_follows(integrator: Integrator, problem: Any, what: str) -> None:
    """TypeError or ValueError unless the method follows the field of the problem, whose size then tells the error."""
    if getattr(problem, "stochastic", False):
        raise ValueError(
            f"{what} needs a problem without mini-batches, whose noise no step size takes away, got {problem.name} "
            f"with batch_size={getattr(problem, 'batch_size', None)}: give step_size and steps, or batch_size=None"
        )
    if integrator.order is None:
        raise TypeError(f"{what} needs a method with an order, which follows the field; {integrator!r} has none")
    if type(getattr(integrator, "optimizer", SGD())) is not SGD:
        raise TypeError(f"{what} needs a method that follows the field itself, got optimizer={integrator.optimizer!r}")


class StartField:
    """A field that keeps what it was at the start of a step, where all attempts begin, and counts its evaluations."""

    def __init__(self, field: Callable[[float, LowRank], Any]):
        self.field, self.count = field, 0
        self.kept: tuple[float, LowRank, Any] | None = None

    def begin(self, t: float, Y: LowRank) -> Any:
        """The field at the start of a step, kept until the next one begins."""
        if not self._is_kept(t, Y):
            self.kept = None
            self.kept = t, Y, self(t, Y)
        return self(t, Y)

    def __call__(self, t: float, Y: LowRank) -> Any:
        if self.kept is not None and self._is_kept(t, Y):
            return self.kept[2]
        self.count += 1
        return self.field(t, Y)

    def _is_kept(self, t, Y):
        return self.kept is not None and t == self.kept[0] and all(X is X0 for X, X0 in zip(Y, self.kept[1]))


@dataclass(frozen=True, eq=False)
class Attempt:
    """Two steps of half the size beside a whole one.

    Attributes
    ----------
    state : State
        The extrapolated one.
    ratio : float
        Estimated error over what is allowed; the attempt is accepted where it is at most 1.
    truncation_error : float
        Sum of what was cut on the way.
    rejected : int
        Steps that the method itself rejected.
    warning : str, optional
        That of one of the two steps.
    """

    state: State
    ratio: float
    truncation_error: float
    rejected: int
    warning: str | None = None


def attempt(integrator: Any, tolerances: Tolerances, length: float, field, t: float, state: State, h: float) -> Attempt:
    """One attempt at a step of size h in a run over an interval of this length.

    Raises FloatingPointError where numbers are not finite.
    """
    size = state.Y.norm()
    method = integrator
    if integrator.truncation is not None:
        # below 10 eps it would keep what is rounding, and the rank would grow with every step
        cut = max(abs(h) / length * tolerances.allowed(size), 10 * eps(state.Y.S) * size)
        method = replace(integrator, truncation=integrator.truncation.cutting(cut))
    whole = method.step(field, t, state, h)
    half = method.step(field, t, state, h / 2)
    fine = method.step(field, t + h / 2, half.state, h / 2)
    Y1, Y2 = whole.state.Y, fine.state.Y
    share = 1 / (2**method.order - 1)
    error = share * combine([(1.0, Y2), (-1.0, Y1)]).norm()
    rule = method.truncation if isinstance(method.truncation, (Conservative, Tolerance)) else FixedRank(Y2.rank)
    [(Y, cut)] = rule([State(combine([(1 + share, Y2), (-share, Y1)]))])
    ratio = error / tolerances.allowed(size, Y2.norm()) if error else 0.0
    if not math.isfinite(ratio):
        raise FloatingPointError("the estimated error is not finite")
    steps = whole, half, fine
    return Attempt(
        fine.state.at(method.start(Y)),
        ratio,
        half.truncation_error + fine.truncation_error + float(cut),
        sum(step.rejected for step in steps),
        half.warning or fine.warning,
    )


class Controller:
    """Step sizes from estimated errors; `next` and `previous` are all it remembers, see the module's docstring.

    Parameters
    ----------
    order : int
        p, of the method.
    next : float
        Size of the step to try next, with its sign.
    previous : float, optional
        Ratio E of the step accepted last, at least 1e-4.
    """

    def __init__(self, order: int, next: float, previous: float | None = None):
        self.k, self.next, self.previous = order + 1, next, previous
        self.limit = GROW

    def reject(self, h: float, ratio: float) -> None:
        """A smaller step; `ratio` is infinite where the attempt met numbers that are not finite."""
        self.next = h * max(SHRINK, SAFETY * ratio ** (-1 / self.k))
        self.limit = 1.0

    def accept(self, h: float, ratio: float) -> None:
        """The step after one of size h, which may have been cut to end at the end of the interval."""
        floored = max(ratio, 1e-4)
        if self.previous is None:
            factor = SAFETY * floored ** (-1 / self.k)
        else:
            factor = SAFETY * floored ** (-0.7 / self.k) * self.previous ** (0.4 / self.k)
        wanted = h * min(self.limit, max(SHRINK, factor))
        self.next = wanted if abs(h) >= abs(self.next) or abs(wanted) >= abs(self.next) else self.next
        self.previous, self.limit = floored, GROW


class Accepted(NamedTuple):
    """An accepted step: its size, what it led to, and the attempts before it as pairs (size, ratio)."""

    h: float
    attempt: Attempt
    tried: tuple[tuple[float, float], ...]


def accepted(integrator, tolerances, span, controller, field, t, state, remaining) -> Accepted:
    """Attempts at a step from time t, until one is accepted.

    Parameters
    ----------
    integrator : integrators.Integrator
    tolerances : Tolerances
    span : (float, float)
        Interval of the run.
    controller : Controller
    field : StartField
    t, state
        Where the step begins.
    remaining : float
        Size of a step to the end of the interval. No step goes beyond it, and none leaves a rest smaller than half of
        it.

    Raises
    ------
    FloatingPointError
        Even the smallest step met numbers that are not finite.
    RuntimeError
        Even the smallest step did not meet the tolerances.
    """
    tried: list[tuple[float, float]] = []
    length, least = abs(span[1] - span[0]), 10 * float(np.spacing(max(map(abs, span))))
    while True:
        h = controller.next
        if abs(h) >= abs(remaining):
            h = remaining
        elif 2 * abs(h) > abs(remaining):
            h = remaining / 2
        if abs(h) < least and h != remaining:
            size, ratio = tried[-1] if tried else (h, math.inf)
            if math.isinf(ratio):
                raise FloatingPointError(f"numbers are not finite even after a step of size {size:.1e} from t = {t:g}")
            raise RuntimeError(
                f"no step from t = {t:g} meets the tolerances {tolerances.rtol:g} and {tolerances.atol:g}: the error "
                f"of one of size {size:.1e} is {ratio:.1e} times what they allow"
            )
        try:
            made = attempt(integrator, tolerances, length, field, t, state, h)
            ratio = made.ratio
        except NOT_FINITE:
            ratio = math.inf
        if ratio <= 1:
            controller.accept(h, ratio)
            return Accepted(h, made, tuple(tried))
        tried.append((h, ratio))
        controller.reject(h, ratio)


def first_step(field: StartField, tolerances: Tolerances, t: float, Y: LowRank, length: float) -> float:
    """A step in which Y changes by a hundredth of its norm, or by what is allowed; a tenth of the interval at most."""
    Y = Y.orthonormalised()
    size, speed = Y.norm(), tangent(Y, field.begin(t, Y)).norm()
    change = max(0.01 * size, tolerances.allowed(size))
    return min(0.1 * length, change / speed if speed and change else math.inf)


@dataclass(frozen=True, eq=False)
class Interpolant:
    r"""The matrix between the ends of a step: cubic Hermite interpolation, truncated to the larger rank of the ends.

    .. math:: Y(t_0 + \theta h) \approx T_r\big( (1 + 2\theta)(1 - \theta)^2 Y_0 + \theta (1 - \theta)^2 h \dot Y_0
        + \theta^2 (3 - 2\theta) Y_1 + \theta^2 (\theta - 1) h \dot Y_1 \big)

    with the slopes :math:`\dot Y = P(Y) F(t, Y)`, a sum of rank 6 r at most that is never formed. Along a solution of
    the projected equation its error is of order 4 in h, and truncation at most doubles it. What of the field is normal
    to the tangent spaces is not seen; for a rank that suffices it is small, and `attempt` sees it. At the ends it is
    the matrix there, bit for bit.

    Parameters
    ----------
    t, h : float
        Start and size of the step.
    ends : pair of LowRank
        In orthonormal bases.
    slopes : pair of LowRank
    """

    t: float
    h: float
    ends: tuple[LowRank, LowRank]
    slopes: tuple[LowRank, LowRank]

    @classmethod
    def between(cls, field, t: float, Y0: LowRank, t1: float, Y1: LowRank) -> Interpolant:
        """With the slopes of a field."""
        Y0, Y1 = Y0.orthonormalised(), Y1.orthonormalised()
        return cls(t, t1 - t, (Y0, Y1), (tangent(Y0, field(t, Y0)), tangent(Y1, field(t1, Y1))))

    @cached_property
    def terms(self) -> tuple[LowRank, ...]:
        """Ends and slopes in common bases."""
        parts = *self.ends, *self.slopes
        U, _, V = combine([(1.0, Z) for Z in parts])
        return tuple(Z.embed(U, V) for Z in parts)

    def __call__(self, theta: float) -> LowRank:
        """The matrix at the time ``t + theta h``, theta from 0 to 1. Cost O((m + n) r^2)."""
        if theta in (0, 1):
            return self.ends[int(theta)]
        a, b = 1 - theta, theta
        weights = (1 + 2 * b) * a * a, (1 + 2 * a) * b * b, self.h * b * a * a, -self.h * a * b * b
        first, *_ = self.terms
        Y = first.replace(S=sum(w * Z.S for w, Z in zip(weights, self.terms)))
        [(Y, _)] = FixedRank(max(end.rank for end in self.ends))([State(Y)])
        return Y


def changes(event: Callable, before: float, after: float) -> bool:
    """Whether an event happened in a step: its function had a sign before, and has another one, or 0, after it.

    An attribute ``direction`` of the event, as in scipy, says which changes count: from - to + where it is positive,
    from + to - where it is negative.
    """
    direction = getattr(event, "direction", 0)
    return (before < 0 <= after and direction >= 0) or (before > 0 >= after and direction <= 0)


def located(event: Callable, interpolant: Interpolant, before: float) -> float:
    """theta at which the function of an event changes its sign in a step, to rounding, on the far side of the change.

    On that side because a run that goes on from there must not meet the same event again.
    """
    low, high, t, h = 0.0, 1.0, interpolant.t, interpolant.h
    for _ in range(60):
        middle = 0.5 * (low + high)
        if not low < middle < high or t + middle * h in (t + low * h, t + high * h):
            break
        value = value_of(event, t + middle * h, interpolant(middle))
        low, high = (middle, high) if value * before > 0 else (low, middle)
    return high


def value_of(event: Callable, t: float, Y: LowRank) -> float:
    """The function of an event at a point."""
    return check_number("what an event returns", _scalar(event(t, Y)))


def _scalar(x: Any) -> Any:
    return x.item() if hasattr(x, "item") and getattr(x, "ndim", 0) == 0 else x
