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
  - *What else is remembered*: see :mod:`integrators.adam`.

Reference: Polyak (1964), doi:10.1016/0041-5553(64)90137-5.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from .checks import check_fraction
from .fields import PARTS, Projections, seen
from .linalg import array_namespace
from .lowrank import LowRank
from .state import State

__all__ = ["SGD", "Momentum", "Normalised", "Optimizer"]

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
    """Whether it is for tangent vectors alone, K, L and S together, and not for fixed factors."""
    later: ClassVar[tuple[str, ...] | None] = None
    """What has a direction at a later stage of a step, at another point: ``"KLS"``, the whole tangent vector there,
    ``"S"``, a step in fixed bases; None: everything."""
    flat: ClassVar[bool] = False
    """Whether all singular values of a direction are about the same."""

    def init(self, blocks: Blocks, Y: LowRank | None = None) -> dict:
        """Zero memory for blocks of these shapes. Raises TypeError where they are no tangent vector and must be one."""
        if self.whole and Y is None:
            name = type(self).__name__
            raise TypeError(f"{name} is for methods with orthonormal bases, such as GeoLoRA, not for fixed factors")
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
    """Heavy-ball momentum, ``M <- beta M + F``; with ``nesterov`` the direction is ``beta M + F``, one step ahead.

    Raises ValueError unless 0 <= beta < 1.

    References
    ----------
    Polyak (1964), doi:10.1016/0041-5553(64)90137-5. Nesterov's form is that of Sutskever et al. (2013), as in torch.
    """

    beta: float = 0.9
    nesterov: bool = False  # type: ignore[misc]

    def __post_init__(self):
        object.__setattr__(self, "beta", check_fraction("beta", self.beta))

    @property
    def decay(self) -> float:  # type: ignore[override]
        """beta."""
        return self.beta


@dataclass(frozen=True)
class Normalised(Optimizer):
    r"""Normalised descent: the first moment divided by its norm, as one tangent vector.

    .. math:: M \leftarrow \beta M + (1 - \beta) F, \qquad D = c\, M / \|M\|_F, \qquad
              \|M\|_F^2 = \|K\|_F^2 + \|L\|_F^2 - \|S\|_F^2, \qquad c = \sqrt{(m + n) / 2}.

    The learning rate times c is the length of a step. With the scale of :class:`~integrators.Spectral` both are the
    same where M has rank one. Independent of the choice of U, S and V; M = 0 gives D = 0. On an L-smooth loss without
    momentum, for c = 1, ``L(W + eta D) <= L(W) - eta ||P G||_F + L eta^2 / 2``.

    Raises ValueError unless 0 <= beta < 1.
    """

    beta: float = 0.9

    whole: ClassVar[bool] = True
    later: ClassVar[tuple[str, ...] | None] = ("KLS", "S")

    def __post_init__(self):
        object.__setattr__(self, "beta", check_fraction("beta", self.beta))

    @property
    def decay(self) -> float:  # type: ignore[override]
        """beta."""
        return self.beta

    @property
    def gain(self) -> float:  # type: ignore[override]
        """1 - beta."""
        return 1.0 - self.beta

    def direction(self, M, memory, Y):
        """``c M / ||M||``; of S alone the same, in fixed bases."""
        xp = array_namespace(Y.S)

        def over(X, size):  # nothing for nothing
            return X / xp.where(size == 0, xp.ones_like(size), size)

        sizes = [xp.max(xp.abs(X), axis=(-2, -1), keepdims=True) for X in M.values()]
        largest = sizes[0]
        for size in sizes[1:]:
            largest = xp.maximum(largest, size)
        M = {part: over(X, largest) for part, X in M.items()}  # so that no square under- or overflows
        squares = {part: xp.linalg.vector_norm(X, axis=(-2, -1), keepdims=True) ** 2 for part, X in M.items()}
        total = squares["S"] if len(M) == 1 else squares["K"] + squares["L"] - squares["S"]
        norm = xp.sqrt(total) / (sum(Y.shape[-2:]) / 2) ** 0.5
        return {part: over(X, norm) for part, X in M.items()}


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
            if optimizer.later is not None and "".join(parts) not in optimizer.later:
                others = "ParallelBUG, BUG or AugmentedBUG with Euler" if optimizer.later else "ParallelBUG with Euler"
                raise ValueError(
                    f"{type(optimizer).__name__} has no direction of {' and '.join(parts)} at a later stage of a step: "
                    f"take GeoLoRA, {others}"
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
    return replace(result, memory={**result.memory, **memory}, origin=Y)
