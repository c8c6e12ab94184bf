r"""Optimiser steps for training: what a method does with a gradient before it moves.

A method sees the field ``F = -gradient`` in blocks, and an optimiser turns all of them together into a *direction* of
the same kind,

.. math:: M \leftarrow \beta M + \gamma F, \qquad D = \mathrm{direction}(M).

Two kinds of method use it.

* **Factor methods** (LoRA, SVD-LoRA, AdaLoRA, full rank) move fixed arrays. Their blocks are the factors' own
  gradients, by names of their own, and moments are elementwise, as in any other training code.
* **Manifold methods** (projector splitting, the BUG family, GeoLoRA) move their bases, so that the entry (i, j) of
  ``K = U S`` means something else after each step. Their blocks K, L and S are a tangent vector at the point Y.
  :func:`steered` gives them an optimiser without the method knowing: it comes between the method and whoever answers
  its requests and replaces each field by its direction.

  - *First moment*: a tangent vector M at Y. After the step it is projected onto the tangent space at the new point
    (:meth:`integrators.State.at`), exactly and in O((m + n) r^2). A later stage of the same step sees
    ``beta M + gamma F`` through its own bases.
  - *Second moment*: one number for each row of K (an output of the layer), one for each row of L (an input) and one
    for S: the mean of the squared entries over the columns, but at least the mean over all rows. A rotation of the
    bases does not change it, so it need not be moved, and the step stays independent of the choice of U, S, V for the
    same matrix. Without the lower bound a row whose gradient is always zero (a constant input) would blow up:
    projecting the first moment to new bases puts something into it, which would be divided by nothing.

References: Polyak (1964), doi:10.1016/0041-5553(64)90137-5; Kingma, Ba (2015), arXiv:1412.6980.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .checks import check_fraction, check_positive
from .fields import PARTS, Projections, seen
from .linalg import array_namespace, is_complex
from .lowrank import LowRank
from .state import State

__all__ = ["SGD", "Adam", "Momentum", "Optimizer"]

Blocks = Mapping[str, Any]


class Optimizer:
    """Base class: a first moment ``M <- decay M + gain F``, whose direction is M itself.

    A subclass may set ``decay`` and ``gain`` and override :meth:`learn` (what it remembers besides) and
    :meth:`direction`, which sees all blocks at once: the tangent vector ``{"K": ..., "L": ..., "S": ...}`` at the point
    Y for methods with moving bases, the factors' gradients (Y is then None) for others. Without a first moment
    (``decay = 0``) nothing is stored for it.

    Memory is a flat mapping from names to arrays and counters, ``{"first.K": ..., "second.K": ..., "step": 7}``.
    """

    decay: float = 0.0
    gain: float = 1.0
    nesterov: ClassVar[bool] = False
    """Whether the direction is that of ``decay M + gain F``, one step ahead of M (Nesterov), and not of M itself."""
    whole: ClassVar[bool] = False
    """Whether K, L and S have a direction together only: none for K or L alone, which some methods ask for at a later
    stage. S alone, a step in fixed bases, has one."""
    flat: ClassVar[bool] = False
    """Whether all singular values of a direction are about the same."""

    def init(self, blocks: Blocks, Y: LowRank | None = None) -> dict:
        """Zero memory for blocks of these shapes. Raises TypeError where they are no tangent vector and must be one."""
        if self.whole and Y is None:
            raise TypeError(
                f"{self!r} is for methods with orthonormal bases (GeoLoRA, BUG, ...), not for fixed factors"
            )
        return {f"first.{name}": 0.0 * block for name, block in blocks.items()} if self.decay else {}

    def update(self, memory: Mapping, F: Blocks, Y: LowRank | None = None) -> tuple[Blocks, dict]:
        """Take in the field's blocks: the direction, and the new memory."""
        memory = self.learn(memory, F, Y)
        M = {name: self.blend(memory.get(f"first.{name}"), block) for name, block in F.items()}
        if self.decay:
            memory |= {f"first.{name}": X for name, X in M.items()}
        return self.direction(self.ahead(M, F), memory, Y), memory

    def learn(self, memory: Mapping, F: Blocks, Y: LowRank | None) -> dict:
        """The memory after the field F, first moments apart."""
        return dict(memory)

    def blend(self, first, block):
        """``decay M + gain F``; M is None where there is no first moment."""
        new = block if self.gain == 1.0 else self.gain * block
        return new if first is None else self.decay * first + new

    def ahead(self, M: Blocks, F: Blocks) -> Blocks:
        """What the direction is taken of: M, or a step ahead of it."""
        return {name: self.blend(X, F[name]) for name, X in M.items()} if self.nesterov else M

    def direction(self, M: Blocks, memory: Mapping, Y: LowRank | None) -> Blocks:
        """The direction of the first moment M: blocks of the same names and shapes.

        At a later stage of a step M may hold only those parts that the method will read.
        """
        return M


