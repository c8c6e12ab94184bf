"""The one thing that moves: a matrix and a method's memory, before and after truncation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .checks import check_instance
from .fields import PARTS, Projections, seen
from .linalg import alignment, cut, dagger, rotate, rows, select, stacked
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
    warning : str, optional
        What is wrong with the step just made, whose numbers are finite all the same.
    """

    Y: LowRank
    memory: Mapping[str, Any] = field(default_factory=dict)
    origin: LowRank | None = None
    rejected: int = 0
    warning: str | None = None

    def at(self, Y1: LowRank) -> State:
        """The state at Y1 (usually Y truncated), its tangent vector projected there. Cost O((m + n) r^2).

        Where the memory has second moments of the entries of K, L and S, the bases of Y1 are turned first, so that
        these keep their meaning.
        """
        memory = self.memory
        if self.origin is not None and "entries.K" in memory:
            Y1, moved = aligned(Y1, self.origin, [memory[f"entries.{part}"] for part in PARTS])
            memory = {**memory, **{f"entries.{part}": X for part, X in zip(PARTS, moved, strict=True)}}
        if self.origin is not None and "first.K" in memory:
            first = Projections(*(memory[f"first.{part}"] for part in PARTS))
            K, L = (seen(first, self.origin, Y1, part) for part in "KL")
            memory = {**memory, "first.K": K, "first.L": L, "first.S": dagger(Y1.U) @ K}
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
        return State(Y, memory, origin, self.rejected, self.warning)

    def arrays(self) -> dict[str, Any]:
        """Y and memory as one flat mapping: ``U``, ``S``, ``V``, ``memory.NAME``."""
        return dict(zip("USV", self.Y, strict=True)) | {f"memory.{name}": X for name, X in self.memory.items()}

    @classmethod
    def of(cls, arrays: Mapping[str, Any]) -> State:
        """From what :meth:`arrays` gave; other names are left out. Raises KeyError where a factor is missing."""
        memory = {name.removeprefix("memory."): X for name, X in arrays.items() if name.startswith("memory.")}
        return cls(LowRank(*(arrays[name] for name in "USV")), memory)


def aligned(Y1: LowRank, Y0: LowRank, moments: Sequence[Any]) -> tuple[LowRank, list[Any]]:
    """Y1 in bases nearest to those of Y0, and moments of the entries of K, L and S there, from those at Y0."""
    K, L, S = moments
    (TU, EU), (TV, EV) = alignment(Y1.U, Y0.U, S), alignment(Y1.V, Y0.V, S)
    Y = LowRank(rotate(Y1.U, TU), dagger(TU) @ Y1.S @ TV, rotate(Y1.V, TV), ranks=Y1.ranks)
    return Y, [K @ EV, L @ EU, dagger(EU) @ S @ EV]


def is_array(X: Any) -> bool:
    """Whether an entry of a memory is an array and not a counter (which a file makes an array without axes)."""
    return getattr(X, "ndim", 0) > 0


def counters(state: State) -> dict[str, Any]:
    """What in the memory is no array: common to all matrices of a stack."""
    return {name: X for name, X in state.memory.items() if not is_array(X)}


def stack(states: Sequence[State]) -> State:
    """States of equal counters as one, with a leading axis over the matrices; zeros fill up those of smaller rank.

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
    if any(state.Y.shape != first.Y.shape for state in states):
        raise ValueError(f"states of different shapes cannot be stacked: {[state.Y for state in states]}")
    return first.map(lambda *Xs: stacked(Xs), *states[1:])


def unstack(state: State, before: Sequence[State]) -> list[State]:
    """The states of the matrices of a stack, without the zeros that fill it up.

    Y has the ranks that it states. Where it states none, they are those of ``before``, the states that were stacked; if
    its bases have other numbers of columns than those, all zero columns are taken off. A first moment that
    has been moved to Y has its ranks, the rest of the memory the shapes that it has in ``before``.
    """
    check_instance("state", state, State)
    parts = {id(X): rows(X) for X in _arrays(state) if X.ndim > 2 or X is not state.Y.S}
    points = _points(state.Y, [old.Y for old in before], parts)
    moved = state.origin is None and "first.K" in state.memory
    kept = {name: X for name, X in state.memory.items() if not is_array(X)}
    arrays = {name: parts[id(X)] for name, X in state.memory.items() if is_array(X)}
    origin = None if state.origin is None else [parts[id(X)] for X in state.origin]

    def memory(i, old):
        shapes = {name: X.shape for name, X in old.memory.items() if name in arrays}
        if moved:
            U, S, V = points[i]
            found = {"K": (U.shape[0], V.shape[1]), "L": (V.shape[0], U.shape[1]), "S": S.shape}
            shapes |= {f"{kind}.{part}": X for kind in ("first", "entries") for part, X in found.items()}
        return {name: cut(X[i], shapes[name]) if name in shapes else X[i] for name, X in arrays.items()} | kept

    def point(i, old):
        return origin and LowRank(*(cut(X[i], Z.shape) for X, Z in zip(origin, old.Y, strict=True)))

    return [State(points[i], memory(i, old), point(i, old), state.rejected) for i, old in enumerate(before)]


def _points(Y: LowRank, before: Sequence[LowRank], parts: Mapping[int, Sequence]) -> list[LowRank]:
    """The matrices of the stack Y; ``parts`` are the rows of its arrays by their id."""
    U, S, V = (parts.get(id(X)) or [X] * len(before) for X in Y)
    (m, n), largest = Y.shape[-2:], tuple(map(max, zip(*(Z.S.shape for Z in before), strict=True)))
    if Y.ranks is not None:
        shapes = [(r, r) for r in Y.ranks]
    elif Y.S.shape[-2:] == largest:
        shapes = [tuple(Z.S.shape) for Z in before]
    else:
        used = zip(*map(rows, Y.columns), strict=True)
        return [
            LowRank(select(Ui, u), select(select(Si, u, -2), v), select(Vi, v))
            for Ui, Si, Vi, (u, v) in zip(U, S, V, used, strict=True)
        ]
    return [
        LowRank(cut(Ui, (m, rU)), cut(Si, (rU, rV)), cut(Vi, (n, rV)))
        for Ui, Si, Vi, (rU, rV) in zip(U, S, V, shapes, strict=True)
    ]


def _arrays(state: State) -> list:
    """All arrays of a state, that of each factor and each entry of the memory."""
    points = [state.Y] if state.origin is None else [state.Y, state.origin]
    return [X for Y in points for X in Y] + [X for X in state.memory.values() if is_array(X)]
