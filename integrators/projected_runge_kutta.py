"""Projected Runge-Kutta methods of orders 1 to 3."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from .checks import check_instance, check_order
from .fields import combine, tangent
from .integrator import Integrator
from .parallel_bug import augmented
from .runge_kutta_bug import TABLEAUS
from .state import State
from .truncation import FixedRank, Tolerance, Truncation

__all__ = ["ProjectedRungeKutta"]


@dataclass(frozen=True, kw_only=True)
class ProjectedRungeKutta(Integrator):
    r"""Projected Runge-Kutta method (PRK) of order 1, 2 or 3: tangent vectors are added, each stage is truncated.

    With the tangent projection P(Z), truncation T to rank r, and :math:`Z_1 = Y_0`:

    .. math::
        Z_i = T\Big(Y_0 + h \sum_{j<i} a_{ij}\, P(Z_j) F(t_0 + c_j h, Z_j)\Big), \qquad
        Y_1 = \mathrm{truncate}\Big(Y_0 + h \sum_j b_j\, P(Z_j) F(t_0 + c_j h, Z_j)\Big).

    Parameters
    ----------
    order : 1, 2 or 3
        Euler's method, the explicit midpoint rule, or Heun's method of order 3.
    truncation : Truncation
        Of the result; ``Tolerance(relative=1e-8)`` by default. It should fall like h^(order + 1).
    stage_truncation : Truncation, optional
        T; to the rank of Y0 without it, which is the published method.
    optimizer : Optimizer

    Notes
    -----
    Robust, one field per stage. A truncated Z2 is of first order only; in the method of order 3 it enters through Z3
    alone (b_2 = 0), which keeps the order. Euler's method before truncation is the Riemannian step Y0 + h P(Y0) F.
    Cost O((m + n) r^2) with ranks 2 r (order 1), 3 r (2) and 4 r (3) before truncation.

    Raises ValueError if order is not 1, 2 or 3.

    References
    ----------
    Kieri, Vandereycken (2019), Projection methods for dynamical low-rank approximation of high-dimensional problems,
    doi:10.1515/cmam-2018-0029.
    """

    order: int = 1  # type: ignore[misc]
    truncation: Truncation = field(default_factory=lambda: Tolerance(relative=1e-8))  # type: ignore[misc]
    stage_truncation: Truncation | None = None

    robust: ClassVar[bool] = True
    rank_adaptive: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        check_order(self.order, TABLEAUS)
        if self.stage_truncation is not None:
            check_instance("stage_truncation", self.stage_truncation, Truncation, "FixedRank(4)")

    def look(self, t, Z):
        """The projections of the tangent vector that stands for the field at Z."""
        return (yield t, Z)

    def stages(self, t, state, h):
        """One tangent vector for each stage."""
        A, c = TABLEAUS[self.order]
        Y0 = Z = state.Y
        T = self.stage_truncation or FixedRank(Y0.rank)
        fields = []  # as tangent vectors, of the stages after the first
        for i, ci in enumerate(c):
            f = yield from self.look(t + ci * h, Z)
            if i == 0:
                f0 = f
            else:
                fields.append(tangent(Z, f))
            a0, *a = (h * aij for aij in A[i + 1])
            Y = augmented(Y0, a0 * f0.K, a0 * f0.L, a0 * f0.S)  # Y0 + a0 P(Y0) F0, in bases that hold both
            if any(a):
                Y = combine([(1.0, Y), *((aij, X) for aij, X in zip(a, fields, strict=True) if aij)])
            if i + 1 < len(c):
                [(Z, _)] = T([State(Y)])
        return Y
