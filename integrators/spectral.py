r"""Spectral steps: an orthogonalised tangent vector, all of whose directions advance by the same length.

A gradient of a network has a few large singular values. What is proportional to it, or scaled entry by entry or row by
row, moves a few directions, and the others that the adapter has room for stay unused. A spectral step moves them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import device

from .checks import check_fraction
from .linalg import array_namespace, complements, concat, dagger, msign, on_host, smooth_sign
from .optimizers import Optimizer

__all__ = ["Spectral"]

METHODS = "auto", "svd", "newton-schulz"


@dataclass(frozen=True)
class Spectral(Optimizer):
    r"""Orthogonalised tangent momentum: the matrix sign of the moment, projected onto the tangent space.

    With the moment M, a tangent vector at :math:`Y = U S V^H`, and N one step ahead of it (Nesterov), both seen through
    the bases, ``K = N V``, ``L = N^H U``, ``S = U^H N V``:

    .. math::
        M &\leftarrow \beta M + (1 - \beta) F, \qquad N = \beta M + (1 - \beta) F, \\
        N &= [U | \tilde U]\, C\, [V | \tilde V]^H, \qquad
        C = \begin{pmatrix} S & L^H \tilde V \\ \tilde U^H K & 0 \end{pmatrix}, \qquad
        \mathrm{msign}(C) = A B^H \text{ for } C = A\, \mathrm{diag}(d)\, B^H, \\
        D &= c\, P(\mathrm{msign}(N)) = c\, [U | \tilde U]
        \begin{pmatrix} \mathrm{msign}(C)_{11} & \mathrm{msign}(C)_{12} \\ \mathrm{msign}(C)_{21} & 0 \end{pmatrix}
        [V | \tilde V]^H, \qquad c = \sqrt{(m + n) / 2},

    where :math:`\tilde U` and :math:`\tilde V` are bases of what K and L have outside of U and V. Values d below
    ``100 eps d_1`` have no direction: N = 0 gives D = 0.

    Parameters
    ----------
    beta : float
        Of the first moment.
    method : {"auto", "svd", "newton-schulz"}
        How the sign is computed: by a singular value decomposition, or by matrix products alone, which suits GPUs;
        ``"auto"`` takes the first for arrays in the memory of the processor and the second elsewhere.

    Notes
    -----
    **Descent.** For N = -P(Y) G, with the gradient G, and any unit of length (c = 1):
    :math:`\langle G, D \rangle = \langle P G, -\mathrm{msign}(P G) \rangle = -\|P G\|_*`, the nuclear norm, as P is
    self-adjoint, and :math:`\|D\|_F^2 \le \mathrm{rank}(P G) \le 2 r`. So on an L-smooth loss

    .. math:: L(W + \eta D) \le L(W) - \eta \|P G\|_* + \tfrac{L}{2} \eta^2 \|D\|_F^2,

    whatever the singular values of W: descent for :math:`\eta < \|P G\|_* / (L r)`. (If the last block of msign(C) were
    kept, :math:`\tilde U^H G \tilde V`, which has any sign, would enter.)

    By matrix products (:func:`integrators.linalg.smooth_sign`) values within delta < 1e-3 of one take the place of the
    ones, and below ``l ||d||_2`` with l = 1e-3 values of at least ``(1 - delta) d / (l ||d||_2)``. With
    x (1 - x / l) <= l / 4,

    .. math:: -\langle G, D \rangle \ge (1 - \delta) (\|P G\|_* - \tfrac{l}{2} r \|P G\|_F)
              \ge (1 - \delta) (1 - \tfrac{l}{2} r) \|P G\|_*, \qquad \|D\|_F^2 \le 2 r (1 + \delta)^2,

    and D depends continuously on N, but at zero.

    **Scale.** :math:`\|D\|_F^2 \le 2 r c^2 = r (m + n)` is that of a step of Adam on K and L, whose entries are all of
    size one: learning rates are comparable with Adam's. The learning rate times c is the spectral norm of the step, up
    to a factor of at most :math:`2 / \sqrt 3` that setting a block of a contraction to zero can bring.

    **Invariance.** D depends on N and on the spans of U and V alone. Nothing is divided by S, and S = 0 is a point like
    any other. Memory: the first moment, (m + n) r + r^2 numbers. Cost O((m + n) r^2), with the singular value
    decomposition of a 2r x 2r matrix; GeoLoRA goes on with these :math:`\tilde U` and :math:`\tilde V`, other methods
    orthonormalise once more.

    **Later stages.** A step on S alone in fixed bases (BUG, augmented BUG) moves along msign(S), which is the steepest
    descent in the spectral norm there, :math:`\langle G, D \rangle = -\|U^H G V\|_*`. Methods that ask for K or L
    alone are refused: in projector splitting the backward step along a sign of S would be as long as those forward,
    however little S there is to take back.

    **Truncation.** The 2r values of a first step from S = 0 are about the same (msign(C) is close to its blocks off the
    diagonal), and of 2r equal ones ``Tolerance(relative=tau)`` keeps ``2 r (1 - tau^2)``: the rank grows unless
    tau^2 >= 1/2. Smaller ones without a ``max_rank`` are refused; use GlobalBudget or FixedRank. Which of equal values
    a fixed rank keeps is for rounding to say.

    References
    ----------
    The sign of a momentum: Jordan et al. (2024), Muon. On the tangent space: Riemannion, arXiv:2507.12142; its
    factored relative: LoRA-Muon, arXiv:2606.12921. Raises ValueError unless 0 <= beta < 1, or for another method.
    """

    beta: float = 0.9
    method: str = "auto"

    nesterov: ClassVar[bool] = True
    whole: ClassVar[bool] = True
    later: ClassVar[tuple[str, ...] | None] = ("KLS", "S")
    flat: ClassVar[bool] = True

    def __post_init__(self):
        object.__setattr__(self, "beta", check_fraction("beta", self.beta))
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")

    @property
    def decay(self) -> float:  # type: ignore[override]
        """beta."""
        return self.beta

    @property
    def gain(self) -> float:  # type: ignore[override]
        """1 - beta."""
        return 1.0 - self.beta

    def direction(self, M, memory, Y):
        """K, L and S of ``c P(msign(M))``; of S alone, ``c msign(S)``."""
        c = (sum(Y.shape[-2:]) / 2) ** 0.5
        if "K" not in M:
            return {"S": c * self._sign(M["S"])}
        K, L, S = (M[part] for part in "KLS")
        xp, (r, s) = array_namespace(S), S.shape[-2:]
        Ut, Vt = complements((Y.U, K), (Y.V, L))
        zero = xp.zeros((*S.shape[:-2], Ut.shape[-1], Vt.shape[-1]), dtype=S.dtype, device=device(S))
        C = concat(concat(S, dagger(L - Y.V @ dagger(S)) @ Vt), concat(dagger(Ut) @ (K - Y.U @ S), zero), axis=-2)
        D = c * self._sign(C)
        D11, D12, D21 = D[..., :r, :s], D[..., :r, s:], D[..., r:, :s]
        K, L = Y.U @ D11 + Ut @ D21, Y.V @ dagger(D11) + Vt @ dagger(D12)
        return {"K": K, "L": L, "S": D11, "complements": (Ut, Vt)}

    def _sign(self, C):
        by_svd = self.method == "svd" or (self.method == "auto" and on_host(C))
        return msign(C) if by_svd else smooth_sign(C)
