"""StelLA: U S V^H at fixed rank, elementwise optimisers on Riemannian gradients of U and V."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from .integrator import Integrator
from .linalg import dagger
from .lowrank import LowRank
from .state import State
from .stiefel_adamw import retracted

__all__ = ["StelLA"]


@dataclass(frozen=True, kw_only=True)
class StelLA(Integrator):
    r"""StelLA: simultaneous descent on U, S and V, with U and V on the Stiefel manifold, at fixed rank.

    With ``W = U S V^H`` the Riemannian gradients (in the canonical metric) and that of S,

    .. math::
        F_U = F V S^H - U (F V S^H)^H U, \qquad F_V = F^H U S - V (F^H U S)^H V, \qquad F_S = U^H F V,

    go through the optimiser, elementwise. Its directions :math:`D_U, D_S, D_V` move

    .. math::
        U_1 = \mathrm{polar}(U + h \sqrt{d / m}\, P_U D_U), \qquad S_1 = S + h\, D_S, \qquad
        V_1 = \mathrm{polar}(V + h \sqrt{d / n}\, P_V D_V),

    :math:`P_U D = D - U\, \mathrm{sym}(U^H D)` being the tangential part. d is the hidden size of the network in the
    authors' code; here it is min(m, n), which is the same in every linear layer of a transformer's block.

    As with SVD-LoRA, U and V move by S times what they see: slow where singular values are small, and at rest for S = 0
    until S has moved. The authors start from S = I, which changes the function unless U V^H is taken out of the
    frozen weight; their accuracy depends on it.

    Parameters
    ----------
    optimizer : Optimizer
        Acts on U, S and V, elementwise: ``Adam()`` is the published method.

    Notes
    -----
    One field per step, cost O((m + n) r^2).

    References
    ----------
    Li, Sajadmanesh, Li, Lyu (2025), StelLA: Subspace learning in low-rank adaptation using Stiefel manifold, NeurIPS
    2025, arXiv:2510.01938.
    """

    stackable: ClassVar[bool] = True

    def memory(self, Y):
        """Moments of U, S and V, elementwise: they do not move with the bases."""
        return self.optimizer.init(dict(zip("USV", Y, strict=True)))

    def advance(self, t, state, h):
        """The stages themselves: the optimiser acts on their blocks, not on the field."""
        return (yield from self.stages(t, state, h))

    def stages(self, t, state, h):
        """One step of each factor, all from the same field."""
        U, S, V = state.Y
        (m, n), d = state.Y.shape[-2:], min(state.Y.shape[-2:])
        f = yield t, state.Y
        FU, FV = f.K @ dagger(S), f.L @ S
        blocks = {"U": FU - U @ (dagger(FU) @ U), "S": f.S, "V": FV - V @ (dagger(FV) @ V)}
        D, memory = self.optimizer.update(state.memory, blocks)
        U1, V1 = retracted(U, h * math.sqrt(d / m) * D["U"]), retracted(V, h * math.sqrt(d / n) * D["V"])
        return State(LowRank(U1, S + h * D["S"], V1), memory)
