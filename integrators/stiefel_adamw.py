"""Stiefel-AdamW: two factors, one of them orthonormal, with elementwise Adam."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from array_api_compat import device

from .adam import Adam
from .factor_optimizers import polar
from .linalg import array_namespace, dagger, eps, norm, qr
from .lora import TwoFactors
from .lowrank import LowRank
from .optimizers import Optimizer
from .state import State

__all__ = ["StiefelAdamW"]


@dataclass(frozen=True, kw_only=True)
class StiefelAdamW(TwoFactors):
    r"""Stiefel-AdamW: elementwise Adam on two factors, the second of them on the Stiefel manifold.

    With ``W = K V^H``, V orthonormal, and the directions :math:`D_K, D_V` that the optimiser makes of the fields
    :math:`F V` and :math:`F^H K`:

    .. math::
        K_1 = K + h\, D_K, \qquad V_1 = \mathrm{polar}(V + h\, P_V D_V), \qquad
        P_V D = D - V\, \mathrm{sym}(V^H D),

    sym(X) = (X + X^H) / 2. With V orthonormal W has no scaling left to choose, and K is W in the basis V: moments of
    its entries mean something, which those of moving bases do not.

    Parameters
    ----------
    optimizer : Optimizer
        Acts on K and V, elementwise; Adam by default. Weight decay is that of W, on K alone (AdamW).

    Notes
    -----
    One field per step, cost O((m + n) r^2). ``state.Y`` is ``K I V^H``.

    References
    ----------
    Zangrando, Sutti, Tudisco (2026), Stiefel-AdamW, arXiv:2609.21039.
    """

    optimizer: Optimizer = field(default_factory=Adam)

    stackable: ClassVar[bool] = True

    def start(self, Y: LowRank) -> LowRank:
        """(K, I, V), with the Q factor of V where V is not orthonormal."""
        one = array_namespace(Y.V).eye(Y.V.shape[-1], dtype=Y.dtype, device=device(Y.V))
        if not norm(dagger(Y.V) @ Y.V - one) <= 100 * eps(Y.V):
            V, T = qr(Y.V)
            Y = LowRank(Y.U, Y.S @ dagger(T), V)
        return super().start(Y)

    def stages(self, t, state, h):
        """K by the optimiser's direction, V by its tangential part, and back to the manifold."""
        Y = state.Y
        f = yield t, Y
        D, memory = self.optimizer.update(state.memory, {"B": f.K, "A": f.L})
        return State(LowRank(Y.U + h * D["B"], Y.S, retracted(Y.V, h * D["A"])), memory)


def retracted(V, D):
    """The polar factor of V + P_V D, for orthonormal V (..., n, r) and any D of that shape. Cost O(n r^2)."""
    X = dagger(V) @ D
    return polar(V + D - V @ ((X + dagger(X)) / 2))
