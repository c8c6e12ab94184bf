"""Second-order parallel BUG: the contract, its equations in dense arithmetic."""

import numpy as np

from dlrt.testing import Contract, one_step, rng
from integrators import Euler, FixedRank, LowRank, SecondOrderParallelBUG
from problems import MatrixRegression, from_function

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestSecondOrderParallelBUG(Contract):
    integrator = SecondOrderParallelBUG()


def test_second_order_parallel_bug_by_hand():
    """The block matrix with K-, L- and S-steps by Heun's method, from the enlarged bases."""
    A, h = rng(1).standard_normal((20, 17)), 0.1
    F = lambda W: A - W**3  # noqa: E731 (were it linear, bases would not grow by all columns)
    problem, Y = from_function((20, 17), lambda t, Y: F(Y.full())), LowRank.random((20, 17), 3, rng(2))
    Y0 = Y.full()
    U, V = (np.linalg.qr(np.hstack(X))[0] for X in ((Y.U, F(Y0) @ Y.V), (Y.V, F(Y0).T @ Y.U)))
    P, Q = U @ U.T, V @ V.T
    dK = h / 2 * (F(Y0) + F(Y0 + h * F(Y0) @ Q)) @ Q
    dL = h / 2 * P @ (F(Y0) + F(Y0 + h * P @ F(Y0)))
    dS = h / 2 * P @ (F(Y0) + F(Y0 + h * P @ F(Y0) @ Q)) @ Q
    expected = Y0 + dS + (np.eye(20) - P) @ dK + dL @ (np.eye(17) - Q)
    step = one_step(SecondOrderParallelBUG(truncation=FixedRank(3)), problem, Y, h)
    assert step.augmented.rank == 12 and step.state.Y.rank == 3
    assert np.linalg.norm(step.augmented.full() - expected) <= EPS


def test_an_euler_step_projects_orthogonally():
    """W^ - W = h P^ F with P^ the tangent projection in the enlarged bases: it descends by more than P F does."""
    problem = MatrixRegression(rng(1).standard_normal((20, 17)))
    Y, h = LowRank.random((20, 17), 3, rng(2)), 0.1
    D = (one_step(SecondOrderParallelBUG(substep=Euler()), problem, Y, h).augmented.full() - Y.full()) / h
    F = problem.target - Y.full()
    assert abs(np.sum(F * D) - np.sum(D * D)) <= EPS * np.sum(F * F)
    PF = Y.project(F).full()
    assert np.linalg.norm(Y.project(D).full() - PF) <= EPS * np.linalg.norm(F)
    assert np.linalg.norm(D) > np.linalg.norm(PF)
