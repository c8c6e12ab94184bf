"""The Vlasov-Poisson equation: the contract, derivatives, conserved moments, Landau damping, instability, bad input."""

import math
from dataclasses import replace

import numpy as np
import pytest

import problems
from dlrt import solve
from integrators import RK4, AugmentedBUG
from problems.vlasov import derivative

from .contract import Contract, NoExactFlows, gaussian, point, whole


class TestVlasov(NoExactFlows, Contract):
    dtypes = (np.float32, np.float64)
    temperature: float | None = None

    def build(self, rng, dtype):
        m, n = 9, 8
        P, Q = (gaussian(rng, k, 2, dtype=dtype) / 4 for k in (m, n))
        p = problems.Vlasov(P.astype(dtype), Q.astype(dtype), 5.0, 2.0, temperature=self.temperature)
        Dx, Dv = derivative(np.eye(m), 5.0), derivative(np.eye(n), 4.0)
        integral = np.linalg.pinv(Dx)  # of mean 0
        v = np.arange(-2, 2, 0.5)
        s = np.ones(n) if self.temperature is None else np.exp(-(v**2) / (4 * self.temperature))

        def formula(t, W):
            f = W * s
            E = integral @ (1 - 0.5 * f.sum(axis=1))
            return ((-Dx @ f * v + E[:, None] * (f @ Dv.T)) / s).astype(dtype)

        return p, formula


class TestWeightedVlasov(TestVlasov):
    temperature = 0.5


@pytest.mark.parametrize("n", [16, 17])
def test_derivatives_of_waves_are_exact(n):
    x = 5.0 * np.arange(n) / n
    k = 2 * np.pi * 3 / 5.0
    assert np.abs(derivative(np.sin(k * x)[:, None], 5.0)[:, 0] - k * np.cos(k * x)).max() < 1e-12 * k


def test_the_electric_field_of_a_wave():
    p = problems.landau(16, 32)
    x = 4 * np.pi * np.arange(16) / 16
    E = p.electric(1 + 0.01 * np.cos(x / 2))
    assert np.abs(E + 0.02 * np.sin(x / 2)).max() < 1e-15
    moments = p.moments(p.initial(1, np.random.default_rng(0)))
    assert moments.mass == pytest.approx(4 * np.pi, rel=1e-8) and moments.momentum == pytest.approx(0, abs=1e-6)
    assert moments.kinetic == pytest.approx(2 * np.pi, rel=1e-6)
    assert moments.electric == pytest.approx(0.5 * 0.02**2 * 2 * np.pi, rel=1e-6)


def test_landau_damping():
    """Peaks of the electric field fall like e^{-0.153 t}; mass and total energy are kept."""
    p = problems.landau(16, 64)
    times = np.linspace(0, 15, 151)
    moments = [p.moments(whole(p.reference(t))) for t in times]
    logs = 0.5 * np.log([m.electric for m in moments])
    peaks = [i for i in range(1, 150) if logs[i - 1] < logs[i] > logs[i + 1]]
    assert np.polyfit(times[peaks], logs[peaks], 1)[0] == pytest.approx(-0.153, rel=0.03)
    assert moments[-1].mass == pytest.approx(moments[0].mass, rel=1e-12)
    total = [m.kinetic + m.electric for m in moments]
    assert np.ptp(total) < 0.01 * moments[0].electric


def test_a_low_rank_run_follows_it():
    p = problems.landau(16, 32)
    run = solve(AugmentedBUG(substep=RK4()), p, t_span=(0, 5), rtol=1e-5, rank=2, every=10**6)
    assert run.status == "finished" and run.errors[-1] < 1e-4 * np.linalg.norm(p.reference(5.0))


def test_a_temperature_changes_the_unknown_alone():
    p = problems.landau(8, 32)
    q = replace(p, temperature=1.5)
    assert np.abs(q.reference(1.0) * q.scale - p.reference(1.0)).max() < 1e-11
    rng = np.random.default_rng(0)
    assert q.moments(q.initial(1, rng)) == pytest.approx(p.moments(p.initial(1, rng)), rel=1e-13, abs=1e-13)
    Y = point(rng, p.shape)
    dx, dv = p.length / 8, 2 * p.bound / 32
    expected = dx * dv * (q.velocities**2 / 2 * q.scale) @ Y.full().sum(axis=0)
    assert q.moments(Y).kinetic == pytest.approx(expected, rel=1e-12)
    assert dx * dv * (Y.full() @ q.moment_functions[:, 2]).sum() == pytest.approx(expected, rel=1e-12)


def test_two_streams_are_unstable():
    p = problems.two_stream(16, 64)
    early, late = (p.moments(whole(p.reference(t))).electric for t in (0.0, 20.0))
    assert late > 10 * early and p.t_end == 60 and p.length == pytest.approx(10 * math.pi)


def test_bad_vlasov():
    P = np.ones((4, 2))
    with pytest.raises(ValueError, match="P and Q must be real with equally many columns, got float64 of shapes"):
        problems.Vlasov(P, P[:, :1])
    with pytest.raises(ValueError, match="P and Q must be real with equally many columns, got complex128"):
        problems.Vlasov(P + 0j, P)
    with pytest.raises(ValueError, match="bound must be positive and finite, got 0"):
        problems.Vlasov(P, P, 1.0, 0.0)
    with pytest.raises(ValueError, match="temperature must be positive and finite, got 0"):
        problems.Vlasov(P, P, temperature=0.0)
    for build in (problems.landau, problems.two_stream):
        with pytest.raises(ValueError, match="m must be at least 4, got 3"):
            build(3)
        with pytest.raises(ValueError, match="alpha must be positive and finite, got 0"):
            build(alpha=0.0)
    Y = point(np.random.default_rng(0), (4, 4), (2, 2), np.complex128)
    with pytest.raises(TypeError, match="a real problem needs a real point"):
        problems.Vlasov(P, P).field(0.0, Y)
