"""What the theorems share: the interface of a check, promises, dense measurements, constants of problems."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from integrators import SGD, AdaLoRA, Euler, Exact, FixedRank, Integrator, LowRank, Tolerance
from integrators.linalg import to_numpy
from problems import GivenSolution, LossProblem, MatrixRegression, Rotating

from .certificate import Certificate, Constant, Hypothesis, Series

__all__ = ["FAILURES", "Theorem", "label"]

FAILURES = (FloatingPointError, OverflowError, np.linalg.LinAlgError, ZeroDivisionError)
"""What a step may raise where its numbers are no longer finite: reported as a violation at that step."""


@dataclass(frozen=True)
class Theorem:
    """A statement that can be checked for any integrator on any problem that fits.

    A subclass has a docstring with statement, hypotheses, proof and source, and defines :meth:`check`,
    :meth:`promises`, :meth:`cases`, and, where the theorem asks for a certain form of the method (exact sub-flows,
    a fixed rank), :meth:`configured`. Its fields are the settings of a check.
    """

    name: ClassVar[str]
    """Name on the command line."""
    statement: ClassVar[str]
    source: ClassVar[str]

    def promises(self, integrator: Integrator) -> tuple[bool, str]:
        """Whether theory promises the statement for this method, and why or why not.

        A subclass of a method inherits its promises.
        """
        raise TypeError(f"{type(self).__name__} must define promises(integrator)")

    def configured(self, integrator: Integrator) -> Integrator:
        """The method in the form the theorem speaks of: with explicit Euler steps, unless a subclass says otherwise."""
        return with_substep(integrator, Euler())

    def check(self, *args: Any, **settings: Any) -> Certificate:
        """Measure both sides along a run: ``check(integrator, problem, ...)``."""
        raise TypeError(f"{type(self).__name__} must define check(integrator, problem)")

    def problems(self) -> dict[str, Any]:
        """The problems on which it is checked by default, by name; the first is that of the small cases."""
        return {}

    def cases(self, integrator: Integrator, full: bool = False) -> Iterator[Certificate]:
        """Certificates of the small cases, or of the large sweep."""
        problems = self.problems()
        for problem in problems.values() if full else list(problems.values())[:1]:
            yield self.check(self.configured(integrator), problem)

    def certificate(self, integrator, problem, hypotheses, series=(), constants=None, notes=()) -> Certificate:
        """A certificate of this theorem."""
        promised, why = self.promises(integrator)
        return Certificate(
            theorem=self.name,
            statement=self.statement,
            source=self.source,
            integrator=label(integrator),
            problem=problem if isinstance(problem, str) else getattr(problem, "name", type(problem).__name__),
            hypotheses=tuple(hypotheses),
            series=tuple(series),
            constants=dict(constants or {}),
            promised=promised,
            promise=why,
            notes=tuple(notes),
        )


# -- names and forms of methods ----------------------------------------------------------------------------------------


def label(integrator: Any) -> str:
    """Class and hyper-parameters that differ from the default, without what every method has."""
    import dataclasses

    if not dataclasses.is_dataclass(integrator):
        return type(integrator).__name__
    kind: Any = type(integrator)
    default = kind()
    shown = []
    for f in dataclasses.fields(integrator):
        value = getattr(integrator, f.name)
        if repr(value) != repr(getattr(default, f.name)):
            shown.append(f"{f.name}={_short(value)}")
    return f"{type(integrator).__name__}({', '.join(shown)})"


def _short(value) -> str:
    text = repr(value)
    for noise in (", absolute=None", "relative=None, ", ", max_rank=None", ", min_rank=1", ", spare=0"):
        text = text.replace(noise, "")
    return text


def with_truncation(integrator: Integrator, truncation) -> Integrator:
    """The method with this truncation, where it has one; AdaLoRA's budget is left as it is.

    A method that rejects steps needs a tolerance: it gets one of 0 with the rank as its upper bound.
    """
    if integrator.truncation is None or isinstance(integrator, AdaLoRA):
        return integrator
    if isinstance(truncation, FixedRank) and getattr(integrator, "rejection", None) is not None:
        truncation = Tolerance(absolute=0.0, max_rank=truncation.rank)
    return replace(integrator, truncation=truncation)  # type: ignore[call-arg]


def with_substep(integrator: Integrator, substep) -> Integrator:
    """The method with this sub-step, where it has one."""
    return replace(integrator, substep=substep) if hasattr(integrator, "substep") else integrator  # type: ignore[call-arg]


def substep_name(integrator: Integrator) -> str:
    """``Euler`` (also for a method without sub-steps), ``Exact``, or ``other``."""
    substep = getattr(integrator, "substep", None)
    if substep is None or isinstance(substep, Euler):
        return "Euler"
    return "Exact" if isinstance(substep, Exact) else "other"


def plain_descent(integrator: Integrator) -> Hypothesis:
    """The optimiser hands on the gradient as it is."""
    kind = type(integrator.optimizer)
    return Hypothesis("plain gradient descent", kind is SGD, f"the optimiser is {kind.__name__}")


def start_of(problem, rank: int, rng: np.random.Generator, norm: float | None = None) -> LowRank:
    """The problem's own start, as a LowRank; of the given norm for a loss that starts anywhere."""
    if norm is not None and isinstance(problem, LossProblem) and getattr(problem, "start", None) is None:
        return LowRank(*problem.initial(rank, rng, norm))
    return LowRank(*problem.initial(rank, rng))


