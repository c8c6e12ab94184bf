"""Optimisers against dense arithmetic and known solutions."""

from dataclasses import dataclass

import numpy as np
import pytest

from dlrt.testing import Contract, one_step, rng
from integrators import (
    BUG,
    AugmentedBUG,
    FixedRank,
    GeoLoRA,
    Integrator,
    LowRank,
    Momentum,
    Normalised,
    Optimizer,
    ParallelBUG,
    Projections,
    ProjectorSplitting,
    Spectral,
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


def test_nesterov_is_one_step_ahead():
    """Of a constant field F = 1, beta = 1/2: M = 1, 3/2 and 7/4, and the direction beta M + F."""
    optimizer = Momentum(0.5, nesterov=True)
    memory, F, found = optimizer.init({"W": np.ones(1)}), {"W": np.ones(1)}, []
    for _ in range(3):
        D, memory = optimizer.update(memory, F)
        found.append(float(D["W"][0]))
    assert found == [1.5, 1.75, 1.875]


class TestNormalised(Contract):
    integrator = GeoLoRA(optimizer=Normalised(), truncation=FixedRank(4))
    h = 0.01
    # follows another flow than the field's
    test_order = test_robust_to_small_singular_values = None


class TestNormalisedAugmentedBUG(Contract):
    integrator = AugmentedBUG(optimizer=Normalised(), truncation=FixedRank(4))
    h = 0.01
    test_order = test_robust_to_small_singular_values = None


def test_normalised_is_spectral_for_a_field_of_rank_one():
    u, v = rng(1).standard_normal(9), rng(2).standard_normal(7)
    Y = LowRank(np.linalg.qr(np.stack([u, *np.eye(9)[:2]], axis=1))[0], np.zeros((3, 3)), np.eye(7, 3))
    ends = []
    for optimizer in (Normalised(), Spectral()):
        method = GeoLoRA(optimizer=optimizer, truncation=FixedRank(3))
        state = method.init(Y)
        for _ in range(3):
            state = method.step(lambda t, Z: Projections.of(np.outer(u, v), Z), 0.0, state, 0.1).state
        ends.append(state.Y.full())
    assert np.linalg.norm(ends[0] - ends[1]) <= EPS
    assert abs(np.linalg.norm(ends[0]) - 0.3 * np.sqrt(8)) <= EPS


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_normalised_takes_fields_of_any_size(scale):
    """In single precision, whose squares would under- or overflow."""
    Y = LowRank.random((9, 7), 3, rng(2), np.zeros((), np.float32))
    f = Projections.of((scale * rng(3).standard_normal((9, 7))).astype(np.float32), Y)
    D = Normalised().direction({"K": f.K, "L": f.L, "S": f.S}, {}, Y)
    size = sum(sign * np.sum(D[part].astype(float) ** 2) for part, sign in zip("KLS", (1, 1, -1), strict=True))
    assert size == pytest.approx(8.0 * (scale > 0), rel=1e-5)


def test_normalised_is_refused_for_parts(problem, Y):
    with pytest.raises(ValueError, match="Normalised has no direction of L at a later stage"):
        one_step(ProjectorSplitting(optimizer=Normalised()), problem, Y)


def test_an_optimizer_sees_the_whole_tangent_vector(problem, Y):
    """Normalised Riemannian descent, W^ = W + h c P F / ||P F||, without a first moment and without any memory."""
    method = GeoLoRA(optimizer=Normalised(0.0))
    state = method.init(Y)
    assert state.memory == {}
    for _ in range(3):
        PF = state.Y.project(problem.target - state.Y.full()).full()
        step = method.step(problem.field, 0.0, state, 0.1)
        expected = state.Y.full() + 0.1 * np.sqrt(8) * PF / np.linalg.norm(PF)
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
