"""The template of a theorem: its promises, its hypotheses, its measurement; and the forms of methods it asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from integrators import (
    BUG,
    AdaLoRA,
    Euler,
    FixedRank,
    Integrator,
    LoRA,
    LowRank,
    ProjectorSplitting,
    SVDLoRA,
    Tolerance,
    Truncation,
)
from integrators.checks import check_instance, check_integer, check_positive

from ..registry import with_options
from .certificate import Certificate, Constant, Hypothesis, Series

FACTORS = (LoRA, SVDLoRA, AdaLoRA)
"""Methods of simultaneous descent on factors."""
SEQUENTIAL = (BUG, ProjectorSplitting)
"""Methods of fixed rank whose sub-steps follow one another."""


def one_euler_step(method: Any) -> str:
    """Why a projected Runge-Kutta method is not the Riemannian gradient step; empty where it is."""
    return "" if method.order == 1 else "its stages move along the gradient at other points"


@dataclass
class Measured:
    """What a theorem measures.

    Parameters
    ----------
    series : list of Series
        The inequalities, the main one first.
    constants : dict of Constant
        Every number that enters the bounds, with its source.
    notes : list of str
        Findings beside the verdict.
    hypotheses : list of Hypothesis
        Those that only the run could tell.
    """

    series: list[Series] = field(default_factory=list)
    constants: dict[str, Constant] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    hypotheses: list[Hypothesis] = field(default_factory=list)


@dataclass(frozen=True)
class Theorem:
    """A statement that can be checked for any integrator on any problem that fits.

    A subclass is one file: a docstring with statement, hypotheses, proof and source; the settings of a check as
    fields; the table :attr:`promised`; :meth:`hypotheses`, :meth:`measure` and :meth:`problems`; and, where the theorem
    asks for a certain form of the method (exact sub-flows, a fixed rank), :meth:`configured`. Other settings are
    ``Descent(step_size=0.1)`` or ``dataclasses.replace(theorem, step_size=0.1)``.
    """

    name: ClassVar[str]
    """Name on the command line."""
    statement: ClassVar[str]
    source: ClassVar[str]
    promised: ClassVar[Mapping[Any, str]] = {}
    """The methods for which theory promises the statement, and why; no other method is promised anything."""
    unless: ClassVar[Mapping[Any, Callable[[Any], str]]] = {}
    """For promised methods whose settings decide: the reason why this one is not promised, or an empty text."""
    doubts: ClassVar[Mapping[Any, str]] = {}
    """What is known of methods that are not promised."""
    own_problem: ClassVar[str] = ""
    """What the theorem calls the problem that it makes itself; empty where :meth:`check` needs one."""
    few: ClassVar[int] = 1
    """How many of :meth:`problems` are the small cases."""

    def promises(self, integrator: Integrator) -> tuple[bool, str]:
        """Whether theory promises the statement for this method, and why or why not.

        A subclass of a promised method inherits the promise, unless it has stages of its own: then it is a new method.
        """
        for kind in type(integrator).__mro__:
            if kind in self.promised:
                doubt = self.unless[kind](integrator) if kind in self.unless else ""
                return not doubt, doubt or self.promised[kind]
            if kind in self.doubts:
                return False, self.doubts[kind]
            if not {"stages", "advance", "step"}.isdisjoint(vars(kind)):
                break
        return False, "nobody has proved it for this method"

    def configured(self, integrator: Integrator) -> Integrator:
        """The method in the form the theorem speaks of: with explicit Euler steps, unless a subclass says otherwise."""
        return with_options(integrator, substep=Euler())

    def problems(self) -> dict[str, Any]:
        """The problems on which it is checked by default, by name; the first :attr:`few` are the small cases."""
        return {}

    def hypotheses(self, integrator: Integrator, problem: Any) -> Iterable[Hypothesis]:
        """The conditions, each with whether it is met."""
        raise TypeError(f"{type(self).__name__} must define hypotheses(integrator, problem)")

    def measure(self, integrator: Integrator, problem: Any) -> Measured:
        """Both sides of every inequality; called where all hypotheses are met, with numpy's warnings off."""
        raise TypeError(f"{type(self).__name__} must define measure(integrator, problem)")

    def check(self, integrator: Integrator, problem: Any = None) -> Certificate:
        """Compare both sides for one method on one problem (none for a theorem that makes its own).

        Raises ValueError where a problem is missing, or given to a theorem that makes its own.
        """
        if (problem is None) != bool(self.own_problem):
            raise ValueError(f"{self.name} {'makes its own problems' if self.own_problem else 'needs a problem'}")
        check_instance("integrator", integrator, Integrator)
        for name in {"rank", "steps"} & {setting.name for setting in dataclasses.fields(self)}:
            check_integer(name, getattr(self, name))
        for name in ("step_size", "t_end"):
            if getattr(self, name, None) is not None:
                check_positive(name, getattr(self, name))
        if (start := getattr(self, "start", None)) is not None:
            check_instance("start", start, LowRank)
            if problem is not None and tuple(start.shape) != tuple(problem.shape):
                raise ValueError(f"start has shape {tuple(start.shape)}, but the problem has {tuple(problem.shape)}")
        with np.errstate(all="ignore"):
            hypotheses = list(self.hypotheses(integrator, problem))
            found = self.measure(integrator, problem) if all(h.met for h in hypotheses) else Measured()
        promised, why = self.promises(integrator)
        return Certificate(
            theorem=self.name,
            statement=self.statement,
            source=self.source,
            integrator=label(integrator),
            problem=self.own_problem or getattr(problem, "name", type(problem).__name__),
            hypotheses=(*hypotheses, *found.hypotheses),
            series=tuple(found.series),
            constants=found.constants,
            promised=promised,
            promise=why,
            notes=tuple(found.notes),
        )

    def settings(self, full: bool) -> Iterator[tuple[Theorem, Any]]:
        """The small cases, or the large sweep: the theorem with its settings, and the problem."""
        problems = [None] if self.own_problem else list(self.problems().values())
        for problem in problems if full else problems[: self.few]:
            yield self, problem

    def cases(self, integrator: Integrator, full: bool = False) -> Iterator[Certificate]:
        """Certificates of the small cases, or of the large sweep."""
        for theorem, problem in self.settings(full):
            yield theorem.check(theorem.configured(integrator), problem)


