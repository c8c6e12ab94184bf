"""Linear equations with cross terms: the contract, exact flows, rotation and diffusion, where BUG stands still."""

import math

import numpy as np
import pytest
import scipy.sparse

import problems
from dlrt import solve
from integrators import BUG, AugmentedBUG, Exact, LowRank, ProjectorSplitting

from .contract import SHAPE, Contract, ExactFlows, gaussian, solved


class TestLinearTerms(ExactFlows, Contract):
    array = staticmethod(np.asarray)

    def build(self, rng, dtype):
        m, n = SHAPE
        A, B, C, D = (gaussian(rng, k, k, dtype=dtype) / 3 for k in (m, n, m, n))
        A, B, C, D = (self.array(X.astype(dtype)) for X in (A, B, C, D))
        P, Q = gaussian(rng, m, 3, dtype=dtype), gaussian(rng, n, 3, dtype=dtype)
        p = problems.LinearTerms(((A, B), (C, None), (None, D)), P, Q)
        return p, lambda t, W: A @ W @ B + C @ W + W @ D


class TestSparseTerms(TestLinearTerms):
    array = staticmethod(scipy.sparse.csr_array)


def test_the_reference_against_a_numerical_solution():
    for p in (problems.solid_body_rotation(12), problems.anisotropic_diffusion(12)):
        start = p.P @ p.Q.T
        found = p.reference(0.3)
        exact = solved(lambda t, W, p=p: (p.matrix @ W.ravel()).reshape(W.shape), 0.0, 0.3, start)
        assert np.linalg.norm(found.ravel() - exact) < 1e-10 * np.linalg.norm(start)


def test_references_at_any_times():
    """From the nearest time before, or from 0 backwards: the same to rounding."""
    p = problems.anisotropic_diffusion(8)
    for t in (0.3, 0.1, 0.5, -0.02, 0.3):
        assert np.abs(p.reference(t) - problems.anisotropic_diffusion(8).reference(t)).max() < 1e-13


def test_rotation_turns_and_keeps_the_norm():
    """Second order in the width: a quarter turn of the start swaps its axes."""
    errors = []
    for n in (32, 64):
        p = problems.solid_body_rotation(n)
        start, turned = p.reference(0.0), p.reference(math.pi / 2)
        assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(start), rel=1e-11)
        errors.append(np.linalg.norm(turned - start.T) / np.linalg.norm(start))
    assert errors[1] < 0.35 * errors[0]
    assert p.one_sided_lipschitz == 0 and p.lipschitz == pytest.approx(4 * 16 * (1 - 1 / 64), rel=0.1)


def test_rotation_of_an_even_start_has_no_tangent_part():
    """Every method that sees K, L and S alone stands still, however small its steps; further directions set it free."""
    p = problems.solid_body_rotation(32)
    Y = p.initial(1, np.random.default_rng(0))
    f = p.field(0.0, Y)
    size = np.linalg.norm(f.full())
    for part in (f.K, f.L, f.S):
        assert np.linalg.norm(part) < 1e-13 * size
    turned = np.linalg.norm(p.reference(p.t_end) - p.reference(0.0))
    for method in (BUG(substep=Exact()), ProjectorSplitting(substep=Exact()), AugmentedBUG(substep=Exact())):
        for steps in (5, 20):
            run = solve(method, p, step_size=p.t_end / steps, steps=steps, rank=1, every=steps)
            assert run.errors[-1] == pytest.approx(turned, rel=1e-6)
    run = solve(AugmentedBUG(substep=Exact()), p, step_size=p.t_end / 20, steps=20, rank=8, every=20)
    assert run.errors[-1] < 0.2 * turned


@pytest.mark.parametrize("ratio", [0.0, 0.1, 1.0])
def test_diffusion_decays_by_its_rates(ratio):
    p = problems.anisotropic_diffusion(16, ratio)
    h, k, l = 2 * math.pi / 16, 2, 3
    x = h * np.arange(16)
    wave = np.cos(k * x[:, None] + l * x)
    a, b = (1 + ratio) / 2, (1 - ratio) / 2
    rate = (a * (4 - 2 * math.cos(k * h) - 2 * math.cos(l * h)) + 2 * b * math.sin(k * h) * math.sin(l * h)) / h**2
    found = (p.matrix @ wave.ravel()).reshape(wave.shape)
    assert np.abs(found + rate * wave).max() < 1e-12 * rate
    assert p.one_sided_lipschitz == pytest.approx(0, abs=1e-11)
    assert np.sum(p.reference(0.5)) == pytest.approx(np.sum(p.reference(0.0)), rel=1e-12)  # mass


def test_bad_linear_terms():
    A, P, Q = np.eye(4), np.ones((4, 1)), np.ones((3, 1))
    with pytest.raises(ValueError, match=r"B of term 1 must have shape \(3, 3\), got \(4, 4\)"):
        problems.LinearTerms(((A, None), (None, A)), P, Q)
    with pytest.raises(ValueError, match="terms must hold at least one pair, got none"):
        problems.LinearTerms((), P, Q)
    with pytest.raises(ValueError, match="P and Q must have equally many columns"):
        problems.LinearTerms(((A, None),), P, np.ones((3, 2)))
    with pytest.raises(ValueError, match="A of term 0 must be finite"):
        problems.LinearTerms(((np.nan * A, None),), P, Q)
    with pytest.raises(ValueError, match="n must be at least 3, got 2"):
        problems.solid_body_rotation(2)
    with pytest.raises(ValueError, match="ratio must be finite and >= 0, got -1"):
        problems.anisotropic_diffusion(8, -1.0)
    assert problems.solid_body_rotation(8).field(0.0, LowRank.zeros((8, 8), 2, np.random.default_rng(0))).K.shape == (
        8,
        2,
    )
