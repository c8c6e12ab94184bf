"""The Allen-Cahn equation: the contract, energy and bounds of the reference, the start, bad input."""

import numpy as np
import pytest

import problems
from dlrt import solve
from integrators import AugmentedBUG, LowRank

from .contract import Contract, NoExactFlows, gaussian, point, whole


class TestAllenCahn(NoExactFlows, Contract):
    dtypes = (np.float32, np.float64)

    def build(self, rng, dtype):
        n = 8
        p = problems.AllenCahn((0.3 * gaussian(rng, n, n)).astype(dtype), 0.02)
        A = (np.eye(n, k=1) + np.eye(n, k=-1) - 2 * np.eye(n) + np.eye(n, k=n - 1) + np.eye(n, k=1 - n)).astype(dtype)
        A *= dtype(0.02 / (2 * np.pi / n) ** 2)
        return p, lambda t, W: A @ W + W @ A + W - W**3


def test_the_reference_lowers_the_energy_and_stays_bounded():
    p = problems.allen_cahn(24)
    energies = []
    for t in (0.0, 2.0, 5.0, 10.0):
        W = p.reference(t)
        assert np.abs(W).max() <= 1
        energies.append(p.energy(whole(W)))
    assert np.all(np.diff(energies) < 0)
    assert np.abs(p.reference(40.0)).max() == pytest.approx(1, abs=0.01)  # by then the phases have formed


def test_the_field_is_minus_the_gradient_of_the_energy():
    p = problems.allen_cahn(10)
    rng = np.random.default_rng(0)
    W, D, h = gaussian(rng, 10, 10), gaussian(rng, 10, 10), 1e-5
    slope = (p.energy(whole(W + h * D)) - p.energy(whole(W - h * D))) / (2 * h)
    assert slope == pytest.approx(-np.vdot(p.field(0.0, whole(W)).full(), D), rel=1e-7)


def test_the_usual_start():
    p = problems.allen_cahn()
    assert p.shape == (128, 128) and p.diffusivity == pytest.approx(0.01 * (128 / (2 * np.pi)) ** 2)
    x, y = 2 * np.pi * 20 / 128, 2 * np.pi * 50 / 128
    expected = (np.exp(-(np.tan(x) ** 2)) + np.exp(-(np.tan(y) ** 2))) * np.sin(x) * np.sin(y)
    expected /= 1 + np.exp(abs(1 / np.sin(-x / 2))) + np.exp(abs(1 / np.sin(-y / 2)))
    assert p.start[20, 50] == pytest.approx(expected, rel=1e-13)
    assert np.all(p.start[0] == 0) and np.all(np.isfinite(p.start))


def test_augmented_bug_follows_it():
    p = problems.allen_cahn(32)
    run = solve(AugmentedBUG(), p, t_span=(0, 5), rtol=1e-4, rank=4, every=1000)
    assert run.status == "finished" and run.errors[-1] < 1e-3 * np.linalg.norm(p.reference(5.0))


def test_bad_allen_cahn():
    with pytest.raises(ValueError, match=r"start must be real and square, got float64 of shape \(4, 3\)"):
        problems.AllenCahn(np.ones((4, 3)))
    with pytest.raises(ValueError, match="start must be real and square, got complex128"):
        problems.AllenCahn(np.ones((4, 4)) + 0j)
    with pytest.raises(ValueError, match="eps must be positive and finite, got 0"):
        problems.AllenCahn(np.ones((4, 4)), 0.0)
    with pytest.raises(ValueError, match="n must be at least 3, got 2"):
        problems.allen_cahn(2)
    Y = point(np.random.default_rng(0), (4, 4), (2, 2), np.complex128)
    with pytest.raises(TypeError, match="a real problem needs a real point, got a point of dtype complex128"):
        problems.AllenCahn(np.ones((4, 4))).field(0.0, LowRank(*Y))
