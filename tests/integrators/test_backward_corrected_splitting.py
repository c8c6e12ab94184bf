"""Augmented backward-corrected projector splitting: the contract, its equations in dense arithmetic, what it keeps."""

import numpy as np

from dlrt.testing import Contract, one_step, rng
from integrators import RK4, BackwardCorrectedSplitting, Exact, FixedRank
from problems import schroedinger

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestBackwardCorrectedSplitting(Contract):
    integrator = BackwardCorrectedSplitting()
    exact = True


class TestBackwardCorrectedSplittingRK4(Contract):
    integrator = BackwardCorrectedSplitting(substep=RK4(), truncation=FixedRank(4))


def test_backward_corrected_splitting_by_hand(problem, Y):
    """L1^H U^ by QR as in the paper; with a frozen field W + h U^ U^^T F."""
    h, F = 0.1, problem.target - Y.full()
    U = np.linalg.qr(np.hstack([Y.U, Y.K + h * F @ Y.V]))[0]
    L = Y.V @ (U.T @ Y.U @ Y.S).T + h * F.T @ U
    V, R = np.linalg.qr(L)
    step = one_step(BackwardCorrectedSplitting(truncation=FixedRank(3)), problem, Y, h)
    assert np.linalg.norm(step.augmented.full() - U @ R.T @ V.T) <= EPS
    assert np.linalg.norm(step.augmented.full() - (Y.full() + h * U @ U.T @ F)) <= EPS
    assert step.evaluations == 2 and step.state.Y.rank == 3


def test_norm_and_energy_are_kept():
    problem = schroedinger(rng(1), 24)
    Y = problem.initial(4, rng(2))
    step = one_step(BackwardCorrectedSplitting(substep=Exact(), truncation=FixedRank(4)), problem, Y, 0.2)
    assert abs(problem.norm(step.augmented) - problem.norm(Y)) <= EPS
    assert abs(problem.energy(step.augmented) - problem.energy(Y)) <= EPS
