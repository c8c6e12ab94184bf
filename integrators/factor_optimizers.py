r"""Optimisers that grew up with LoRA: orthogonalised momentum (Muon), and a rate of its own for B (LoRA+).

The blocks of :class:`integrators.LoRA` are the fields ``F A^H`` of B (m, r) and ``F^H B`` of A^H (n, r).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from .adam import Adam
from .checks import check_fraction, check_instance, check_positive
from .linalg import array_namespace, check_finite, columns, dagger, eps, in_double, one_thread
from .optimizers import Optimizer

__all__ = ["LoRAPlus", "Muon", "polar"]


@dataclass(frozen=True)
class Muon(Optimizer):
    r"""Momentum with Nesterov's correction, orthogonalised: all singular values of a direction become equal.

    .. math:: M \leftarrow \beta M + F, \qquad N = \beta M + F,

    and msign(N) = P Q^H, the polar factor of ``N = P diag(d) Q^H`` (:func:`polar`), gives the direction.

    * On factors, such as B (m, r) and A^H (n, r) of LoRA, each moves by itself, along
      :math:`\sqrt{\mathrm{rows}}\;\mathrm{msign}(N)`. The entries of that are of size 1 in the root mean square, as
      Adam's are, so that learning rates carry over from Adam. The step depends on how W is split into B and A.
    * On the tangent space of a manifold method with one field per step it is LoRA-Muon's direction,

      .. math:: D = \tfrac c2 (\mathrm{msign}(N_K)\, V^H + U\, \mathrm{msign}(N_L)^H), \qquad c = \sqrt{(m + n) / 2},

      whose spectral norm is at most c. It depends on W alone and holds for every S, singular S included:
      ``GeoLoRA(optimizer=Muon(), truncation=FixedRank(r))``. :class:`integrators.LoRAMuon` is the method as published,
      on the factors B and A, which for regular W moves along the same D up to terms of second order.

    Memory (m + n) r, half of Adam's; cost O((m + n) r^2).

    Raises ValueError unless 0 <= beta < 1.

    References
    ----------
    Jordan et al. (2024), Muon, https://kellerjordan.github.io/posts/muon; scale: Liu et al. (2025), Muon is scalable
    for LLM training, arXiv:2502.16982; tangent space: Cesista, Crowson, Simal, Biderman (2026), LoRA-Muon,
    arXiv:2606.12921.
    """

    beta: float = 0.9

    nesterov: ClassVar[bool] = True

    def __post_init__(self):
        object.__setattr__(self, "beta", check_fraction("beta", self.beta))

    @property
    def decay(self) -> float:  # type: ignore[override]
        """beta."""
        return self.beta

    def direction(self, M, memory, Y):
        """The polar factors of the blocks; of a tangent vector D V, D^H U and U^H D V."""
        if Y is None:
            return {name: math.sqrt(X.shape[-2]) * polar(X) for name, X in M.items()}
        if not {"K", "L"} <= M.keys():
            raise TypeError("Muon needs K and L together: it is for methods with one field per step, such as GeoLoRA()")
        U, _, V = Y
        c = math.sqrt((U.shape[-2] + V.shape[-2]) / 2)
        P, Q = c / 2 * polar(M["K"]), c / 2 * polar(M["L"])
        PU, QV = dagger(P) @ U, dagger(Q) @ V
        return {"K": P + U @ QV, "L": Q + V @ PU, "S": dagger(PU) + QV}


@dataclass(frozen=True)
class LoRAPlus(Optimizer):
    r"""LoRA+: the learning rate of B is ``ratio`` times that of A.

    .. math:: B_1 = B + h \lambda D_B, \qquad A_1 = A + h D_A,

    with the direction D of another optimiser. In wide networks one rate for both makes the features move by too
    little: B starts at zero, and its entries have to grow by much more than those of A have to change.

    Parameters
    ----------
    optimizer : Optimizer
        Adam by default.
    ratio : float
        lambda > 0; 16 in the paper.

    References
    ----------
    Hayou, Ghosh, Yu (2024), LoRA+: Efficient low-rank adaptation of large models, arXiv:2402.12354.
    """

    optimizer: Optimizer = field(default_factory=Adam)
    ratio: float = 16.0

    def __post_init__(self):
        check_instance("optimizer", self.optimizer, Optimizer, "Adam()")
        object.__setattr__(self, "ratio", check_positive("ratio", self.ratio))

    def init(self, blocks, Y=None) -> dict:
        """Memory of the other optimiser."""
        if "B" not in blocks:
            raise TypeError(f"LoRAPlus is for LoRA, with the factors B and A, got a method with {', '.join(blocks)}")
        return self.optimizer.init(blocks, Y)

    def update(self, memory: Mapping, F, Y=None):
        """Its direction, that of B times the ratio, and its new memory."""
        D, memory = self.optimizer.update(memory, F, Y)
        return {**D, "B": self.ratio * D["B"]}, memory


def polar(X):
    r"""The polar factor ``msign(X) = P Q^H`` of ``X = P diag(d) Q^H`` (..., m, r).

    Singular values below ``max(1e-6, 100 eps) d_1`` are rounding errors more than they are X, and become zero: the
    factor is a partial isometry with the row space of X. Zero columns stay zero, and a zero matrix stays zero.

    A single X that is not finite raises FloatingPointError, one in a stack becomes not a number.

    Notes
    -----
    ``X (X^H X)^{-1/2}`` in double precision, whatever the dtype of X, from the eigenvalues of the Gram matrix: one
    product and small factorisations, without a look at any number of a stack. Orthonormal to eps where the singular
    values are of one size, as they are in a retraction, to ``eps_double (d_1 / d_r)^2`` otherwise. Cost O(m r^2).
    """
    if X.ndim == 2:
        check_finite(X, "the direction")
    Z, root, _ = _whitening(X)
    return array_namespace(X).astype(Z @ root, X.dtype)


def inverse_root(X):
    """``(X^H X)^{-1/2}`` (..., r, r) in double precision, for X (..., m, r): the pseudo-inverse, as in :func:`polar`.

    Rows and columns that belong to zero columns of X are zero. Where X in a stack is not finite, it is not a number.
    """
    _, root, size = _whitening(X)
    return root / size


@one_thread
def _whitening(X):
    """``Z = X / size``, ``(Z^H Z)^{-1/2}`` and size, the largest entry of X: nothing over- or underflows."""
    xp = array_namespace(X)
    size = xp.max(xp.abs(X), axis=(-2, -1), keepdims=True)
    finite = xp.isfinite(size)
    size = in_double(xp.where(finite & (size > 0), size, xp.ones_like(size)))
    Z = in_double(xp.where(finite, X, xp.zeros_like(X))) / size
    d2, Q = xp.linalg.eigh(dagger(Z) @ Z)
    kept = d2 > max(1e-6, 100 * eps(X)) ** 2 * d2[..., -1:]
    inverse = xp.where(kept, 1 / xp.sqrt(xp.where(kept, d2, xp.ones_like(d2))), xp.zeros_like(d2))
    Q = xp.astype(columns(X), Q.dtype)[..., None] * Q  # what fills up a smaller rank stays zero to the last bit
    root = Q @ (xp.astype(inverse, Q.dtype)[..., None] * dagger(Q))
    return Z, xp.where(finite, root, xp.full_like(root, math.nan)), size
