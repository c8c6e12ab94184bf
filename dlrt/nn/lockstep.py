"""How the layers of a network advance together: which share a stack, points written into layers, gradients read."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from integrators import Integrator, LowRank, Projections, State, Truncation, conclude, stack, unstack
from integrators.fields import PARTS
from integrators.linalg import stacked
from integrators.state import counters
from integrators.together import Together

from .factors import assign
from .layers import FACTORS, LowRankLayer

__all__ = ["Coefficients", "batches", "gradients", "place", "request_gradients", "truncated"]

SLOTS = {"K": "U", "L": "V", "S": "S"}
PART = {"cpu": 3e6}
"""How many entries (m + n) r^2 too many cost as much as the calls for another stack; elsewhere the calls cost more."""


@dataclass(frozen=True, kw_only=True)
class Coefficients(Integrator):
    """Steps on S alone in fixed bases, by an elementwise optimiser; the bases of its points are not looked at."""

    manifold: ClassVar[bool] = False
    factors: ClassVar[tuple[str, ...]] = ("S",)
    stackable: ClassVar[bool] = True

    def memory(self, Y):
        """Moments of S."""
        return self.optimizer.init({"S": Y.S})

    def stages(self, t, state, h):
        """S1 = S + h dS."""
        U, S, V = state.Y
        f = yield t, state.Y, "S"
        direction, memory = self.optimizer.update(state.memory, {"S": f.S})
        return State(LowRank(U, S + h * direction["S"], V), memory)


def batches(
    integrator: Integrator,
    states: Mapping[str, State],
    options: Mapping[str, tuple[float, float]],
    apart: Collection[str] = (),
) -> list[Together]:
    """Layers of equal shapes, types, options and counters together, where the method takes stacks; some alone.

    Smaller ranks are filled up with zeros, so ranks that are far apart go into different stacks.

    ``options[name]`` is (step size, weight decay): each state is decayed, ``Y <- (1 - decay) Y``, before its step.
    """
    groups: dict[Any, list[str]] = {}
    for i, (name, state) in enumerate(states.items()):
        key = (*options[name], state.Y.shape, state.Y.dtype, state.Y.S.device, tuple(counters(state).items()))
        groups.setdefault(key if integrator.stackable and name not in apart else i, []).append(name)
    found = []
    for key, names in groups.items():
        h, decay = options[names[0]]
        for members in _of_similar_rank({name: states[name] for name in names}):
            found.append(Together(integrator, _decayed(integrator, members, decay), h, stacked=isinstance(key, tuple)))
    return found


def truncated(truncation: Truncation | None, states: Mapping[str, State]) -> dict[str, tuple[State, float]]:
    """Each state after truncation, with its error; the matrices are finite."""
    if truncation is None or not truncation.stackable:
        return dict(zip(states, conclude(truncation, list(states.values())), strict=True))
    groups: dict[Any, dict[str, State]] = {}
    for name, state in states.items():
        groups.setdefault((state.Y.shape, state.Y.dtype, state.Y.S.device), {})[name] = state
    parts = [members for group in groups.values() for members in _of_similar_rank(group)]
    found = {}
    concluded = conclude(truncation, [stack(list(members.values())) for members in parts])
    for members, (after, errors) in zip(parts, concluded, strict=True):
        for name, state, error in zip(members, unstack(after, list(members.values())), errors.tolist(), strict=True):
            found[name] = state, error
    return found


def _of_similar_rank(states: dict[str, State]) -> list[dict[str, State]]:
    """The states of a stack in parts, so that filling them up costs less than the calls for another part."""
    Y = next(iter(states.values())).Y
    limit = PART.get(Y.S.device.type, math.inf) / max(1, sum(Y.shape))
    found: list[dict[str, State]] = []
    largest, waste = 0, math.inf
    for name, rank in sorted(((n, max(s.Y.S.shape)) for n, s in states.items()), key=lambda pair: -pair[1]):
        waste += largest**2 - rank**2
        if not found or waste > limit:
            found.append({})
            largest, waste = rank, 0
        found[-1][name] = states[name]
    return found


def _decayed(integrator: Integrator, states: dict[str, State], decay: float) -> dict[str, State]:
    if decay == 0:
        return states
    factor = "S" if "S" in integrator.factors else "U"
    scaled = torch._foreach_mul([getattr(state.Y, factor) for state in states.values()], 1.0 - decay)
    return {
        name: replace(state, Y=LowRank(**{**dict(zip(FACTORS, state.Y, strict=True)), factor: X}))
        for (name, state), X in zip(states.items(), scaled, strict=True)
    }


def place(groups: Sequence[Together], layers: Mapping[str, LowRankLayer]) -> None:
    """Write the points that are asked for into the layers, and let backward passes compute what will be read."""
    parameters: list[nn.Parameter] = []
    values: list[torch.Tensor] = []
    for group in groups:
        assert group.request is not None
        (U, S, V), parts = group.request[1], group.request[2:] or PARTS
        width = max(S.shape[-2:])
        point = [_padded(U, U.shape[-2], width), _padded(S, width, width), _padded(V, V.shape[-2], width)]
        if group.stacked:
            point[1] = point[1].expand(len(group.names), width, width)
        rows = [X.unbind() if group.stacked else [X] for X in point]
        for i, name in enumerate(group.names):
            if i not in group.lost:
                parameters += layers[name].factors
                values += [X[i] for X in rows]
                request_gradients(layers[name], [SLOTS[part] for part in parts])
    assign(parameters, values)


def gradients(group: Together, layers: Mapping[str, LowRankLayer]) -> Projections:
    """The field at the point asked for: minus the gradient of the loss, through the bases of the point.

    It is read at once, since a method may come back to it after further backward passes.
    """
    assert group.request is not None
    (U, S, V), parts = group.request[1], group.request[2:] or PARTS
    m, n, (rU, rV) = U.shape[-2], V.shape[-2], S.shape[-2:]
    shapes = {"K": (m, rV), "L": (n, rU), "S": (rU, rV)}
    found = []
    for part in parts:
        arrays = [_gradient(layers[name], SLOTS[part]) for name in group.names]
        for i in group.lost:
            arrays[i] = U.new_zeros(shapes[part])
        found.append(stacked(arrays))
    if len(group.names) > 1:
        torch._foreach_neg_(found)
    else:  # views of the gradients
        found = [-X if group.stacked else -X[0] for X in found]
    return Projections(
        **{part: X[..., : shapes[part][0], : shapes[part][1]] for part, X in zip(parts, found, strict=True)}
    )


def _gradient(layer: LowRankLayer, slot: str) -> torch.Tensor:
    parameter = getattr(layer, slot)
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def request_gradients(layer: LowRankLayer, factors: Sequence[str]) -> None:
    """Let backward passes compute the gradients of these factors alone."""
    for factor, parameter in zip(FACTORS, layer.factors, strict=True):
        wanted = factor in factors
        if parameter.requires_grad != wanted:
            parameter.requires_grad_(wanted)
        if not wanted:
            parameter.grad = None


def _padded(X: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """X with zero rows and columns added up to this size."""
    if X.shape[-2:] == (rows, columns):
        return X
    return nn.functional.pad(X, (0, columns - X.shape[-1], 0, rows - X.shape[-2]))
