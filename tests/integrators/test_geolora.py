"""GeoLoRA: the contract, and the Riemannian gradient step."""

import numpy as np

from dlrt.testing import Contract, one_step, rng
from integrators import Adam, GeoLoRA, GlobalBudget, LowRank, Momentum, ParallelBUG, Spectral, Tolerance

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestGeoLoRA(Contract):
    integrator = GeoLoRA()


class TestGeoLoRAPublished(Contract):
    integrator = GeoLoRA.published()


def test_published_and_spectral_are_settings():
    assert GeoLoRA.published(0.2) == GeoLoRA(truncation=Tolerance(relative=0.2, spare=0))
    assert GeoLoRA.published(optimizer=Adam()).optimizer == Adam()
    assert GeoLoRA.spectral(70) == GeoLoRA(optimizer=Spectral(), truncation=GlobalBudget(parameters=70, fisher=0.98))


class TestGeoLoRAMomentum(Contract):
    integrator = GeoLoRA(optimizer=Momentum(0.9))
    h = 0.02
    test_order = test_robust_to_small_singular_values = None


class TestGeoLoRAAdam(Contract):
    integrator = GeoLoRA(optimizer=Adam())
    test_order = test_robust_to_small_singular_values = None


def test_geolora_is_a_riemannian_gradient_step(problem, Y):
    """(I1): W^ = W - lam P(W) G, for singular S too, and for S of very small singular values."""
    for values in ([3.0, 1.0, 0.5], [3.0, 0.0, 0.0], [0.0] * 3, [1.0, 1e-9, 1e-14]):
        Y = LowRank.random((9, 7), 3, rng(2), singular_values=values)
        G = Y.full() - problem.target
        expected = Y.full() - 0.1 * Y.project(G).full()
        step = one_step(GeoLoRA(), problem, Y)
        assert np.linalg.norm(step.augmented.full() - expected) <= EPS


def test_geolora_equals_parallel_bug_with_euler(problem, Y):
    rule = Tolerance(relative=0.1)
    a, b = (one_step(m, problem, Y) for m in (GeoLoRA(truncation=rule), ParallelBUG(truncation=rule)))
    assert np.array_equal(a.state.Y.full(), b.state.Y.full())
