"""The regression of Figure 5: ``min 1/2 ||W - A||_F^2`` in single precision, and what all methods on it share.

The paper does not give size, rank, target and start. Chosen here:

- A is 50 x 50, the product of two Gaussian matrices of rank 5, scaled to the largest singular value ``SIGMA``;
- every low-rank method starts at W = 0 with random orthonormal bases of rank 10 (AdaLoRA: 12 triplets, budget 12 -> 8);
- ``SIGMA = (2 / (3 * 0.00178))^{3/4}`` = 85.14, so that the paper's rate is the analytic limit derived in
  :mod:`paper_figures.regression.figure5`. This is the one number fitted to the paper; everything else is measured.
"""

from __future__ import annotations

import numpy as np

from dlrt import solve
from integrators import AdaLoRA, ImportanceBudget, Tolerance
from problems import MatrixRegression

RATE = 0.00178
"""Learning rate of SVD-LoRA in the paper."""
GEOLORA_RATE = 0.1
STEPS = 1000
SIZE, TRUE_RANK, RANK = 50, 5, 10
BUDGET = (12, 8)
TAU = 0.1
SINGLE = 1e-6
"""Relative error of W that counts as single precision."""
SIGMA = (2 / (3 * RATE)) ** 0.75
SETTINGS = {
    "shape": [SIZE, SIZE],
    "true_rank": TRUE_RANK,
    "rank": RANK,
    "sigma_1": SIGMA,
    "dtype": "float32",
    "tau": TAU,
}
"""What the JSON files say of all this."""


def problem(seed, size=SIZE, rank=TRUE_RANK, sigma=SIGMA, equal=False):
    """Regression on a float32 matrix of given rank: a Gaussian product, or (`equal`) with equal singular values."""
    rng = np.random.default_rng([seed, 5])
    X, Y = rng.standard_normal((size, rank)), rng.standard_normal((size, rank))
    if equal:
        X, Y = np.linalg.qr(X)[0], np.linalg.qr(Y)[0]
    A = X @ Y.T
    return MatrixRegression((A * (sigma / np.linalg.norm(A, 2))).astype(np.float32))


def norm(regression):
    """||A|| in double precision, in which the losses of a run are."""
    return float(np.linalg.norm(regression.target.astype(np.float64)))


def start_rank(method):
    """Rank with which a method starts."""
    return BUDGET[0] if isinstance(method, AdaLoRA) else RANK


def follow(method, regression, rate, seed, steps=STEPS, **options):
    """A run of a method from its start rank."""
    return solve(
        method, regression, step_size=rate, steps=steps, rank=start_rank(method), seed=seed, **options
    ).checked()


def stable(run):
    """Whether a run ended finite and below its start."""
    return not run.diverged and bool(run.losses[-1] < run.losses[0])


def tolerance(spare):
    """Truncation of the methods that adapt the rank."""
    return Tolerance(relative=TAU, spare=spare)


def adalora_method(gamma, final=BUDGET[1]):
    """AdaLoRA with the schedule used here: warm-up 100, masks every 10 iterations, final budget in the last 300."""
    budget = ImportanceBudget(
        initial=BUDGET[0], final=final, total_steps=STEPS, warmup=STEPS // 10, cooldown=3 * STEPS // 10, interval=10
    )
    return AdaLoRA(gamma=gamma, truncation=budget)
