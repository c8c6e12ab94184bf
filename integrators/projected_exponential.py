"""Projected exponential Runge-Kutta methods of orders 1 and 2, for equations with a stiff linear part."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from .checks import check_instance, check_order
from .fields import Projections, combine, tangent
from .integrator import Integrator
from .lowrank import LowRank
from .parallel_bug import augmented
from .state import State
from .substeps import linear_part
from .truncation import FixedRank, Tolerance, Truncation

__all__ = ["ProjectedExponential"]


@dataclass(frozen=True, kw_only=True)
class ProjectedExponential(Integrator):
    r"""Projected exponential Runge-Kutta method of order 1 or 2: the stiff linear part of the field is solved exactly.

    For ``F(t, Y) = L Y + G(t, Y)``, ``L Y = A Y + Y B``, with the tangent projection P(Y), truncation T to rank r,
    :math:`\varphi_1(z) = (e^z - 1)/z`, :math:`\varphi_2(z) = (e^z - 1 - z)/z^2`:

    .. math::
        \hat Y &= e^{hL} Y_0 + h \varphi_1(hL)\, P(Y_0) G(t_0, Y_0)
               = Y_0 + h \varphi_1(hL)\, P(Y_0) F(t_0, Y_0), \qquad Z = T(\hat Y), \\
        Y_1 &= \mathrm{truncate}\big(\hat Y + h \varphi_2(hL)
               \big( P(Z) G(t_1, Z) - P(Y_0) G(t_0, Y_0) \big)\big).

    Order 1 ends with truncate(:math:`\hat Y`). Both forms of it are equal since A Y + Y B is a tangent vector at Y; the
    second one is computed. L is declared by the field, ``f.linear_part`` (see :mod:`integrators.substeps`), which also
    applies its phi functions; a field without one has L = 0, and the methods are a projected Euler and a projected Heun
    method.

    Parameters
    ----------
    order : 1 or 2
    truncation : Truncation
        Of the result; ``Tolerance(relative=1e-8)`` by default. It should fall like h^(order + 1).
    stage_truncation : Truncation, optional
        T; to the rank of Y0 without it.
    optimizer : Optimizer

    Notes
    -----
    Robust, the constants of the error bound are free of the norm of L too; one field per order. Order 2 is the
    exponential Runge-Kutta method of Cox and Matthews (c_2 = 1), with each G projected at its own point. Exact, up to
    the truncation, on Y' = A Y + Y B. Not exact for F = A'(t). Cost that of the field's phi functions, for which see
    `problems.linear_part`, at rank 2 r (order 1) and 4 r more (order 2).

    Raises ValueError if order is not 1 or 2.

    References
    ----------
    Carrel, Vandereycken (2023), Projected exponential methods for stiff dynamical low-rank approximation problems,
    arXiv:2312.00172. Cox, Matthews (2002), doi:10.1006/jcph.2002.6995.
    """

    order: int = 1  # type: ignore[misc]
    truncation: Truncation = field(default_factory=lambda: Tolerance(relative=1e-8))  # type: ignore[misc]
    stage_truncation: Truncation | None = None

    robust: ClassVar[bool] = True
    rank_adaptive: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        check_order(self.order)
        if self.stage_truncation is not None:
            check_instance("stage_truncation", self.stage_truncation, Truncation, "FixedRank(4)")

    def stages(self, t, state, h):
        """Exponential Euler, then the change of G."""
        Y0 = state.Y
        f0 = yield t, Y0
        L = linear_part(f0, "Y")
        PF = augmented(Y0.replace(S=0.0 * Y0.S), f0.K, f0.L, f0.S)  # the tangent vector, in orthonormal bases
        Y = combine([(1.0, Y0), (h, L.phi(1, h, PF))])
        if self.order == 1:
            return Y
        [(Z, _)] = (self.stage_truncation or FixedRank(Y0.rank))([State(Y)])
        f = yield t + h, Z
        change = combine([(1.0, tangent(Z, without(f, Z))), (-1.0, tangent(Y0, without(f0, Y0)))])
        return combine([(1.0, Y), (h, L.phi(2, h, change))])


def without(f, Y: LowRank) -> Projections:
    """G at Y: the field without its linear part."""
    return Projections(*(getattr(f, part) - linear_part(f, part)(getattr(Y, part)) for part in "KLS"))