# -- names and forms of methods ----------------------------------------------------------------------------------------


def label(integrator: Any) -> str:
    """Class and hyper-parameters that differ from the default, without what every method has."""
    shown = []
    for f in dataclasses.fields(integrator) if dataclasses.is_dataclass(integrator) else ():
        default = f.default_factory() if callable(f.default_factory) else f.default
        text = repr(getattr(integrator, f.name))
        if text != repr(default):
            for noise in (", absolute=None", "relative=None, ", ", max_rank=None", ", min_rank=1", ", spare=0"):
                text = text.replace(noise, "")
            shown.append(f"{f.name}={text}")
    return f"{type(integrator).__name__}({', '.join(shown)})"


def cuts_values(integrator: Integrator) -> bool:
    """Whether the method has a truncation of singular values (AdaLoRA's budget of triplets is none)."""
    rule = integrator.truncation
    return isinstance(rule, Truncation) and (type(rule).ranks, type(rule).kept) != (Truncation.ranks, Truncation.kept)


def with_truncation(integrator: Integrator, truncation: Truncation) -> Integrator:
    """The method with this truncation, where it truncates singular values.

    A method that rejects steps needs a tolerance: it gets one of 0 with the rank as its upper bound.
    """
    if not cuts_values(integrator):
        return integrator
    if isinstance(truncation, FixedRank) and getattr(integrator, "rejection", None) is not None:
        truncation = Tolerance(absolute=0.0, max_rank=truncation.rank)
    return replace(integrator, truncation=truncation)  # type: ignore[call-arg]
