"""Full-rank reference: the same field without any low-rank constraint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from array_api_compat import device

from .integrator import Integrator
from .linalg import array_namespace
from .lowrank import LowRank
from .state import State
from .substeps import Euler, Substep

__all__ = ["FullRank"]


@dataclass(frozen=True, kw_only=True)
class FullRank(Integrator):
    r"""The matrix itself without any low-rank constraint: explicit Euler on W, which is plain gradient descent.

    It is the K-step with ``V = I``: the point is ``W = W I I^H``, so that ``f.K = F(t, W)``.

    Parameters
    ----------
    substep : Substep
        Euler by default; its order is that of the method.
    optimizer : Optimizer
        Elementwise moments of the mean slope of the step, ``dW / h``.

    Notes
    -----
    One field per stage of the substep. Memory and cost O(m n + n^2): a reference, not a low-rank method.
    """

    substep: Substep = field(default_factory=Euler)

    robust: ClassVar[bool] = True
    manifold: ClassVar[bool] = False
    factors: ClassVar[tuple[str, ...]] = ("U",)
    stackable: ClassVar[bool] = True

    @property
    def order(self):  # type: ignore[override]
        """That of the substep."""
        return self.substep.order

    def start(self, Y: LowRank) -> LowRank:
        """(W, I, I)."""
        one = array_namespace(Y.V).eye(Y.shape[-1], dtype=Y.dtype, device=device(Y.V))
        return LowRank(Y.full(), one, one)

    def memory(self, Y):
        """Moments of W."""
        return self.optimizer.init({"W": Y.U})

    def stages(self, t, state, h):
        """W1 = W + dW."""
        W = state.Y
        f = yield t, W, "K"
        dW = yield from self.substep.K(t, W, h, f)
        direction, memory = self.optimizer.update(state.memory, {"W": dW / h if h else f.K})
        return State(LowRank(W.U + h * direction["W"], W.S, W.V), memory)
