"""Implicit merge-BUG integrator, for stiff equations whose field leaves the tangent space."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from .linalg import complements, concat, dagger
from .lowrank import LowRank
from .sketches import Randomised
from .substeps import Implicit, Substep
from .truncation import Tolerance, Truncation

__all__ = ["MergeBUG"]


@dataclass(frozen=True, kw_only=True)
class MergeBUG(Randomised):
    r"""Implicit merge-BUG integrator: augmented BUG in bases that hold the range of the whole field too.

    With random :math:`\Omega` (n, 2 r + p), :math:`\Psi` (m, 2 r + p), r the rank of Y0, and K and L from implicit
    steps with the old bases as in :class:`~integrators.BUG`:

    .. math::
        \hat U &= \mathrm{orth}[U_0 \,|\, K(t_1) \,|\, F(t_0, Y_0)\, \Omega], \qquad
        \hat V = \mathrm{orth}[V_0 \,|\, L(t_1) \,|\, F(t_0, Y_0)^H \Psi], \\
        \hat S' &= \hat U^H F(t, \hat U \hat S \hat V^H) \hat V, \qquad \hat S(t_0) = \hat U^H Y_0 \hat V,

    by an implicit step; :math:`\hat U \hat S \hat V^H` is then truncated. The paper merges the leading singular vectors
    of a truncated explicit step; here the leading directions of the field come from a random sketch of it, since a
    field is seen through bases. 2 r + p columns are enough for ``A Y + Y B + C Y D`` and for ``C Y D + E Y G``; a field
    with more such terms needs a larger p.

    Parameters
    ----------
    truncation : Truncation
        ``Tolerance(relative=1e-8)`` by default.
    substep : Substep
        For K, L and S; :class:`~integrators.Implicit` by default, which is implicit in the linear part that the field
        declares and explicit in the rest, cross terms included.
    seed, oversampling : int
        Of the sketches; oversampling is p.
    optimizer : Optimizer

    Notes
    -----
    Order 1, robust; three fields per step. The tangent projection of the field does not enter the error: the method
    converges on equations with cross terms, where BUG need not. Exact for F = A'(t) of rank r. Since Y0 is in the
    Galerkin space, norm and energy are kept, up to the truncation, where the S-step is exact. Cost O((m + n) r^2), with
    4 r + p columns before truncation.

    Raises TypeError or ValueError if seed or oversampling is not an integer >= 0.

    References
    ----------
    Appelö, Cheng (2025), Robust implicit adaptive low rank time-stepping methods for matrix differential equations,
    arXiv:2402.05347.
    """

    truncation: Truncation = field(default_factory=lambda: Tolerance(relative=1e-8))  # type: ignore[misc]
    substep: Substep = field(default_factory=Implicit)

    order: ClassVar[int] = 1
    robust: ClassVar[bool] = True
    rank_adaptive: ClassVar[bool] = True

    def stages(self, t, state, h):
        """New directions from K, L and sketches of the field, then S in all of them."""
        Y0 = state.Y
        f = yield t, Y0
        dK = yield from self.substep.K(t, Y0, h, f)
        dL = yield from self.substep.L(t, Y0, h, f)
        (m, n), k = Y0.shape, 2 * Y0.rank + self.oversampling
        Omega, Psi = self.sketches(state, (n, k), (m, k))
        Ut, Vt = complements((Y0.U, Psi), (Y0.V, Omega))
        Z = Y0.embed(concat(Y0.U, Ut), concat(Y0.V, Vt))  # Y0 in bases that hold the sketches
        f = yield t, Z, "K", "L"
        FO, FP = f.K @ (dagger(Z.V) @ Omega), f.L @ (dagger(Z.U) @ Psi)
        Ut, Vt = complements((Y0.U, concat(dK, h * FO)), (Y0.V, concat(dL, h * FP)))
        Y = Y0.embed(concat(Y0.U, Ut), concat(Y0.V, Vt))
        f = yield t, Y, "S"
        return LowRank(Y.U, Y.S + (yield from self.substep.S(t, Y, h, f)), Y.V)
