"""Augmented BUG: the contract, and its equations in dense arithmetic."""

import numpy as np

from dlrt.testing import Contract, one_step
from integrators import AugmentedBUG, FixedRank, Momentum, Tolerance

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestAugmentedBUG(Contract):
    integrator = AugmentedBUG()
    exact = True


class TestAugmentedBUGMomentum(Contract):
    integrator = AugmentedBUG(optimizer=Momentum(0.5), truncation=Tolerance(relative=1e-3))
    test_order = test_robust_to_small_singular_values = None  # momentum follows another flow


def test_augmented_bug_by_hand(problem, Y):
    F = lambda W: problem.target - W  # noqa: E731
    h = 0.1
    U = np.linalg.qr(np.hstack([Y.U, Y.K + h * F(Y.full()) @ Y.V]))[0]
    V = np.linalg.qr(np.hstack([Y.V, Y.L + h * F(Y.full()).T @ Y.U]))[0]
    expected = Y.full() + h * U @ U.T @ F(Y.full()) @ V @ V.T
    step = one_step(AugmentedBUG(truncation=FixedRank(3)), problem, Y)
    assert step.augmented.rank == 6 and step.state.Y.rank == 3
    assert np.linalg.norm(step.augmented.full() - expected) <= EPS
    d = np.linalg.svd(expected, compute_uv=False)
    assert abs(step.truncation_error - np.linalg.norm(d[3:])) <= EPS
