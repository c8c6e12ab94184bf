"""Riemannian preconditioned LoRA: gradients of the factors scaled by the Gram matrix of the other one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import device

from .checks import check_positive
from .linalg import array_namespace, dagger
from .lora import TwoFactors
from .lowrank import LowRank
from .state import State

__all__ = ["RiemannianLoRA"]


@dataclass(frozen=True, kw_only=True)
class RiemannianLoRA(TwoFactors):
    r"""Riemannian preconditioned LoRA: scaled gradient descent on the two factors.

    With ``W = B A``:

    .. math::
        B_1 = B + h\, F A^H (A A^H + \delta I)^{-1}, \qquad A_1 = A + h\, (B^H B + \delta I)^{-1} B^H F.

    For delta = 0 and to first order in h the matrix moves by :math:`F V V^H + U U^H F`, with orthonormal bases U and V
    of its columns and rows: whatever the splitting of W into B and A, and not stiff where singular values are
    large, but with the part :math:`U U^H F V V^H` counted twice. Where singular values of B are below the root of
    delta it is LoRA, with another rate.

    Parameters
    ----------
    delta : float
        Damping, > 0; 0.01 in PEFT. Worth tuning with Adam: from B = 0 the scaled gradient of A shrinks by a factor of
        up to ``sigma^2 / delta`` as B grows, which the second moments are slow to forget.
    optimizer : Optimizer
        Acts on the scaled gradients of B and A, elementwise: with ``Adam()`` it is the scaled AdamW of the paper.

    Notes
    -----
    One field per step, cost O((m + n) r^2). ``state.Y`` is ``B I (A^H)^H``.

    References
    ----------
    Zhang, Pilanci (2024), Riemannian preconditioned LoRA for fine-tuning foundation models, ICML 2024,
    arXiv:2402.02347. For delta = 0: Tong, Ma, Chi (2021), ScaledGD, JMLR 22, arXiv:2005.08898.
    """

    delta: float = 1e-2

    stackable: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "delta", check_positive("delta", self.delta))

    def stages(self, t, state, h):
        """B and A^H along the scaled gradients."""
        Y = state.Y
        f = yield t, Y
        blocks = {"B": self._scaled(f.K, Y.V), "A": self._scaled(f.L, Y.U)}
        direction, memory = self.optimizer.update(state.memory, blocks)
        return State(LowRank(Y.U + h * direction["B"], Y.S, Y.V + h * direction["A"]), memory)

    def _scaled(self, F, other):
        """``F (X^H X + delta I)^{-1}``, X the other factor."""
        xp, r = array_namespace(F), F.shape[-1]
        gram = dagger(other) @ other + self.delta * xp.eye(r, dtype=F.dtype, device=device(F))
        return dagger(xp.linalg.solve(gram, dagger(F)))
