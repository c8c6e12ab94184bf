r"""How GeoLoRA loses rank for good, how one spare direction cures it, and when it does not.

Everything here is ``min 1/2 ||W - A||_F^2`` in double precision, A with given singular values in random bases. With the
residual ``N = A - W`` a step of rate lam from W = U S V^T proposes

.. math:: \hat S = \begin{pmatrix} S_1 & \lambda b \\ \lambda c & 0 \end{pmatrix}, \qquad
          S_1 = S + \lambda U^T N V, \quad b = U^T N \tilde V, \quad c = \tilde U^T N V.

**Loss.** The matrix ``[S_1; lam c] S_1^{-1} [S_1, lam b]`` has rank r and differs from this one by
``lam^2 c S_1^{-1} b`` in the zero block alone. Hence a new direction enters with a value of second order in lam,

.. math:: d_{r+1}(\hat S) \le \lambda^2 \|c S_1^{-1} b\|,

and a tolerance ``tau ||S||`` of order zero cuts it in every step, unless S is small (a start at W = 0) or lam is large.
At a best rank-r point b = c = 0 and nothing enters at all.

**Cure.** A spare column u, v of value s that is kept in spite of the tolerance sees the residual to first order: its
block is ``[(1 - lam) s + lam u^T N v, lam b^T; lam c, 0]``. Let one value sigma be missing, with singular vectors p, q.
From s = 0 the best rank-1 part of this block turns u to p or v to q in one step, however small the overlap, and the
other one in the next (two steps of a power iteration). From then on ``s <- (1 - lam) s + lam sigma``: the value grows
*linearly* at first, not exponentially, and counts when ``s > tau ||W||``, that is, with the values A_r already found,
after

.. math:: k = 1 + \frac{\ln(1 - s_\tau / \sigma)}{\ln(1 - \lambda)}, \qquad
          s_\tau = \frac{\tau \|A_r\|}{\sqrt{1 - \tau^2}}

steps; never where sigma <= s_tau. The exponential escape with factor ``1 + lam (sigma_k / sigma_j - 1)`` per step
belongs to a method without room for a spare column, when it holds a smaller value sigma_j in place of a larger sigma_k.

**Limits.** With p spare columns the rule sees r + p values. So the method stops at the first r with
``(sigma_{r+1}^2 + ... + sigma_{r+p}^2)^{1/2} <= tau (sigma_1^2 + ... + sigma_{r+p}^2)^{1/2}``, although the rule
applied to A itself may keep more: many small values that exceed the tolerance only together stay hidden from one spare
direction. Values that are exactly equal are another limit: the new directions come from the Krylov spaces of ``N^T N``
and ``N N^T`` with the spare columns, and where N has only one singular value, the spaces of u and of v hold one
direction each. So p spare columns lead to 2p of several equal missing values; rounding errors must supply the others.

With gradient noise ``nu Z / sqrt(n)`` (Z Gaussian) the iterate of plain descent carries noise of spectral
norm ``2 nu (lam / (2 - lam))^{1/2}``; a spare direction holds part of it, and once that exceeds tau ||W|| it counts,
the next one comes, and the rank runs away.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from dlrt import solve
from integrators import FixedRank, GeoLoRA, LowRank, Tolerance
from problems import MatrixRegression

RATE = 0.1
STEPS = 400
START_RANK = 4
SIZE = 60
"""Rows and columns wherever no other size is given."""
SPECTRA = {
    "20, 16, 12, 8, 4": [20.0, 16.0, 12.0, 8.0, 4.0],
    "20, 10, 5, 4, 3": [20.0, 10.0, 5.0, 4.0, 3.0],
    "ten from 20 to 5": np.linspace(20, 5, 10).tolist(),
    "eight equal": [10.0] * 8,
    "eight, factor 0.7": (20 * 0.7 ** np.arange(8)).tolist(),
}
NOISE_TOLERANCE = 0.1 * float(np.linalg.norm(SPECTRA["20, 16, 12, 8, 4"]))
"""What counts in the runs with noise."""
TAILS = {
    "20, 10, ten of 2": [20.0, 10.0] + [2.0] * 10,
    "20, 10, twenty of 1": [20.0, 10.0] + [1.0] * 20,
    "20, 10, 5, then 2, factor 0.9": [20.0, 10.0, 5.0, *(2 * 0.9 ** np.arange(20))],
}


def rule_rank(spectrum, tau):
    """Rank that the relative tolerance keeps of a matrix with these singular values, and the error it leaves."""
    tails = np.sqrt(np.cumsum(np.square(spectrum)[::-1])[::-1])
    rank = int(np.sum(tails > tau * tails[0]))
    return rank, float(np.append(tails, 0.0)[rank])


def resting_rank(spectrum, tau, spare, least):
    """The first rank r >= least at which the rule, which sees r + spare values, adds nothing."""
    for r in range(least, len(spectrum)):
        seen = np.array(spectrum[: r + spare])
        if np.linalg.norm(seen[r:]) <= tau * np.linalg.norm(seen):
            return r
    return len(spectrum)


def noise_of_iterate(level):
    """Spectral norm of what gradient noise of this level leaves in the iterate of plain descent."""
    return 2 * level * math.sqrt(RATE / (2 - RATE))


def steps_to_count(sigma, found, tau, rate):
    """Steps until a missing value sigma counts beside values of norm `found`; None for never."""
    threshold = tau * found / math.sqrt(1 - tau**2)
    return None if sigma <= threshold else 1 + math.log(1 - threshold / sigma) / math.log(1 - rate)


@dataclass(frozen=True, eq=False)
class NoisyRegression(MatrixRegression):
    """Regression whose mini-batch gradients carry Gaussian noise ``level * Z / sqrt(n)``, new in every step."""

    level: float = 0.0

    stochastic = True

    def minibatch(self, rng):
        """The regression on the target plus noise: its gradient is the exact one minus the noise."""
        return MatrixRegression(self.target + self.level * rng.standard_normal(self.shape) / math.sqrt(self.shape[1]))


def matrix(spectrum, seed, shape=(SIZE, SIZE)):
    """A in factored form, Haar-distributed bases."""
    return LowRank.random(shape, len(spectrum), np.random.default_rng([seed, 7]), singular_values=spectrum)


def leading(A, rank, columns=0, seed=0):
    """The best approximation of A of given rank, with random columns of value zero added to its bases."""
    Y = LowRank(A.U[:, :rank], A.S[:rank, :rank], A.V[:, :rank])
    rng = np.random.default_rng([seed, 8])

    def wider(U):
        X = rng.standard_normal((U.shape[0], columns))
        for _ in range(2):
            X = np.linalg.qr(X - U @ (U.T @ X))[0]
        return np.hstack([U, X])

    return Y.embed(wider(Y.U), wider(Y.V)) if columns else Y


def descend(A, start, *, tau, spare, rate=RATE, steps=STEPS, max_rank=None, level=0.0, seed=0, **options):
    """Run GeoLoRA on the regression on A: the trajectory, and the counted rank (spare columns apart) at each record."""
    truncation = Tolerance(relative=tau, spare=spare, max_rank=max_rank)
    problem = NoisyRegression(A.full(), level=level) if level else MatrixRegression(A.full())
    method = GeoLoRA(truncation=truncation)
    run = solve(method, problem, step_size=rate, steps=steps, start=start, seed=seed, **options).checked()
    counted = np.array([truncation.ranks([d[np.isfinite(d)]])[0] for d in run.singular_values])
    return run, counted


def random_start(A, kind, seed):
    """W = 0, or a Gaussian core as large as A, both of rank 4 in random bases."""
    rng = np.random.default_rng([seed, 9])
    norm = {"zero": 0.0, "large": A.norm()}[kind]
    return LowRank(*MatrixRegression(A.full()).initial(START_RANK, rng, norm=norm))


def first(condition):
    """Index of the first true entry, or None."""
    hits = np.flatnonzero(condition)
    return int(hits[0]) if len(hits) else None


# -- tasks: JSON in and out --------------------------------------------------------------------------------------------


def recover(spectrum, shape, tau, start, spare, seed, rate=RATE, steps=STEPS):
    """Whether W becomes as good as A truncated by the same rule: to 0.1 % of that error and 1e-6 of ||A||."""
    A = matrix(spectrum, seed, tuple(shape))
    norm = A.norm()
    rank, error = rule_rank(spectrum, tau)
    goal = 1.001 * error + 1e-6 * norm

    def reached(record):
        return math.sqrt(2 * record.loss) <= goal

    run, counted = descend(
        A, random_start(A, start, seed), tau=tau, spare=spare, rate=rate, steps=steps, every=10, callback=reached
    )
    end = math.sqrt(2 * run.losses[-1])
    return {
        "recovered": bool(end <= goal),
        "steps": int(run.steps[-1]) if end <= goal else None,
        "counted": int(counted[-1]),
        "columns": int(run.ranks[-1]),
        "rule_rank": rank,
        "relative_error": end / norm,
    }


def one_step(seed, rate):
    """Largest value of a new direction after one step from a generic rank-4 matrix, without and with a spare column."""
    A = matrix(SPECTRA["20, 16, 12, 8, 4"], seed)
    problem = MatrixRegression(A.full())
    start = random_start(A, "large", seed)
    start = LowRank.from_dense(start.full(), rank=START_RANK)
    method = GeoLoRA(truncation=FixedRank(2 * START_RANK + 2))
    plain = method.step(problem.field, 0.0, method.init(start), rate).augmented
    spare = method.step(problem.field, 0.0, method.init(leading(start, START_RANK, 1, seed)), rate).augmented
    r = START_RANK
    bound = np.linalg.norm(plain.S[r:, :r] @ np.linalg.solve(plain.S[:r, :r], plain.S[:r, r:]), 2)
    return {
        "plain": float(plain.singular_values()[r]),
        "spare": float(spare.singular_values()[r]),
        "bound": float(bound),
    }


def growth(sigma, tau, rate, seed):
    """Steps until one missing value counts, from the best rank-1 matrix with one random spare column of value 0."""
    A = matrix([20.0, sigma], seed)
    predicted = steps_to_count(sigma, 20.0, tau, rate)
    steps = 20 if predicted is None else math.ceil(predicted) + 20
    _, counted = descend(A, leading(A, 1, 1, seed), tau=tau, spare=1, rate=rate, steps=steps)
    return {"predicted": predicted, "measured": first(counted == 2)}


def several(missing, spread, spare, seed):
    """Steps after which each of the missing values 10, 10 (1 - spread), ... beside 20 counts (alone, one takes 4).

    ``unseen`` is the least part of the residual that leaves the bases before all count, relative to 10.
    """
    values = [10.0 * (1 - spread * k) for k in range(missing)]
    A = matrix([20.0, *values], seed)
    dense, unseen = A.full(), [math.inf]

    def watch(record):
        Y = record.state.Y
        N = dense - Y.full()
        if np.sum(record.singular_values > 0.1 * 20) <= missing:
            outside = (N @ Y.V - Y.U @ (Y.U.T @ N @ Y.V), N.T @ Y.U - Y.V @ (Y.V.T @ N.T @ Y.U))
            unseen.append(max(float(np.linalg.norm(X)) for X in outside) / 10.0)
        return False

    _, counted = descend(A, leading(A, 1, spare, seed), tau=0.1, spare=spare, steps=150, callback=watch)
    return {"counted_at": [first(counted > k) for k in range(1, missing + 1)], "unseen": min(unseen)}


def tail(spectrum, spare, seed):
    """Where the rank rests for many small values, from the best rank-2 matrix with random spare columns."""
    tau = 0.1
    A = matrix(spectrum, seed)
    run, counted = descend(A, leading(A, 2, spare, seed), tau=tau, spare=spare, steps=STEPS, every=100)
    return {
        "counted": int(counted[-1]),
        "columns": int(run.ranks[-1]),
        "predicted": resting_rank(spectrum, tau, spare, 2),
        "rule_rank": rule_rank(spectrum, tau)[0],
        "relative_error": math.sqrt(2 * run.losses[-1]) / A.norm(),
    }


def stationary(bases, columns, spare, seed):
    """Start exactly at the best rank-1 matrix of A = (20, 5), whose bases are `random` or the `axes`."""
    A = matrix([20.0, 5.0], seed)
    if bases == "axes":
        A = LowRank(np.eye(SIZE)[:, :2], A.S, np.eye(SIZE)[:, :2])

    def both_count(record):
        d = record.singular_values
        return d.size > 1 and Tolerance(relative=0.1).ranks([d])[0] == 2

    _, counted = descend(A, leading(A, 1, columns, seed), tau=0.1, spare=spare, callback=both_count)
    return {"steps": first(counted == 2)}


def wrong_direction(max_rank, overlap, seed):
    """Steps until a method that holds the value 10 in place of 20 lets go of it; `overlap` with the right direction."""
    A = matrix([20.0, 10.0], seed)

    def tilted(U):
        u = U[:, 1] + overlap * U[:, 0]
        return (u / np.linalg.norm(u))[:, None]

    start = LowRank(tilted(A.U), A.S[1:, 1:], tilted(A.V))
    if max_rank > 1:
        start = leading(start, 1, 1, seed)

    def let_go(loss):
        return loss < 0.5 * 10.0**2 * 1.01

    run, _ = descend(A, start, tau=0.1, spare=1, max_rank=max_rank, callback=lambda record: let_go(record.loss))
    return {"steps": first(let_go(run.losses))}


def limited(max_rank, seed):
    """How far the error exceeds that of the best rank max_rank, where no room for a spare column is left."""
    A = matrix(SPECTRA["20, 16, 12, 8, 4"], seed)
    run, _ = descend(A, random_start(A, "large", seed), tau=0.1, spare=1, max_rank=max_rank, steps=STEPS, every=STEPS)
    best = np.linalg.norm(SPECTRA["20, 16, 12, 8, 4"][max_rank:])
    return {"columns": int(run.ranks[-1]), "excess": float(math.sqrt(2 * run.losses[-1]) - best) / A.norm()}


def noisy(level, spare, start, seed):
    """Counted rank, error and last value with gradient noise, over the second half of the run."""
    spectrum = SPECTRA["20, 16, 12, 8, 4"]
    A = matrix(spectrum, seed)
    run, counted = descend(A, random_start(A, start, seed), tau=0.1, spare=spare, every=5, level=level, seed=seed)
    late = slice(len(counted) // 2, None)
    last = [d[np.isfinite(d)][-1] for d in run.singular_values[late]]
    return {
        "counted": float(np.median(counted[late])),
        "columns": float(np.median(run.ranks[late])),
        "last_value": float(np.mean(last)),
        "relative_error": float(np.mean(np.sqrt(2 * run.losses[late])) / A.norm()),
        "final_counted": int(counted[-1]),
    }


def weak_signal(ratio, seed):
    """Overlap of the spare direction with a weak second direction, sigma_2 = ratio * nu (lam / (2 - lam))^{1/2}."""
    level = 0.5 / math.sqrt(RATE / (2 - RATE))
    A = matrix([20.0, 0.5 * ratio], seed)
    overlaps = []

    def watch(record):
        Y = record.state.Y
        if record.step > 200 and Y.rank == 2:
            overlaps.append(abs(float(A.U[:, 1] @ Y.U[:, -1]) * float(A.V[:, 1] @ Y.V[:, -1])))
        return False

    descend(A, leading(A, 1, 1, seed), tau=0.15, spare=1, steps=500, every=10, level=level, seed=seed, callback=watch)
    return {"overlap": float(np.mean(overlaps)) if overlaps else None}


def cost(size, rank):
    """Seconds of a step at rank r and r + 1, and parameters; alternating, the least of several repetitions."""
    A = matrix(np.linspace(20, 10, rank).tolist(), 0, (size, size))
    field = MatrixRegression(A.full()).field
    rng = np.random.default_rng(0)
    methods = {r: GeoLoRA(truncation=FixedRank(r)) for r in (rank, rank + 1)}
    states = {r: methods[r].init(LowRank.random((size, size), r, rng)) for r in methods}
    seconds = {r: math.inf for r in methods}
    for _ in range(40):
        for r, method in methods.items():
            began = time.perf_counter()
            method.step(field, 0.0, states[r], RATE)
            seconds[r] = min(seconds[r], time.perf_counter() - began)
    parameters = {r: 2 * size * r + r * r for r in methods}
    return {
        "seconds": seconds[rank],
        "time_ratio": seconds[rank + 1] / seconds[rank],
        "parameter_ratio": parameters[rank + 1] / parameters[rank],
    }


def example(seed, spare):
    """Relative error over the steps of one run, for the picture."""
    spectrum = SPECTRA["20, 16, 12, 8, 4"]
    A = matrix(spectrum, seed, (200, 200))
    run, _ = descend(A, random_start(A, "large", seed), tau=0.1, spare=spare, steps=300, every=5)
    return {"step": run.steps.tolist(), "error": (np.sqrt(2 * run.losses) / A.norm()).tolist()}
