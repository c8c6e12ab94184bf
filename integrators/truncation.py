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
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, ClassVar, NamedTuple

import numpy as np
from array_api_compat import device

from .checks import check_fraction, check_instance, check_integer, check_matrix, check_not_negative
from .linalg import (
    array_namespace,
    complement,
    concat,
    dagger,
    double_svd,
    host_svds,
    in_double,
    is_complex,
    qr,
    read,
    rotate,
    sizes,
    to_numpy,
    write,
)
from .lowrank import LowRank
from .state import State

__all__ = ["Conservative", "FixedRank", "GlobalBudget", "ImportanceBudget", "Tolerance", "Truncation"]


class Truncation:
    """Base class. A subclass that cuts singular values defines :meth:`ranks`; any other overrides ``__call__``."""

    spare: int = 0

    remembers: bool = False
    """Whether :meth:`memory` and :meth:`learn` give anything."""
    stackable: ClassVar[bool] = True
    """Whether a state may be a stack. A class that overrides ``__call__`` says so itself."""

    def __init_subclass__(cls, **options):
        """Whoever writes ``__call__`` anew has single matrices, unless the class says otherwise."""
        super().__init_subclass__(**options)
        if "__call__" in vars(cls) and "stackable" not in vars(cls):
            cls.stackable = False

    def start(self, Y: LowRank) -> LowRank:
        """The matrix with which a run starts, in bases that the rule needs; it stays the same matrix."""
        return Y

    def cutting(self, cut: float) -> Truncation:
        """The rule with this absolute tolerance; itself where it has none."""
        return self

    def settled(self, starts: Sequence[tuple[tuple[int, ...], int]]) -> dict[str, int]:
        """Options that the rule leaves to the start, from shape and rank of each matrix there."""
        return {}

    def ranks(self, values: list[np.ndarray]) -> list[int]:
        """How many singular values of each matrix the rule keeps, spare directions apart.

        ``values`` are the singular values of each matrix, largest first, in double precision.
        """
        raise TypeError(f"{type(self).__name__} must define ranks(values)")

    def kept(self, values: list[np.ndarray], owners: Sequence[Owner]) -> list[int]:
        """How many directions of each matrix stay, spare ones included; ``owners`` says what the values belong to."""
        ranks = self.ranks(values)
        return [int(min(r + self.spare, self.limit, len(d))) for r, d in zip(ranks, values, strict=True)]

    def memory(self, Y: LowRank) -> dict[str, Any]:
        """What the rule remembers of each matrix, at the start; it travels in the State's memory."""
        return {}

    def learn(self, memory: Mapping, f: Any, Y: LowRank) -> dict[str, Any]:
        """Those entries of the memory after a step from Y, where the field was f."""
        return {}

    def __call__(self, states: Sequence[State]) -> list[tuple[LowRank, Any]]:
        """Truncate all matrices together: (truncated matrix, Frobenius norm of what was cut) for each.

        A state may be a stack, whose bases have zero columns where they fill up smaller matrices. Each of its
        matrices gets its own rank (``ranks`` of the result) and number in an array of norms. One that is not
        finite is left out: its norm is not a number. All coefficient matrices are read in a single copy, and what
        turns the bases comes back in another. Cost O((m + n) r^2) each.

        Raises FloatingPointError where the coefficient matrix of a single state is not finite.
        """
        points = [s.Y for s in states]
        cores = _cores(points)
        svds: list = host_svds(points[0].S, [core and core.S for core in cores])
        values = [svd[1] for svd in svds if svd is not None]
        live = [i for i, svd in enumerate(svds) if svd is not None]
        kept, cut = [0] * len(cores), np.full(len(cores), math.nan)
        owners = _owners(states)
        for i, rank in zip(live, self.kept(values, [owners[i] for i in live]), strict=True):
            kept[i] = rank
        cut[live] = [tails[kept[i]] for i, tails in zip(live, _tails(values), strict=True)]
        return _turned(points, cores, svds, kept, cut)

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

    def cutting(self, cut):
        """The same bounds of the rank."""
        return replace(self, relative=None, absolute=cut)

    def settled(self, starts):
        """Without a ``max_rank`` twice the largest rank of the start."""
        return {} if self.max_rank is not None else {"max_rank": max(*(2 * r for _, r in starts), self.min_rank)}

    def threshold(self, norm: float) -> float:
        """The absolute tolerance for a matrix of this Frobenius norm."""
        return self.relative * norm if self.relative is not None else float(self.absolute or 0.0)

    def ranks(self, values):
        """The smallest r with a tail of at most the threshold."""
        tails = _tails(values)
        thresholds = np.array([self.threshold(norm) for norm in tails[:, 0].tolist()])
        return np.maximum(self.min_rank, np.sum(tails > thresholds[:, None], axis=-1)).tolist()


