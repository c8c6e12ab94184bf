"""The interface of all methods: an integrator asks for the field at a point, someone answers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from .checks import check_instance, check_precision
from .fields import Projections
from .linalg import check_finite, dagger
from .lowrank import LowRank
from .optimizers import SGD, Optimizer, steered
from .state import State, is_array
from .substeps import Substep
from .truncation import ImportanceBudget, Tolerance, Truncation

__all__ = ["Integrator", "Step", "conclude", "count_evaluations"]


@dataclass(frozen=True, eq=False)
class Step:
    """The result of one step.

    Parameters
    ----------
    augmented : LowRank
        The matrix before truncation.
    state : State
        The state after it.
    truncation_error : float
        Frobenius norm of the difference of the two matrices.
    evaluations : int
        Fields asked for: gradient tapes, those of rejected steps included.
    rejected : int
        Rejected steps.
    warning : str, optional
        What is wrong with the step, whose numbers are finite all the same.
    """

    augmented: LowRank
    state: State
    truncation_error: float
    evaluations: int
    rejected: int
    warning: str | None = None


@dataclass(frozen=True, kw_only=True)
class Integrator:
    """One step of a low-rank method, written as a generator.

    A subclass is a frozen dataclass of hyper-parameters; all that changes lives in the :class:`State`. It defines
    :meth:`stages`, in which ``f = yield t, Y`` asks for the field at the point Y and receives an object with

    - ``f.K`` = F(t, Y) V      (m, rV),
    - ``f.L`` = F(t, Y)^H U    (n, rU),
    - ``f.S`` = U^H F(t, Y) V  (rU, rV),

    U and V being the point's own bases. A third entry, ``yield t, Y, "S"``, says that only this part will be
    read. Each yield costs one evaluation of the field (for a network: one backward pass); looking at the same point
    through other bases is a new one. The first yield is the field at the starting point, ``state.Y``.

    A field may know more: exact sub-flows (:class:`~integrators.Exact`), a linear part (``f.linear_part(part)``, see
    :class:`~integrators.Exponential`), rows and columns (``f.rows(p)``, ``f.columns(q)``, see
    :class:`~integrators.PRKDEIM`), parts whose sum it is (``f.parts``, see :class:`~integrators.ProjectorSplitting`).
    A method that asks for these does without where they are unknown, or says so.

    Who answers differs: :meth:`step` asks a function; a network answers for all its layers at once.

    Parameters
    ----------
    optimizer : Optimizer
        What is done with the field before the method moves along it; plain by default.
    """

    optimizer: Optimizer = field(default_factory=SGD)

    order: ClassVar[Any] = None
    """Order of convergence in the step size; None where the method follows another flow than the field's."""
    robust: ClassVar[bool] = False
    """Whether the error bound is free of the singular values."""
    rank_adaptive: ClassVar[bool] = False
    """Whether the rank may change."""
    manifold: ClassVar[bool] = True
    """Whether U and V stay orthonormal."""
    factors: ClassVar[tuple[str, ...]] = ("U", "S", "V")
    """The factors of the representation that the method moves."""
    stackable: ClassVar[bool] = False
    """Whether :meth:`stages` may be run on a stack of matrices (leading axes), one decision being right for all.

    In a stack zero columns of U and V, and zeros of S and of the field, fill up matrices of smaller rank, and must stay
    so; a matrix for which a kernel would need another decision becomes not finite, and is stepped alone.

    Declared by the class that defines ``stages``: without it the matrices of a network advance one by one."""
    truncation: ClassVar[Any] = None
    """A Truncation, or None: what :meth:`stages` returns is the result."""
    evaluations: ClassVar[int | None] = None
    """Fields per accepted step, where the author wants to state them. Drivers count, and a wrong number is an error."""

    def __post_init__(self):
        """Check what all methods have in common; a subclass with checks of its own calls this one too."""
        check_instance("optimizer", self.optimizer, Optimizer, "Adam()")
        if self.truncation is not None:
            check_instance("truncation", self.truncation, Truncation, "Tolerance(relative=0.1)")
            if self.manifold and isinstance(self.truncation, ImportanceBudget):
                raise TypeError(f"truncation must not be AdaLoRA's ImportanceBudget for {type(self).__name__}")
            if self.optimizer.flat:
                check_flat(self.truncation, self.optimizer)
        if hasattr(self, "substep"):
            check_instance("substep", self.substep, Substep, "Heun()")

    def __init_subclass__(cls, **options):
        """New stages are on single matrices unless their class says otherwise."""
        super().__init_subclass__(**options)
        if "stages" in vars(cls) and "stackable" not in vars(cls):
            cls.stackable = False

    def for_run(self, steps: int, rank: int) -> Integrator:
        """The method for a run of this number of steps from this rank (of all matrices together).

        It is the method itself, unless a schedule depends on them.
        """
        return self

    def start(self, Y: LowRank) -> LowRank:
        """The matrix Y in the representation of this method; one that is in it stays as it is, bit for bit."""
        return Y

    def init(self, Y: LowRank) -> State:
        """The state from which to start at Y.

        A method that keeps U and V orthonormal makes them so, unless they are already (to 100 eps): its run depends on
        the matrix alone. A method that moves factors starts from these ones.

        Raises
        ------
        TypeError
            Y is not a LowRank, or its factors are not in single or double precision.
        ValueError
            The method would start with rank 0, from which no direction can grow.
        """
        if not isinstance(Y, LowRank):
            raise TypeError(f"Y must be a LowRank, got {type(Y).__name__}")
        check_precision("the factors of Y", Y.S)
        Y = self.start(Y.orthonormalised() if self.manifold else Y)
        if self.manifold and self.truncation is not None:
            Y = self.truncation.start(Y)
        if Y.rank == 0:
            raise ValueError(
                f"Y must have rank 1 at least, got {Y!r}: start from LowRank.zeros(shape, rank, rng), "
                "the zero matrix with bases that can turn"
            )
        return State(Y, self.memory(Y))

    def memory(self, Y: LowRank) -> Mapping[str, Any]:
        """Memory at the start."""
        memory = self.optimizer.init({"K": Y.U, "L": Y.V, "S": Y.S}, Y)
        return memory if self.truncation is None else {**memory, **self.truncation.memory(Y)}

    def stages(self, t: float, state: State, h: float) -> Generator[tuple, Any, LowRank | State]:
        """The method itself: yields points, is sent fields, returns the matrix before truncation.

        A method that remembers, or rejects steps, returns a State with its new memory. Raises TypeError where a
        subclass does not define it.
        """
        raise TypeError(f"{type(self).__name__} must define stages(t, state, h)")

    def advance(self, t: float, state: State, h: float) -> Generator[tuple, Any, State]:
        """What a driver runs: :meth:`stages` with the optimiser in between, up to the state before truncation."""
        stages = self.stages(t, replace(state, Y=state.Y.with_notes()), h)
        if self.manifold and type(self.optimizer) is not SGD:
            stages = steered(stages, self.optimizer, state)
        if self.manifold and self.truncation is not None and self.truncation.remembers:
            stages = observed(stages, self.truncation, state)
        result = yield from stages
        after = result if isinstance(result, State) else State(result, state.memory)
        return replace(after, Y=LowRank(*after.Y))  # what was noted does not outlive the step

    def step(self, F: Callable[[float, LowRank], Any], t: float, state: State, h: float) -> Step:
        """One step of size h from time t with the field ``F(t, Y)``.

        Raises
        ------
        FloatingPointError
            An infinity or a NaN was met, in the matrix or in the memory, or a number beyond all floating-point numbers;
            ``state`` is as it was.
        RuntimeError
            The method asked for another number of fields than it declares.
        """
        t, h = float(t), float(h)  # a numpy scalar would promote float32 arrays
        stages = self.advance(t, state, h)
        evaluations = 0
        try:
            request = next(stages)
            while True:
                evaluations += 1
                request = stages.send(F(*request[:2]))
        except StopIteration as stop:
            before = stop.value
        except OverflowError as overflow:  # of Python's own numbers, where an array would have an infinity
            raise FloatingPointError(f"the field overflowed: {overflow}") from overflow
        self.check_count(evaluations, before.rejected)
        [(after, error)] = conclude(self.truncation, [before])
        for name, X in after.arrays().items():
            if is_array(X):
                check_finite(X, name)
        return Step(before.Y, after, error, evaluations, before.rejected, before.warning)

    def check_count(self, evaluations: int, rejected: int) -> None:
        """Raise RuntimeError where a declared number of fields per accepted step is not the one that was counted."""
        if self.evaluations not in (None, evaluations) and not rejected:
            raise RuntimeError(
                f"{type(self).__name__} declares {self.evaluations} evaluations per step, {evaluations} were counted: "
                "leave the declaration out, drivers count"
            )


