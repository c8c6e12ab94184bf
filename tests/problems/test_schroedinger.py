"""The discrete Schroedinger equation: the contract, conserved quantities, start, reference, bad input."""

import numpy as np
import pytest

import problems
from integrators import LowRank

from .contract import ComplexPoints, Contract, ExactFlows, gaussian, solved


class TestSchroedinger(ExactFlows, ComplexPoints, Contract):
    dtypes = (np.complex64, np.complex128)
    single = np.complex64

    def build(self, rng, dtype):
        p = problems.schroedinger(rng, 8, dtype)
        D = 2 * np.eye(8) - np.eye(8, k=1) - np.eye(8, k=-1)
        Vc = np.diag(1 - np.cos(2 * np.pi * np.arange(-4, 4) / 8))
        return p, lambda t, W: -1j * ((D @ W + W @ D) / 2 + Vc @ W @ Vc)


def test_schroedinger_start():
    p = problems.schroedinger(np.random.default_rng(0))
    assert p.shape == (100, 100)
    assert p.potential[50] == 0 and p.potential[0] == 2
    s = np.linalg.svd(p.reference(0.0), compute_uv=False)
    assert np.linalg.norm(s) == pytest.approx(1)
    assert s[1:8] / s[:7] == pytest.approx(0.1)
    Y = p.initial(8, np.random.default_rng(1))
    # what is cut off: the geometric tail 10^-9 / 10^-1 of a start of norm 1
    assert p.error(0.0, Y) == pytest.approx(1e-8, rel=1e-6)


def test_schroedinger_conserves_norm_and_energy():
    rng = np.random.default_rng(0)
    p = problems.schroedinger(rng, 30)
    D = 2 * np.eye(30) - np.eye(30, k=1) - np.eye(30, k=-1)

    def energy(W):
        v = p.potential[:, None]
        return np.vdot(W, (D @ W + W @ D) / 2 + v * W * v.T).real

    W0, W1 = p.reference(0.0), p.reference(1.0)
    assert np.linalg.norm(W1) == pytest.approx(np.linalg.norm(W0), rel=1e-13)
    assert energy(W1) == pytest.approx(energy(W0), rel=1e-12)
    Y = LowRank(gaussian(rng, 30, 4) + 0j, gaussian(rng, 4, 3) + 0j, gaussian(rng, 30, 3, dtype=complex))
    W = Y.full()
    assert p.norm(Y) == pytest.approx(np.linalg.norm(W), rel=1e-13)
    assert p.energy(Y) == pytest.approx(energy(W), rel=1e-12)
    F = p.field(0.0, Y).full()
    assert abs(np.vdot(W, F).real) < 1e-12 * np.linalg.norm(W) * np.linalg.norm(F)
    assert np.linalg.norm(F) <= p.lipschitz * np.linalg.norm(W)
    assert p.one_sided_lipschitz == 0


def test_schroedinger_reference_against_a_numerical_solution():
    p = problems.schroedinger(np.random.default_rng(0), 12)
    D = 2 * np.eye(12) - np.eye(12, k=1) - np.eye(12, k=-1)
    v = p.potential[:, None]
    found = solved(lambda t, W: -1j * ((D @ W + W @ D) / 2 + v * W * v.T), 0.0, 1.0, p.reference(0.0))
    assert np.linalg.norm(found - p.reference(1.0).ravel()) < 1e-10


def test_schroedinger_norm_sees_tiny_matrices():
    p = problems.schroedinger(np.random.default_rng(0), 12)
    Y = LowRank(np.ones((12, 2)) + 0j, np.array([[1, -1], [0, 1e-9]]) + 0j, np.ones((12, 2)) + 0j)
    assert p.norm(Y) == pytest.approx(12e-9, rel=1e-6)


def test_bad_schroedinger():
    P = np.ones((4, 2))
    with pytest.raises(ValueError, match=r"potential must be a finite real vector, got shape \(4, 2\)"):
        problems.Schroedinger(P, P, P)
    with pytest.raises(ValueError, match="P and Q must be matrices with n = 4 rows and equally many columns"):
        problems.Schroedinger(np.ones(4), P, P[:3])
    for bad in (np.ones(4, np.longdouble), np.ones(4, np.float16)):
        with pytest.raises(TypeError, match="potential must be in single or double precision, got float"):
            problems.Schroedinger(bad, np.ones((4, 1)), np.ones((4, 1)))
    with pytest.raises(TypeError, match=r"potential must be .* masked entries: fill them"):
        problems.Schroedinger(np.ma.masked_array(np.ones(4)), np.ones((4, 1)), np.ones((4, 1)))
    with pytest.raises(TypeError, match="P must have a real or complex floating dtype, got int64"):
        problems.Schroedinger(np.ones(4), np.ones((4, 1), int), np.ones((4, 1)))
    with pytest.raises(ValueError, match="Q must be finite"):
        problems.Schroedinger(np.ones(4), np.ones((4, 1)), np.full((4, 1), np.nan))
    with pytest.raises(TypeError, match="precision must be complex64 or complex128, got float64"):
        problems.Schroedinger(np.ones(4), P, P, np.float64)
    with pytest.raises(ValueError, match="n must be at least 2, got 1"):
        problems.schroedinger(np.random.default_rng(0), 1)
    with pytest.raises(TypeError, match="rng must be a numpy"):
        problems.schroedinger(1)
