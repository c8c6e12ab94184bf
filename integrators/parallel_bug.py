"""Parallel BUG integrator, with step rejection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from array_api_compat import device

from .checks import check_positive
from .integrator import Integrator
from .linalg import array_namespace, complements, concat, dagger, double_svd
from .lowrank import LowRank
from .state import State
from .substeps import Euler, Substep
from .truncation import Tolerance, Truncation, vector

__all__ = ["ParallelBUG", "augmented"]


def augmented(Y: LowRank, dK, dL, dS, bases=None) -> LowRank:
    r"""Y moved by the increments of K, L and S that were computed in its own bases.

    .. math::
        [U | \tilde U] \begin{pmatrix} S + dS & dL^H \tilde V \\ \tilde U^H dK & 0 \end{pmatrix} [V | \tilde V]^H, \quad
        \tilde U = \mathrm{orth}((I - U U^H) dK), \quad \tilde V = \mathrm{orth}((I - V V^H) dL).

    Since U is orthogonal to :math:`\tilde U`, this is the matrix with :math:`\tilde U^H K_1` and :math:`L_1^H \tilde V`
    in its blocks. Where ``dK = h F V``, ``dL = h F^H U``, ``dS = h U^H F V`` it equals ``Y + h P(Y) F``. ``bases`` are
    :math:`\tilde U` and :math:`\tilde V` where they are known. Cost O((m + n) r^2).
    """
    xp = array_namespace(Y.S)
    Ut, Vt = bases or complements((Y.U, dK), (Y.V, dL))
    zero = xp.zeros((*Y.S.shape[:-2], Ut.shape[-1], Vt.shape[-1]), dtype=Y.dtype, device=device(Y.S))
    S = concat(concat(Y.S + dS, dagger(dL) @ Vt), concat(dagger(Ut) @ dK, zero), axis=-2)
    return LowRank(concat(Y.U, Ut), S, concat(Y.V, Vt))


@dataclass(frozen=True, kw_only=True)
class ParallelBUG(Integrator):
    r"""Parallel BUG integrator: K, L and S advance at the same time from the old bases, then truncation.

    .. math::
        \hat S = \begin{pmatrix} S(t_1) & L(t_1)^H \tilde V \\ \tilde U^H K(t_1) & 0 \end{pmatrix}, \qquad
        Y_1 = \mathrm{truncate}([U_0|\tilde U]\, \hat S\, [V_0|\tilde V]^H),

    where S follows :math:`S' = U_0^H F(t, U_0 S V_0^H) V_0`, and K, L are as in :class:`~integrators.BUG`.

    With ``rejection=c`` a step is repeated from the same matrix in the augmented bases if truncation would keep
    all of their directions, or if the block that was set to zero is not small:
    :math:`h \|\tilde U^H F(Y_0) \tilde V\|_F > c\, \vartheta`, the tolerance of the truncation.

    Parameters
    ----------
    truncation : Truncation
        ``Tolerance(relative=1e-8)`` by default.
    substep : Substep
        For K, L and S; Euler by default.
    rejection : float, optional
        c > 0, usually between 1 and 10; without it no step is rejected. Needs a ``Tolerance``.
    optimizer : Optimizer

    Notes
    -----
    Order 1, robust; K, L and S may run in parallel. One field per step with Euler, one more with ``rejection`` (the
    field through the augmented bases, which is also the first field of the repeated step; not needed where there are no
    new directions). Not exact for F = A'(t). Cost O((m + n) r^2).

    Raises ValueError if rejection is not positive or the truncation has no tolerance to compare with.

    References
    ----------
    Ceruti, Kusch, Lubich (2024), A parallel rank-adaptive integrator for dynamical low-rank approximation,
    doi:10.1137/23M1565103.
    """

    truncation: Truncation = field(default_factory=lambda: Tolerance(relative=1e-8))  # type: ignore[misc]
    substep: Substep = field(default_factory=Euler)
    rejection: float | None = None

    order: ClassVar[int] = 1
    robust: ClassVar[bool] = True
    rank_adaptive: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if self.rejection is None:
            return
        object.__setattr__(self, "rejection", check_positive("rejection", self.rejection))
        if not isinstance(self.truncation, Tolerance):
            raise ValueError(f"rejection needs a Tolerance to compare with, got {self.truncation!r}")

    @property
    def stackable(self) -> bool:  # type: ignore[override]
        """Rejection is decided for each matrix on its own."""
        return self.rejection is None

    def stages(self, t, state, h):
        """Increments of K, L and S from the same point, until a step is accepted."""
        Y = state.Y
        f = yield t, Y
        rejected = 0
        while True:
            dK = yield from self.substep.K(t, Y, h, f)
            dL = yield from self.substep.L(t, Y, h, f)
            dS = yield from self.substep.S(t, Y, h, f)
            Y1 = augmented(Y, dK, dL, dS)
            if self.rejection is None or Y1.S.shape == Y.S.shape or Y1.rank >= min(self.truncation.limit, *Y1.shape):
                # nothing to check, no new directions, or no room for more
                return State(Y1, state.memory, rejected=rejected)
            Y0 = Y.embed(Y1.U, Y1.V)
            f = yield t, Y0
            if self.accepts(Y, Y1, f, h):
                return State(Y1, state.memory, rejected=rejected)
            Y, rejected = Y0, rejected + 1

    def accepts(self, Y: LowRank, Y1: LowRank, f, h: float) -> bool:
        """Whether the step from Y to the untruncated Y1 is accepted; f is the field at Y through the bases of Y1."""
        rU, rV = Y.S.shape
        assert isinstance(self.truncation, Tolerance)  # checked at construction
        xp = array_namespace(f.S)
        _, d, _ = double_svd(Y1.S)  # the bases are orthonormal
        [kept] = self.truncation.ranks([vector(d)])
        neglected = abs(h) * float(xp.linalg.matrix_norm(f.S[rU:, rV:]))
        tolerance = self.truncation.threshold(float(xp.linalg.vector_norm(d)))
        return kept < Y1.rank and neglected <= (self.rejection or 0.0) * tolerance