@dataclass(frozen=True)
class SGD(Optimizer):
    """Plain descent: the field itself, explicit Euler on the gradient flow. No memory."""


@dataclass(frozen=True)
class Momentum(Optimizer):
    """Heavy-ball momentum, ``M <- beta M + F``.

    Raises ValueError unless 0 <= beta < 1.
    """

    beta: float = 0.9

    def __post_init__(self):
        object.__setattr__(self, "beta", check_fraction("beta", self.beta))

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

    OVER: ClassVar[dict[str, tuple[int, ...]]] = {"K": (-1,), "L": (-1,), "S": (-2, -1)}
    """Axes over which the second moments of a tangent vector are averaged."""

    def __post_init__(self):
        for name, check in (("beta1", check_fraction), ("beta2", check_fraction), ("eps", check_positive)):
            object.__setattr__(self, name, check(name, getattr(self, name)))

    @property
    def decay(self) -> float:  # type: ignore[override]
        """beta1."""
        return self.beta1

    @property
    def gain(self) -> float:  # type: ignore[override]
        """1 - beta1."""
        return 1.0 - self.beta1

    def init(self, blocks, Y=None) -> dict:
        """First moments as the blocks, second moments as their averages, and the step count."""
        second = {f"second.{name}": 0.0 * self._squares(block, name, Y) for name, block in blocks.items()}
        return {**super().init(blocks, Y), **second, "step": 0}

    def learn(self, memory, F, Y):
        """One step of the second moments and the count."""
        memory = {**memory, "step": int(memory["step"]) + 1}
        for name, block in F.items():
            square = self._squares(block, name, Y)
            memory[f"second.{name}"] = self.beta2 * memory[f"second.{name}"] + (1.0 - self.beta2) * square
        return memory

    def direction(self, M, memory, Y):
        """``(M / (1 - beta1^k)) / (sqrt(v / (1 - beta2^k)) + eps)``, block by block."""
        k = int(memory["step"])

        def scaled(first, second):
            root = array_namespace(first).sqrt(second / (1.0 - self.beta2**k)) + self.eps
            return (first / (1.0 - self.beta1**k)) / root

        return {name: scaled(first, memory[f"second.{name}"]) for name, first in M.items()}

    def _squares(self, X, name, Y):
        """|X|^2; of a tangent vector averaged, kept broadcastable, a row having at least the average of all rows."""
        xp = array_namespace(X)
        square = xp.real(X) ** 2 + xp.imag(X) ** 2 if is_complex(X) else X * X
        if Y is None:
            return square
        rU, rV = Y.widths
        rows = xp.sum(square, axis=self.OVER[name], keepdims=True) / {"K": rV, "L": rU, "S": rU * rV}[name]
        return xp.maximum(rows, xp.mean(rows, axis=-2, keepdims=True))


# -- methods whose bases move ------------------------------------------------------------------------------------------


def steered(stages: Generator[tuple, Any, Any], optimizer: Optimizer, state: State) -> Generator[tuple, Any, State]:
    """Run the generator ``stages`` of a manifold method with directions in place of fields.

    The first request of a method is always the field at ``state.Y`` itself; the moments take in that one. The result
    has the new memory, with the tangent space it belongs to.
    """
    Y, old = state.Y, state.memory
    first = Projections(*(old[f"first.{part}"] for part in PARTS)) if "first.K" in old else None
    request = next(stages)
    f = yield request[:2]  # the moments need all parts, whichever the method reads
    direction, memory = optimizer.update(old, {part: getattr(f, part) for part in PARTS}, Y)
    try:
        while True:
            request = stages.send(Projections(**direction))
            f = yield request
            point, parts = request[1], request[2:] or PARTS
            if optimizer.whole and parts not in (PARTS, ("S",)):
                raise ValueError(
                    f"{optimizer!r} has a direction for K, L and S together, not for {parts[0]} alone: take GeoLoRA, "
                    "ParallelBUG, BUG or AugmentedBUG with Euler's substep"
                )
            F = {part: getattr(f, part) for part in parts}
            M = {
                part: optimizer.blend(None if first is None else seen(first, Y, point, part), X)
                for part, X in F.items()
            }
            direction = optimizer.direction(optimizer.ahead(M, F), memory, point)
    except StopIteration as stop:
        result = stop.value
    if isinstance(result, LowRank):
        return State(result, memory, origin=Y)
    return State(result.Y, {**result.memory, **memory}, origin=Y, rejected=result.rejected)
