"""Optimisers against dense arithmetic and known solutions."""

from dataclasses import dataclass

import numpy as np
import pytest

from dlrt.testing import one_step, rng
from integrators import (
    BUG,
    Adam,
    AugmentedBUG,
    FixedRank,
    GeoLoRA,
    Integrator,
    LowRank,
    Momentum,
    Optimizer,
    ParallelBUG,
    Projections,
    ProjectorSplitting,
)

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


def test_momentum_moves_the_matrix_along_projected_moments(problem, Y):
    """M <- P(Y)(beta M) + P(Y) F, W^ = W + h M, in dense arithmetic, over steps with truncation."""
    method = GeoLoRA(optimizer=Momentum(0.8), truncation=FixedRank(3))
    state, M = method.init(Y), np.zeros((9, 7))
    for _ in range(4):
        Yk = state.Y
        M = 0.8 * Yk.project(M).full() + Yk.project(problem.target - Yk.full()).full()
        step = method.step(problem.field, 0.0, state, 0.1)
        assert np.linalg.norm(step.augmented.full() - (Yk.full() + 0.1 * M)) <= EPS
        state = step.state


def test_adam_on_moving_bases_by_hand(problem, Y):
    """First step of GeoLoRA with Adam: rows of K and L, and S, over root mean squares, at least that of all rows."""
    f = problem.field(0.0, Y)

    def row(X):
        return X / (np.sqrt(np.maximum(np.mean(X**2, axis=1, keepdims=True), np.mean(X**2))) + 1e-8)

    dK, dL, dS = row(f.K), row(f.L), f.S / (np.sqrt(np.mean(f.S**2)) + 1e-8)
    PU, PV = np.eye(9) - Y.U @ Y.U.T, np.eye(7) - Y.V @ Y.V.T
    expected = Y.full() + 0.1 * (Y.U @ dS @ Y.V.T + PU @ dK @ Y.V.T + Y.U @ dL.T @ PV)
    step = one_step(GeoLoRA(optimizer=Adam()), problem, Y)
    assert np.linalg.norm(step.augmented.full() - expected) <= 10 * EPS


def test_adam_survives_a_constant_input():
    """A column of the field that is always zero stays harmless although transport puts something into its moment."""
    A = rng(1).standard_normal((9, 7))
    A[:, 2] = 0.0
    Y = LowRank.random((9, 7), 3, rng(2), singular_values=[0.0] * 3)

    def field(t, Z):
        F = A - Z.full()
        F[:, 2] = 0.0
        return Projections.of(F, Z)

    method = GeoLoRA(optimizer=Adam(), truncation=FixedRank(3))
    state = method.init(Y)
    for _ in range(50):
        before = state.Y
        state = method.step(field, 0.0, state, 0.01).state
        # blocks of root mean square at most ~ 1 / (1 - beta1) each: |dW| <= h (||dK|| + ||dL|| + ||dS||)
        assert np.linalg.norm(state.Y.full() - before.full()) <= 2 * 0.01 * 10 * np.sqrt(3 * (9 + 7 + 3))


def test_second_moments_have_one_entry_per_row():
    state = GeoLoRA(optimizer=Adam()).init(LowRank.random((9, 7), 3, rng()))
    assert state.memory["second.K"].shape == (9, 1)
    assert state.memory["second.L"].shape == (7, 1)
    assert state.memory["second.S"].shape == (1, 1)


@dataclass(frozen=True)
class Normalised(Optimizer):
    """The whole tangent vector divided by its norm: no first moment, and K, L and S together."""

    def direction(self, M, memory, Y):
        norm = np.sqrt(sum(sign * np.linalg.norm(M[part]) ** 2 for part, sign in zip(M, (1, 1, -1))))
        return {part: X / norm for part, X in M.items()}


def test_an_optimizer_sees_the_whole_tangent_vector(problem, Y):
    """Normalised Riemannian descent, W^ = W + h P F / ||P F||, without a first moment and without any memory."""
    method = GeoLoRA(optimizer=Normalised())
    state = method.init(Y)
    assert state.memory == {}
    for _ in range(3):
        PF = state.Y.project(problem.target - state.Y.full()).full()
        step = method.step(problem.field, 0.0, state, 0.1)
        expected = state.Y.full() + 0.1 * PF / np.linalg.norm(PF)
        assert np.linalg.norm(step.augmented.full() - expected) <= EPS
        state = step.state
        assert state.memory == {}


@pytest.mark.parametrize("method", [BUG, ProjectorSplitting, AugmentedBUG, ParallelBUG, GeoLoRA])
def test_an_optimizer_without_a_first_moment_works_on_every_manifold_method(method, problem, Y):
    """Twice the field at a step size of h is the field at a step size of 2 h, in later stages too."""

    class Double(Optimizer):
        def direction(self, M, memory, Y):
            return {part: 2.0 * X for part, X in M.items()}

    twice = one_step(method(optimizer=Double()), problem, Y, 0.05).state.Y.full()
    assert np.linalg.norm(twice - one_step(method(), problem, Y, 0.1).state.Y.full()) <= EPS


def test_a_first_request_for_one_part_gives_the_optimizer_all(problem, Y):
    """A method may read S alone at the start: the moments need K and L all the same."""

    @dataclass(frozen=True, kw_only=True)
    class Coefficients(Integrator):
        def stages(self, t, state, h):
            U, S, V = state.Y
            f = yield t, state.Y, "S"
            return LowRank(U, S + h * f.S, V)

    step = one_step(Coefficients(optimizer=Momentum(0.5)), problem, Y)
    np.testing.assert_allclose(step.state.memory["first.K"], (problem.target - Y.full()) @ Y.V, atol=EPS)
