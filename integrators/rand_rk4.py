"""Randomised Runge-Kutta method of order 4."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from .linalg import array_namespace, complements, concat, dagger, qr
from .lowrank import LowRank
from .sketches import Randomised, basis
from .substeps import RK4
from .truncation import Tolerance, Truncation

__all__ = ["RandRK4"]


@dataclass(frozen=True, kw_only=True)
class RandRK4(Randomised):
    r"""Randomised Runge-Kutta method (Rand-RK4): the classical one, its stages compressed by random sketches.

    With random :math:`\Omega` (n, r + p), :math:`\Psi` (m, r + 2 p), r the rank of Y0, and the generalised Nyström
    approximation :math:`N(Z) = Z \Omega\, (\Psi^H Z \Omega)^+\, \Psi^H Z`:

    .. math::
        Z_i = Y_0 + h \sum_{j<i} a_{ij}\, F(t_0 + c_j h, N(Z_j)), \qquad
        Y_1 = \mathrm{truncate}\Big(N\Big(Y_0 + h \sum_j b_j\, F(t_0 + c_j h, N(Z_j))\Big)\Big).

    No stage is formed: :math:`Z \Omega` and :math:`\Psi^H Z` follow from the sketches of Y0 and of the fields. The
    sketches are drawn anew in each step and shared by its stages, so that each field is seen through one pair; the
    paper draws them for each N.

    Parameters
    ----------
    truncation : Truncation
        ``Tolerance(relative=1e-8)`` by default; the tolerance should fall like h^5.
    seed, oversampling : int
        Of the sketches; oversampling is p.
    optimizer : Optimizer

    Notes
    -----
    Order 4 down to the error of approximation by rank r + p. Five fields per step, of which the first, at Y0, moves
    nothing. The stages are at O(h^2) from the matrices of rank r, and the columns must have room for that: on a
    nonlinear equation with a solution of rank 4, p = 3, 5, 7 gave orders 3.3, 3.5, 3.9. Nothing is projected onto a
    tangent space: the method is for fields that leave it, too. With an orthonormal basis Q of the range of Z Omega,
    :math:`N(Z) = Q (\Psi^H Q)^+ \Psi^H Z` is an oblique projection, which divides by no singular value of Z, and whose
    norm the oversampling keeps small. Cost O((m + n) (r + p)^2).

    Raises TypeError or ValueError if seed or oversampling is not an integer >= 0.

    References
    ----------
    Lam, Ceruti, Kressner (2024), Randomized low-rank Runge-Kutta methods, arXiv:2409.06384.
    """

    truncation: Truncation = field(default_factory=lambda: Tolerance(relative=1e-8))  # type: ignore[misc]

    order: ClassVar[int] = 4
    robust: ClassVar[bool] = True
    rank_adaptive: ClassVar[bool] = True

    def stages(self, t, state, h):
        """Sketches of the stages, and the field at what they stand for."""
        Y0 = Z = state.Y  # Y0 = N(Y0), its rank being less than the number of columns of the sketches
        yield from self.first_field(t, Y0)
        (m, n), r, p = Y0.shape, Y0.rank, self.oversampling
        Omega, Psi = self.sketches(state, (n, r + p), (m, r + 2 * p))
        fields = []  # F Omega and F^H Psi of each stage
        for a, c in zip((*RK4.A[1:], RK4.b), RK4.c, strict=True):
            Ut, Vt = complements((Z.U, Psi), (Z.V, Omega))
            Z = Z.embed(
                concat(Z.U, Ut), concat(Z.V, Vt)
            )  # bases that hold the sketches: the field is seen through them
            f = yield t + c * h, Z
            fields.append((f.K @ (dagger(Z.V) @ Omega), f.L @ (dagger(Z.U) @ Psi)))
            B, C = Y0.K @ (dagger(Y0.V) @ Omega), Y0.L @ (dagger(Y0.U) @ Psi)
            for aij, (FO, FP) in zip(a, fields, strict=True):
                B, C = B + h * aij * FO, C + h * aij * FP
            Z = nystroem(B, C, Psi)
        return Z


def nystroem(B, C, Psi) -> LowRank:
    """``N(Z)`` from the sketches ``B = Z Omega`` (m, k) and ``C = Z^H Psi`` (n, l), l >= k."""
    Q = basis(B)
    V, R = qr(C @ dagger(array_namespace(B).linalg.pinv(dagger(Psi) @ Q)))
    return LowRank(Q, dagger(R), V)
