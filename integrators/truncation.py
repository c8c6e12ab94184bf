r"""Truncation: from the augmented matrix back to few directions, for all matrices of a problem together.

A truncation is called with the list of the :class:`~integrators.State` of all matrices (one for a test problem, one per
layer for a network) and returns for each the truncated matrix and the error :math:`\|\hat Y - Y\|_F`. With the singular
value decomposition ``S = P diag(d) Q^H`` of the small coefficient matrix, a matrix truncated to rank r is

.. math:: U \leftarrow U P_{:,1..r}, \quad S \leftarrow \mathrm{diag}(d_1, ..., d_r), \quad V \leftarrow V Q_{:,1..r}.

**Spare directions.** With ``spare=p`` each matrix keeps p directions more than the rule asks for, with their values,
however small. A direction that the rule alone would drop in every step can then add up over steps until it counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import device

from .checks import check_integer, check_not_negative
from .linalg import array_namespace, double_svd, to_numpy
from .lowrank import LowRank, diagonalise
from .state import State

__all__ = ["FixedRank", "GlobalBudget", "ImportanceBudget", "Tolerance", "Truncation"]


class Truncation:
    """Base class. A subclass that cuts singular values defines :meth:`ranks`; any other overrides ``__call__``."""

    spare: int = 0

    def ranks(self, values: list[np.ndarray]) -> list[int]:
        """How many singular values of each matrix the rule keeps, spare directions apart.

        ``values`` are the singular values of each matrix, largest first, in double precision.
        """
        raise TypeError(f"{type(self).__name__} must define ranks(values)")

    def __call__(self, states: Sequence[State]) -> list[tuple[LowRank, float]]:
        """Truncate all matrices together: (truncated matrix, Frobenius norm of what was cut) for each.

        The states are of single matrices, each of which gets its own rank: take a stack apart by
        :func:`integrators.unstack`. Cost O((m + n) r^2) each.

        Raises FloatingPointError where a coefficient matrix is not finite, ValueError for a stack.
        """
        matrices = single(states)
        svds = _by_shape(double_svd, [(Y.S,) for Y in matrices])
        values = [vector(d) for _, d, _ in svds]
        kept = [
            int(min(rank + self.spare, self.limit, len(d))) for rank, d in zip(self.ranks(values), values, strict=True)
        ]
        cut = _by_shape(_diagonalised, [(*Y, *svd, r) for Y, svd, r in zip(matrices, svds, kept, strict=True)])
        return [(LowRank(*Y), float(_tails(d)[r])) for Y, d, r in zip(cut, values, kept, strict=True)]

    @property
    def limit(self) -> float:
        """Largest rank of one matrix, spare directions included."""
        return math.inf


@dataclass(frozen=True)
class FixedRank(Truncation):
    """Keep the ``rank`` largest singular values of each matrix, and ``spare`` more.

    Raises ValueError unless rank >= 1 and spare >= 0 are integers.
    """

    rank: int
    spare: int = 0

    def __post_init__(self):
        check_integer("rank", self.rank, 1)
        check_integer("spare", self.spare, 0)

    def ranks(self, values):
        """``rank`` for each."""
        return [self.rank] * len(values)


@dataclass(frozen=True)
class Tolerance(Truncation):
    r"""Keep the fewest singular values with :math:`(\sum_{j>r} d_j^2)^{1/2} \le \vartheta` in each matrix.

    Parameters
    ----------
    relative : float, optional
        :math:`\vartheta = \tau \|d\|_2`: the rule of GeoLoRA. Values >= 1 keep only ``min_rank`` directions.
    absolute : float, optional
        :math:`\vartheta` itself. Exactly one of the two is given; 0 leaves the matrix as it is, to rounding.
    max_rank : int, optional
        Upper bound of the rank, spare directions included.
    min_rank : int
        Lower bound of the rank, spare directions apart.
    spare : int
        Directions kept beyond the rank of the rule; 0 is the published rule.

    Raises
    ------
    ValueError
        Neither or both tolerances are given, one is negative, or the bounds do not fit.
    """

    relative: float | None = None
    absolute: float | None = None
    max_rank: int | None = None
    min_rank: int = 1
    spare: int = 0

    def __post_init__(self):
        if (self.relative is None) == (self.absolute is None):
            raise ValueError(
                f"give either relative or absolute, got relative={self.relative} and absolute={self.absolute}"
            )
        for name, value in (("relative", self.relative), ("absolute", self.absolute)):
            if value is not None:
                object.__setattr__(self, name, check_not_negative(name, value))
        check_integer("min_rank", self.min_rank, 1)
        check_integer("spare", self.spare, 0)
        if self.max_rank is not None:
            check_integer("max_rank", self.max_rank, self.min_rank)

    @property
    def limit(self):
        """``max_rank``."""
        return math.inf if self.max_rank is None else self.max_rank

    def threshold(self, norm: float) -> float:
        """The absolute tolerance for a matrix of this Frobenius norm."""
        return self.relative * norm if self.relative is not None else float(self.absolute or 0.0)

    def ranks(self, values):
        """The smallest r with a tail of at most the threshold."""
        ranks = []
        for d in values:
            tails = _tails(d)
            ranks.append(max(self.min_rank, int(np.sum(tails > self.threshold(float(tails[0]))))))
        return ranks


@dataclass(frozen=True)
class GlobalBudget(Truncation):
    """Keep the ``total_rank`` largest singular values over all matrices together, at least one in each.

    Equal to truncating the block-diagonal matrix of them all. Each matrix keeps ``spare`` directions more, outside the
    budget. Raises ValueError unless total_rank >= 1 and spare >= 0 are integers, or if there are more matrices
    than total_rank.
    """

    total_rank: int
    spare: int = 0

    def __post_init__(self):
        check_integer("total_rank", self.total_rank, 1)
        check_integer("spare", self.spare, 0)

    def ranks(self, values):
        """First one direction for each, then the largest of the rest."""
        if self.total_rank < len(values):
            raise ValueError(f"total_rank {self.total_rank} is less than the number of matrices, {len(values)}")
        pool = np.concatenate([d[1:] for d in values])
        owner = np.concatenate([np.full(len(d) - 1, i) for i, d in enumerate(values)]).astype(int)
        chosen = np.argsort(-pool, kind="stable")[: self.total_rank - len(values)]
        return [1 + int(np.sum(owner[chosen] == i)) for i in range(len(values))]


@dataclass(frozen=True)
class ImportanceBudget(Truncation):
    r"""AdaLoRA's allocation: of all triplets keep the b(k) most important, set S_ii of the rest to zero.

    The columns stay, so a triplet may come back. The budget falls from ``initial`` to ``final`` by a cubic law,

    .. math:: b(k) = b_T + (b_0 - b_T) \left(1 - \frac{k - t_i}{T - t_f - t_i}\right)^3, \quad t_i \le k \le T - t_f,

    rounded down, is ``initial`` before and ``final`` after. Up to step t_i nothing is masked; then triplets are masked
    after each step k that ``interval`` divides, and may come back. After step T - t_f and all later ones the same
    triplets are masked: the method keeps its importances from there on (:meth:`frozen`). This is the schedule of the
    authors' code and of PEFT.

    Parameters
    ----------
    initial, final : int
        Triplets over all matrices, 1 <= final <= initial.
    total_steps : int
        T.
    warmup, cooldown : int
        t_i and t_f, with t_i + t_f < T.
    interval : int
        Steps between masks while the budget falls, counted from the start of the run.

    Raises
    ------
    ValueError
        The numbers do not fit.

    References
    ----------
    Zhang et al. (2023), AdaLoRA, arXiv:2303.10512, section 3.3.
    """

    initial: int
    final: int
    total_steps: int
    warmup: int = 0
    cooldown: int = 0
    interval: int = 1

    def __post_init__(self):
        check_integer("final", self.final, 1)
        check_integer("initial", self.initial, self.final)
        check_integer("warmup", self.warmup, 0)
        check_integer("cooldown", self.cooldown, 0)
        check_integer("interval", self.interval, 1)
        check_integer("total_steps", self.total_steps, self.warmup + self.cooldown + 1)

    def budget(self, step: int) -> int:
        """b(step), rounded down."""
        falling = self.total_steps - self.cooldown - self.warmup
        remaining = min(1.0, max(0.0, 1.0 - (step - self.warmup) / falling))
        # in PEFT's order of operations: a b(k) that is an integer but for rounding is cut to the same one
        return int((self.initial - self.final) * remaining**3 + self.final)

    def frozen(self, step: int) -> bool:
        """Whether importances stay as they are in this step, and with them the choice of triplets."""
        return step >= self.total_steps - self.cooldown

    def masks(self, step: int) -> bool:
        """Whether triplets are masked after this step."""
        return self.frozen(step) or (step > self.warmup and step % self.interval == 0)

    def __call__(self, states):
        """Mask the least important triplets over all matrices.

        The memories are AdaLoRA's. Exactly b(k) triplets stay (all of them where there are fewer), the earlier ones
        where importances tie. The error is the norm of what was zeroed.
        """
        matrices = single(states)
        step = int(states[0].memory["step"])
        if not self.masks(step):
            return [(Y, 0.0) for Y in matrices]
        scores = [vector(importance(s.memory)) for s in states]
        pool = np.concatenate(scores)
        kept = np.zeros(len(pool), dtype=bool)
        kept[np.argsort(-pool, kind="stable")[: self.budget(step)]] = True
        result = []
        for (U, S, V), mask in zip(matrices, np.split(kept, np.cumsum([len(s) for s in scores])[:-1]), strict=True):
            xp = array_namespace(S)
            keep, zero = xp.asarray(mask, device=device(S)), xp.zeros_like(S)
            masked, cut = (LowRank(U, xp.where(keep[:, None], *pair), V) for pair in ((S, zero), (zero, S)))
            result.append((masked, cut.norm()))
        return result


def importance(memory: Mapping) -> Any:
    """AdaLoRA's importance (r,) of the triplets: s(lam_i) plus the means of s over the columns of P and Q^H."""
    xp = array_namespace(memory["sensitivity.P"])
    P, lam, Q = (memory[f"sensitivity.{w}"] * memory[f"uncertainty.{w}"] for w in ("P", "lam", "Q"))
    return xp.mean(P, axis=-2) + lam + xp.mean(Q, axis=-2)


