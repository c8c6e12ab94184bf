"""How the layers of a network advance together: generators in stacks, points written into layers, gradients read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from integrators import Integrator, LowRank, Projections, State, stack, unstack
from integrators.fields import PARTS
from integrators.state import counters

from .layers import FACTORS, LowRankLayer

__all__ = ["Batch", "Coefficients", "batches", "named", "request_gradients"]

SLOTS = {"K": "U", "L": "V", "S": "S"}


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


class Batch:
    """The generator of some layers in one stack: places the points it asks for, answers with the gradients there.

    Parameters
    ----------
    integrator : Integrator
    layers : mapping of str to LowRankLayer
    states : mapping of str to State
        Of the same names, all of equal shapes and counters.
    h : float
        Step size.
    """

    def __init__(
        self, integrator: Integrator, layers: Mapping[str, LowRankLayer], states: Mapping[str, State], h: float
    ):
        self.integrator, self.layers = integrator, layers
        self.alone = len(layers) == 1
        state = next(iter(states.values())) if self.alone else stack(list(states.values()))
        self.generator = integrator.advance(0.0, state, h)
        self.tapes = 0
        self.result: State | None = None
        self.request: tuple | None = next(self.generator)

    def place(self) -> None:
        """Write the point asked for into the layers."""
        assert self.request is not None
        (U, S, V), parts = self.request[1], self.request[2:] or PARTS
        width = max(S.shape[-2:])
        U, V, S = _padded(U, U.shape[-2], width), _padded(V, V.shape[-2], width), _padded(S, width, width)
        S = S.expand(*U.shape[:-2], width, width)
        for i, layer in enumerate(self.layers.values()):
            layer.Y = LowRank(U, S, V) if self.alone else LowRank(U[i], S[i], V[i])
            request_gradients(layer, [SLOTS[part] for part in parts])

    def answer(self) -> None:
        """Send the field at the point asked for, and take the next request or the result."""
        assert self.request is not None
        field = self._field(self.request[1], self.request[2:] or PARTS)
        self.tapes, self.request = self.tapes + 1, None
        try:
            self.request = self.generator.send(field)
        except StopIteration as stop:
            self.result = stop.value
            self.integrator.check_count(self.tapes, self.result.rejected)
        except (FloatingPointError, torch.linalg.LinAlgError) as error:
            raise named(error, self.layers) from error

    def _field(self, point: LowRank, parts: Sequence[str]) -> Projections:
        """Minus the gradient of the loss, through the bases of the point.

        It is read at once, since a method may come back to it after further backward passes.
        """
        rU, rV = point.S.shape[-2:]
        shapes = {"K": (None, rV), "L": (None, rU), "S": (rU, rV)}
        found = {}
        for part in parts:
            factors = [getattr(layer, SLOTS[part]) for layer in self.layers.values()]
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in factors]
            F = -gradients[0] if self.alone else torch.stack(gradients).neg_()
            rows, columns = shapes[part]
            found[part] = F[..., :rows, :columns]
        return Projections(**found)

    def results(self) -> dict[str, State]:
        """The state of each layer before truncation."""
        assert self.result is not None
        if self.alone:
            return dict.fromkeys(self.layers, self.result)
        return dict(zip(self.layers, unstack(self.result, self.integrator.manifold), strict=True))


def batches(
    integrator: Integrator,
    layers: Mapping[str, LowRankLayer],
    states: Mapping[str, State],
    options: Mapping[str, tuple],
) -> list[Batch]:
    """Layers of equal shapes, types, options and counters together, where the method takes stacks.

    ``options[name]`` is (step size, weight decay): each state is decayed, ``Y <- (1 - decay) Y``, before its step.
    """
    groups: dict[Any, dict[str, State]] = {}
    for i, (name, state) in enumerate(states.items()):
        U, S, V = state.Y
        key = (*options[name], U.shape, S.shape, V.shape, S.dtype, S.device, tuple(counters(state).items()))
        groups.setdefault(key if integrator.stackable else i, {})[name] = _decayed(integrator, state, options[name][1])
    return [
        Batch(integrator, {name: layers[name] for name in group}, group, options[next(iter(group))][0])
        for group in groups.values()
    ]


def _decayed(integrator: Integrator, state: State, decay: float) -> State:
    if decay == 0:
        return state
    factor = "S" if "S" in integrator.factors else "U"
    return replace(state, Y=replace(state.Y, **{factor: (1.0 - decay) * getattr(state.Y, factor)}))


def request_gradients(layer: LowRankLayer, factors: Sequence[str]) -> None:
    """Let backward passes compute the gradients of these factors alone."""
    for factor in FACTORS:
        parameter = getattr(layer, factor)
        parameter.requires_grad_(factor in factors)
        if factor not in factors:
            parameter.grad = None


def named(error: Exception, names: Iterable[str]) -> FloatingPointError:
    """The error with the names of the layers it comes from."""
    return FloatingPointError(f"{', '.join(names)}: {error}; no parameter has been changed")


def _padded(X: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """X with zero rows and columns added up to this size."""
    return nn.functional.pad(X, (0, columns - X.shape[-1], 0, rows - X.shape[-2]))
