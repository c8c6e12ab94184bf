"""Time-dependent bases by CUR: Runge-Kutta methods on some rows and columns of the matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from .checks import check_integer, check_order
from .integrator import Integrator
from .linalg import array_namespace, dagger, qr, taken
from .lowrank import LowRank
from .runge_kutta_bug import TABLEAUS
from .selection import check_selection, first_field, rows_and_columns, select_rows
from .sketches import basis
from .substeps import RK4
from .truncation import Tolerance, Truncation

__all__ = ["TDBCUR"]

ALL_TABLEAUS = {**TABLEAUS, 4: ((*RK4.A, RK4.b), RK4.c)}


@dataclass(frozen=True, kw_only=True)
class TDBCUR(Integrator):
    r"""Time-dependent bases by CUR (TDB-CUR): a Runge-Kutta method of order 1 to 4 on some rows and columns.

    With rows p and columns q chosen by Q-DEIM from U0 and V0, the cross approximation
    :math:`C(Z) = Q\, Q[p, :]^+ Z[p, :]`, :math:`Q = \mathrm{orth}(Z[:, q])`, and :math:`Z_1 = Y_0`:

    .. math::
        Z_i = C\Big(Y_0 + h \sum_{j<i} a_{ij}\, F(t_0 + c_j h, Z_j)\Big), \qquad
        Y_1 = \mathrm{truncate}\Big(C\Big(Y_0 + h \sum_j b_j\, F(t_0 + c_j h, Z_j)\Big)\Big).

    C asks for the rows p and the columns q of the fields alone, ``f.rows(p)`` and ``f.columns(q)``, which is all that
    is computed where a field knows how. No tangent space is involved: for fields that leave it, too.

    Parameters
    ----------
    order : 1, 2, 3 or 4
        Euler's method, the explicit midpoint rule, Heun's method of order 3, or the classical one.
    truncation : Truncation
        ``Tolerance(relative=1e-8)`` by default; the tolerance should fall like h^(order + 1).
    oversampling : int
        s: there are r + s columns and r + 2 s rows for a start of rank r. Ranks can grow by s in a step.
    selection : {"qdeim", "deim", "sqdeim"}
        How p and q are chosen, see `integrators.selection.select_rows`; all but the first need low-rank-toolbox.
    optimizer : Optimizer

    Notes
    -----
    The order holds down to the error of a cross approximation of rank r + s, which is the best one times the norms of
    the interpolations; these do not depend on singular values. One field more than the order; the first, at Y0, moves
    nothing, and is not computed where the field knows rows and columns. Not exact for F = A'(t). Cost
    O((m + n) (r + s)^2).

    The paper was not at hand. The cross approximation of the explicitly advanced matrix is its idea; that s columns
    beyond r give the stages room and let the rank grow, and that the truncation decides how far, is as in
    :class:`~integrators.RandRK4`.

    Raises TypeError or ValueError if order is not one of the above, oversampling not an integer >= 0, or
    selection unknown, and ImportError if its package is missing.

    References
    ----------
    Donello, Palkar, Naderi, Del Rey Fernández, Babaee (2023), Oblique projection for scalable rank-adaptive
    reduced-order modelling of nonlinear stochastic partial differential equations with time-dependent bases,
    doi:10.1098/rspa.2023.0320. Drmač, Gugercin (2016), doi:10.1137/15M1019271.
    """

    order: int = 2  # type: ignore[misc]
    truncation: Truncation = field(default_factory=lambda: Tolerance(relative=1e-8))  # type: ignore[misc]
    oversampling: int = 5
    selection: str = "qdeim"

    robust: ClassVar[bool] = True
    rank_adaptive: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        check_order(self.order, ALL_TABLEAUS)
        check_integer("oversampling", self.oversampling, 0)
        check_selection(self.selection)

    def stages(self, t, state, h):
        """Rows and columns of the stages, and the field at what they stand for."""
        Y0 = Z = state.Y
        yield from first_field(t, Y0)
        A, c = ALL_TABLEAUS[self.order]
        p = select_rows(Y0.U, 2 * self.oversampling, self.selection)
        q = select_rows(Y0.V, self.oversampling, self.selection)
        rows0, columns0 = taken(Y0.U, p) @ dagger(Y0.L), Y0.K @ dagger(taken(Y0.V, q))
        fields = []
        for a, ci in zip(A[1:], c, strict=True):
            fields.append((yield from rows_and_columns(t + ci * h, Z, p, q)))
            rows, columns = rows0, columns0
            for aij, (FR, FC) in zip(a, fields, strict=True):
                rows, columns = rows + h * aij * FR, columns + h * aij * FC
            Z = cross(rows, columns, p)
        return Z


def cross(rows: Any, columns: Any, p: list[int]) -> LowRank:
    """``Q Q[p, :]^+ Z[p, :]``, Q an orthonormal basis of columns of Z."""
    Q = basis(columns)
    V, R = qr(dagger(array_namespace(Q).linalg.pinv(taken(Q, p)) @ rows))
    return LowRank(Q, dagger(R), V)
