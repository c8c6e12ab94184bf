"""Augmented (rank-adaptive) BUG integrator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from .integrator import Integrator
from .linalg import complements, concat
from .lowrank import LowRank
from .substeps import Euler, Substep
from .truncation import Tolerance, Truncation

__all__ = ["AugmentedBUG"]


@dataclass(frozen=True, kw_only=True)
class AugmentedBUG(Integrator):
    r"""Augmented BUG integrator: rank-adaptive, Galerkin in bases that keep the old directions, then truncation.

    .. math::
        \hat U &= \mathrm{orth}[U_0 \,|\, K(t_1)], \qquad \hat V = \mathrm{orth}[V_0 \,|\, L(t_1)], \\
        \hat S' &= \hat U^H F(t, \hat U \hat S \hat V^H) \hat V, \qquad \hat S(t_0) = \hat U^H U_0 S_0 V_0^H \hat V,

    with K and L as in :class:`~integrators.BUG`; :math:`\hat U \hat S \hat V^H` is then truncated.

    Parameters
    ----------
    truncation : Truncation
        ``Tolerance(relative=1e-8)`` by default; ``FixedRank(r)`` makes it a method of fixed rank.
    substep : Substep
        For K, L and S; Euler by default. With Euler and a gradient this is dynamical low-rank training.
    optimizer : Optimizer

    Notes
    -----
    Order 1, robust. Since the start is in the Galerkin space, norm and energy are kept, and gradient flows decay, up to
    the truncation. Exact for F = A'(t) of rank r. Two fields per step with Euler. Cost O((m + n) r^2).

    References
    ----------
    Ceruti, Kusch, Lubich (2022), A rank-adaptive robust integrator for dynamical low-rank approximation,
    doi:10.1007/s10543-021-00907-7. Training: Schotthöfer, Zangrando, Kusch, Ceruti, Tudisco (2022), arXiv:2205.13571.
    """

    truncation: Truncation = field(default_factory=lambda: Tolerance(relative=1e-8))  # type: ignore[misc]
    substep: Substep = field(default_factory=Euler)

    order: ClassVar[int] = 1
    robust: ClassVar[bool] = True
    rank_adaptive: ClassVar[bool] = True
    stackable: ClassVar[bool] = True

    def stages(self, t, state, h):
        """New directions from K and L, then S in the augmented bases."""
        Y = state.Y
        f = yield t, Y
        dK = yield from self.substep.K(t, Y, h, f)
        dL = yield from self.substep.L(t, Y, h, f)
        Ut, Vt = complements((Y.U, dK), (Y.V, dL))
        Y = Y.embed(concat(Y.U, Ut), concat(Y.V, Vt))
        f = yield t, Y, "S"
        return LowRank(Y.U, Y.S + (yield from self.substep.S(t, Y, h, f)), Y.V)
