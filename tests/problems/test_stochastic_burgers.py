"""The stochastic Burgers equation: the contract, both forms of the square, Cole and Hopf, the start, bad input."""

import numpy as np
import pytest

import problems
from dlrt import solve
from integrators import RK4, AugmentedBUG

from .contract import Contract, NoExactFlows, gaussian, point


class TestStochasticBurgers(NoExactFlows, Contract):
    dtypes = (np.float32, np.float64)

    def build(self, rng, dtype):
        m, n = 9, 8
        P, Q = (gaussian(rng, k, 2, dtype=dtype) / 4 for k in (m, n))
        p = problems.StochasticBurgers(P.astype(dtype), Q.astype(dtype), 0.2)
        # the derivative of the trigonometric interpolant on an odd number of points, by its cardinal functions
        j = np.arange(m)[:, None] - np.arange(m)
        D = np.where(j == 0, 0, (-1.0) ** j / (2 * np.sin(np.pi * np.where(j == 0, 1, j) / m)))
        return p, lambda t, W: (0.2 * D @ D @ W - D @ W**2 / 2).astype(dtype)


@pytest.mark.parametrize(("n", "factored"), [(10, False), (30, True)])
def test_factors_are_used_where_they_are_smaller(n, factored):
    """r = 4: 10 columns of 2 n entries each beside n^2. Both ways give the field."""
    rng = np.random.default_rng(0)
    p = problems.stochastic_burgers(rng, n, n, 3)
    Y = point(rng, (n, n), (3, 4))
    f, F, X = p.field(0.0, Y), p.rate(0.0, Y.full()), gaussian(rng, n, 2)
    assert isinstance(f.nonlinear, tuple) == factored
    assert np.linalg.norm(f.K - F @ Y.V) < 1e-12 * np.linalg.norm(F) * np.linalg.norm(Y.V)
    assert np.linalg.norm(f.apply_H(X) - F.T @ X) < 1e-12 * np.linalg.norm(F) * np.linalg.norm(X)


def cole_hopf(u, nu, t):
    """``-2 nu phi_x / phi``, where phi solves the heat equation from ``exp(-int u dx / (2 nu))``, for u of mean 0."""
    m = len(u)
    k = np.fft.rfftfreq(m, 1 / m)[:, None]
    integral = np.fft.irfft(np.fft.rfft(u, axis=0) / np.where(k == 0, np.inf, 1j * k), m, axis=0)
    phi = np.fft.rfft(np.exp(-integral / (2 * nu)), axis=0) * np.exp(-nu * k**2 * t)
    return -2 * nu * np.fft.irfft(1j * k * phi, m, axis=0) / np.fft.irfft(phi, m, axis=0)


def test_the_solution_of_cole_and_hopf():
    """The error of the grid falls exponentially: by 100 at least where the number of points doubles."""
    errors = []
    for m in (64, 128):
        p = problems.stochastic_burgers(np.random.default_rng(0), m, 10)
        exact, W = cole_hopf(p.start_matrix(), p.nu, 1.0), p.reference(1.0)
        errors.append(np.abs(W - exact).max())
        assert np.abs(W.mean(axis=0)).max() < 1e-13
    assert errors[0] < 2e-3 and errors[1] < 0.01 * errors[0]


def test_the_usual_start():
    p = problems.stochastic_burgers(np.random.default_rng(3), 32, 2000, 2)
    W, x = p.start_matrix(), 2 * np.pi * np.arange(32) / 32
    assert np.linalg.matrix_rank(W) == 3
    # variance at each x: sum of 4^-(k+1) sin^2, whose mean over x is 1/2 of (1/16 + 1/64)
    assert np.abs(W.mean(axis=1) - np.sin(x)).max() < 5 * 0.28 / np.sqrt(2000)
    assert W.var(axis=1).mean() == pytest.approx(0.5 * (1 / 16 + 1 / 64), rel=0.15)


def test_augmented_bug_follows_it():
    p = problems.stochastic_burgers(np.random.default_rng(0), 48, 20, 2)
    run = solve(AugmentedBUG(substep=RK4()), p, t_span=(0, 1), rtol=1e-4, rank=3, every=1000)
    assert run.status == "finished" and run.errors[-1] < 1e-3 * np.linalg.norm(p.reference(1.0))


def test_bad_stochastic_burgers():
    P, rng = np.ones((4, 2)), np.random.default_rng(0)
    with pytest.raises(ValueError, match="P and Q must be real with equally many columns, got float64 of shapes"):
        problems.StochasticBurgers(P, P[:, :1])
    with pytest.raises(ValueError, match="P and Q must be real with equally many columns, got complex128"):
        problems.StochasticBurgers(P + 0j, P)
    with pytest.raises(ValueError, match="nu must be positive and finite, got 0"):
        problems.StochasticBurgers(P, P, 0.0)
    with pytest.raises(ValueError, match=r"modes must be less than m / 2 = 4, got 4"):
        problems.stochastic_burgers(rng, 8)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        problems.stochastic_burgers(rng, 8, 0, 1)
    with pytest.raises(TypeError, match="rng must be a numpy"):
        problems.stochastic_burgers(0)
    with pytest.raises(TypeError, match="a real problem needs a real point"):
        problems.StochasticBurgers(P, P).field(0.0, point(rng, (4, 4), (2, 2), np.complex128))
