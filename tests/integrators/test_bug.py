"""BUG: the contract, and its equations in dense arithmetic."""

import numpy as np

from dlrt.testing import Contract, one_step
from integrators import BUG, Heun, Momentum, Repeated

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestBUG(Contract):
    integrator = BUG()
    exact = True


class TestBUGRepeated(Contract):
    integrator = BUG(substep=Repeated(Heun(), 2))


def test_bug_by_hand(problem, Y):
    F = lambda W: problem.target - W  # noqa: E731
    h = 0.1
    U1 = np.linalg.qr(Y.K + h * F(Y.full()) @ Y.V)[0]
    V1 = np.linalg.qr(Y.L + h * F(Y.full()).T @ Y.U)[0]
    W0 = U1 @ U1.T @ Y.full() @ V1 @ V1.T
    expected = W0 + h * U1 @ U1.T @ F(W0) @ V1 @ V1.T
    assert np.linalg.norm(one_step(BUG(), problem, Y).state.Y.full() - expected) <= EPS


def test_momentum_reaches_all_tapes_of_a_step(problem, Y):
    """BUG with momentum is BUG with the field F + beta M, M from the first tape on the right tangent space."""
    method = BUG(optimizer=Momentum(0.8))
    state = method.init(Y)
    M = np.zeros((9, 7))
    for _ in range(3):
        Yk = state.Y
        Mk = Yk.project(M).full()
        h, F = 0.1, lambda W, Mk=Mk: problem.target - W + 0.8 * Mk
        U1 = np.linalg.qr(Yk.K + h * F(Yk.full()) @ Yk.V)[0]
        V1 = np.linalg.qr(Yk.L + h * F(Yk.full()).T @ Yk.U)[0]
        W0 = U1 @ U1.T @ Yk.full() @ V1 @ V1.T
        expected = W0 + h * U1 @ U1.T @ F(W0) @ V1 @ V1.T
        M = 0.8 * Mk + Yk.project(problem.target - Yk.full()).full()
        state = method.step(problem.field, 0.0, state, h).state
        assert np.linalg.norm(state.Y.full() - expected) <= EPS
