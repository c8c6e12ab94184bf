"""Riemannian gradient descent: the contract, its equations in dense arithmetic, what momentum is for."""

import numpy as np

from dlrt.testing import Contract, distance, one_step, rng, run
from integrators import SGD, FixedRank, GeoLoRA, LowRank, Momentum, RiemannianDescent
from problems import MatrixRegression, from_function

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestRiemannianDescent(Contract):
    integrator = RiemannianDescent(optimizer=SGD())


class TestMomentum(Contract):
    integrator = RiemannianDescent()
    h = 0.02  # the long step that momentum makes of it is 10 times that


def test_two_steps_by_hand(problem, Y):
    """In dense arithmetic: momentum, best approximation, transport by projection."""
    h, beta, method = 0.1, 0.8, RiemannianDescent(optimizer=Momentum(0.8))
    W, M, state = Y, np.zeros((9, 7)), method.init(Y)
    for _ in range(3):
        M = beta * W.project(M).full() + W.project(problem.target - W.full()).full()
        W = LowRank.from_dense(W.full() + h * M, 3)
        step = method.step(problem.field, 0.0, state, h)
        state = step.state
        assert step.evaluations == 1 and state.Y.rank == 3
        assert np.linalg.norm(state.Y.full() - W.full()) <= EPS


def test_plain_it_is_geolora_at_a_fixed_rank(problem, Y):
    one = one_step(RiemannianDescent(optimizer=SGD()), problem, Y).state.Y
    other = one_step(GeoLoRA(truncation=FixedRank(3)), problem, Y).state.Y
    assert np.linalg.norm(one.full() - other.full()) <= EPS


def test_a_minimum_is_a_fixed_point():
    A = LowRank.random((12, 9), 3, rng(1))
    assert np.linalg.norm(one_step(RiemannianDescent(), MatrixRegression(A.full()), A).state.Y.full() - A.full()) <= EPS


def test_momentum_is_faster_where_the_loss_is_flat():
    """A quadratic loss of condition 100 with a minimum of rank 3: the distance after 200 steps of size 1 / L."""
    A = LowRank.random((30, 24), 3, rng(1), singular_values=[3.0, 2.0, 1.0])
    curvature = np.geomspace(1.0, 0.01, 30)[:, None]
    problem = from_function((30, 24), lambda t, Y: curvature * (A.full() - Y.full()))
    distances = []
    for optimizer in (SGD(), Momentum()):
        method = RiemannianDescent(optimizer=optimizer)
        state = run(method, problem.field, method.init(LowRank.zeros((30, 24), 3, rng(3))), 1.0, 200)
        distances.append(distance(state.Y, A))
    assert distances[1] <= 0.05 * distances[0], distances
