"""LoRA-Muon: the contract, its equations, and its direction on the manifold."""

import numpy as np

from dlrt.testing import Contract, one_step
from integrators import FixedRank, GeoLoRA, LoRAMuon, LowRank, Momentum, Muon

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


def msign(X):
    P, _, QT = np.linalg.svd(X, full_matrices=False)
    return P @ QT


class TestLoRAMuon(Contract):
    integrator = LoRAMuon()
    h = 0.005  # steps of spectral norm h sqrt(n), however small the gradient


class TestLoRAMuonMomentum(Contract):
    integrator = LoRAMuon(optimizer=Momentum(0.9))
    h = 0.002  # the term of second order: h^2 c^2 / 4 over the smallest singular values


def test_lora_muon(problem, Y):
    """The paper's step on B and A: whitened by inverse roots of the Gram matrices, momentum and all."""

    def root(gram):
        d, Q = np.linalg.eigh(gram)
        return Q / np.sqrt(d) @ Q.T

    method = LoRAMuon(optimizer=Momentum(0.8))
    state = method.init(Y)
    B, A = Y.K, Y.V.T
    MB, MA = np.zeros_like(B), np.zeros_like(A)
    for _ in range(4):
        G = B @ A - problem.target
        MB, MA = 0.8 * MB + G @ A.T, 0.8 * MA + B.T @ G
        RA, RB, rate = root(A @ A.T), root(B.T @ B), 0.01 * np.sqrt((9 + 7) / 2) / 2
        B, A = B - rate * msign(MB @ RA) @ RA, A - rate * RB @ msign(RB @ MA)
        state = method.step(problem.field, 0.0, state, 0.01).state
        assert np.linalg.norm(state.Y.full() - B @ A) <= 1e3 * EPS  # the smallest singular value of B is 0.1


def test_the_direction_of_the_product(problem, Y):
    """-(h c / 2) (msign(G V) V^T + U msign(G^T U)^T) to first order in h, for B and A of any splitting.

    GeoLoRA with Muon moves by exactly that.
    """
    G = Y.full() - problem.target
    c = np.sqrt((9 + 7) / 2)
    D = -c / 2 * (msign(G @ Y.V) @ Y.V.T + Y.U @ msign(G.T @ Y.U).T)
    assert np.linalg.norm(D, 2) <= c * (1 + EPS)
    T = np.random.default_rng(5).standard_normal((3, 3))
    factors = LowRank(Y.K @ T, np.eye(3), Y.V @ np.linalg.inv(T).T)
    method = LoRAMuon()
    for start in (Y, factors):
        moved = one_step(method, problem, start, h=1e-6).state.Y.full() - Y.full()
        # second order: (h c / 2)^2 ||R_A R_B||, with sigma_3(W) = 0.1
        assert np.linalg.norm(moved - 1e-6 * D) <= 3 * (1e-6 * c / 2) ** 2 / 0.1 + EPS
    step = one_step(GeoLoRA(optimizer=Muon(), truncation=FixedRank(3)), problem, Y)
    assert np.linalg.norm(step.augmented.full() - (Y.full() + 0.1 * D)) <= 10 * EPS


def test_from_zero_b_moves_first(problem, Y):
    """B = 0: its direction is msign(F A^H) of full rank; A is at rest, for one step."""
    start = LowRank(Y.U, 0 * Y.S, Y.V)
    first = one_step(LoRAMuon(), problem, start).state
    assert np.array_equal(first.Y.V, Y.V)
    np.testing.assert_allclose(first.Y.U, 0.1 * np.sqrt(8) / 2 * msign(problem.target @ Y.V), atol=EPS)
    assert not np.allclose(LoRAMuon().step(problem.field, 0.0, first, 0.1).state.Y.V, Y.V)
