"""The interface of all methods: an integrator asks for the field at a point, someone answers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from array_api_compat import array_namespace

from .lowrank import LowRank
from .optimizers import SGD, Carried, Optimizer, entry, steered, tangent_memory
from .truncation import Truncation

__all__ = ["Integrator", "Proposal", "State", "Step", "conclude", "stack", "unstack"]


@dataclass(frozen=True, eq=False)
class State:
    """Everything an integrator carries from one step to the next.

    Parameters
    ----------
    Y : LowRank
        The current matrix.
    memory : mapping from str to array or int
        Moments, averages, counters; empty for a method without memory. Save both, and a run goes on as if it had
        never stopped.
    """

    Y: LowRank
    memory: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Proposal:
    """What a step proposes before truncation.

    Parameters
    ----------
    Y : LowRank
        The new matrix, usually in augmented bases.
    memory : mapping
        What a truncation may look at (AdaLoRA's importance scores).
    finish : Carried
        A function: the memory at the truncated matrix.
    rejected : int
        Steps rejected on the way.
    """

    Y: LowRank
    memory: Mapping[str, Any] = field(default_factory=dict)
    finish: Carried = field(default_factory=Carried)
    rejected: int = 0


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
    """

    augmented: LowRank
    state: State
    truncation_error: float
    evaluations: int
    rejected: int


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
    """The factors of the representation that move; the others are identities."""
    stackable: ClassVar[bool] = True
    """Whether stages may be run on a stack of matrices (leading axes), one decision being right for all."""
    truncation: ClassVar[Any] = None
    """A Truncation, or None: the proposal is the result."""

    @property
    def evaluations(self) -> int:
        """Fields per accepted step."""
        return 1

    def start(self, Y: LowRank) -> LowRank:
        """The matrix Y in the representation of this method; one that is in it stays as it is, bit for bit."""
        return Y

    def init(self, Y: LowRank) -> State:
        """The state from which to start at Y, with orthonormal U and V.

        Raises TypeError if Y is not a LowRank.
        """
        if not isinstance(Y, LowRank):
            raise TypeError(f"Y must be a LowRank, got {type(Y).__name__}")
        Y = self.start(Y)
        return State(Y, self.memory(Y))

    def memory(self, Y: LowRank) -> Mapping[str, Any]:
        """Memory at the start."""
        return tangent_memory(self.optimizer, Y)

    def stages(self, t: float, state: State, h: float) -> Generator[tuple, Any, LowRank | Proposal]:
        """The method itself: yields points, is sent fields, returns the matrix before truncation."""
        raise TypeError(f"{type(self).__name__} must define stages(t, state, h)")

    def advance(self, t: float, state: State, h: float) -> Generator[tuple, Any, Proposal]:
        """What a driver runs: :meth:`stages` with the optimiser in between, up to a :class:`Proposal`."""
        stages = self.stages(t, state, h)
        if not self.manifold or isinstance(self.optimizer, SGD):
            result = yield from stages
            return Proposal(result) if isinstance(result, LowRank) else result
        result, memory_at = yield from steered(stages, self.optimizer, state.Y, state.memory)
        if isinstance(result, LowRank):
            return Proposal(result, finish=memory_at)
        return Proposal(result.Y, finish=memory_at, rejected=result.rejected)

    def step(self, F: Callable[[float, LowRank], Any], t: float, state: State, h: float) -> Step:
        """One step of size h from time t with the field ``F(t, Y)``.

        Raises
        ------
        FloatingPointError
            An infinity or a NaN was met; ``state`` is as it was.
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
            proposal = stop.value
        [(new, error)] = conclude(self.truncation, [proposal])
        return Step(proposal.Y, new, error, evaluations, proposal.rejected)


def conclude(truncation: Truncation | None, proposals: Sequence[Proposal]) -> list[tuple[State, float]]:
    """Truncate the proposals of all matrices together: the new state and the truncation error of each."""
    truncated = [(p.Y, 0.0) for p in proposals] if truncation is None else truncation(proposals)
    return [(State(Y, p.finish(Y)), error) for p, (Y, error) in zip(proposals, truncated, strict=True)]


def stack(states: Sequence[State]) -> State:
    """States of equal shapes and counters as one, with a leading axis over the matrices.

    Raises ValueError where they do not fit.
    """
    first = states[0]
    memory = {}
    for name, X in first.memory.items():
        entries = [state.memory[name] for state in states]
        memory[name] = _stacked(entries) if hasattr(X, "ndim") else X
        if not hasattr(X, "ndim") and any(entry != X for entry in entries):
            raise ValueError(f"states with different values of {name} cannot be stacked: {entries}")
    Y = LowRank(*(_stacked([getattr(state.Y, factor) for state in states]) for factor in ("U", "S", "V")))
    return State(Y, memory)


def unstack(proposal: Proposal, count: int, manifold: bool) -> list[Proposal]:
    """The proposals of the ``count`` matrices of a stack.

    For a method that keeps its bases orthonormal (``manifold``) zero columns are taken off: a matrix for which
    :func:`~integrators.linalg.complement` found fewer directions than for others has its own, smaller, rank.
    """
    xp = array_namespace(proposal.Y.U)
    U, V = proposal.Y.U, proposal.Y.V
    S = xp.broadcast_to(proposal.Y.S, (count, *proposal.Y.S.shape[-2:]))
    widths = [(U.shape[-1], V.shape[-1])] * count
    if manifold and not all(bool(xp.all(xp.any(X[..., -1] != 0, axis=-1))) for X in (U, V) if X.shape[-1]):
        used = (xp.sum(xp.astype(xp.any(X != 0, axis=-2), xp.int64), axis=-1).tolist() for X in (U, V))
        widths = list(zip(*used, strict=True))
    result = []
    for i, (rU, rV) in enumerate(widths):
        Y = LowRank(U[i, :, :rU], S[i, :rU, :rV], V[i, :, :rV])
        result.append(Proposal(Y, entry(proposal.memory, i), proposal.finish.entry(i), proposal.rejected))
    return result


def _stacked(arrays):
    return array_namespace(*arrays).stack(arrays)
