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

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlrt import solve
from integrators import FixedRank, GeoLoRA, LowRank, Tolerance
from problems import MatrixRegression

from .tasks import markdown, run_tasks, statement, versions, write_json

logger = logging.getLogger(__name__)

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


def descend(A, start, *, tau, spare, rate=RATE, steps=STEPS, max_rank=None, every=1, callback=None, level=0.0, seed=0):
    """Run GeoLoRA on the regression on A: the trajectory, and the counted rank (spare columns apart) at each record."""
    truncation = Tolerance(relative=tau, spare=spare, max_rank=max_rank)
    problem = NoisyRegression(A.full(), level=level) if level else MatrixRegression(A.full())
    run = solve(
        GeoLoRA(truncation=truncation),
        problem,
        step_size=rate,
        steps=steps,
        start=start,
        every=every,
        seed=seed,
        callback=callback,
    )
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
    _, counted = descend(
        A,
        leading(A, 1, 1, seed),
        tau=tau,
        spare=1,
        rate=rate,
        steps=20 if predicted is None else math.ceil(predicted) + 20,
    )
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
    _, counted = descend(A, leading(A, 1, columns, seed), tau=0.1, spare=spare)
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
    run, _ = descend(A, start, tau=0.1, spare=1, max_rank=max_rank, steps=400)
    return {
        "steps": first(run.losses < 0.5 * 10.0**2 * 1.01),
    }


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
    run, counted = descend(
        A, random_start(A, start, seed), tau=0.1, spare=spare, steps=STEPS, every=5, level=level, seed=seed
    )
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


# -- the figure --------------------------------------------------------------------------------------------------------


