"""LoRA-Muon: LoRA's factors along orthogonalised gradients of the product."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from .factor_optimizers import inverse_root, polar
from .linalg import array_namespace
from .lora import TwoFactors
from .lowrank import LowRank
from .state import State

__all__ = ["LoRAMuon"]


@dataclass(frozen=True, kw_only=True)
class LoRAMuon(TwoFactors):
    r"""LoRA-Muon: descent on the two factors, steepest in the spectral norm of the product.

    With ``W = B A`` and the field, or its momentum, F:

    .. math::
        B_1 &= B + \tfrac{h c}{2}\, \mathrm{msign}(F A^H R_A)\, R_A, \qquad R_A = (A A^H)^{-1/2}, \\
        A_1^H &= A^H + \tfrac{h c}{2}\, \mathrm{msign}(F^H B R_B)\, R_B, \qquad R_B = (B^H B)^{-1/2},

    msign(X) being the polar factor of X and :math:`c = \sqrt{(m + n) / 2}` (the paper's learning rate is h c). With
    orthonormal bases U and V of the columns of B and of A^H the product moves by
    :math:`\tfrac{h c}{2} (\mathrm{msign}(F V) V^H + U\, \mathrm{msign}(F^H U)^H)`, of spectral norm at most h c, plus a
    term of second order: whatever the splitting of W into B and A, apart from momentum, which is that of the factors.

    Where B does not have full rank, R_B is the pseudo-inverse: from B = 0, B moves first and A follows. The term of
    second order grows like h^2 over the smallest singular values of B and A. ``GeoLoRA(optimizer=Muon(),
    truncation=FixedRank(r))`` moves W in the same direction without any inverse.

    Parameters
    ----------
    optimizer : Optimizer
        Acts on B and A, before they are orthogonalised: ``Momentum(0.9, nesterov=True)`` is the published method.

    Notes
    -----
    One field per step, cost O((m + n) r^2). ``state.Y`` is ``B I (A^H)^H``.

    References
    ----------
    Cesista, Crowson, Simal, Biderman (2026), LoRA-Muon: Spectral steepest descent on the low-rank manifold,
    arXiv:2606.12921.
    """

    stackable: ClassVar[bool] = True

    def stages(self, t, state, h):
        """B and A^H along the whitened, orthogonalised momenta."""
        Y = state.Y
        xp, c = array_namespace(Y.U), math.sqrt(sum(Y.shape[-2:]) / 2)
        f = yield t, Y
        M, memory = self.optimizer.update(state.memory, {"B": f.K, "A": f.L})

        def direction(N, other):
            R = xp.astype(inverse_root(other), N.dtype)
            return c / 2 * polar(N @ R) @ R

        B, A = Y.U + h * direction(M["B"], Y.V), Y.V + h * direction(M["A"], Y.U)
        return State(LowRank(B, Y.S, A), memory)
