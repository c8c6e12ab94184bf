"""Adam on tangent vectors: three kinds of second moment that keep their meaning while the bases turn.

Elementwise moments (Kingma, Ba 2015, arXiv:1412.6980) belong to columns, which turn in every step. Instead:

- :class:`Adam`: the mean squares of the *rows* of K, of L, and of S, which no rotation of the bases changes;
- :class:`FactoredAdam`: those of the rows and of the columns of the *matrix* P(Y) F;
- :class:`AlignedAdam`: entries after all, in bases that are turned as little as possible from step to step.

The first two do not depend on the choice of U, S, V for the same matrix, nor does a step with them. In all three a
second moment has a lower bound by the mean of all of its kind: a row whose gradient is always zero (a constant input)
would blow up without, since projecting the first moment to new bases puts something into it, which would be divided by
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .checks import check_fraction, check_positive
from .linalg import array_namespace, dagger, is_complex
from .optimizers import Optimizer

__all__ = ["Adam", "AlignedAdam", "FactoredAdam"]


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam with bias correction; ``eps`` is added to the root of the second moment.

    Fixed factors have elementwise second moments, a tangent vector those of its rows: one number for each row of K (an
    output of the layer), one for each row of L (an input) and one for S, the mean of the squared entries over the
    columns, but at least the mean over all rows. A rotation of the bases does not change it, so that it need not be
    moved.

    Raises ValueError unless 0 <= beta1, beta2 < 1 and eps > 0.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    OVER: ClassVar[dict[str, tuple[int, ...]]] = {"K": (-1,), "L": (-1,), "S": (-2, -1)}
    """Axes over which the second moments of a tangent vector are averaged."""

    def __post_init__(self):
        for name, check in (("beta1", check_fraction), ("beta2", check_fraction), ("eps", check_positive)):
            object.__setattr__(self, name, check(name, getattr(self, name)))

    @property
    def decay(self) -> float:  # type: ignore[override]
        """beta1."""
        return self.beta1

    @property
    def gain(self) -> float:  # type: ignore[override]
        """1 - beta1."""
        return 1.0 - self.beta1

    def init(self, blocks, Y=None) -> dict:
        """First moments as the blocks, second moments as their averages, and the step count."""
        second = {f"second.{name}": 0.0 * self._squares(block, name, Y) for name, block in blocks.items()}
        return {**super().init(blocks, Y), **second, "step": 0}

    def learn(self, memory, F, Y):
        """One step of the second moments and the count."""
        memory = {**memory, "step": int(memory["step"]) + 1}
        for name, block in F.items():
            square = self._squares(block, name, Y)
            memory[f"second.{name}"] = self.beta2 * memory[f"second.{name}"] + (1.0 - self.beta2) * square
        return memory

    def direction(self, M, memory, Y):
        """``(M / (1 - beta1^k)) / (sqrt(v / (1 - beta2^k)) + eps)``, block by block."""
        k = int(memory["step"])

        def scaled(first, second):
            root = array_namespace(first).sqrt(second / (1.0 - self.beta2**k)) + self.eps
            return (first / (1.0 - self.beta1**k)) / root

        return {name: scaled(first, memory[f"second.{name}"]) for name, first in M.items()}

    def _squares(self, X, name, Y):
        """|X|^2; of a tangent vector averaged, kept broadcastable, a row having at least the average of all rows."""
        xp, square = array_namespace(X), squared(X)
        if Y is None:
            return square
        rU, rV = Y.widths
        rows = xp.sum(square, axis=self.OVER[name], keepdims=True) / {"K": rV, "L": rU, "S": rU * rV}[name]
        return xp.maximum(rows, xp.mean(rows, axis=-2, keepdims=True))


@dataclass(frozen=True)
class FactoredAdam(Adam):
    r"""Adam with second moments of the rows and the columns of the tangent vector, as a matrix (m, n).

    .. math::
        x \leftarrow \beta_2 x + (1 - \beta_2) \tfrac{1}{r} \textstyle\sum_j |P F|^2_{ij}, \qquad
        y \leftarrow \beta_2 y + (1 - \beta_2) \tfrac{1}{r} \textstyle\sum_i |P F|^2_{ij}, \\
        D = P(A M B), \qquad A = \mathrm{diag}(x)^{-1/2}, \quad B = \mathrm{diag}(y)^{-1/2}
        \Bigl(\tfrac{m + n}{m n} \textstyle\sum_i x_i\Bigr)^{1/2},

    so that ``x_i y_j / sum(x)`` is Adafactor's estimate of entry (i, j); where the squares of M are of this form,
    :math:`\|A M B\|_F^2 = r (m + n)`, as much as for a step of Adam on K and L. All moments are bias-corrected.

    P F, its row and column sums and P are those of the matrix, so that a step does not depend on the choice of U, S, V;
    nothing is divided by S. It is a descent direction where M = -P G: ``<G, D> = -||A^{1/2} P(G) B^{1/2}||_F^2``.
    Memory (m + n)(r + 1) + r^2 numbers, cost O((m + n) r^2).

    Reference: Shazeer, Stern (2018), Adafactor, arXiv:1804.04235.
    """

    whole: ClassVar[bool] = True
    later: ClassVar[tuple[str, ...] | None] = ("KLS", "S")

    def init(self, blocks, Y=None):
        """First moments as the blocks, zeros for each row and column, and the step count."""
        first = Optimizer.init(self, blocks, Y)
        rows, columns = self._sums(blocks, Y)
        return {**first, "second.rows": 0.0 * rows, "second.columns": 0.0 * columns, "step": 0}

    def learn(self, memory, F, Y):
        """One step of the second moments and the count."""
        sums = dict(zip(("second.rows", "second.columns"), self._sums(F, Y), strict=True))
        second = {name: self.beta2 * memory[name] + (1.0 - self.beta2) * X for name, X in sums.items()}
        return {**memory, **second, "step": int(memory["step"]) + 1}

    def direction(self, M, memory, Y):
        """K, L and S of ``P(A M B)``; of S alone, in fixed bases, its projection."""
        k, (m, n), (U, _, V) = int(memory["step"]), Y.shape[-2:], Y
        xp = array_namespace(U)
        x, y = (memory[f"second.{name}"] / (1.0 - self.beta2**k) for name in ("rows", "columns"))
        A, B = (1.0 / (xp.sqrt(X) + self.eps) for X in (x, y))
        B = B * xp.sqrt((m + n) / (m * n) * xp.sum(x, axis=-2, keepdims=True)) / (1.0 - self.beta1**k)
        A, B = (xp.astype(X, U.dtype) for X in (A, B))
        AU, BV = A * U, B * V
        UAU, VBV = dagger(U) @ AU, dagger(V) @ BV
        if "K" not in M:
            return {"S": UAU @ M["S"] @ VBV}
        K, L, S = (M[part] for part in "KLS")
        MBV = K @ VBV + U @ (dagger(L - V @ dagger(S)) @ BV)
        MHAU = L @ UAU + V @ (dagger(K - U @ S) @ AU)
        K = A * MBV
        return {"K": K, "L": B * MHAU, "S": dagger(U) @ K}

    def _sums(self, F, Y):
        """Sums of squares over rows (m, 1) and columns (n, 1) of the tangent vector, over r, at least their mean."""
        K, L, S = (F[part] for part in "KLS")
        (U, _, V), (rU, rV) = Y, Y.widths
        xp = array_namespace(U)

        def sums(X, basis, other):
            """Of the rows of ``X V^H + basis other^H`` with other orthogonal to V."""
            rest = xp.sum(real(basis @ (dagger(other) @ other) * xp.conj(basis)), axis=-1, keepdims=True)
            total = xp.sum(squared(X), axis=-1, keepdims=True) + rest
            return xp.maximum(total, xp.mean(total, axis=-2, keepdims=True))

        return sums(K, U, L - V @ dagger(S)) / rV, sums(L, V, K - U @ S) / rU


@dataclass(frozen=True)
class AlignedAdam(Adam):
    r"""Elementwise Adam on K, L and S in aligned bases.

    After each step the new bases are turned, ``U <- U T`` with unitary T (the matrix stays), so that they are nearest
    to the old ones (orthogonal Procrustes problem), and an entry of a second moment goes on meaning what it meant
    (:func:`integrators.linalg.alignment`, :meth:`integrators.State.at`). Each is at least ``FLOOR`` times the mean of
    all entries.

    A run depends on the bases at its start (up to order and signs of their columns), but not on those in which a
    truncation returns its matrix, as long as the rank stays. Where it falls, the old columns least in the new span
    go; a new column starts from the mean over the others. S is no longer diagonal. Memory twice that of Momentum. For
    methods with one stage.

    The alignment of a stack takes its matrices one by one.
    """

    FLOOR: ClassVar[float] = 0.01

    whole: ClassVar[bool] = True
    later: ClassVar[tuple[str, ...] | None] = ()

    def init(self, blocks, Y=None):
        """First and second moments as the blocks, and the step count."""
        first = Optimizer.init(self, blocks, Y)
        return {**first, **{f"entries.{name}": 0.0 * squared(X) for name, X in blocks.items()}, "step": 0}

    def learn(self, memory, F, Y):
        """One step of the second moments and the count."""
        second = {
            f"entries.{name}": self.beta2 * memory[f"entries.{name}"] + (1.0 - self.beta2) * squared(X)
            for name, X in F.items()
        }
        return {**memory, **second, "step": int(memory["step"]) + 1}

    def direction(self, M, memory, Y):
        """Adam's, entry by entry."""
        (rU, rV), (m, n) = Y.widths, Y.shape[-2:]
        numbers, floors = {"K": m * rV, "L": n * rU, "S": rU * rV}, {}
        xp = array_namespace(Y.S)
        for name in M:
            v = memory[f"entries.{name}"]
            mean = xp.sum(v, axis=(-2, -1), keepdims=True) / numbers[name]
            floors[f"second.{name}"] = xp.maximum(v, self.FLOOR * mean)
        return super().direction(M, {**memory, **floors}, Y)


def real(X):
    """The real part."""
    return array_namespace(X).real(X) if is_complex(X) else X


def squared(X):
    """|X|^2 of each entry."""
    xp = array_namespace(X)
    return xp.real(X) ** 2 + xp.imag(X) ** 2 if is_complex(X) else X * X