def run(out: Path, quick: bool = False, jobs: int = 1, progress=None) -> dict:
    """Compute the success table and the experiments on its limits, and draw them.

    Parameters
    ----------
    out : Path
        Folder for ``rank-recovery.json``, the pictures ``rank-recovery*.png`` and ``.pdf``, and the journal.
    quick : bool
        A part of the settings and seeds.
    jobs : int
        Runs at the same time.
    progress : callable, optional
        Called as ``progress(done, total)``.

    Returns
    -------
    dict
        What is in ``rank-recovery.json``.
    """
    out = Path(out)
    seeds = list(range(2 if quick else 5))
    few = list(range(1 if quick else 3))
    shapes = [[50, 50]] if quick else [[50, 50], [40, 200], [200, 200]]
    taus = [0.1] if quick else [0.1, 0.03, 0.01]
    names = list(SPECTRA)[:2] if quick else list(SPECTRA)
    tails = dict(list(TAILS.items())[:1]) if quick else TAILS
    spares = [1, 2] if quick else [0, 1, 2, 3, 4, 5, 6]
    levels = [2.0, 16.0] if quick else [0.0, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 16.0]
    rates = [0.01, 0.1] if quick else [0.001, 0.01, 0.1, 1.0]
    sigmas = [2.1, 5.0] if quick else [2.02, 2.1, 2.25, 2.5, 3.0, 4.0, 5.0, 10.0]

    grid = [
        {"spectrum": SPECTRA[name], "shape": shape, "tau": tau, "start": start, "spare": spare, "seed": seed}
        for name in names
        for start in ("zero", "large")
        for tau in taus
        for spare in (0, 1)
        for shape in shapes
        for seed in seeds
    ]
    by_rate = [
        {"spectrum": SPECTRA[names[0]], "shape": [50, 50], "tau": 0.1, "start": start, "spare": spare, "seed": seed}
        | {"rate": rate, "steps": math.ceil(50 / rate)}
        for start in ("zero", "large")
        for rate in ([] if quick else [0.03, 0.3, 1.0])
        for spare in (0, 1)
        for seed in seeds
    ]
    for_long = [
        {"spectrum": SPECTRA[name], "shape": [50, 50], "tau": 0.1, "start": "large", "spare": 0, "seed": seed}
        | {"steps": 4_000}
        for name in ([] if quick else names)
        for seed in few[:2]
    ]
    tasks: dict[str, tuple] = {
        "grid": (recover, grid),
        "by_rate": (recover, by_rate),
        "for_long": (recover, for_long),
        "one_step": (one_step, [{"seed": s, "rate": x} for x in rates for s in few]),
        "growth": (
            growth,
            [{"sigma": x, "tau": 0.1, "rate": rate, "seed": s} for rate in (0.1, 0.03) for x in sigmas for s in few]
            + [{"sigma": 2.0, "tau": 0.1, "rate": 0.1, "seed": s} for s in few],
        ),
        "several": (
            several,
            [
                {"missing": q, "spread": spread, "spare": p, "seed": s}
                for spread in (0.0, 0.01)
                for q in ([4] if quick else [1, 2, 4, 8])
                for p in ([1, 2] if quick else [1, 2, 4])
                for s in seeds
            ],
        ),
        "tail": (tail, [{"spectrum": x, "spare": p, "seed": s} for x in tails.values() for p in spares for s in few]),
        "stationary": (
            stationary,
            [
                {"bases": b, "columns": c, "spare": p, "seed": s}
                for b in ("axes", "random")
                for c, p in ((0, 0), (0, 1), (1, 1))
                for s in few
            ],
        ),
        "wrong_direction": (
            wrong_direction,
            [{"max_rank": m, "overlap": x, "seed": s} for m in (1, 2) for x in (1e-3, 1e-6) for s in few],
        ),
        "limited": (limited, [{"max_rank": m, "seed": s} for m in ([3, 5] if quick else [1, 2, 3, 4, 5]) for s in few]),
        "noisy": (
            noisy,
            [
                {"level": x, "spare": p, "start": start, "seed": s}
                for start, p in ([("large", 0), ("large", 1)] + ([] if quick else [("zero", 0)]))
                for x in levels
                for s in few
            ],
        ),
        "weak_signal": (
            weak_signal,
            [{"ratio": x, "seed": s} for x in ([] if quick else [0.5, 0.75, 1.0, 1.5, 2.0, 3.0]) for s in few],
        ),
        "example": (example, [] if quick else [{"seed": s, "spare": p} for p in (0, 1) for s in seeds]),
    }
    journal = out / "rank-recovery.journal"
    flat = [(function, arguments) for function, many in tasks.values() for arguments in many]
    results = iter(run_tasks(flat, journal=journal, jobs=jobs, progress=progress))
    rows = {name: [arguments | next(results) for arguments in many] for name, (_, many) in tasks.items()}
    sizes = [(200, 5)] if quick else [(200, 5), (1000, 5), (1000, 20), (1000, 50)]
    rows["cost"] = [{"size": n, "rank": r} | cost(n, r) for n, r in sizes]  # after the parallel work, alone

    data = {
        "schema_version": 1,
        "figure": "rank-recovery",
        "quick": quick,
        "settings": {
            "rate": RATE,
            "steps": STEPS,
            "start_rank": START_RANK,
            "size": SIZE,
            "dtype": "float64",
            "spectra": {name: SPECTRA[name] for name in names},
            "tails": tails,
            "starts": {"zero": "W = 0", "large": "Gaussian core with the norm of A"},
            "recovered": "||W - A|| <= 1.001 e + 1e-6 ||A||, e the error of A truncated by the same rule",
            "seeds": seeds,
            "shapes": shapes,
            "taus": taus,
        },
        "versions": versions(),
        "success": _success(rows["grid"]),
        "success_by_rate": _success(rows["by_rate"]),
    } | {name: rows[name] for name in rows if name not in ("grid", "by_rate", "example")}
    data["statements"] = _statements(data, rows["grid"])
    write_json(out / "rank-recovery.json", data)
    _draw_all(data, rows, out, quick)
    for line in markdown(data["statements"]):
        logger.info("%s", line)
    return data


def grouped(rows, *keys):
    """Rows with equal values of the keys together: {values: rows}."""
    groups: dict[tuple, list] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return groups


def _success(rows):
    """How often the runs recovered, over shapes and seeds."""
    names = {tuple(values): name for name, values in SPECTRA.items()}
    rows = [row | {"spectrum": names[tuple(row["spectrum"])], "rate": row.get("rate", RATE)} for row in rows]
    table = []
    keys = ("spectrum", "start", "tau", "rate", "spare")
    for values, runs in grouped(rows, *keys).items():
        steps = [r["steps"] for r in runs if r["recovered"]]
        table.append(
            dict(zip(keys, values, strict=True))
            | {
                "recovered": sum(r["recovered"] for r in runs),
                "of": len(runs),
                "median_steps": float(np.median(steps)) if steps else None,
                "counted": [min(r["counted"] for r in runs), max(r["counted"] for r in runs)],
                "rule_rank": runs[0]["rule_rank"],
            }
        )
    return table


