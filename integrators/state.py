"""The one thing that moves: a matrix and a method's memory, before and after truncation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .checks import check_instance
from .fields import PARTS, Projections, seen
from .linalg import array_namespace, to_numpy
from .lowrank import LowRank

__all__ = ["State", "stack", "unstack"]


@dataclass(frozen=True, eq=False)
class State:
    """Everything an integrator carries from one step to the next.

    Parameters
    ----------
    Y : LowRank
        The current matrix, before truncation in augmented bases.
    memory : mapping from str to array or number
        Moments, averages, counters; empty for a method without memory. With Y it is all that a run needs to go on as
        if it had never stopped. A first moment of a method with moving bases is a tangent vector, kept as ``first.K``,
        ``first.L``, ``first.S``.
    origin : LowRank, optional
        The point whose tangent space that first moment lives in, where it is not Y itself.
    rejected : int
        Steps rejected on the way.
    """

    Y: LowRank
    memory: Mapping[str, Any] = field(default_factory=dict)
    origin: LowRank | None = None
    rejected: int = 0

    def at(self, Y1: LowRank) -> State:
        """The state at Y1 (usually Y truncated), its tangent vector projected there. Cost O((m + n) r^2)."""
        memory = self.memory
        if self.origin is not None and "first.K" in memory:
            first = Projections(*(memory[f"first.{part}"] for part in PARTS))
            memory = {**memory, **{f"first.{part}": seen(first, self.origin, Y1, part) for part in PARTS}}
        return State(Y1, memory)

    def map(self, f: Callable, *others: State) -> State:
        """The state whose arrays are ``f(X, ...)``, X those of this state and of the others; counters are kept."""

        def mapped(X, *Xs):
            return f(X, *Xs) if is_array(X) else X

        def point(*Ys):
            return None if Ys[0] is None else LowRank(*(f(*Xs) for Xs in zip(*Ys, strict=True)))

        states = (self, *others)
        memory = {name: mapped(*(s.memory[name] for s in states)) for name in self.memory}
        Y, origin = point(*(s.Y for s in states)), point(*(s.origin for s in states))
        return State(Y, memory, origin, self.rejected)

    def arrays(self) -> dict[str, Any]:
        """Y and memory as one flat mapping: ``U``, ``S``, ``V``, ``memory.NAME``."""
        return dict(zip("USV", self.Y, strict=True)) | {f"memory.{name}": X for name, X in self.memory.items()}

    @classmethod
    def of(cls, arrays: Mapping[str, Any]) -> State:
        """From what :meth:`arrays` gave; other names are left out. Raises KeyError where a factor is missing."""
        memory = {name.removeprefix("memory."): X for name, X in arrays.items() if name.startswith("memory.")}
        return cls(LowRank(*(arrays[name] for name in "USV")), memory)


def is_array(X: Any) -> bool:
    """Whether an entry of a memory is an array and not a counter (which a file makes an array without axes)."""
    return getattr(X, "ndim", 0) > 0


def counters(state: State) -> dict[str, Any]:
    """What in the memory is no array: common to all matrices of a stack."""
    return {name: X for name, X in state.memory.items() if not is_array(X)}


def stack(states: Sequence[State]) -> State:
    """States of equal shapes and counters as one, with a leading axis over the matrices.

    Raises ValueError where they do not fit.
    """
    if len(states) == 0:
        raise ValueError("states must hold at least one state, got none")
    for state in states:
        check_instance("each of states", state, State)
    first = states[0]
    for name, X in counters(first).items():
        if any(state.memory[name] != X for state in states):
            values = [state.memory[name] for state in states]
            raise ValueError(f"states with different values of {name} cannot be stacked: {values}")
    return first.map(lambda *Xs: array_namespace(*Xs).stack(Xs), *states[1:])


def unstack(state: State, manifold: bool) -> list[State]:
    """The states of the matrices of a stack.

    For a method that keeps its bases orthonormal (``manifold``) zero columns are taken off: a matrix for which
    :func:`~integrators.linalg.complement` found fewer directions than for others has its own, smaller, rank.
    """
    check_instance("state", state, State)
    U, S, V = state.Y
    xp, count = array_namespace(U), U.shape[0]
    whole = replace(state, Y=LowRank(U, xp.broadcast_to(S, (count, *S.shape[-2:])), V))
    rows: dict[int, Sequence] = {}

    def row(X, i):
        if id(X) not in rows:
            rows[id(X)] = xp.unstack(X)
        return rows[id(X)][i]

    states = [whole.map(lambda X, i=i: row(X, i)) for i in range(count)]
    if not manifold or all(bool(xp.all(xp.any(X[..., -1] != 0, axis=-1))) for X in (U, V) if X.shape[-1]):
        return states
    used = (to_numpy(xp.sum(xp.astype(xp.any(X != 0, axis=-2), xp.int64), axis=-1)).tolist() for X in (U, V))
    return [
        replace(one, Y=LowRank(one.Y.U[:, :rU], one.Y.S[:rU, :rV], one.Y.V[:, :rV]))
        for one, rU, rV in zip(states, *used, strict=True)
    ]
