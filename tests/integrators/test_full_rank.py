"""Full rank: the contract, and plain gradient descent."""

import numpy as np

from dlrt.testing import Contract, one_step
from integrators import RK4, FullRank

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestFullRank(Contract):
    integrator = FullRank()


class TestFullRankRK4(Contract):
    integrator = FullRank(substep=RK4())


def test_full_rank_is_gradient_descent(problem, Y):
    W = one_step(FullRank(), problem, Y).state.Y.full()
    assert np.linalg.norm(W - (Y.full() + 0.1 * (problem.target - Y.full()))) <= EPS