def slope(rows, key):
    """Exponent p of ``value ~ rate^p`` by least squares."""
    return float(np.polyfit(np.log([r["rate"] for r in rows]), np.log([r[key] for r in rows]), 1)[0])


def _range(values, form="{:.3g}"):
    there = [v for v in values if v is not None]
    if not there:
        return "never"
    low, high = form.format(min(there)), form.format(max(there))
    return low if low == high else f"{low} to {high}"


def _statements(data, grid):
    def outcomes(start, spare):
        return [r["recovered"] for r in grid if (r["start"], r["spare"]) == (start, spare)]

    def share(held):
        return f"{sum(held)} of {len(held)} recover"

    small = [r for r in data["one_step"] if r["rate"] <= 0.1]
    slopes = {key: [slope(rows, key) for rows in grouped(small, "seed").values()] for key in ("plain", "spare")}
    growth_rows = [r for r in data["growth"] if r["predicted"] is not None]
    below = [r for r in data["growth"] if r["predicted"] is None]
    stuck = [r for r in data["stationary"] if r["bases"] == "axes" and r["columns"] == 0]
    rounding = [r for r in data["stationary"] if r["bases"] == "random" and (r["columns"], r["spare"]) == (0, 1)]
    column = [r for r in data["stationary"] if r["columns"] == 1]
    tails = [r for r in data["tail"] if r["spare"] > 0]
    one = [r for r in data["tail"] if r["spare"] == 1]
    held = [r for r in data["wrong_direction"] if r["max_rank"] == 1]
    more = [b["steps"] - a["steps"] for a, b in grouped(held, "seed").values()]
    room = [r for r in data["wrong_direction"] if r["max_rank"] == 2]
    quiet = [r for r in data["noisy"] if r["start"] == "large" and r["spare"] == 0]
    floor = {r["level"]: 2 * r["level"] * math.sqrt(RATE / (2 - RATE)) for r in data["noisy"]}
    threshold = 0.1 * float(np.linalg.norm(SPECTRA["20, 16, 12, 8, 4"]))
    spare_noise = [r for r in data["noisy"] if r["spare"] == 1 and r["level"] > 0]
    calm = [r for r in spare_noise if floor[r["level"]] < threshold]
    loud = [r for r in spare_noise if floor[r["level"]] > 1.5 * threshold]
    published, published_large = outcomes("zero", 0), outcomes("large", 0)
    cured = outcomes("zero", 1) + outcomes("large", 1)
    statements = [
        statement(
            "published GeoLoRA from W = 0 ends at a smaller rank than the tolerance asks for",
            share(published),
            [not x for x in published],
        ),
        statement(
            "published GeoLoRA from a start as large as A ends at a smaller rank",
            share(published_large),
            [not x for x in published_large],
        ),
        statement("one spare direction: as good as truncating A itself", share(cured), cured),
        statement(
            "without a spare direction a new value is of order λ² (slope for λ ≤ 0.1, within 0.1)",
            _range(slopes["plain"], "{:.2f}"),
            [abs(x - 2) < 0.1 for x in slopes["plain"]],
        ),
        statement(
            "and at most ‖(λc) S₁⁻¹ (λb)‖",
            f"ratio {_range([r['plain'] / r['bound'] for r in data['one_step']], '{:.3f}')}",
            [r["plain"] <= r["bound"] * (1 + 1e-6) + 1e-13 for r in data["one_step"]],
        ),
        statement(
            "with one it is of order λ (slope within 0.3)",
            _range(slopes["spare"], "{:.2f}"),
            [abs(x - 1) < 0.3 for x in slopes["spare"]],
        ),
        statement(
            "one missing value: steps until it counts = ⌈1 + ln(1 − s_τ/σ) / ln(1 − λ)⌉",
            f"{_range([r['measured'] for r in growth_rows], '{:.0f}')} steps; difference "
            + _range([r["measured"] - math.ceil(r["predicted"]) for r in growth_rows if r["measured"]], "{:.0f}"),
            [r["measured"] == math.ceil(r["predicted"]) for r in growth_rows],
        ),
        statement(
            "one missing value below s_τ never counts (its direction is in W all the same, as the spare one)",
            _range([r["measured"] for r in below]),
            [r["measured"] is None for r in below],
        ),
        statement(
            "at a best rank-r point with a residual exactly orthogonal to the bases nothing enters, spare or not",
            _range([r["steps"] for r in stuck]),
            [r["steps"] is None for r in stuck],
        ),
        statement(
            "in random bases rounding errors supply the direction that one spare keeps",
            f"{_range([r['steps'] for r in rounding], '{:.0f}')} steps",
            [r["steps"] is not None for r in rounding],
        ),
        statement(
            "one random column of value 0 at the start leaves every best rank-r point",
            f"{_range([r['steps'] for r in column], '{:.0f}')} steps",
            [r["steps"] is not None for r in column],
        ),
        statement(
            "many small values, p spare directions: the rank rests where the rule sees no more of r + p values",
            f"rank {_range([r['counted'] for r in tails], '{:.0f}')}",
            [r["counted"] == r["predicted"] for r in tails],
        ),
        statement(
            "many small values: one spare direction misses the rank of the rule on A",
            f"rank {_range([r['counted'] for r in one], '{:.0f}')}, the rule on A keeps "
            + _range([r["rule_rank"] for r in one], "{:.0f}"),
            [r["counted"] < r["rule_rank"] for r in one],
        ),
        statement(
            "no room for a spare column (max_rank 1), 10 held in place of 20: an overlap 1000 times smaller costs "
            "ln 1000 / ln 1.1 = 72.5 more steps, that is, factor 1.1 a step",
            f"{_range([r['steps'] for r in held], '{:.0f}')} steps, {_range(more, '{:.0f}')} more",
            [abs(x - math.log(1000) / math.log(1.1)) < 2 for x in more],
        ),
        statement(
            "the same with room for one spare column (max_rank 2): at most 10 steps",
            f"{_range([r['steps'] for r in room], '{:.0f}')} steps",
            [r["steps"] is not None and r["steps"] <= 10 for r in room],
        ),
        statement(
            "max_rank at or below the rank of A: the best approximation of that rank, from a start as large as A",
            f"error in excess {_range([r['excess'] for r in data['limited']], '{:.1e}')} of ‖A‖",
            [r["excess"] < 1e-6 for r in data["limited"]],
        ),
        statement(
            "gradient noise does not give published GeoLoRA its rank back (start as large as A)",
            f"rank {_range([r['counted'] for r in quiet], '{:.0f}')} of 5",
            [r["counted"] < 5 for r in quiet],
        ),
        statement(
            "one spare direction under noise below the tolerance: rank 5 and one noise column",
            f"rank {_range([r['counted'] for r in calm], '{:.0f}')}; last value over 2ν√(λ/(2−λ)): "
            + _range([r["last_value"] / floor[r["level"]] for r in calm], "{:.2f}"),
            [r["counted"] == 5 and r["columns"] == 6 for r in calm],
        ),
        statement(
            "one spare direction under noise above 1.5 times the tolerance: the rank runs away",
            f"rank {_range([r['counted'] for r in loud], '{:.0f}')}",
            [r["counted"] > 5 for r in loud],
        ),
    ]
    weak, strong = (
        [r["overlap"] or 0.0 for r in data["weak_signal"] if wanted(r["ratio"])]
        for wanted in (lambda ratio: ratio < 1, lambda ratio: ratio > 1)
    )
    if weak:
        statements.append(
            statement(
                "the spare direction finds a value (overlap above 1/2) above the noise ν√(λ/(2−λ)), and only there",
                f"overlap {_range(weak, '{:.2f}')} below it, {_range(strong, '{:.2f}')} from 1.5 times on",
                [x <= 0.5 for x in weak] + [x > 0.5 for x in strong],
            )
        )
    statements.append(
        statement(
            "cost of the spare column: at most a quarter more time per step, at ranks 5 to 50",
            f"time × {_range([r['time_ratio'] for r in data['cost']], '{:.2f}')}, parameters × "
            + _range([r["parameter_ratio"] for r in data["cost"]], "{:.2f}"),
            [r["time_ratio"] < 1.25 for r in data["cost"]],
        )
    )
    blind = [r for r in data["several"] if r["spread"] == 0 and r["missing"] > 2 * r["spare"]]
    sighted = [
        r for r in data["several"] if r["missing"] >= r["spare"] and (r["spread"] > 0 or r["missing"] <= 2 * r["spare"])
    ]
    statements += [
        statement(
            "more than 2p missing values exactly equal: the residual leaves the bases by rounding only (below 1e-9)",
            f"{_range([r['unseen'] for r in blind], '{:.0e}')}, all count after "
            + f"{_range([r['counted_at'][-1] for r in blind], '{:.0f}')} steps",
            [r["unseen"] < 1e-9 for r in blind],
        ),
        statement(
            "p to 2p of them, or p and more that are 1 % apart: it is always seen (above 1e-9)",
            f"{_range([r['unseen'] for r in sighted], '{:.0e}')}, all count after "
            + f"{_range([r['counted_at'][-1] for r in sighted], '{:.0f}')} steps",
            [r["unseen"] >= 1e-9 for r in sighted],
        ),
    ]
    for_long = data["for_long"]
    if for_long:
        statements.insert(
            2,
            statement(
                "it stays there for 4000 steps (start as large as A)",
                f"rank {_range([r['counted'] for r in for_long], '{:.0f}')} of 5 to 10",
                [not r["recovered"] for r in for_long],
            ),
        )
    return statements


