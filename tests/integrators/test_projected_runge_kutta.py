"""Projected Runge-Kutta methods: the contract at each order, their equations in dense arithmetic."""

import numpy as np
import pytest

from dlrt.testing import Contract, one_step, rng
from integrators import FixedRank, LowRank, ProjectedRungeKutta, Tolerance
from problems import from_function

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestProjectedRungeKutta1(Contract):
    integrator = ProjectedRungeKutta()


class TestProjectedRungeKutta2(Contract):
    integrator = ProjectedRungeKutta(order=2)


class TestProjectedRungeKutta3(Contract):
    integrator = ProjectedRungeKutta(order=3)
    test_orthonormal_after_3000_steps = None  # what truncation leaves, as at order 2


def best(W, r):
    """The best approximation of rank r."""
    U, d, VH = np.linalg.svd(W)
    return LowRank(U[:, :r], np.diag(d[:r]), VH[:r].T)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_projected_runge_kutta_by_hand(order):
    A, h = rng(1).standard_normal((20, 17)), 0.1
    F = lambda t, W: np.cos(t) * A - W**3  # noqa: E731
    problem, Y = from_function((20, 17), lambda t, Y: F(t, Y.full())), LowRank.random((20, 17), 3, rng(2))
    PF = lambda t, Z: Z.project(F(t, Z.full())).full()  # noqa: E731
    k1 = PF(0.0, Y)
    if order == 1:
        expected = Y.full() + h * k1
    elif order == 2:
        expected = Y.full() + h * PF(h / 2, best(Y.full() + h / 2 * k1, 3))
    else:
        k2 = PF(h / 3, best(Y.full() + h / 3 * k1, 3))
        k3 = PF(2 * h / 3, best(Y.full() + 2 * h / 3 * k2, 3))
        expected = Y.full() + h * (k1 + 3 * k3) / 4
    step = one_step(ProjectedRungeKutta(order=order, truncation=FixedRank(3)), problem, Y, h)
    assert step.evaluations == order and step.state.Y.rank == 3
    assert step.augmented.rank == {1: 6, 2: 9, 3: 12}[order]
    assert np.linalg.norm(step.augmented.full() - expected) <= 10 * EPS


def test_stages_are_truncated_by_their_own_rule():
    """At zero tolerance the second stage is Y0 + h/2 P F itself, and its tangent space that of rank 6."""
    A, h = rng(1).standard_normal((20, 17)), 0.1
    F = lambda W: A - W**3  # noqa: E731
    problem, Y = from_function((20, 17), lambda t, Y: F(Y.full())), LowRank.random((20, 17), 3, rng(2))
    Z = best(Y.full() + h / 2 * Y.project(F(Y.full())).full(), 6)
    method = ProjectedRungeKutta(order=2, stage_truncation=Tolerance(relative=0.0))
    expected = Y.full() + h * Z.project(F(Z.full())).full()
    assert np.linalg.norm(one_step(method, problem, Y, h).augmented.full() - expected) <= 10 * EPS


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="order must be 1, 2 or 3, got 4"):
        ProjectedRungeKutta(order=4)
    with pytest.raises(TypeError, match=r"stage_truncation must be an integrators.Truncation such as FixedRank\(4\)"):
        ProjectedRungeKutta(stage_truncation=4)
