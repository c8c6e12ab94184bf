"""Rand-RK4: the contract, the Nystroem approximation, the method for the full matrix where the sketches suffice."""

import numpy as np

from dlrt.testing import Contract, one_step, rng
from integrators import RK4, FixedRank, FullRank, LowRank, RandRK4
from integrators.rand_rk4 import nystroem
from problems import from_function

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestRandRK4(Contract):
    integrator = RandRK4(oversampling=7)  # room for what the stages have beyond the rank of the solution
    scatter = 1.5  # other singular values, other numbers in what the sketches leave out
    test_orthonormal_after_3000_steps = None  # what QR and truncation leave, as for others; long


def test_nystroem_is_exact_where_the_rank_suffices():
    Z = LowRank.random((20, 16), 4, rng(1)).full()
    Omega, Psi = LowRank.random((16, 20), 6, rng(2)).U, LowRank.random((20, 16), 8, rng(3)).U
    assert np.linalg.norm(nystroem(Z @ Omega, Z.T @ Psi, Psi).full() - Z) <= EPS


def test_nystroem_is_an_oblique_projection():
    """``Z Omega (Psi^T Z Omega)^+ Psi^T Z`` for a matrix of full rank."""
    Z = rng(1).standard_normal((20, 16))
    Omega, Psi = LowRank.random((16, 20), 6, rng(2)).U, LowRank.random((20, 16), 8, rng(3)).U
    expected = Z @ Omega @ np.linalg.pinv(Psi.T @ Z @ Omega) @ Psi.T @ Z
    assert np.linalg.norm(nystroem(Z @ Omega, Z.T @ Psi, Psi).full() - expected) <= 1e2 * EPS


def test_wide_sketches_give_the_method_for_the_full_matrix():
    """n columns lose nothing: a step is the classical Runge-Kutta step, then truncated."""
    A = rng(1).standard_normal((9, 7))
    problem = from_function((9, 7), lambda t, Y: np.cos(t) * A - Y.full() ** 3)
    Y = LowRank.random((9, 7), 3, rng(2))
    step = one_step(RandRK4(oversampling=4, truncation=FixedRank(3)), problem, Y)
    full = one_step(FullRank(substep=RK4()), problem, Y).state.Y.full()
    assert np.linalg.norm(step.augmented.full() - full) <= 10 * EPS
    assert step.evaluations == 5 and step.state.Y.rank == 3
