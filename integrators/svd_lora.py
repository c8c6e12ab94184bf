"""SVD-LoRA: simultaneous gradient descent on U, S and V."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .integrator import Integrator
from .linalg import dagger
from .lowrank import LowRank
from .state import State

__all__ = ["SVDLoRA"]


@dataclass(frozen=True, kw_only=True)
class SVDLoRA(Integrator):
    r"""SVD-LoRA: simultaneous gradient descent on three factors, the one in the middle square and full.

    With ``W = U S V^H``:

    .. math:: U_1 = U + h\, F V S^H, \qquad S_1 = S + h\, U^H F V, \qquad V_1 = V + h\, F^H U S.

    U and V do not stay orthonormal. On the regression loss ``||W - A||^2 / 2`` the largest curvature at a
    minimiser is at least :math:`3 \sigma_1^{4/3}` (balanced factors), or :math:`2 \sigma_1^2 + 1` with orthonormal
    U and V: the stable step shrinks as the largest singular value grows.

    Parameters
    ----------
    optimizer : Optimizer
        Acts on U, S and V, elementwise.

    Notes
    -----
    One field per step, cost O((m + n) r^2).

    References
    ----------
    Baseline of Schotthöfer et al. (2025), GeoLoRA, arXiv:2410.18720.
    """

    manifold: ClassVar[bool] = False
    stackable: ClassVar[bool] = True

    def memory(self, Y):
        """Moments of U, S and V."""
        return self.optimizer.init({"U": Y.U, "S": Y.S, "V": Y.V})

    def stages(self, t, state, h):
        """One gradient step on each factor, all from the same field."""
        Y = state.Y
        f = yield t, Y
        blocks = {"U": f.K @ dagger(Y.S), "S": f.S, "V": f.L @ Y.S}
        d, memory = self.optimizer.update(state.memory, blocks)
        return State(LowRank(Y.U + h * d["U"], Y.S + h * d["S"], Y.V + h * d["V"]), memory)
