"""The nonlinear Schroedinger equation: the contract, conserved quantities, the ground state, the start, bad input."""

import numpy as np
import pytest

import problems
from integrators import LowRank

from .contract import ComplexPoints, Contract, NoExactFlows, gaussian, point, solved, whole

M = np.eye(8, k=1) + np.eye(8, k=-1)


class TestNonlinearSchroedinger(ComplexPoints, Contract):
    dtypes = (np.complex64, np.complex128)

    def build(self, rng, dtype):
        P, Q = (0.3 * gaussian(rng, 8, 3, dtype=dtype) for _ in range(2))
        p = problems.NonlinearSchroedinger(P.astype(dtype), Q.astype(dtype))
        return p, lambda t, W: (1j * ((M @ W + W @ M) / 2 + 0.6 * np.abs(W) ** 2 * W)).astype(dtype)


class TestImaginaryTime(NoExactFlows, Contract):
    def build(self, rng, dtype):
        P, Q = (0.3 * gaussian(rng, 8, 3, dtype=dtype) for _ in range(2))
        p = problems.NonlinearSchroedinger(P.astype(dtype), Q.astype(dtype), imaginary_time=True)

        def formula(t, W):
            N = (M @ W + W @ M) / 2 + 0.6 * np.abs(W) ** 2 * W
            return (N - np.vdot(W, N).real / np.vdot(W, W).real * W).astype(dtype)

        return p, formula


def test_norm_and_energy_are_conserved():
    p = problems.nonlinear_schroedinger(30)
    W0, W1 = p.reference(0.0), p.reference(3.0)
    assert np.linalg.norm(W1) == pytest.approx(np.linalg.norm(W0), rel=1e-11)
    assert p.energy(whole(W1)) == pytest.approx(p.energy(whole(W0)), rel=1e-10)
    assert np.linalg.norm(W1 - W0) > 0.1 * np.linalg.norm(W0)  # it moves
    exact = solved(lambda t, W: 1j * (MW(W) / 2 + 0.6 * np.abs(W) ** 2 * W), 0.0, 3.0, W0)
    assert np.linalg.norm(W1.ravel() - exact) < 1e-10 * np.linalg.norm(W0)


def MW(W):
    big = np.eye(30, k=1) + np.eye(30, k=-1)
    return big @ W + W @ big


def test_the_energy_has_the_gradient_it_should():
    p = problems.nonlinear_schroedinger(8)
    rng = np.random.default_rng(0)
    W, D, h = gaussian(rng, 8, 8, dtype=complex), gaussian(rng, 8, 8, dtype=complex), 1e-5
    slope = (p.energy(whole(W + h * D)) - p.energy(whole(W - h * D))) / (2 * h)
    N = p.field(0.0, whole(W)).full() / 1j
    assert slope == pytest.approx(-2 * np.vdot(N, D).real, rel=1e-7)


def test_imaginary_time_goes_down_to_a_ground_state():
    p = problems.nonlinear_schroedinger(8, imaginary_time=True, precision=np.float64)
    W = [p.reference(t) for t in (0.0, 5.0, 200.0)]
    assert [np.linalg.norm(X) for X in W] == pytest.approx([np.linalg.norm(W[0])] * 3, rel=1e-9)
    energies = [p.energy(whole(X)) for X in W]
    assert energies[0] > energies[1] > energies[2]
    assert np.linalg.norm(p.rate(0.0, W[2])) < 1e-8 * np.linalg.norm(W[2])  # an eigenvector of its own operator
    assert np.array_equal(p.field(0.0, LowRank.zeros((8, 8), 2, np.random.default_rng(0))).K, np.zeros((8, 2)))


def test_the_usual_start():
    p = problems.nonlinear_schroedinger()
    assert p.shape == (200, 200) and p.t_end == 5 and p.dtype == np.complex128
    j, k = 57, 44  # counted from 1
    expected = np.exp(-((j - 60) ** 2 + (k - 50) ** 2) / 100) + np.exp(-((j - 50) ** 2 + (k - 40) ** 2) / 100)
    assert p.reference(0.0)[j - 1, k - 1] == pytest.approx(expected, rel=1e-13)


def test_bad_nonlinear_schroedinger():
    P = np.ones((4, 2))
    with pytest.raises(TypeError, match="P and Q must be complex, got float64: only imaginary time is real"):
        problems.NonlinearSchroedinger(P, P)
    with pytest.raises(ValueError, match=r"P and Q must have the same shape, got \(4, 2\) and \(3, 2\)"):
        problems.NonlinearSchroedinger(P, P[:3])
    with pytest.raises(ValueError, match="g must be finite, got nan"):
        problems.NonlinearSchroedinger(P + 0j, P, np.nan)
    with pytest.raises(ValueError, match="n must be at least 2, got 1"):
        problems.nonlinear_schroedinger(1)
    Y = point(np.random.default_rng(0), (4, 4), (2, 2))
    with pytest.raises(TypeError, match="a complex problem needs a complex point"):
        problems.NonlinearSchroedinger(P + 0j, P).field(0.0, Y)
