"""The Klein-Gordon equation: the contract, closed form, energy, the leapfrog scheme, bad input."""

import numpy as np
import pytest

import problems
from dlrt import solve
from integrators import LowRank, ProjectorSplitting

from .contract import Contract, NoExactFlows, gaussian, point, whole


def difference(n):
    """The periodic second difference (n, n)."""
    return np.eye(n, k=1) + np.eye(n, k=-1) - 2 * np.eye(n) + np.eye(n, k=n - 1) + np.eye(n, k=1 - n)


class TestKleinGordon(NoExactFlows, Contract):
    dtypes = (np.float32, np.float64)

    def build(self, rng, dtype):
        m, n, eps, g = 5, 4, 0.02, 0.7
        p = problems.KleinGordon(*(0.3 * gaussian(rng, m, n, dtype=dtype) for _ in range(2)), eps, g)
        D, E = (difference(k) * eps / (2 * np.pi / k) ** 2 for k in (m, n))

        def formula(t, W):
            A, F = W[:m, :n], np.zeros_like(W)
            F[:m, :n], F[m:, n:] = W[m:, n:], D @ A + A @ E - A - g * A**3
            return F

        return p, formula


def test_without_the_cubic_term_waves_have_a_closed_form():
    """Of the frequency omega_jk of each pair of eigenvectors: cos(omega t) and sin(omega t) / omega."""
    p = problems.klein_gordon(12, eps=0.3, g=0.0)
    values, X = np.linalg.eigh(0.3 * difference(12) / (2 * np.pi / 12) ** 2)
    omega = np.sqrt(1 - values[:, None] - values)
    A, B = X.T @ p.position @ X, X.T @ p.velocity @ X
    exact = X @ (np.cos(omega * 3) * A + np.sin(omega * 3) / omega * B) @ X.T
    assert np.abs(p.reference(3.0)[:12, :12] - exact).max() < 1e-11


def test_the_reference_keeps_the_energy():
    p = problems.klein_gordon(16)
    before, after = (p.energy(whole(p.reference(t))) for t in (0.0, 5.0))
    assert after == pytest.approx(before, rel=1e-10)


def test_the_force_is_minus_the_gradient_of_the_energy():
    p = problems.klein_gordon(8)
    rng = np.random.default_rng(0)
    A, D, h = gaussian(rng, 8, 8), gaussian(rng, 8, 8), 1e-5
    of = [p.energy(whole(np.block([[A + s * h * D, np.zeros((8, 8))], [np.zeros((8, 16))]]))) for s in (1, -1)]
    force = p.field(0.0, whole(np.block([[A, np.zeros((8, 8))], [np.zeros((8, 16))]]))).full()[8:, 8:]
    assert (of[0] - of[1]) / (2 * h) == pytest.approx(-np.vdot(force, D), rel=1e-7)


def test_leapfrog_of_low_rank_follows_it_and_keeps_the_energy():
    """A quarter of the error with half of the step; the energy oscillates, and does not drift over 20 horizons."""
    p = problems.klein_gordon(24)
    method = ProjectorSplitting(order=2)
    errors = [solve(method, p, steps=n, step_size=4.0 / n, rank=24, every=n).errors[-1] for n in (20, 40, 80)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1) and errors[1] / errors[2] == pytest.approx(4, rel=0.1)
    state, energies = method.init(p.initial(24, np.random.default_rng(0))), []
    for step in range(1000):
        state = method.step(p.field, 0.1 * step, state, 0.1).state
        energies.append(p.energy(state.Y))
    start = p.energy(p.initial(24, np.random.default_rng(0)))
    assert np.abs(np.array(energies) / start - 1).max() < 0.02
    assert np.mean(energies[-100:]) == pytest.approx(np.mean(energies[:100]), rel=2e-3)


def test_bad_klein_gordon():
    with pytest.raises(
        ValueError, match=r"position and velocity must be .* got float64 of shapes \(4, 4\) and \(4, 3\)"
    ):
        problems.KleinGordon(np.ones((4, 4)), np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"position and velocity must be real .* got complex128"):
        problems.KleinGordon(np.ones((4, 4)) + 0j, np.ones((4, 4)))
    with pytest.raises(ValueError, match="eps must be positive and finite, got 0"):
        problems.KleinGordon(np.ones((4, 4)), np.ones((4, 4)), 0.0)
    with pytest.raises(ValueError, match="n must be at least 3, got 2"):
        problems.klein_gordon(2)
    p = problems.klein_gordon(4)
    Y = point(np.random.default_rng(0), p.shape, (2, 2), np.complex128)
    with pytest.raises(TypeError, match="a real problem needs a real point, got a point of dtype complex128"):
        p.field(0.0, LowRank(*Y))
