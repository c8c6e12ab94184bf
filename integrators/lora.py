"""LoRA: simultaneous gradient descent on the two factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import device

from .integrator import Integrator
from .linalg import array_namespace
from .lowrank import LowRank
from .state import State

__all__ = ["LoRA"]


@dataclass(frozen=True, kw_only=True)
class TwoFactors(Integrator):
    """Base class of methods that move the factors of ``W = B A``, kept as ``Y = B I (A^H)^H``."""

    manifold: ClassVar[bool] = False
    factors: ClassVar[tuple[str, ...]] = ("U", "V")

    def start(self, Y: LowRank) -> LowRank:
        """(U S, I, V)."""
        one = array_namespace(Y.S).eye(Y.S.shape[-1], dtype=Y.dtype, device=device(Y.S))
        return LowRank(Y.K, one, Y.V)

    def memory(self, Y):
        """Moments of B and A^H."""
        return self.optimizer.init({"B": Y.U, "A": Y.V})


@dataclass(frozen=True, kw_only=True)
class LoRA(TwoFactors):
    r"""Low-rank adaptation (LoRA): simultaneous gradient descent on the two factors of the matrix.

    With ``W = B A``:

    .. math:: B_1 = B + h\, F(W) A^H, \qquad A_1 = A + h\, B^H F(W).

    To first order in h the matrix moves by :math:`F A^H A + B B^H F` instead of the projected field: stiff where the
    singular values are large, slow where they are small, and at rest at points where P(W) F is not zero.

    From a start ``Y = U S V^H`` the factors are ``B = U S``, ``A = V^H``; S = 0 is LoRA's own start, B = 0.

    Parameters
    ----------
    optimizer : Optimizer
        Acts on B and A, elementwise.

    Notes
    -----
    One field per step, cost O((m + n) r). ``state.Y`` is ``B I (A^H)^H``: its bases are not orthonormal.

    References
    ----------
    Hu et al. (2022), LoRA: Low-rank adaptation of large language models, arXiv:2106.09685.
    """

    stackable: ClassVar[bool] = True

    def stages(self, t, state, h):
        """B1 = B + h F A^H and A1^H = A^H + h F^H B."""
        Y = state.Y
        f = yield t, Y
        direction, memory = self.optimizer.update(state.memory, {"B": f.K, "A": f.L})
        return State(LowRank(Y.U + h * direction["B"], Y.S, Y.V + h * direction["A"]), memory)
