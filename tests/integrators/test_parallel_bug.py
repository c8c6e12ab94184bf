"""Parallel BUG: the contract, the block matrix, step rejection."""

import numpy as np
import pytest

from dlrt.testing import Contract, one_step, rng
from integrators import RK4, Euler, FixedRank, LowRank, ParallelBUG, Repeated, Tolerance
from problems import MatrixRegression

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestParallelBUG(Contract):
    integrator = ParallelBUG()


class TestParallelBUGRK4(Contract):
    integrator = ParallelBUG(substep=RK4())
    order_steps = (64, 128, 256)  # coarser, an h^2 part of the error still shows


class TestParallelBUGRejection(Contract):
    integrator = ParallelBUG(truncation=Tolerance(relative=1e-3), rejection=10.0)
    order_truncation = Tolerance(relative=1e-6)


def test_parallel_bug_by_hand(problem, Y):
    """The block matrix with K- and L-steps of two Euler substeps."""
    h, F = 0.1, lambda W: problem.target - W
    K, L, S = Y.K, Y.L, Y.S
    for _ in range(2):
        K = K + h / 2 * F(K @ Y.V.T) @ Y.V
        L = L + h / 2 * F(Y.U @ L.T).T @ Y.U
        S = S + h / 2 * Y.U.T @ F(Y.U @ S @ Y.V.T) @ Y.V
    PU, PV = np.eye(9) - Y.U @ Y.U.T, np.eye(7) - Y.V @ Y.V.T
    expected = Y.U @ S @ Y.V.T + PU @ K @ Y.V.T + Y.U @ L.T @ PV
    step = one_step(ParallelBUG(substep=Repeated(Euler(), 2)), problem, Y)
    assert np.linalg.norm(step.augmented.full() - expected) <= EPS


def test_parallel_bug_rejects_and_enlarges():
    """Rank 1 start, target of rank 6: rejection repeats the step until the bases suffice."""
    A = LowRank.random((20, 15), 6, rng(4), singular_values=[5, 4, 3, 2, 1, 0.5]).full()
    problem = MatrixRegression(A)
    Y = LowRank.random((20, 15), 1, rng(5), singular_values=[1.0])
    rule = Tolerance(relative=1e-2)
    plain = one_step(ParallelBUG(truncation=rule), problem, Y, 0.5)
    step = one_step(ParallelBUG(truncation=rule, rejection=1.0), problem, Y, 0.5)
    assert plain.rejected == 0 and plain.state.Y.rank <= 2
    # from u v^T the bases grow like a Krylov space, u, F v, F F^T u, ..., by one direction at a time: ranks 1 to 7,
    # where they hold A and Y, and nothing is neglected
    assert step.rejected == 6 and step.evaluations == 7
    exact = Y.full() + 0.5 * (A - Y.full())
    assert np.linalg.norm(step.augmented.full() - exact) <= EPS
    capped = one_step(ParallelBUG(truncation=Tolerance(relative=1e-2, max_rank=4), rejection=1.0), problem, Y, 0.5)
    assert capped.state.Y.rank <= 4 and capped.rejected == 2  # ranks 1, 2, 3, 4


def test_rejection_needs_a_tolerance():
    with pytest.raises(ValueError, match="rejection needs a Tolerance"):
        ParallelBUG(truncation=FixedRank(3), rejection=1.0)
    with pytest.raises(ValueError, match="rejection must be positive and finite, got 0"):
        ParallelBUG(rejection=0)