# -- pictures ----------------------------------------------------------------------------------------------------------


def _draw_all(data, rows, out, quick):
    from matplotlib import rc_context

    from dlrt.plots import STYLE, save_figure

    pictures = {
        "": lambda: _draw_success(data["success"]),
        "-mechanism": lambda: _draw_mechanism(data["one_step"]),
        "-time": lambda: _draw_growth([r for r in data["growth"] if r["predicted"] is not None]),
        "-tail": lambda: _draw_tail(data["tail"]),
        "-noise": lambda: _draw_noise(data["noisy"]),
    }
    if not quick:
        pictures["-example"] = lambda: _draw_example(rows["example"])
    for suffix, draw in pictures.items():
        with rc_context(STYLE):
            figure = draw()
        save_figure(figure, out / f"rank-recovery{suffix}")


def _figure(width=3.3, height=2.6, columns=1):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _draw_success(table):
    """Success rates, spectrum by tolerance and spare directions, one panel for each start."""
    names = list(dict.fromkeys(r["spectrum"] for r in table))
    columns = list(dict.fromkeys((r["tau"], r["spare"]) for r in table))
    figure, panels = _figure(6.8, 0.9 + 0.28 * len(names), 2)
    for axes, start, title in zip(panels, ("zero", "large"), ("start at W = 0", "start as large as A"), strict=True):
        rate = np.zeros((len(names), len(columns)))
        for r in table:
            if r["start"] == start:
                i, j = names.index(r["spectrum"]), columns.index((r["tau"], r["spare"]))
                rate[i, j] = r["recovered"] / r["of"]
                axes.text(j, i, f"{r['recovered']}/{r['of']}", ha="center", va="center", fontsize=7,
                          color="white" if rate[i, j] > 0.6 else "black")  # fmt: skip
        axes.imshow(rate, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.grid(False)
        axes.set_xticks(range(len(columns)), [f"{spare}" for _, spare in columns])
        axes.set_yticks(range(len(names)), names if start == "zero" else [])
        for j in range(0, len(columns), 2):
            axes.text(j + 0.5, -0.62, f"τ = {columns[j][0]:g}", ha="center", va="bottom", fontsize=7)
            if j:
                axes.axvline(j - 0.5, color="white", linewidth=3)
        axes.set_title(title, pad=16)
        axes.set_xlabel("spare directions")
    panels[0].set_ylabel("singular values of A")
    return figure


def _draw_example(rows):
    """Error of single runs, without and with a spare direction."""
    from dlrt.plots import COLOURS

    figure, [axes] = _figure()
    for spare, colour, line in ((0, COLOURS[5], "--"), (1, COLOURS[4], "-")):
        for r in (r for r in rows if r["spare"] == spare):
            axes.semilogy(r["step"], r["error"], color=colour, linestyle=line, linewidth=0.9)
        axes.plot([], [], line, color=colour, label="one spare direction" if spare else "published (no spare)")
    axes.axhline(0.1, color="black", linestyle=":", label="tolerance τ = 0.1")
    axes.set(xlabel="step", ylabel="relative error of W", xlim=(0, 300))
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _draw_mechanism(rows):
    """The value with which a new direction enters, against the step size."""
    from dlrt.plots import COLOURS

    figure, [axes] = _figure()
    for key, label, colour, marker, power in (
        ("spare", "with a spare column", COLOURS[4], "o", 1),
        ("plain", "published", COLOURS[5], "s", 2),
    ):
        axes.loglog([r["rate"] for r in rows], [r[key] for r in rows], marker, color=colour, label=label)
        rates = np.array(sorted({r["rate"] for r in rows}))
        anchor = np.median([r[key] for r in rows if r["rate"] == rates[0]])
        axes.loglog(rates, anchor * (rates / rates[0]) ** power, ":" if power == 1 else "--", color=colour,
                    linewidth=0.8, label=f"slope {power}")  # fmt: skip
    axes.set(xlabel="step size λ", ylabel="value of the new direction")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _draw_growth(rows):
    """Steps until a missing value counts, against its size relative to the tolerance."""
    from dlrt.plots import COLOURS

    figure, [axes] = _figure()
    threshold = 0.1 * 20 / math.sqrt(1 - 0.01)
    for (rate,), colour, marker, line in zip(
        ((0.03,), (0.1,)), (COLOURS[5], COLOURS[4]), ("s", "o"), ("--", "-"), strict=True
    ):
        sigma = threshold * np.geomspace(1.003, 5.5, 200)
        axes.plot(sigma / threshold, [steps_to_count(x, 20.0, 0.1, rate) for x in sigma], line, color=colour,
                  label=f"formula, λ = {rate:g}")  # fmt: skip
        points = [r for r in rows if r["rate"] == rate and r["measured"] is not None]
        axes.plot([r["sigma"] / threshold for r in points], [r["measured"] for r in points], marker, color=colour,
                  markerfacecolor="none", label="measured")  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="missing value / tolerance", ylabel="steps until it counts")
    axes.set_xticks([1, 2, 5], ["1", "2", "5"])
    axes.set_xticks([], minor=True)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _draw_tail(rows):
    """Rank found, against the number of spare directions, where many small values exceed the tolerance together."""
    from dlrt.plots import COLOURS, LINES, MARKERS

    names = {tuple(values): name for name, values in TAILS.items()}
    figure, [axes] = _figure(height=3.0)
    for i, ((spectrum,), group) in enumerate(
        grouped([r | {"spectrum": tuple(r["spectrum"])} for r in rows], "spectrum").items()
    ):
        colour = COLOURS[(5, 4, 3)[i]]
        spares = sorted({r["spare"] for r in group})
        predicted = [next(r["predicted"] for r in group if r["spare"] == p) for p in spares]
        axes.plot(spares, predicted, linestyle=LINES[i], color=colour, label=names[spectrum])
        axes.plot([r["spare"] for r in group], [r["counted"] for r in group], MARKERS[i], color=colour,
                  markerfacecolor="none")  # fmt: skip
        axes.axhline(group[0]["rule_rank"], color=colour, linestyle=":", linewidth=0.8)
    axes.plot([], [], ":", color="black", linewidth=0.8, label="the rule applied to A")
    axes.set(xlabel="spare directions p", ylabel="rank found (lines: formula)")
    figure.legend(loc="outside upper center", ncols=1, frameon=False)
    return figure


