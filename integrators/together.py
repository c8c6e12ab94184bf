"""Matrices of one shape, whatever their ranks, on their way through a step: in one stack, and alone where need be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .fields import PARTS, Projections
from .integrator import Integrator, conclude
from .linalg import array_namespace, largest, read
from .lowrank import LowRank
from .state import State, is_array, stack, unstack
from .truncation import Truncation

__all__ = ["Apart", "Together", "finish", "separate"]


class Apart(FloatingPointError):
    """Matrices, by ``names``, that must go through the step alone from its start.

    They have left a stack in new bases, which are others than those they would have had alone.
    """

    def __init__(self, names: Iterable[str]):
        self.names = frozenset(names)
        super().__init__(f"{', '.join(sorted(self.names))}: the matrix is not finite after the step")


class Together:
    """The generator of some matrices, in one stack.

    In a stack, kernels choose no way by looking at numbers: a matrix for which the fast one is not safe becomes not a
    number. Such a matrix goes through the step :meth:`alone`.

    Parameters
    ----------
    integrator : Integrator
    states : mapping from name to State
        Of equal shapes and counters, of any ranks; a single one without a stack.
    h, t : float
        Step size and time.
    stacked : bool
        Whether there is a stack.

    Attributes
    ----------
    request : tuple or None
        What the method asks for, as in :meth:`integrators.Integrator.stages`; None at the end.
    result : State or None
        At the end, before truncation.
    lost : set of int
        Positions of the matrices that have left the stack.
    """

    def __init__(
        self,
        integrator: Integrator,
        states: Mapping[str, State],
        h: float,
        t: float = 0.0,
        stacked: bool = True,
    ):
        self.integrator, self.h, self.t, self.stacked = integrator, h, t, stacked
        self.names, self.before = list(states), list(states.values())
        self.generator = integrator.advance(t, stack(self.before) if stacked else self.before[0], h)
        self.fields: list[Any] = []
        self.lost: set[int] = set()
        self.result: State | None = None
        self.request: tuple | None = next(self.generator)

    @property
    def point(self) -> LowRank:
        """Where the field is asked for; at the end, the result."""
        return self.request[1] if self.request is not None else self.end.Y

    @property
    def end(self) -> State:
        """The result, once it is there."""
        assert self.result is not None
        return self.result

    @property
    def memory(self) -> list[Any]:
        """The arrays that the method remembers, once the result is there."""
        return [] if self.result is None else [X for X in self.result.memory.values() if is_array(X)]

    def answer(self, field: Any) -> None:
        """Send the field at the point asked for, and take the next request or the result.

        A FloatingPointError of the method gets the names of the matrices.
        """
        try:
            self._send(field)
        except FloatingPointError as error:
            raise FloatingPointError(f"{', '.join(self.names)}: {error}") from error

    def _send(self, field: Any) -> None:
        self.fields.append(field)
        self.request = None
        try:
            self.request = self.generator.send(field)
        except StopIteration as stop:
            self.result = stop.value
            self.integrator.check_count(len(self.fields), self.end.rejected)

    def alone(self, i: int) -> Together:
        """The matrix at position i without a stack, as far as the stack has come; the stack has lost it then.

        Raises FloatingPointError where its fields, or the matrices that follow from them, are not finite, and
        :class:`Apart` where the stack has been in new bases.
        """
        self.lost.add(i)
        one = Together(self.integrator, {self.names[i]: self.before[i]}, self.h, self.t, stacked=False)
        for field in self.fields:
            one._send(self._own(field, i, one))
        if not _finite(*one.point, *one.memory):
            raise FloatingPointError("the matrix or its memory is not finite after the step")
        return one

    def _own(self, field: Any, i: int, one: Together) -> Projections:
        """The field of the matrix i at the point that it asks for alone."""
        assert one.request is not None
        (U, S, V), parts = one.request[1], one.request[2:] or PARTS
        found = {part: getattr(field, part)[i, ...] for part in parts}
        if not _finite(*found.values()):
            raise FloatingPointError("the field (minus the gradient) has non-finite entries")
        if S.shape != self.before[i].Y.S.shape:  # in new bases, which are others than those in the stack
            raise Apart([self.names[i]])
        shapes = {"K": (U.shape[0], V.shape[1]), "L": (V.shape[0], U.shape[1]), "S": S.shape}
        return Projections(**{part: X[tuple(map(slice, shapes[part]))] for part, X in found.items()})


def separate(groups: Sequence[Together]) -> list[Together]:
    """The matrices whose points are not finite, each alone. One read for all.

    Raises FloatingPointError, with their names, for those that are not finite alone either.
    """
    sums = read([_sum(group.point, group.stacked) for group in groups])
    return _alone(
        (group, i)
        for group, total in zip(groups, sums, strict=True)
        for i in np.flatnonzero(~np.isfinite(total)).tolist()
    )


def finish(truncation: Truncation | None, groups: Sequence[Together]) -> dict[str, tuple[State, float]]:
    """The state of each matrix after the step, by its name, and its truncation error.

    Where the truncation takes stacks, one read for all, and one for all memory.

    Raises FloatingPointError, with their names, for matrices that are not finite.
    """
    groups = list(groups)
    groups += _alone(_overflown(groups))
    stackable = truncation is not None and truncation.stackable
    if not stackable or not all(group.stacked for group in groups):
        groups += separate(groups)
    if truncation is not None and not stackable:
        before = {name: state for group in groups for _, name, state in _members(group, group.end)}
        return dict(zip(before, conclude(truncation, list(before.values())), strict=True))
    concluded = conclude(truncation, [group.end for group in groups])
    lost = [
        (group, i)
        for group, (_, errors) in zip(groups, concluded, strict=True)
        for i in np.flatnonzero(np.isnan(errors)).tolist()
    ]
    if found := _alone(lost):
        groups += found
        concluded = conclude(truncation, [group.end for group in groups])
    return {
        name: (state, float(errors[i]) if np.ndim(errors) else errors)
        for group, (after, errors) in zip(groups, concluded, strict=True)
        for i, name, state in _members(group, after)
    }


def _overflown(groups: Sequence[Together]) -> list[tuple[Together, int]]:
    """The matrices whose memory is not finite, which their points need not show: Adam divides by its second moment."""
    if np.isfinite(largest([X for group in groups for X in group.memory])).all():
        return []
    rows = [(group, i) for group in groups for i in range(len(group.names))]
    return [(group, i) for group, i in rows if not _finite(*(X[i, ...] if group.stacked else X for X in group.memory))]


def _alone(lost: Iterable[tuple[Together, int]]) -> list[Together]:
    """Each of these alone, unless it is already.

    Raises FloatingPointError with the names of those that fail, Apart with those that must begin anew.
    """
    found, failed = [], {}
    apart: set[str] = set()
    for group, i in lost:
        if i in group.lost:
            continue
        try:
            if not group.stacked:
                raise FloatingPointError("the matrix or its memory is not finite after the step")
            found.append(group.alone(i))
        except Apart as error:
            apart |= error.names
        except FloatingPointError as error:
            failed[group.names[i]] = error
    if failed:
        first = next(iter(failed.values()))
        raise FloatingPointError(f"{', '.join(failed)}: {first}") from first
    if apart:
        raise Apart(apart)
    return found


def _members(group: Together, state: State) -> list[tuple[int, str, State]]:
    """Positions, names and states of what a group still has."""
    states = unstack(state, group.before) if group.stacked else [state]
    return [
        (i, name, one) for i, (name, one) in enumerate(zip(group.names, states, strict=True)) if i not in group.lost
    ]


def _sum(Y: LowRank, stacked: bool):
    """A number for each matrix of a stack that is finite where all of its entries are."""
    xp = array_namespace(Y.S)
    U, S, V = (xp.sum(X, axis=(-2, -1)) for X in Y)
    return U + S + V if stacked else xp.reshape(U + S + V, (1,))


def _finite(*arrays) -> bool:
    xp = array_namespace(*arrays)
    return all(bool(xp.all(xp.isfinite(X))) for X in arrays)
