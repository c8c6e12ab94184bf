"""Riemannian gradient descent on the matrices of a fixed rank, with momentum."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .integrator import Integrator
from .optimizers import SGD, Momentum, Optimizer
from .parallel_bug import augmented
from .state import State
from .truncation import FixedRank

__all__ = ["RiemannianDescent"]


@dataclass(frozen=True, kw_only=True)
class RiemannianDescent(Integrator):
    r"""Riemannian gradient descent of fixed rank, with momentum carried from tangent space to tangent space.

    With the field ``F = -grad L`` of a loss, the tangent projection P(W), the best approximation :math:`T_r` of rank r
    and the momentum M, a tangent vector at W:

    .. math::
        M \leftarrow \beta M + P(W) F(W), \qquad
        W_1 = T_r(W + \lambda M), \qquad
        M \leftarrow P(W_1) M .

    :math:`T_r` is the retraction by metric projection, the last step the vector transport by projection.

    Parameters
    ----------
    optimizer : Optimizer
        ``Momentum(beta=0.9)`` by default; ``SGD()`` is plain Riemannian gradient descent. Others, such as
        ``Normalised()`` or ``Spectral()``, give another tangent vector in place of M, and their first moment is
        transported alike.

    Notes
    -----
    r is the rank of W and never changes. One field per step. W + lambda M has rank 2 r at most, so that its best
    approximation costs an SVD of a 2 r x 2 r matrix, and nothing is divided by singular values. On an L-smooth loss
    :math:`W + \lambda P(W) F` lowers it by :math:`\lambda (1 - L \lambda / 2) \|P(W) F\|_F^2`; the retraction may give
    back what it cuts. Plain, it is the projected Euler method, of order 1 and robust, and what
    :class:`~integrators.GeoLoRA` would be at a fixed rank; with momentum it follows another flow. Cost O((m + n) r^2).

    References
    ----------
    Vandereycken (2013), Low-rank matrix completion by Riemannian optimization, doi:10.1137/110845768. Momentum by
    projection: Schotthöfer, Klein, Kusch (2025), A geometric framework for momentum-based optimizers for low-rank
    training, arXiv:2506.17475.
    """

    optimizer: Optimizer = field(default_factory=Momentum)

    @property
    def order(self) -> Any:  # type: ignore[override]
        """1 without momentum."""
        return 1 if type(self.optimizer) is SGD else None

    @property
    def robust(self) -> bool:  # type: ignore[override]
        """As a method for the field's flow, which it follows without momentum."""
        return type(self.optimizer) is SGD

    def stages(self, t, state, h):
        """A tangent step, then the best approximation of the old rank."""
        Y = state.Y
        f = yield t, Y
        [(Y1, _)] = FixedRank(Y.rank)([State(augmented(Y, h * f.K, h * f.L, h * f.S))])
        return Y1
