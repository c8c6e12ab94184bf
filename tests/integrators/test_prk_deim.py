"""PRK-DEIM: the contract, its projection in dense arithmetic, what it looks at."""

import numpy as np
import pytest

from dlrt.testing import Contract, one_step, rng
from integrators import PRKDEIM, FixedRank, LowRank, ProjectedRungeKutta, Tolerance
from integrators.selection import select_rows
from problems import allen_cahn, from_function, nonlinear_schroedinger

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestPRKDEIM(Contract):
    integrator = PRKDEIM()
    scatter = 1.5  # other rows and columns


class TestPRKDEIM2(Contract):
    integrator = PRKDEIM(order=2, oversampling=2)
    scatter = 1.5
    test_orthonormal_after_3000_steps = None  # its truncation is that of order 1; long


class TestPRKDEIM3(Contract):
    # by a tolerance the rank grows, in single precision, into rounding: which rows are chosen there is chance
    integrator = PRKDEIM(order=3, truncation=FixedRank(4))
    scatter = 1.5
    test_orthonormal_after_3000_steps = None


@pytest.mark.parametrize("selection", ["qdeim", "deim", "sqdeim"])
@pytest.mark.parametrize("oversampling", [0, 2])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_the_projection_by_hand(oversampling, dtype, selection):
    """D(Y) F from the whole field, which is left as it is where it is a tangent vector."""
    A, h = LowRank.random((20, 17), 17, rng(1), np.zeros((), dtype)).full(), 0.1
    problem = from_function((20, 17), lambda t, Y: A - Y.full() ** 3, initial=A)
    Y = LowRank.random((20, 17), 3, rng(2), A)
    F = A - Y.full() ** 3
    p, q = (select_rows(X, oversampling, selection) for X in (Y.U, Y.V))
    left, right = Y.U @ np.linalg.pinv(Y.U[p]), Y.V @ np.linalg.pinv(Y.V[q])
    D = left @ F[p] + F[:, q] @ right.conj().T - left @ F[np.ix_(p, q)] @ right.conj().T
    method = PRKDEIM(oversampling=oversampling, selection=selection, truncation=FixedRank(3))
    step = one_step(method, problem, Y, h)
    assert step.evaluations == 2
    assert np.linalg.norm(step.augmented.full() - Y.full() - h * D) <= 10 * EPS
    assert np.linalg.norm(Y.project(D).full() - D) <= 10 * EPS


def test_only_rows_and_columns_are_computed():
    """Neither the projections of a field nor the matrix are touched."""
    problem, seen = nonlinear_schroedinger(60), []

    class Watched:
        def __init__(self, f):
            self.f = f

        def __getattr__(self, name):
            seen.append(name)
            return getattr(self.f, name)

        def rows(self, p):
            seen.append(("rows", len(p)))
            return self.f.rows(p)

        def columns(self, q):
            seen.append(("columns", len(q)))
            return self.f.columns(q)

    method = PRKDEIM(order=2, oversampling=1)
    method.step(lambda t, Y: Watched(problem.field(t, Y)), 0.0, method.init(problem.initial(4, rng(1))), 0.01)
    assert seen == [("rows", 5), ("columns", 5)] * 2


@pytest.mark.parametrize("order", [1, 2, 3])
def test_order_on_the_allen_cahn_equation(order):
    """The order of the projected method, and nearly its error, at a rank that holds the solution."""
    problem, errors, counts = allen_cahn(32), [], (10, 20, 40)
    start, T = problem.initial(12, rng(1)), Tolerance(absolute=1e-11, max_rank=14)
    for kind in (PRKDEIM, ProjectedRungeKutta):
        method, found = kind(order=order, truncation=T, stage_truncation=T), []
        for steps in counts:
            state, h = method.init(start), 4.0 / steps
            for k in range(steps):
                state = method.step(problem.field, k * h, state, h).state
            found.append(problem.error(4.0, state.Y))
        errors.append(found)
    slope = -np.polyfit(np.log(counts), np.log(errors[0]), 1)[0]
    assert abs(slope - order) <= 0.2, (slope, errors)
    assert all(one <= 2 * other for one, other in zip(*errors, strict=True))


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="oversampling must be at least 0, got -1"):
        PRKDEIM(oversampling=-1)
    with pytest.raises(ValueError, match="order must be 1, 2 or 3, got 4"):
        PRKDEIM(order=4)
    with pytest.raises(ValueError, match="selection must be one of qdeim, deim, sqdeim, got 'best'"):
        PRKDEIM(selection="best")
