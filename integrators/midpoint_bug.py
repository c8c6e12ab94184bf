"""Midpoint BUG integrator, of order 2."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from .checks import check_instance
from .integrator import Integrator
from .linalg import complements, concat
from .lowrank import LowRank
from .state import State
from .substeps import Euler, Heun, Substep
from .truncation import FixedRank, Tolerance, Truncation

__all__ = ["MidpointBUG"]


@dataclass(frozen=True, kw_only=True)
class MidpointBUG(Integrator):
    r"""Midpoint BUG integrator: half an augmented BUG step, then Galerkin in bases that hold the field there.

    .. math::
        \hat Y_{1/2} &= \hat U_{1/2} \hat S_{1/2} \hat V_{1/2}^H \quad
            \text{from a step of size } h/2 \text{ of the augmented BUG integrator, not truncated}, \\
        \bar U &= \mathrm{orth}[\hat U_{1/2} \,|\, F(t_{1/2}, \hat Y_{1/2}) \hat V_{1/2}], \qquad
        \bar V = \mathrm{orth}[\hat V_{1/2} \,|\, F(t_{1/2}, \hat Y_{1/2})^H \hat U_{1/2}], \\
        \bar S' &= \bar U^H F(t, \bar U \bar S \bar V^H) \bar V, \qquad \bar S(t_0) = \bar U^H Y_0 \bar V,

    over the whole step; :math:`\bar U \bar S \bar V^H` is then truncated. These bases have 4 r columns. With
    ``columns=3`` the half step is first truncated to rank r, and :math:`\bar U = \mathrm{orth}[U_0 | U_{1/2} |
    F(t_{1/2}, Y_{1/2}) V_{1/2}]`, and :math:`\bar V` likewise: the cheaper variant of the paper.

    Parameters
    ----------
    truncation : Truncation
        ``Tolerance(relative=1e-8)`` by default; for order 2 the tolerance should fall like h^3.
    substep : Substep
        For the Galerkin step; Heun by default, since it decides the order.
    predictor : Substep
        For K, L and S of the half step; Euler by default, which is enough: the half step only gives bases.
    columns : 4 or 3
        Columns of the Galerkin bases, as a multiple of the rank of Y0.
    optimizer : Optimizer

    Notes
    -----
    Order 2, robust: the error is bounded by the normal part of the field, h^2 and th / h, th the truncation tolerance.
    Since Y0 is in the Galerkin space, norm and energy are kept, and gradient flows decay, up to the truncation, where
    the Galerkin step is exact. Five fields per step with Euler and Heun. Not exact for F = A'(t). Cost O((m + n) r^2).

    With three columns the result is continuous only up to h times the normal part of the field: a direction of U_half
    that hardly sticks out of U0 counts in full once it is kept.

    Raises ValueError if columns is not 3 or 4.

    References
    ----------
    Ceruti, Einkemmer, Kusch, Lubich (2024), A robust second-order low-rank BUG integrator based on the midpoint rule,
    doi:10.1007/s10543-024-01032-x.
    """

    truncation: Truncation = field(default_factory=lambda: Tolerance(relative=1e-8))  # type: ignore[misc]
    substep: Substep = field(default_factory=Heun)
    predictor: Substep = field(default_factory=Euler)
    columns: int = 4

    order: ClassVar[int] = 2
    robust: ClassVar[bool] = True
    rank_adaptive: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        check_instance("predictor", self.predictor, Substep, "Euler()")
        if not isinstance(self.columns, int) or isinstance(self.columns, bool) or self.columns not in (3, 4):
            raise ValueError(f"columns must be 3 or 4, got {self.columns!r}")

    @property
    def stackable(self) -> bool:  # type: ignore[override]
        """The truncation of a half step is to the rank of each matrix on its own."""
        return self.columns == 4

    def stages(self, t, state, h):
        """Half a step of augmented BUG, the field there, Galerkin from Y0."""
        Y0 = state.Y
        f = yield t, Y0
        dK = yield from self.predictor.K(t, Y0, h / 2, f)
        dL = yield from self.predictor.L(t, Y0, h / 2, f)
        Ut, Vt = complements((Y0.U, dK), (Y0.V, dL))
        Y = Y0.embed(concat(Y0.U, Ut), concat(Y0.V, Vt))
        f = yield t, Y, "S"
        half = Y.replace(S=Y.S + (yield from self.predictor.S(t, Y, h / 2, f)))
        if self.columns == 3:
            [(half, _)] = FixedRank(Y0.rank)([State(half)])
            Ut, Vt = complements((Y0.U, half.U), (Y0.V, half.V))
            Y = Y0.embed(concat(Y0.U, Ut), concat(Y0.V, Vt))
        f = yield t + h / 2, half
        Ut, Vt = complements((Y.U, f.K), (Y.V, f.L))
        Y = Y0.embed(concat(Y.U, Ut), concat(Y.V, Vt))
        f = yield t, Y, "S"
        return LowRank(Y.U, Y.S + (yield from self.substep.S(t, Y, h, f)), Y.V)