def _draw_noise(rows):
    """Rank against the noise of the gradient, without and with a spare direction."""
    from dlrt.plots import COLOURS

    figure, [axes] = _figure()
    norm = float(np.linalg.norm(SPECTRA["20, 16, 12, 8, 4"]))
    for spare, start, colour, line, label in (
        (1, "large", COLOURS[4], "-", "one spare direction"),
        (0, "large", COLOURS[5], "--", "published"),
        (0, "zero", COLOURS[1], "-.", "published, start at W = 0"),
    ):
        group = [r for r in rows if (r["spare"], r["start"]) == (spare, start)]
        if not group:
            continue
        levels = sorted({r["level"] for r in group})
        x = [2 * v * math.sqrt(RATE / (2 - RATE)) / (0.1 * norm) for v in levels]
        ranks = [[r["counted"] for r in group if r["level"] == v] for v in levels]
        axes.plot(x, [np.median(r) for r in ranks], line, marker="o", color=colour, label=label)
        axes.fill_between(x, [min(r) for r in ranks], [max(r) for r in ranks], color=colour, alpha=0.2, linewidth=0)
    axes.axhline(5, color="black", linestyle=":", label="rank of A")
    axes.set(yscale="log", xlabel="noise of the iterate / tolerance", ylabel="rank found")
    axes.set_yticks([3, 5, 10, 20, 40], ["3", "5", "10", "20", "40"])
    axes.set_yticks([], minor=True)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure
