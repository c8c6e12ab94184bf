"""RK-BUG: the contract at both orders, the tableaus, the method for the full matrix where the rank suffices."""

import numpy as np
import pytest

from dlrt.testing import Contract, one_step, rng
from integrators import FixedRank, LowRank, MidpointBUG, RungeKuttaBUG
from integrators.runge_kutta_bug import TABLEAUS
from problems import from_function

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestRungeKuttaBUG2(Contract):
    integrator = RungeKuttaBUG()


class TestRungeKuttaBUG3(Contract):
    integrator = RungeKuttaBUG(order=3)


@pytest.mark.parametrize("order", TABLEAUS)
def test_tableaus_have_their_order(order):
    """Conditions of orders 1 to 3 (Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, II.1)."""
    rows, c = TABLEAUS[order]
    s = len(c)
    A, (b, c) = np.array([[*row, *[0.0] * (s - len(row))] for row in rows[:-1]]), map(np.array, (rows[-1], c))
    conditions = [(b.sum(), 1), (b @ c, 1 / 2), (b @ c**2, 1 / 3), (b @ A @ c, 1 / 6)]
    assert np.allclose(A.sum(axis=1), c, atol=1e-15)
    held = [abs(left - right) <= 1e-15 for left, right in conditions]
    assert held == [True, order >= 2, order == 3, order == 3]


@pytest.mark.parametrize("order", [2, 3])
def test_full_rank_is_the_method_for_the_full_matrix(order):
    """Where nothing is normal to the bases, the stages are those of the Runge-Kutta method."""
    A, h = rng(1).standard_normal((9, 7)), 0.1
    F = lambda t, W: np.sin(t) * A - W**3  # noqa: E731
    problem = from_function((9, 7), lambda t, Y: F(t, Y.full()))
    Y = LowRank.random((9, 7), 7, rng(2))
    rows, c = TABLEAUS[order]
    k = []
    for row, ci in zip(rows[:-1], c, strict=True):
        k.append(F(ci * h, Y.full() + h * sum((a * x for a, x in zip(row, k, strict=True)), 0.0)))
    expected = Y.full() + h * sum(b * x for b, x in zip(rows[-1], k, strict=True))
    step = one_step(RungeKuttaBUG(order=order, truncation=FixedRank(7)), problem, Y, h)
    assert np.linalg.norm(step.state.Y.full() - expected) <= EPS


def test_bases_grow_by_the_field_of_each_stage():
    A = rng(1).standard_normal((40, 37))
    problem = from_function((40, 37), lambda t, Y: A - Y.full() ** 3)
    Y = LowRank.random((40, 37), 3, rng(2))
    for order, columns, fields in ((2, 12, 4), (3, 24, 7)):
        step = one_step(RungeKuttaBUG(order=order, truncation=FixedRank(3)), problem, Y)
        assert step.augmented.rank == columns and step.evaluations == fields


def test_order_2_by_hand():
    """The bases of midpoint BUG, and the explicit midpoint rule in them."""
    A, h = rng(1).standard_normal((20, 17)), 0.1
    F = lambda W: A - W**3  # noqa: E731 (were it linear, bases would not grow by all columns)
    problem, Y = from_function((20, 17), lambda t, Y: F(Y.full())), LowRank.random((20, 17), 3, rng(2))
    Y0 = Y.full()
    U, V = (np.linalg.qr(np.hstack(X))[0] for X in ((Y.U, F(Y0) @ Y.V), (Y.V, F(Y0).T @ Y.U)))
    half = Y0 + h / 2 * U @ U.T @ F(Y0) @ V @ V.T
    U, V = (np.linalg.qr(np.hstack(X))[0] for X in ((U, F(half) @ V), (V, F(half).T @ U)))
    expected = Y0 + h * U @ U.T @ F(half) @ V @ V.T
    step = one_step(RungeKuttaBUG(truncation=FixedRank(3)), problem, Y, h)
    assert np.linalg.norm(step.augmented.full() - expected) <= EPS
    other = one_step(MidpointBUG(), problem, Y, h).augmented
    assert np.linalg.norm(step.augmented.U - other.U @ (other.U.T @ step.augmented.U)) <= 1e-10


def test_order_is_checked():
    with pytest.raises(ValueError, match="order must be 2 or 3, got 4"):
        RungeKuttaBUG(order=4)
