"""The Fokker-Planck equation: the contract, conserved moments, the operator, the equilibrium, bad input."""

import numpy as np
import pytest

import problems
from dlrt import solve
from integrators import AugmentedBUG, Exact

from .contract import Contract, ExactFlows, whole


class TestFokkerPlanck(ExactFlows, Contract):
    any_bases = False
    dtypes = (np.float32, np.float64)

    def build(self, rng, dtype):
        p = problems.fokker_planck(9, 6.0, dtype)
        return p, lambda t, W: p.A @ W + W @ p.B


def test_moments_are_kept():
    p = problems.fokker_planck(80)
    start = p.moments(p.initial(2, np.random.default_rng(0)))
    assert start.mass == pytest.approx(1.5, rel=1e-10)
    assert start.momentum == pytest.approx((-1.5 + 1.0, 0.5), rel=1e-10)
    # half of mass (|u|^2 + T1 + T2) of each stream
    assert start.energy == pytest.approx(0.5 * (2.25 + 1.5) + 0.25 * (5 + 0.75), rel=1e-10)
    for t in (0.3, 1.0, 5.0):
        after = p.moments(whole(p.reference(t)))
        assert after.mass == pytest.approx(start.mass, rel=1e-12)
        assert after.momentum == pytest.approx(start.momentum, abs=1e-6)
        assert after.energy == pytest.approx(start.energy, rel=1e-6)


def test_the_operator_is_of_second_order():
    """Against ((v - u) f + T f')' of a Gaussian f, by its derivatives."""
    errors = []
    for n in (101, 201):
        p = problems.fokker_planck(n)
        v, m = p.velocities, p.moments(p.initial(2, np.random.default_rng(0)))
        u = m.momentum[0] / m.mass
        T = m.energy / m.mass - sum(x**2 for x in m.momentum) / (2 * m.mass**2)
        f = np.exp(-(v**2) / 2)
        exact = f - (v - u) * v * f + T * (v**2 - 1) * f
        errors.append(np.abs(p.A @ f - exact).max())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.1)


def test_it_ends_at_a_maxwellian():
    """Of the mean velocity and temperature of the start, to second order in the width."""
    p = problems.fokker_planck(120)
    v, m = p.velocities, p.moments(p.initial(2, np.random.default_rng(0)))
    W = p.reference(30.0)
    u = np.array(m.momentum) / m.mass
    T = m.energy / m.mass - u @ u / 2
    exact = m.mass / (2 * np.pi * T) * np.exp(-((v[:, None] - u[0]) ** 2 + (v - u[1]) ** 2) / (2 * T))
    assert np.abs(W - exact).max() < 5e-3 * exact.max()
    assert np.linalg.svd(W, compute_uv=False)[1] < 1e-9 * np.linalg.norm(W)  # of rank 1


def test_augmented_bug_relaxes():
    """The solution stays of rank 2; the error is that of the method in time, of order 1."""
    p = problems.fokker_planck(40)
    runs = [solve(AugmentedBUG(substep=Exact()), p, step_size=1 / n, steps=n, rank=2, every=n) for n in (10, 40)]
    assert runs[1].errors[-1] < 1e-3 * np.linalg.norm(p.reference(1.0))
    assert runs[1].errors[-1] < 0.4 * runs[0].errors[-1]


def test_bad_fokker_planck():
    with pytest.raises(ValueError, match="n must be at least 3, got 2"):
        problems.fokker_planck(2)
    with pytest.raises(ValueError, match="bound must be finite and >= 1, got 0"):
        problems.fokker_planck(10, 0.0)
