r"""Optimiser steps for training: what a method does with a gradient before it moves.

A method sees the field ``F = -gradient`` in blocks, and an optimiser turns each block into a *direction*:

.. math:: M \leftarrow \beta M + \gamma F, \qquad \text{direction} = M / \text{scale}.

Two kinds of method use it.

* **Factor methods** (LoRA, SVD-LoRA, AdaLoRA, full rank) move fixed arrays. Their blocks are the factors' own
  gradients, and both moments are elementwise, as in any other training code: ``update``.
* **Manifold methods** (projector splitting, the BUG family, GeoLoRA) move their bases, so that the entry (i, j) of
  ``K = U S`` means something else after each step. :func:`steered` gives them their memory without the method
  knowing: it stands between the method and whoever answers its requests and replaces each field by its direction.

  - *First moment*: a tangent vector M at the point Y, kept as ``(M V, M^H U, U^H M V)``. After the step it is
    projected onto the tangent space at the new point, exactly and in O((m + n) r^2). A later stage of the same step
    sees ``beta M + gamma F`` through its own bases.
  - *Second moment*: one number for each row of K (an output of the layer), one for each row of L (an input) and one
    for S: the mean of the squared entries over the columns, but at least the mean over all rows. A rotation of the
    bases does not change it, so it need not be moved, and the step stays independent of the choice of U, S, V for the
    same matrix. Without the lower bound a row whose gradient is always zero (a constant input) would blow up:
    projecting the first moment to new bases puts something into it, which would be divided by nothing.

References: Polyak (1964), doi:10.1016/0041-5553(64)90137-5; Kingma, Ba (2015), arXiv:1412.6980.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from array_api_compat import array_namespace

from .linalg import dagger
from .lowrank import LowRank

__all__ = ["SGD", "Adam", "Carried", "Momentum", "Optimizer"]

Blocks = Mapping[str, Any]


class Optimizer:
    """Base class: ``decay`` and ``gain`` of the first moment, and ``scale`` by the second.

    Memory is a flat mapping from names to arrays, ``{"first.K": ..., "second.K": ..., "step": 7}``.
    """

    decay: float = 0.0
    gain: float = 1.0

    def init(self, blocks: Blocks, over: Mapping[str, tuple[int, ...]] | None = None) -> dict:
        """Zero memory for blocks of these shapes; ``over`` as in :meth:`update`."""
        return {f"first.{name}": 0.0 * block for name, block in blocks.items()}

    def update(self, memory: Mapping, blocks: Blocks, over: Mapping[str, tuple[int, ...]] | None = None):
        """Take in the field's blocks: returns (directions, new memory).

        ``over[name]`` are the axes over which the second moment of a block is averaged (none: elementwise).
        """
        memory = dict(memory)
        for name, block in blocks.items():
            memory[f"first.{name}"] = self.blend(memory[f"first.{name}"], block)
        return {name: self.scaled(memory[f"first.{name}"], memory, name) for name in blocks}, memory

    def blend(self, first, block):
        """``decay M + gain F``."""
        return self.decay * first + self.gain * block

    def scaled(self, first, memory: Mapping, name: str):
        """The direction of a block from its first moment."""
        return first


@dataclass(frozen=True)
class SGD(Optimizer):
    """The field itself: explicit Euler on the gradient flow. No memory."""

    def init(self, blocks, over=None) -> dict:
        """No memory."""
        return {}

    def update(self, memory, blocks, over=None):
        """The blocks as they are."""
        return dict(blocks), dict(memory)


@dataclass(frozen=True)
class Momentum(Optimizer):
    """Heavy-ball momentum, ``M <- beta M + F``.

    Raises ValueError unless 0 <= beta < 1.
    """

    beta: float = 0.9

    def __post_init__(self):
        check_fraction("beta", self.beta)

    @property
    def decay(self) -> float:  # type: ignore[override]
        """beta."""
        return self.beta


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam with bias correction; ``eps`` is added to the root of the second moment.

    Raises ValueError unless 0 <= beta1, beta2 < 1 and eps > 0.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self):
        check_fraction("beta1", self.beta1)
        check_fraction("beta2", self.beta2)
        if not self.eps > 0:
            raise ValueError(f"eps must be positive, got {self.eps!r}")

    @property
    def decay(self) -> float:  # type: ignore[override]
        """beta1."""
        return self.beta1

    @property
    def gain(self) -> float:  # type: ignore[override]
        """1 - beta1."""
        return 1.0 - self.beta1

    def init(self, blocks, over=None) -> dict:
        """First moments as the blocks, second moments as their averages, and the step count."""
        second = {
            f"second.{name}": 0.0 * _mean_square(block, (over or {}).get(name, ())) for name, block in blocks.items()
        }
        return {**super().init(blocks), **second, "step": 0}

    def update(self, memory, blocks, over=None):
        """One step of both moments."""
        memory = {**memory, "step": int(memory["step"]) + 1}
        for name, block in blocks.items():
            square = _mean_square(block, (over or {}).get(name, ()))
            memory[f"second.{name}"] = self.beta2 * memory[f"second.{name}"] + (1.0 - self.beta2) * square
        return super().update(memory, blocks)

    def scaled(self, first, memory, name):
        """``(M / (1 - beta1^k)) / (sqrt(v / (1 - beta2^k)) + eps)``."""
        xp = array_namespace(first)
        k = int(memory["step"])
        root = xp.sqrt(memory[f"second.{name}"] / (1.0 - self.beta2**k)) + self.eps
        return (first / (1.0 - self.beta1**k)) / root


# -- optimisers for methods whose bases move ---------------------------------------------------------------------------

PARTS = ("K", "L", "S")
OVER = {"K": (-1,), "L": (-1,), "S": (-2, -1)}


def tangent_memory(optimizer: Optimizer, Y: LowRank) -> dict:
    """Zero memory of an optimiser at the point Y of a manifold method."""
    return optimizer.init({"K": Y.U, "L": Y.V, "S": Y.S}, OVER)


@dataclass(frozen=True, eq=False)
class Carried:
    """A function: memory at the matrix a step ends with, its first moment moved there from ``Y`` (None: kept as is)."""

    memory: Mapping[str, Any] = field(default_factory=dict)
    Y: LowRank | None = None

    def __call__(self, Y1: LowRank) -> Mapping[str, Any]:
        """Memory at Y1."""
        if self.Y is None or "first.K" not in self.memory:
            return self.memory
        moved = transported({part: self.memory[f"first.{part}"] for part in PARTS}, self.Y, Y1)
        return {**self.memory, **{f"first.{part}": M for part, M in moved.items()}}

    def entry(self, i: int) -> Carried:
        """That of one matrix of a stack."""
        Y = self.Y
        return Carried(entry(self.memory, i), None if Y is None else LowRank(Y.U[i, ...], Y.S[i, ...], Y.V[i, ...]))


def entry(memory: Mapping[str, Any], i: int) -> dict:
    """The memory of one matrix of a stack; counters are common to all."""
    return {name: X[i, ...] if hasattr(X, "ndim") else X for name, X in memory.items()}


class _Direction:
    """What a later stage of a step sees in place of its field: each part is computed when it is read."""

    def __init__(self, optimizer, memory, first, Y, f, point):
        self._parts = (optimizer, memory, first, Y, f, point)

    def __getattr__(self, part):
        if part not in PARTS:
            raise AttributeError(part)
        optimizer, memory, first, Y, f, point = self._parts
        seen = seen_through(first, Y, point.U, point.V, part)
        return optimizer.scaled(optimizer.blend(seen, getattr(f, part)), memory, part)


class _Seen:
    """Directions at the start of the step, all three at hand."""

    def __init__(self, K, L, S):
        self.K, self.L, self.S = K, L, S


def seen_through(M: Mapping, Y: LowRank, U, V, part: str):
    """M V, M^H U or U^H M V in other bases, for the tangent vector ``M = K V^H + U L^H - U S V^H`` at Y."""
    K, L, S = M["K"], M["L"], M["S"]
    if part == "L":
        return L @ (dagger(Y.U) @ U) + Y.V @ (dagger(K - Y.U @ S) @ U)
    MV = K @ (dagger(Y.V) @ V) + Y.U @ (dagger(L - Y.V @ dagger(S)) @ V)
    return MV if part == "K" else dagger(U) @ MV


def transported(M: Mapping, Y: LowRank, Y1: LowRank) -> dict:
    """The tangent vector M at Y projected onto the tangent space at Y1. Cost O((m + n) r^2)."""
    return {part: seen_through(M, Y, Y1.U, Y1.V, part) for part in PARTS}


def steered(stages, optimizer: Optimizer, Y: LowRank, memory: Mapping):
    """Run the generator ``stages`` of a manifold method from Y with directions in place of fields.

    The first request of a method is always the field at Y itself; the moments take in that one. Returns the result
    of ``stages`` and the :class:`Carried` that gives the memory at a new point.
    """
    first = {part: memory[f"first.{part}"] for part in PARTS}
    request = next(stages)
    f = yield request
    directions, memory = optimizer.update(memory, {"K": f.K, "L": f.L, "S": f.S}, OVER)
    answer: Any = _Seen(**directions)
    try:
        while True:
            request = stages.send(answer)
            f = yield request
            answer = _Direction(optimizer, memory, first, Y, f, request[1])
    except StopIteration as stop:
        result = stop.value

    return result, Carried(memory, Y)


def _mean_square(X, axes):
    """|X|^2, averaged over the axes and kept broadcastable; a row has at least the average of all rows."""
    xp = array_namespace(X)
    square = xp.real(X) ** 2 + xp.imag(X) ** 2 if xp.isdtype(X.dtype, "complex floating") else X * X
    if not axes:
        return square
    rows = xp.mean(square, axis=axes, keepdims=True)
    return xp.maximum(rows, xp.mean(rows, axis=-2, keepdims=True))


def check_fraction(name, value):
    if not 0 <= value < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {value!r}")
