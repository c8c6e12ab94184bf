"""Midpoint BUG: the contract, its equations in dense arithmetic, what it keeps."""

import numpy as np
import pytest

from dlrt.testing import Contract, dense, one_step, rng
from integrators import Exact, FixedRank, LowRank, MidpointBUG, Tolerance
from problems import MatrixRegression, from_function, schroedinger

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestMidpointBUG(Contract):
    integrator = MidpointBUG()


class TestMidpointBUGThreeColumns(Contract):
    # by a tolerance the rank grows until U_half sticks out of U_0 by 1e-13: what a library keeps of that is chance
    integrator = MidpointBUG(columns=3, truncation=FixedRank(4))


def span(*blocks):
    """The orthogonal projector on the range of the blocks."""
    Q = np.linalg.qr(np.hstack(blocks))[0]
    return Q @ Q.T


@pytest.mark.parametrize("columns", [4, 3])
def test_midpoint_bug_by_hand(columns):
    A, h = rng(1).standard_normal((20, 17)), 0.1
    F = lambda W: A - W**3  # noqa: E731 (were it linear, bases would not grow by all columns)
    problem, Y = from_function((20, 17), lambda t, Y: F(Y.full())), LowRank.random((20, 17), 3, rng(2))
    Y0 = Y.full()
    P, Q = span(Y.U, F(Y0) @ Y.V), span(Y.V, F(Y0).T @ Y.U)
    half = Y0 + h / 2 * P @ F(Y0) @ Q
    if columns == 3:
        U, d, VH = np.linalg.svd(half)
        half = (U[:, :3] * d[:3]) @ VH[:3]
        P, Q = span(Y.U, U[:, :3]), span(Y.V, VH[:3].T)
        PF, QF = F(half) @ VH[:3].T, F(half).T @ U[:, :3]
    else:
        PF, QF = F(half) @ Q, F(half).T @ P
    U, V = (np.linalg.svd(np.hstack(X))[0][:, : columns * 3] for X in ((P, PF), (Q, QF)))
    P, Q = U @ U.T, V @ V.T
    stage = Y0 + h * P @ F(Y0) @ Q
    expected = Y0 + h / 2 * P @ (F(Y0) + F(stage)) @ Q
    step = one_step(MidpointBUG(columns=columns, truncation=FixedRank(3)), problem, Y, h)
    assert step.augmented.rank == columns * 3 and step.state.Y.rank == 3
    assert np.linalg.norm(step.augmented.full() - expected) <= EPS


@pytest.mark.parametrize("columns", [4, 3])
def test_norm_and_energy_are_kept_with_an_exact_galerkin_step(columns):
    """The predictor only gives bases: Euler's growth of the norm does not enter."""
    problem = schroedinger(rng(1), 24)
    Y = problem.initial(4, rng(2))
    step = one_step(MidpointBUG(substep=Exact(), columns=columns, truncation=FixedRank(4)), problem, Y, 0.2)
    assert abs(problem.norm(step.augmented) - problem.norm(Y)) <= EPS
    assert abs(problem.energy(step.augmented) - problem.energy(Y)) <= EPS


@pytest.mark.parametrize("columns", [4, 3])
def test_rank_grows_with_the_solution(columns):
    """A start of rank 1 reaches the rank 4 of the target, up to the tolerance."""
    A = LowRank.random((20, 16), 4, rng(3), singular_values=[4.0, 3.0, 2.0, 1.0]).full()
    problem = MatrixRegression(A)
    method = MidpointBUG(columns=columns, truncation=Tolerance(relative=1e-6))
    state = method.init(LowRank.random((20, 16), 1, rng(4), singular_values=[1.0]))
    for _ in range(200):
        state = method.step(problem.field, 0.0, state, 0.1).state
    assert state.Y.rank == 4 and np.linalg.norm(dense(state.Y) - A) <= 1e-5 * np.linalg.norm(A)


def test_columns_are_checked():
    with pytest.raises(ValueError, match="columns must be 3 or 4, got 2"):
        MidpointBUG(columns=2)
    with pytest.raises(TypeError, match="predictor must be an integrators"):
        MidpointBUG(predictor="euler")
