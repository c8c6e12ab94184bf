"""GeoLoRA: parallel BUG with one gradient, for training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from .integrator import Integrator
from .parallel_bug import augmented
from .spectral import Spectral
from .truncation import GlobalBudget, Tolerance, Truncation

__all__ = ["GeoLoRA"]


@dataclass(frozen=True, kw_only=True)
class GeoLoRA(Integrator):
    r"""GeoLoRA: parallel BUG with one gradient per step, rank-adaptive, for training.

    With the gradient G = -F and the learning rate lam = h:

    .. math::
        K_1 &= U S - \lambda\, G V, \qquad L_1 = V S^H - \lambda\, G^H U, \qquad S_1 = S - \lambda\, U^H G V, \\
        \hat S &= \begin{pmatrix} S_1 & L_1^H \tilde V \\ \tilde U^H K_1 & 0 \end{pmatrix}, \qquad
        \tilde U = \mathrm{orth}((I - U U^H) G V), \quad \tilde V = \mathrm{orth}((I - V V^H) G^H U).

    Without truncation and with the plain optimiser this is the Riemannian gradient step
    :math:`\hat W = W - \lambda P(W) G` for every S, singular S included: on an L-smooth loss it descends by
    :math:`\lambda (1 - L \lambda / 2) \|P(W) G\|_F^2`, whatever the singular values.

    Parameters
    ----------
    truncation : Truncation
        ``Tolerance(relative=0.1, spare=1)`` by default. Without spare directions (:meth:`published`) rank can be lost
        for good where a direction grows by less than the tolerance in one step.
    optimizer : Optimizer
        Plain descent by default, which is what the theorems are about. For networks see :meth:`spectral`.

    Notes
    -----
    Order 1 (as a method for the gradient flow), robust, one field per step. Never divides by S. Cost O((m + n) r^2).

    References
    ----------
    Schotthöfer, Zangrando, Ceruti, Tudisco, Kusch (2025), GeoLoRA: Geometric integration for parameter-efficient
    fine-tuning, ICLR 2025, arXiv:2410.18720.
    """

    truncation: Truncation = field(default_factory=lambda: Tolerance(relative=0.1, spare=1))  # type: ignore[misc]

    @classmethod
    def published(cls, tau: float = 0.1, **options) -> GeoLoRA:
        """The method as published: plain descent, and a relative tolerance without spare directions."""
        return cls(truncation=Tolerance(relative=tau), **options)

    @classmethod
    def spectral(cls, parameters: int | None = None) -> GeoLoRA:
        """For networks: spectral steps, and a budget of parameters by the worth of directions to the loss.

        Parameters
        ----------
        parameters : int, optional
            In the bases of all layers together; :class:`dlrt.nn.LowRankOptimizer` takes as many as at the start.

        Notes
        -----
        The learning rate is about that of Adam. ``dlrt table directions`` compares it with LoRA and others.
        """
        return cls(optimizer=Spectral(), truncation=GlobalBudget(parameters=parameters, fisher=0.98))

    order: ClassVar[int] = 1
    robust: ClassVar[bool] = True
    rank_adaptive: ClassVar[bool] = True
    stackable: ClassVar[bool] = True

    def stages(self, t, state, h):
        """The increments of K, L and S are h times the field through the bases."""
        Y = state.Y
        f = yield t, Y
        return augmented(Y, h * f.K, h * f.L, h * f.S, getattr(f, "complements", None))