def single(states: Sequence[State]) -> list[LowRank]:
    """The matrices of the states; ValueError for a stack."""
    for s in states:
        if s.Y.U.ndim > 2:
            raise ValueError(f"a truncation takes single matrices, got a stack of shape {s.Y.shape}: unstack it first")
    return [s.Y for s in states]


def vector(d) -> np.ndarray:
    """A short real vector of any library as a float64 numpy array."""
    return to_numpy(d).astype(float)


def _diagonalised(U, S, V, P, d, Q, rank):
    return tuple(diagonalise(LowRank(U, S, V), P, d, Q, rank))


def _by_shape(function, rows: list[tuple]) -> list[tuple]:
    """``[function(*row) for row in rows]``, in one call for all rows whose arrays have equal shapes and types.

    Entries of a row that are not arrays must be equal too.
    """
    groups: dict = {}
    for i, row in enumerate(rows):
        key = tuple((tuple(X.shape), X.dtype, device(X)) if hasattr(X, "shape") else X for X in row)
        groups.setdefault(key, []).append(i)
    result: list = [None] * len(rows)
    for indices in groups.values():
        if len(indices) == 1:
            result[indices[0]] = function(*rows[indices[0]])
            continue
        columns = zip(*(rows[i] for i in indices), strict=True)
        stacks = [array_namespace(X[0]).stack(X) if hasattr(X[0], "shape") else X[0] for X in columns]
        parts = function(*stacks)
        for j, i in enumerate(indices):
            result[i] = tuple(X[j, ...] for X in parts)
    return result


def _tails(d: np.ndarray) -> np.ndarray:
    """(sum_{j >= i} d_j^2)^{1/2} for i = 0..len(d), the last being 0; scaled against over- and underflow."""
    scale = float(d[0]) if len(d) and d[0] > 0 else 1.0
    squares = np.cumsum(np.square(d[::-1] / scale))[::-1]
    return scale * np.sqrt(np.append(squares, 0.0))
