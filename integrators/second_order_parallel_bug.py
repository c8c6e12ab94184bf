"""Parallel BUG integrator of order 2."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from .integrator import Integrator
from .linalg import complements, concat
from .parallel_bug import augmented
from .substeps import Heun, Substep
from .truncation import Tolerance, Truncation

__all__ = ["SecondOrderParallelBUG"]


@dataclass(frozen=True, kw_only=True)
class SecondOrderParallelBUG(Integrator):
    r"""Second-order parallel BUG integrator: parallel BUG from bases that hold the field at the start too.

    .. math::
        U^0 = \mathrm{orth}[U_0 \,|\, F(t_0, Y_0) V_0], \qquad V^0 = \mathrm{orth}[V_0 \,|\, F(t_0, Y_0)^H U_0],

    and one step of :class:`~integrators.ParallelBUG` from Y0 in these bases,

    .. math::
        \hat S = \begin{pmatrix} S(t_1) & L(t_1)^H \tilde V \\ \tilde U^H K(t_1) & 0 \end{pmatrix}, \qquad
        Y_1 = \mathrm{truncate}([U^0|\tilde U]\, \hat S\, [V^0|\tilde V]^H),

    with :math:`\tilde U = \mathrm{orth}((I - U^0 U^{0,H}) K(t_1))`, :math:`\tilde V` likewise. The block that is set to
    zero is then of order h^3, up to the normal part of the field.

    Parameters
    ----------
    truncation : Truncation
        ``Tolerance(relative=1e-8)`` by default; for order 2 the tolerance should fall like h^3.
    substep : Substep
        For K, L and S; Heun by default, since it decides the order.
    optimizer : Optimizer

    Notes
    -----
    Order 2, robust (substeps of higher order show more where the rank of the solution suffices); K, L and S may run in
    parallel. S-hat is 4 r x 4 r. Five fields per step with Heun. Not exact for
    F = A'(t). With one Euler substep it moves by an orthogonal projection of h F that contains h P(Y0) F. Cost
    O((m + n) r^2).

    References
    ----------
    Kusch (2024), Second-order robust parallel integrators for dynamical low-rank approximation, arXiv:2403.02834.
    """

    truncation: Truncation = field(default_factory=lambda: Tolerance(relative=1e-8))  # type: ignore[misc]
    substep: Substep = field(default_factory=Heun)

    order: ClassVar[int] = 2
    robust: ClassVar[bool] = True
    rank_adaptive: ClassVar[bool] = True
    stackable: ClassVar[bool] = True

    def stages(self, t, state, h):
        """The field at the start enters the bases, then K, L and S from there."""
        Y = state.Y
        f = yield t, Y
        Ut, Vt = complements((Y.U, f.K), (Y.V, f.L))
        Y = Y.embed(concat(Y.U, Ut), concat(Y.V, Vt))
        f = yield t, Y
        dK = yield from self.substep.K(t, Y, h, f)
        dL = yield from self.substep.L(t, Y, h, f)
        dS = yield from self.substep.S(t, Y, h, f)
        return augmented(Y, dK, dL, dS)
