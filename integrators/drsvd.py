"""Dynamical randomised singular value decomposition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .backward_corrected_splitting import galerkin_L
from .linalg import complement, concat
from .sketches import PowerIterated

__all__ = ["DRSVD"]


@dataclass(frozen=True, kw_only=True)
class DRSVD(PowerIterated):
    r"""Dynamical randomised SVD (DRSVD): a sketch of the solution at the new time gives its range.

    With a random :math:`\Omega` (n, r + p), r the rank of Y0:

    .. math::
        B' &= F(t, B \Omega^+)\, \Omega, & B(t_0) &= Y_0 \Omega, & Q &= \mathrm{orth}(B(t_1)), \\
        C' &= F(t, Q C^H)^H Q, & C(t_0) &= Y_0^H Q, & \Omega &= \mathrm{orth}(C(t_1)), \quad
            \text{then B and Q once more: a power iteration}, \\
        C' &= F(t, \hat Q C^H)^H \hat Q, & C(t_0) &= Y_0^H \hat Q, & \hat Q &= \mathrm{orth}[U_0 \,|\, Q],

    and :math:`\hat Q\, C(t_1)^H` is truncated.

    Parameters
    ----------
    truncation : Truncation
        ``Tolerance(relative=1e-8)`` by default.
    substep : Substep
        For B and C; Euler by default.
    power : int
        Power iterations, 1 by default. Without any, the range comes from the field at :math:`Y_0 \Omega \Omega^+`
        alone, far from Y0: enough for a field A Y + Y B + C, but not for a nonlinear one, whose error stays as h -> 0.
    seed, oversampling : int
        Of the sketches; oversampling is p.
    optimizer : Optimizer

    Notes
    -----
    Order 1, robust; 2 power + 3 fields per step with Euler (the first, at Y0, moves nothing). Exact for F = A'(t) of
    rank r. Norm and energy are kept, and gradient flows decay, up to the truncation, since the last step is Galerkin in
    matrices that contain Y0. Cost O((m + n) (r + p)^2).

    Raises TypeError or ValueError if power, seed or oversampling is not an integer >= 0.

    References
    ----------
    Carrel (2024), Randomised methods for dynamical low-rank approximation, arXiv:2410.17091.
    """

    robust: ClassVar[bool] = True

    def stages(self, t, state, h):
        """The range by sketches, then C in it."""
        Y = state.Y
        yield from self.first_field(t, Y)
        [Omega] = self.sketches(state, (Y.shape[-1], Y.rank + self.oversampling))
        Q = yield from self.basis(t, Y, h, "K", Omega)
        return (yield from galerkin_L(t, Y.embed(concat(Y.U, complement(Y.U, Q)), Y.V), h, self.substep))
