"""Runge-Kutta BUG integrators of orders 2 and 3."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from .checks import check_order
from .integrator import Integrator
from .linalg import complements, concat
from .lowrank import LowRank
from .truncation import Tolerance, Truncation

__all__ = ["RungeKuttaBUG"]

TABLEAUS: dict[int, tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]] = {
    1: (((), (1.0,)), (0.0,)),
    2: (((), (1 / 2,), (0.0, 1.0)), (0.0, 1 / 2)),
    3: (((), (1 / 3,), (0.0, 2 / 3), (1 / 4, 0.0, 3 / 4)), (0.0, 1 / 3, 2 / 3)),
}
"""a_ij, with the b_j as last row, and c_i by order: Euler, the explicit midpoint rule, Heun's method of order 3.

Of all tableaus of their order these have the most zeros, and each other entry is an evaluation."""


@dataclass(frozen=True, kw_only=True)
class RungeKuttaBUG(Integrator):
    r"""Runge-Kutta BUG (RK-BUG) integrator of order 2 or 3: a BUG step for each stage, forward in time only.

    Stage i = 2, ..., s, and the step as stage s + 1 with :math:`a_{s+1,j} = b_j`, from
    :math:`Y_1 = Y_0 = U_1 S_1 V_1^H`, times :math:`t_i = t_0 + c_i h`:

    .. math::
        U_i &= \mathrm{orth}[U_{i-1} \,|\, F(t_{i-1}, Y_{i-1}) V_{i-1}], \qquad
        V_i = \mathrm{orth}[V_{i-1} \,|\, F(t_{i-1}, Y_{i-1})^H U_{i-1}], \\
        S_i &= U_i^H \Big(Y_0 + h \sum_{j<i} a_{ij}\, F(t_j, Y_j)\Big) V_i, \qquad Y_i = U_i S_i V_i^H .

    :math:`Y_{s+1}` is then truncated.

    Parameters
    ----------
    order : 2 or 3
        The explicit midpoint rule, or Heun's method of order 3.
    truncation : Truncation
        ``Tolerance(relative=1e-8)`` by default; the tolerance should fall like h^(order + 1).
    optimizer : Optimizer

    Notes
    -----
    The order is that of the Runge-Kutta method down to a plateau, h times the normal part of the field, whatever the
    singular values. Proof: :math:`U_i` contains :math:`U_j` and :math:`F_j V_j`, :math:`V_i` contains :math:`V_j` and
    :math:`F_j^H U_j` for all j < i, so what the projection of :math:`F_j` leaves out, :math:`F_j - U_i U_i^H F_j V_i
    V_i^H`, consists of three parts of the normal part of F at Y_j: the stages are those of the method for the full
    matrix up to that. No stage is truncated; the bases have 4 r (order 2) or 8 r columns (order 3).

    Fields: 4 (order 2) and 7 (order 3). Order 2 is the midpoint BUG integrator whose Galerkin step is the explicit
    midpoint rule. No backward step, no inverse of S. Cost O((m + n) r^2).

    Raises ValueError if order is not 2 or 3.

    References
    ----------
    Nobile, Riffaud (2025), Robust high-order low-rank BUG integrators based on explicit Runge-Kutta methods,
    arXiv:2502.07040.
    """

    order: int = 2  # type: ignore[misc]
    truncation: Truncation = field(default_factory=lambda: Tolerance(relative=1e-8))  # type: ignore[misc]

    robust: ClassVar[bool] = True
    rank_adaptive: ClassVar[bool] = True
    stackable: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        check_order(self.order, (2, 3))

    def stages(self, t, state, h):
        """Bases from the last stage, coefficients from all of them."""
        A, c = TABLEAUS[self.order]
        Y0 = Y = state.Y
        nodes = []  # of the stages: time and point
        for ci, a in zip(c, A[1:], strict=True):
            f = yield t + ci * h, Y
            nodes.append((t + ci * h, Y))
            Ut, Vt = complements((Y.U, f.K), (Y.V, f.L))
            U, V = concat(Y.U, Ut), concat(Y.V, Vt)
            S = Y0.embed(U, V).S
            for (tj, Yj), aij in zip(nodes, a, strict=True):
                if aij:
                    f = yield tj, Yj.embed(U, V), "S"
                    S = S + h * aij * f.S
            Y = LowRank(U, S, V)
        return Y
