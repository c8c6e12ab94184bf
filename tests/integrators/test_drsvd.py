"""Dynamical randomised SVD: the contract, why it needs a power iteration, what it keeps."""

import numpy as np
import pytest

from dlrt.testing import Contract, one_step, rng, run
from integrators import DRSVD, Exact, FixedRank, Heun, LowRank
from problems import MatrixRegression, given_solution, schroedinger

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestDRSVD(Contract):
    integrator = DRSVD()
    exact = True


def test_drsvd_by_hand():
    """Sketch, power iteration, Galerkin in [U0 | Q], in dense arithmetic."""
    A, h = rng(1).standard_normal((30, 25)), 0.1
    F, Y = (lambda W: A - W), LowRank.random((30, 25), 3, rng(2))
    method, Y0 = DRSVD(oversampling=2, truncation=FixedRank(3)), Y.full()
    [X] = method.sketches(method.init(Y), (25, 5))
    for _ in range(2):
        Q = np.linalg.qr(Y0 @ X + h * F(Y0 @ X @ X.T) @ X)[0]
        X = np.linalg.qr(Y0.T @ Q + h * F(Q @ Q.T @ Y0).T @ Q)[0]
    Q = np.linalg.qr(np.hstack([Y.U, Q]))[0]
    step = one_step(method, MatrixRegression(A), Y, h)
    assert np.linalg.norm(step.augmented.full() - Q @ Q.T @ (Y0 + h * F(Y0))) <= EPS
    assert step.evaluations == 5 and step.augmented.rank == 8


def test_a_power_iteration_makes_it_converge():
    """Without one the range is that of a field far away: halving h does not halve the error."""
    problem = given_solution(rng(5), shape=(16, 12), rank=4)
    errors = {}
    for power in (0, 1):
        method = DRSVD(power=power, substep=Heun(), truncation=FixedRank(4))
        states = (run(method, problem.field, method.init(problem.initial(4, rng(6))), 1 / n, n) for n in (32, 64))
        errors[power] = [problem.error(1.0, state.Y) for state in states]
    assert errors[0][1] > 0.7 * errors[0][0] and errors[1][1] < 0.5 * errors[1][0]


def test_norm_and_energy_are_kept():
    problem = schroedinger(rng(1), 24)
    Y = problem.initial(4, rng(2))
    step = one_step(DRSVD(substep=Exact(), truncation=FixedRank(4)), problem, Y, 0.2)
    assert abs(problem.norm(step.augmented) - problem.norm(Y)) <= EPS
    assert abs(problem.energy(step.augmented) - problem.energy(Y)) <= EPS


def test_power_is_checked():
    with pytest.raises(ValueError, match="power must be at least 0, got -1"):
        DRSVD(power=-1)