@dataclass(frozen=True, kw_only=True)
class GlobalBudget(Truncation):
    r"""Keep the directions of all matrices together that are worth most, as many as a budget allows.

    Direction i of a matrix (m, n) costs its m + n parameters, and is worth

    .. math:: \sigma_i^2\, w / (m + n).

    Each matrix keeps its first, and its spare ones; then the worthiest follow while they fit. What is kept, spare
    directions included, never exceeds the budget, in any step.

    Parameters
    ----------
    parameters : int, optional
        The budget as a number of parameters in U and V, the (m + n) r of all matrices. (The r^2 of S are not counted.)
    columns : int, optional
        The budget as a number of directions, whatever they cost: a direction is then worth :math:`\sigma_i^2 w`, and
        without a weight the rule is the truncation of the block-diagonal matrix of them all. Without either budget
        :class:`dlrt.nn.LowRankOptimizer` takes as many parameters as there are at the start.
    spare : int
        Directions of each matrix beyond those that its values earn.
    fisher : float, optional
        A decay such as 0.98 makes w the running mean of :math:`\|U^H F V\|_F^2 / r^2` of each matrix, the mean square
        of the entries of the S-gradient: a Fisher information, which says how much the loss sees of a change of W.
        Methods with orthonormal bases keep it as ``fisher`` in their memory. Without it w = 1.

    Raises
    ------
    TypeError, ValueError
        Both budgets are given, a number does not fit, or the budget is too small for one direction of each matrix and
        its spare ones; where it is applied, there is no budget.

    Notes
    -----
    All w start from zero and have had the same number of updates, so that their comparison needs no bias correction.
    """

    parameters: int | None = None
    columns: int | None = None
    spare: int = 0
    fisher: float | None = None

    def __post_init__(self):
        if self.parameters is not None and self.columns is not None:
            raise ValueError(
                f"give either parameters or columns, got parameters={self.parameters} and columns={self.columns}"
            )
        if self.budget is not None:
            check_integer(*self.budget, 1)
        check_integer("spare", self.spare, 0)
        if self.fisher is not None:
            object.__setattr__(self, "fisher", check_fraction("fisher", self.fisher))

    @property
    def remembers(self) -> bool:  # type: ignore[override]
        """Whether there is a weight."""
        return self.fisher is not None

    @property
    def budget(self) -> tuple[str, int] | None:
        """Its name and size, where it is given."""
        given = {"parameters": self.parameters, "columns": self.columns}
        return next(((name, size) for name, size in given.items() if size is not None), None)

    def settled(self, starts):
        """Without a budget that of the start, in parameters."""
        return {} if self.budget else {"parameters": sum(sum(shape) * r for shape, r in starts)}

    def memory(self, Y):
        """A weight of zero, where there is one."""
        return {} if self.fisher is None else {"fisher": 0.0 * _mean_square(Y.S, Y)}

    def learn(self, memory, f, Y):
        """One step of the running mean."""
        if self.fisher is None:
            return {}
        return {"fisher": self.fisher * memory["fisher"] + (1.0 - self.fisher) * _mean_square(f.S, Y)}

    def kept(self, values, owners):
        """First those that each matrix keeps, then by worth."""
        if self.budget is None:
            raise ValueError("GlobalBudget needs parameters or columns, and has neither here")
        name, total = self.budget
        costs = [1 if self.parameters is None else sum(owner.shape) for owner in owners]
        kept = [min(1 + self.spare, len(d)) for d in values]
        left = total - sum(cost * k for cost, k in zip(costs, kept, strict=True))
        if left < 0:
            raise ValueError(
                f"{name} {total} is less than one direction{f' and {self.spare} spare' * bool(self.spare)} of each of "
                f"{len(values)} matrices: {total - left}"
            )
        pool = [
            (-(d[i - self.spare] ** 2) * self._weight(owner) / cost, j)
            for j, (d, cost, owner) in enumerate(zip(values, costs, owners, strict=True))
            for i in range(kept[j], len(d))
        ]
        for _, j in sorted(pool):  # the values of a matrix fall: it keeps its largest, and one after the other
            if costs[j] <= left:
                kept[j], left = kept[j] + 1, left - costs[j]
        return kept

    def _weight(self, owner: Owner) -> float:
        if self.fisher is None:
            return 1.0
        if owner.fisher is None:
            raise ValueError("fisher needs states that remember it, as those of a method with this truncation do")
        return owner.fisher