def observed(stages: Generator[tuple, Any, Any], truncation: Truncation, state: State) -> Generator[tuple, Any, State]:
    """Run the generator ``stages`` with a truncation that looks at the first field, at ``state.Y`` itself."""
    request = next(stages)
    f = yield request
    learned = truncation.learn(state.memory, f, state.Y)
    try:
        while True:
            f = yield stages.send(f)
    except StopIteration as stop:
        result = stop.value
    after = result if isinstance(result, State) else State(result, state.memory)
    return replace(after, memory={**after.memory, **learned})


def conclude(truncation: Truncation | None, states: Sequence[State]) -> list[tuple[State, Any]]:
    """Truncate all matrices together: the state after it and the truncation error of each, an array for a stack."""
    truncated: list[tuple[LowRank, Any]] = [(s.Y, 0.0) for s in states] if truncation is None else truncation(states)
    return [(s.at(Y), error) for s, (Y, error) in zip(states, truncated, strict=True)]


def count_evaluations(integrator: Integrator, like: Any = None) -> int:
    """Fields that one accepted step asks for (for a network: backward passes), counted on a small matrix.

    The matrix has the library, dtype and device of the array ``like``; numpy's float64 without it.
    """

    check_instance("integrator", integrator, Integrator)

    class Constant(Projections):
        def __init__(self, Y):
            super().__init__(A @ Y.V, dagger(A) @ Y.U, dagger(Y.U) @ A @ Y.V)
            self.flow_K = lambda h: Y.K + h * self.K
            self.flow_L = lambda h: Y.L + h * self.L
            self.flow_S = lambda h, sign=1: Y.S + sign * h * self.S

    rng = np.random.default_rng(0)
    A = LowRank.random((12, 11), 11, rng, like).full()
    # the step is so short that nothing it neglects makes a method reject it
    stages = integrator.advance(0.0, integrator.init(LowRank.random((12, 11), 2, rng, like)), 1e-20)
    request, count = next(stages), 0
    try:
        while True:
            count += 1
            request = stages.send(Constant(request[1]))
    except StopIteration:
        return count


def check_flat(truncation: Truncation, optimizer: Optimizer) -> None:
    """Raise ValueError for a tolerance that would keep on raising the rank, where all singular values are alike.

    Of 2 r equal values the rule of a relative tolerance tau keeps 2 r (1 - tau^2).
    """
    if not isinstance(truncation, Tolerance) or truncation.max_rank is not None or truncation.relative is None:
        return
    if truncation.relative**2 < 0.5:
        raise ValueError(
            f"{optimizer!r} makes singular values of equal size, of which {truncation!r} keeps so many that the rank "
            "grows without bound: take GlobalBudget(parameters=...) or FixedRank(...), or give it a max_rank"
        )