# -- dense measurements in double precision ----------------------------------------------------------------------------


def dense(Y: Any) -> np.ndarray:
    """The matrix ``U S V^H`` of a point in double precision."""
    U, S, V = (wide(getattr(Y, name)) for name in "USV")
    return U @ S @ V.conj().T


def wide(X: Any) -> np.ndarray:
    """A numpy or torch array as a numpy array in double precision."""
    X = to_numpy(X)
    return X.astype(np.complex128 if np.iscomplexobj(X) else np.float64)


def norm(X: Any) -> float:
    """Frobenius norm."""
    return float(np.linalg.norm(X))


def basis(X: Any) -> np.ndarray:
    """Orthonormal basis of the range of X: X itself where it has orthonormal columns, else from the SVD."""
    X = wide(X)
    if X.shape[1] <= X.shape[0] and norm(X.conj().T @ X - np.eye(X.shape[1])) < 1e-4:
        return np.linalg.qr(X)[0]
    U, s, _ = np.linalg.svd(X, full_matrices=False)
    return U[:, s > max(X.shape) * np.finfo(float).eps * s[0]] if len(s) and s[0] > 0 else U[:, :0]


def bases(Y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal bases of the ranges of U and V.

    With them ``P(Y) Z = U U^H Z + Z V V^H - U U^H Z V V^H`` has a meaning for every method: the tangent space of the
    matrices ``B A`` for LoRA (its range is that of the derivative of B A), everything for the full matrix.
    """
    return basis(Y.U), basis(Y.V)


def tangent_part(Z: np.ndarray, U: np.ndarray, V: np.ndarray) -> np.ndarray:
    """P Z for orthonormal U and V."""
    UZ = U @ (U.conj().T @ Z)
    rest = Z - UZ
    return UZ + rest @ V @ V.conj().T


def normal_part(Z: np.ndarray, U: np.ndarray, V: np.ndarray) -> np.ndarray:
    """(I - P) Z = (I - U U^H) Z (I - V V^H)."""
    Z = Z - U @ (U.conj().T @ Z)
    return Z - (Z @ V) @ V.conj().T


def field_at(problem, t: float, Y: Any) -> np.ndarray:
    """The field as a dense matrix in double precision."""
    return wide(problem.field(t, Y).full())


def eps_of(Y: Any) -> float:
    """Machine epsilon of a point."""
    dtype = str(Y.U.dtype)
    return float(np.finfo(np.float32).eps if dtype.endswith(("float32", "complex64")) else np.finfo(np.float64).eps)


def rounding(Y: Any, *sizes: float) -> float:
    r"""Slack for rounding in one step: ``eps (100 + 150 sqrt(2 r)) sum(sizes)``.

    ``100 eps`` covers the few dozen products and factorisations of a step; the second term covers the up to 2 r
    directions that basis augmentation drops, each of size at most ``100 eps`` times the block it is taken from.
    """
    return eps_of(Y) * (100.0 + 150.0 * math.sqrt(2.0 * Y.rank)) * float(sum(sizes))


# -- constants of problems ---------------------------------------------------------------------------------------------


def lipschitz(problem) -> float:
    """Lipschitz constant of the field in Y; infinite where none is known."""
    return float(getattr(problem, "lipschitz", math.inf))


def one_sided(problem) -> Constant:
    r"""A constant l with ``Re <F(X) - F(Y), X - Y> <= l ||X - Y||^2``: the exact flow grows by ``e^{l t}`` at most."""
    if isinstance(problem, MatrixRegression):
        return Constant(-1.0, "F(X) - F(Y) = -(X - Y)")
    if isinstance(problem, LossProblem) and problem.convex:
        return Constant(0.0, "convex loss: its gradient is monotone")
    known = getattr(problem, "one_sided_lipschitz", None)
    if known is not None:
        return Constant(float(known), "one-sided Lipschitz constant of the problem")
    return Constant(lipschitz(problem), "at most the Lipschitz constant")


def time_lipschitz(problem, t0: float, t1: float) -> Constant | None:
    r"""A bound of ``||F(s, Y) - F(t, Y)||_F / |s - t|`` on [t0, t1] for every Y; None where none is known.

    - A gradient flow or another autonomous field: 0.
    - ``A(t) = e^{t W1} e^t D e^{t W2}``: ``A'' = (I + W1)^2 A + 2 (I + W1) A W2 + A W2^2``, and ``||I + W1||_2 =
      (1 + ||W1||_2^2)^{1/2}`` for skew W1, so ``||A''|| <= ((1 + ||W1||_2^2)^{1/2} + ||W2||_2)^2 e^{t1} ||D||_F``.
    - ``F = A' + N(Y) - N(A)`` with ``A = e^t P D Q^H`` where P'' = -P, Q'' = -4 Q and P', Q'/2 have orthonormal
      columns: ``||A''|| <= (4 + 2 + 4 + 4) e^t ||D||`` (from 1 - 1 - 4, 2 P', 2 Q', 2 P' Q'), ``||A'|| <= 4 e^t
      ||D||``, hence ``(14 + 4 L_N) e^{t1} ||D||``.
    """
    own = getattr(problem, "time_lipschitz", None)
    if callable(own):
        return Constant(float(own(t0, t1)), "derived by the problem")
    if isinstance(problem, LossProblem) or type(problem).__name__ in ("Sylvester", "Schroedinger"):
        return Constant(0.0, "the field does not depend on time")
    if isinstance(problem, Rotating):
        w1, w2 = (float(np.linalg.norm(W, 2)) for W in (problem.W1, problem.W2))
        size = math.exp(t1) * norm(problem.singular_values)
        return Constant((math.hypot(1.0, w1) + w2) ** 2 * size, "bound of ||A''||")
    if isinstance(problem, GivenSolution) and math.isfinite(problem.lipschitz):
        size = math.exp(t1) * norm(problem.singular_values)
        return Constant((14.0 + 4.0 * problem.lipschitz) * size, "bound of ||A''|| + L ||A'||")
    return None


def gradient_bound(problem, G: np.ndarray, theta: float, radius: float, L: float) -> float:
    """B: a bound of ``||grad f||`` on a segment of length theta that starts at gradient G, within a ball.

    The smaller of the problem's own bound on the ball and ``||G|| + L theta`` from the Lipschitz constant.
    """
    return min(problem.gradient_bound(radius), norm(G) + L * theta)


def tolerance_of(integrator) -> Tolerance | None:
    """The truncation, if it is one by tolerance without an upper bound of the rank."""
    truncation = integrator.truncation
    return truncation if isinstance(truncation, Tolerance) else None


def series(name, parameter, rows, left_label="left", right_label="right") -> Series:
    """See :meth:`Series.of`."""
    return Series.of(name, parameter, rows, left_label, right_label)