@dataclass(frozen=True, eq=False)
class Conservative(Truncation):
    r"""Keep Y W for given vectors W, and cut the rest of Y by another rule.

    With an orthonormal basis Q of the columns of W, such as 1, v and v^2 on a grid of velocities,

    .. math:: Y_1 = Y Q Q^H + T(Y (I - Q Q^H)),

    T being the other rule. The rows of what it keeps are orthogonal to Q, so :math:`Y_1 W = Y W` to rounding: for a
    distribution of positions and velocities the densities of mass, momentum and energy at every position.

    The basis V of the result begins with Q, and :meth:`start` sees to it at the beginning of a run. Therefore a method
    that moves K and keeps the old directions of V, such as augmented BUG with explicit Euler steps, moves Y W as the
    full equation does: what the equation conserves of Y W is conserved, see `dlrt.theorems.Moments`.

    Parameters
    ----------
    moments : array (n, k)
        W, real or complex as the matrices are, k <= n. Its span is what counts.
    truncation : Truncation
        T, which cuts singular values, those of the rest alone: ``FixedRank(r)`` gives matrices of rank r + k at most,
        and the norm in ``Tolerance(relative=tau)`` is that of the rest.

    Notes
    -----
    The cut is orthogonal to what is kept, its norm is that of T. Cost O((m + n) (r + k)^2).

    Raises
    ------
    TypeError, ValueError
        W is no matrix of floating-point numbers with at most as many columns as rows, or T does not cut by
        singular values alone.

    References
    ----------
    Einkemmer, Kusch, Schotthöfer (2023), Construction of high-order conservative basis-update and Galerkin dynamical
    low-rank integrators, arXiv:2311.06399.
    """

    moments: Any = field(repr=False)
    truncation: Truncation

    def __post_init__(self):
        check_matrix("moments", self.moments)
        n, k = self.moments.shape
        if k > n:
            raise ValueError(f"moments must have at most as many columns as rows, got shape {(n, k)}")
        check_instance("truncation", self.truncation, Truncation, "FixedRank(4)")
        if type(self.truncation).__call__ is not Truncation.__call__ or self.truncation.remembers:
            raise TypeError(f"truncation must cut by singular values alone, got {self.truncation!r}")

    @property
    def limit(self):
        """That of the other rule, and one for each column of W."""
        return self.truncation.limit + self.moments.shape[1]

    def cutting(self, cut):
        """The same moments."""
        return replace(self, truncation=self.truncation.cutting(cut))

    def basis(self, Y: LowRank) -> Any:
        """Q (n, k), in the library, dtype and device of Y."""
        if self.moments.shape[0] != Y.shape[-1]:
            raise ValueError(f"moments must have {Y.shape[-1]} rows, as Y has columns, got {self.moments.shape[0]}")
        Q = qr(in_double(to_numpy(self.moments)))[0]
        return array_namespace(Y.V).asarray(Q, dtype=Y.dtype, device=device(Y.V))

    def start(self, Y):
        """The same matrix with Q in the basis V, which may then have more columns than U."""
        [Y] = single([State(Y)])
        Q = self.basis(Y)
        return Y.embed(Y.U, concat(Q, complement(Q, Y.V)))

    def __call__(self, states):
        """Split each matrix at Q, cut what is beside it, and put both together in singular vectors of U."""
        matrices = single(states)
        bases = [self.basis(Y) for Y in matrices]
        rests = [complement(Q, Y.V) for Q, Y in zip(bases, matrices, strict=True)]
        svds = [double_svd(Y.S @ (dagger(Y.V) @ R)) for R, Y in zip(rests, matrices, strict=True)]
        values = [vector(d) for _, d, _ in svds]
        kept = self.truncation.kept(values, _owners(states))
        result = []
        for Y, Q, R, (P, d, T), tails, r in zip(matrices, bases, rests, svds, _tails(values), kept, strict=True):
            core = concat(in_double(Y.S @ (dagger(Y.V) @ Q)), P[:, :r] * d[:r])  # Y1 = U core [Q | R T_r]^H
            A, g, B = double_svd(core)
            S = array_namespace(Y.S).astype(g[:, None] * dagger(B), Y.dtype, copy=False)
            result.append((LowRank(rotate(Y.U, A), S, concat(Q, rotate(R, T[:, :r]))), float(tails[r])))
        return result


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


class Owner(NamedTuple):
    """The matrix that some singular values belong to: its shape, and its Fisher weight if it has one."""

    shape: tuple[int, int]
    fisher: float | None = None


