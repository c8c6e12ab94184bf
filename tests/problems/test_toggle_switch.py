"""The toggle switch: the contract, the master equation reaction by reaction, probability, a closed form, bad input."""

import math

import numpy as np
import pytest

import problems
from dlrt import solve
from integrators import AugmentedBUG, Exact

from .contract import Contract, ExactFlows


def reactions(W, b, c):
    """The master equation, one jump after the other; none leads out of the square."""
    n, F = len(W), np.zeros_like(W)
    for i in range(n):
        for j in range(n):
            rates = {(1, 0): b / (b + j), (0, 1): b / (b + i), (-1, 0): c * i, (0, -1): c * j}
            for (di, dj), rate in rates.items():
                if max(i + di, j + dj) < n:
                    F[i, j] -= rate * W[i, j]
                    if rate:
                        F[i + di, j + dj] += rate * W[i, j]
    return F


class TestToggleSwitch(ExactFlows, Contract):
    dtypes = (np.float32, np.float64)

    def build(self, rng, dtype):
        return problems.toggle_switch(9, 0.4, 0.3, dtype), lambda t, W: reactions(W, 0.4, 0.3)


def test_probability_is_kept_and_positive():
    p = problems.toggle_switch()
    for t in (0.0, 20.0, 500.0):
        W = p.reference(t)
        assert W.sum() == pytest.approx(1, abs=1e-12) and W.min() > -1e-15
    most = np.unravel_index(np.argmax(W), W.shape)
    assert most[1] == 0 and most[0] == pytest.approx(18, abs=2)  # b / (b c) = 20 where the second species is absent


def test_the_start_has_the_moments_of_its_gaussian():
    """A row of numbers of the first species, given those of the second: 4.9 standard deviations are inside."""
    k, W = np.arange(80.0), problems.toggle_switch(80).reference(0.0)
    for j in (5, 10):
        given = W[:, j] / W[:, j].sum()
        mean = k @ given
        assert mean == pytest.approx(30 - 7.5 / 37.5 * (j - 5), abs=1e-3)
        assert (k - mean) ** 2 @ given == pytest.approx(37.5 - 7.5**2 / 37.5, rel=1e-3)


def test_without_repression_a_poisson_distribution_stays_one():
    """For b to infinity both rates are 1, and the mean follows ``1 / c + (l - 1 / c) e^{-c t}``."""
    n, c, t = 40, 0.5, 0.7
    q = problems.toggle_switch(n, 1e12, c)
    k = np.arange(n)
    log_factorials = np.array([math.lgamma(i + 1) for i in k])

    def poisson(l):
        return np.exp(k * math.log(l) - l - log_factorials)

    p = problems.LinearTerms(q.terms, poisson(3.0)[:, None], poisson(5.0)[:, None])
    means = [2 + (l - 2) * math.exp(-c * t) for l in (3.0, 5.0)]
    assert np.abs(p.reference(t) - np.outer(*map(poisson, means))).max() < 1e-10


def test_augmented_bug_follows_it():
    p = problems.toggle_switch(30)
    runs = [solve(AugmentedBUG(substep=Exact()), p, step_size=50 / n, steps=n, rank=5, every=n) for n in (10, 40)]
    assert runs[1].errors[-1] < 1e-2 * np.linalg.norm(p.reference(50.0))
    assert runs[1].errors[-1] < 0.4 * runs[0].errors[-1]


def test_bad_toggle_switch():
    with pytest.raises(ValueError, match="n must be at least 2, got 1"):
        problems.toggle_switch(1)
    with pytest.raises(ValueError, match="b must be positive and finite, got 0"):
        problems.toggle_switch(8, 0.0)
    with pytest.raises(ValueError, match="c must be positive and finite, got -1"):
        problems.toggle_switch(8, 1.0, -1.0)
