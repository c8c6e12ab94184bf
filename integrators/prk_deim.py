"""Projected Runge-Kutta methods that look at some rows and columns of the field only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .checks import check_integer
from .fields import Projections
from .linalg import array_namespace, dagger, taken
from .lowrank import LowRank
from .projected_runge_kutta import ProjectedRungeKutta
from .selection import check_selection, first_field, rows_and_columns, select_rows

__all__ = ["PRKDEIM"]


@dataclass(frozen=True, kw_only=True)
class PRKDEIM(ProjectedRungeKutta):
    r"""Projected Runge-Kutta with interpolation (PRK-DEIM), order 1, 2 or 3: from rows and columns of the field alone.

    It is :class:`~integrators.ProjectedRungeKutta` with an oblique projection onto the tangent space in place of the
    orthogonal one:

    .. math::
        D(Y) F = M_U F[p, :] + F[:, q]\, M_V^H - M_U F[p, q]\, M_V^H, \qquad
        M_U = U\, U[p, :]^+, \quad M_V = V\, V[q, :]^+,

    with rows p and columns q chosen by Q-DEIM from the bases U and V of each stage. Only :math:`F[p, :]` and
    :math:`F[:, q]` are computed where a field knows how (``f.rows(p)``, ``f.columns(q)``): for an entrywise
    nonlinearity O((m + n) r^2) where projections cost O(m n r).

    Parameters
    ----------
    order : 1, 2 or 3
    oversampling : int
        Rows and columns beyond r.
    selection : {"qdeim", "deim", "sqdeim"}
        How p and q are chosen, see `integrators.selection.select_rows`; all but the first need low-rank-toolbox.
    truncation, stage_truncation : Truncation
        See :class:`~integrators.ProjectedRungeKutta`.
    optimizer : Optimizer

    Notes
    -----
    Robust: the norms of M_U and M_V do not depend on the singular values of Y, and enter the error together with the
    normal part of the field. One field more than the order; the first, at Y0, moves nothing, and is not computed where
    the field knows rows and columns. p and q jump as Y moves, and the result with them, by h times the normal part of
    the field. Cost O((m + n) r^2).

    Raises TypeError or ValueError if order is not 1, 2 or 3, oversampling not an integer >= 0, or selection unknown,
    and ImportError if its package is missing.

    References
    ----------
    Carrel, Kressner, Lam, Vandereycken (2025), Interpolatory dynamical low-rank approximation: theoretical foundations
    and algorithms, arXiv:2510.19518. Drmač, Gugercin (2016), doi:10.1137/15M1019271.
    """

    oversampling: int = 0
    selection: str = "qdeim"

    def __post_init__(self):
        super().__post_init__()
        check_integer("oversampling", self.oversampling, 0)
        check_selection(self.selection)

    def stages(self, t, state, h):
        """The stages of the projected method, of which each looks at rows and columns."""
        yield from first_field(t, state.Y)
        return (yield from super().stages(t, state, h))

    def look(self, t, Y):
        """The projections of D(Y) F, a tangent vector."""
        p, q = (select_rows(X, self.oversampling, self.selection) for X in (Y.U, Y.V))
        rows, columns = yield from rows_and_columns(t, Y, p, q)
        return interpolated(Y, p, q, rows, columns)


def interpolated(Y: LowRank, p: list[int], q: list[int], rows: Any, columns: Any) -> Projections:
    """The projections of ``U X^H + Z V^H - U C V^H``, with ``X^H = U[p]^+ F[p, :]``, ``Z = F[:, q] V[q]^{+H}``."""
    pinv = array_namespace(Y.S).linalg.pinv
    left, right = pinv(taken(Y.U, p)), dagger(pinv(taken(Y.V, q)))
    X, Z = dagger(left @ rows), columns @ right
    C = left @ taken(columns, p) @ right
    XV, UZ = dagger(X) @ Y.V, dagger(Y.U) @ Z
    return Projections(Z + Y.U @ (XV - C), X + Y.V @ dagger(UZ - C), XV + UZ - C)