def _owners(states: Sequence[State]) -> list[Owner]:
    """Those of all matrices, the weights in a single copy."""
    weights = iter(read([s.memory["fisher"] for s in states if "fisher" in s.memory]))
    found = []
    for state in states:
        *count, m, n = state.Y.shape
        has = "fisher" in state.memory
        found += [Owner((m, n), w) for w in (next(weights).ravel().tolist() if has else [None] * math.prod(count))]
    return found


def _mean_square(S, Y: LowRank):
    """The mean of the squared entries of S (..., rU, rV), as a matrix (..., 1, 1)."""
    xp = array_namespace(S)
    square, (rU, rV) = xp.real(S) ** 2 + xp.imag(S) ** 2 if is_complex(S) else S * S, Y.widths
    return xp.sum(square, axis=(-2, -1), keepdims=True) / (rU * rV)


class _Core(NamedTuple):
    """The coefficient matrix of one matrix, in numpy, and the columns of U and V that it belongs to."""

    S: np.ndarray
    rows: Any = slice(None)
    columns: Any = slice(None)


def _cores(points: Sequence[LowRank]) -> list[_Core | None]:
    """Those of all matrices, in a single copy; None where one of a stack is not finite."""
    copies = iter(read([X for Y in points for X in ([Y.S] if Y.S.ndim == 2 else [Y.S, sizes(Y.U), sizes(Y.V)])]))
    found: list[_Core | None] = []
    for _ in points:
        S = next(copies)
        finite = np.isfinite(S).all(axis=(-2, -1))
        if S.ndim == 2:
            if not finite:
                raise FloatingPointError("the coefficient matrix S has non-finite entries")
            found.append(_Core(S))
            continue
        rows, columns = next(copies) != 0, next(copies) != 0
        if rows.all() and columns.all():
            found += [_Core(X) if fine else None for X, fine in zip(S, finite, strict=True)]
            continue
        for X, fine, *kept in zip(S, finite, rows, columns, strict=True):
            i, j = map(np.flatnonzero, kept)
            found.append(_Core(X[i][:, j], i, j) if fine else None)
    return found


def _turned(points, cores, svds, kept, cut) -> list[tuple[LowRank, Any]]:
    """Each point in the bases of its first singular vectors, as many as are kept, and what was cut of it."""
    counts = [1 if Y.S.ndim == 2 else Y.S.shape[0] for Y in points]
    parts = [slice(end - count, end) for end, count in zip(accumulate(counts), counts, strict=True)]
    arrays = [_rotation(Y, cores[part], svds[part], kept[part]) for Y, part in zip(points, parts, strict=True)]
    likes = [Y.S for Y in points for _ in "PSQ"]
    copies, result = iter(write([X for three in arrays for X in three], likes)), []
    for Y, part in zip(points, parts, strict=True):
        P, S, Q = (next(copies) for _ in range(3))
        S = array_namespace(S).astype(S, Y.dtype, copy=False)
        single = Y.S.ndim == 2
        Y1 = LowRank(rotate(Y.U, P), S, rotate(Y.V, Q), ranks=None if single else kept[part])
        result.append((Y1, float(cut[part.start]) if single else cut[part]))
    return result


def _rotation(Y: LowRank, cores, svds, kept) -> list[np.ndarray]:
    """The kept columns of P and Q with diag(d) between them; in a stack zeros fill them up."""
    (rU, rV), r, dtype = Y.S.shape[-2:], max(kept), complex if is_complex(Y.S) else float
    P, S, Q = (np.zeros((len(cores), *shape), dtype) for shape in ((rU, r), (r, r), (rV, r)))
    for i, (core, svd, r) in enumerate(zip(cores, svds, kept, strict=True)):
        if svd is not None:
            P[i, core.rows, :r], Q[i, core.columns, :r] = svd[0][:, :r], svd[2][:, :r]
            np.fill_diagonal(S[i, :r, :r], svd[1][:r])
    return [P[0], S[0], Q[0]] if Y.S.ndim == 2 else [P, S, Q]


def _tails(values: Sequence[np.ndarray]) -> np.ndarray:
    """(sum_{j >= i} d_j^2)^{1/2} for i = 0..len(d) of each d, then zeros; scaled against over- and underflow."""
    if not values:
        return np.zeros((0, 1))
    d = np.zeros((len(values), 1 + max(map(len, values))))
    for row, X in zip(d, values, strict=True):
        row[: len(X)] = X
    scale = np.where(d[:, :1] > 0, d[:, :1], 1.0)
    return scale * np.sqrt(np.cumsum(np.square(d / scale)[:, ::-1], axis=-1)[:, ::-1])
