"""TDB-CUR: the contract, the cross approximation, orders."""

import numpy as np
import pytest

from dlrt.testing import Contract, one_step, rng
from integrators import RK4, TDBCUR, FixedRank, FullRank, LowRank, Tolerance
from integrators.selection import select_rows
from integrators.tdb_cur import cross
from problems import allen_cahn, from_function, solid_body_rotation

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestTDBCUR(Contract):
    integrator = TDBCUR(truncation=FixedRank(4))
    scatter = 1.5  # other rows and columns
    test_orthonormal_after_3000_steps = None  # what QR and truncation leave, as for others; long


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_cross_approximation(dtype):
    """Exact where the rank suffices; else it agrees with the matrix in the columns, if the rows are as many."""
    like = np.zeros((), dtype)
    Y = LowRank.random((20, 16), 4, rng(1), like)
    p, q = select_rows(Y.U, 4), select_rows(Y.V, 2)
    W = Y.full()
    assert np.linalg.norm(cross(W[p], W[:, q], p).full() - W) <= EPS
    W = LowRank.random((20, 16), 16, rng(2), like).full()
    p = p[: len(q)]
    found = cross(W[p], W[:, q], p).full()
    assert np.linalg.norm(found[p] - W[p]) + np.linalg.norm(found[:, q] - W[:, q]) <= 1e2 * EPS


def test_all_columns_give_the_method_for_the_full_matrix():
    A = rng(1).standard_normal((9, 7))
    problem = from_function((9, 7), lambda t, Y: np.cos(t) * A - Y.full() ** 3)
    Y = LowRank.random((9, 7), 3, rng(2))
    step = one_step(TDBCUR(order=4, oversampling=6, truncation=FixedRank(3)), problem, Y)
    full = one_step(FullRank(substep=RK4()), problem, Y).state.Y.full()
    assert np.linalg.norm(step.augmented.full() - full) <= 10 * EPS
    assert step.evaluations == 5 and step.state.Y.rank == 3


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_orders(order):
    class Ordered(Contract):
        integrator = TDBCUR(order=order, oversampling=7)
        order_steps = (8, 16, 32)

    Ordered().test_order()


@pytest.mark.parametrize("order", [1, 2])
def test_order_on_the_allen_cahn_equation(order):
    problem, errors, counts = allen_cahn(32), [], (20, 40, 80)
    start, method = problem.initial(10, rng(1)), TDBCUR(order=order, truncation=Tolerance(absolute=1e-10, max_rank=14))
    for steps in counts:
        state, h = method.init(start), 4.0 / steps
        for k in range(steps):
            state = method.step(problem.field, k * h, state, h).state
        errors.append(problem.error(4.0, state.Y))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope - order) <= 0.2, (slope, errors)


def test_it_follows_a_field_that_is_normal_to_the_tangent_space():
    """The rotation of a Gaussian, where K, L and S vanish at the start."""
    problem = solid_body_rotation(32)
    method = TDBCUR(order=4, oversampling=4, truncation=Tolerance(absolute=1e-6))
    state, h = method.init(problem.initial(1, rng(1))), problem.t_end / 200
    for k in range(200):
        state = method.step(problem.field, k * h, state, h).state
    assert problem.error(problem.t_end, state.Y) <= 1e-3 * np.linalg.norm(problem.reference(problem.t_end))


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="oversampling must be at least 0, got -1"):
        TDBCUR(oversampling=-1)
    with pytest.raises(ValueError, match="order must be 1, 2, 3 or 4, got 5"):
        TDBCUR(order=5)
    with pytest.raises(ValueError, match="selection must be one of qdeim, deim, sqdeim, got 'best'"):
        TDBCUR(selection="best")
