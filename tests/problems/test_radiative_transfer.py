"""Radiative transfer: the contract, P_N, conservation, spreading, the solution of Ganapol, cost, bad input."""

import math

import numpy as np
import pytest
import scipy.integrate

import problems
from dlrt import solve
from integrators import AugmentedBUG, Exact

from .contract import Contract, ExactFlows, point


class TestRadiativeTransfer(ExactFlows, Contract):
    dtypes = (np.float32, np.float64)

    def build(self, rng, dtype):
        m, n = 9, 7
        p = problems.plane_source(m, n, dtype)
        h, (mu, w) = 10 / m, np.polynomial.legendre.leggauss(n)
        D = (np.eye(m, k=1) - np.eye(m, k=-1)) / (2 * h)
        D2 = (np.eye(m, k=1) - 2 * np.eye(m) + np.eye(m, k=-1)) / (2 * h)
        s = np.sqrt(w / 2)
        return p, lambda t, W: (-D @ W * mu + D2 @ W * abs(mu) + np.outer(W @ s, s) - W).astype(dtype)


def test_it_is_pn_in_another_basis():
    """Moments by Legendre polynomials of norm 1: the matrix of mu by their recurrence, scattering of all but the first.

    The modulus of the matrix is that of its eigenvalues, which are the nodes (Golub and Welsch).
    """
    m, n = 12, 8
    p = problems.plane_source(m, n)
    k = np.arange(n)
    T = np.sqrt(p.weights)[:, None] * np.polynomial.legendre.legvander(p.nodes, n - 1) * np.sqrt(k + 0.5)
    assert np.abs(T.T @ T - np.eye(n)).max() < 1e-13
    beta = k[1:] / np.sqrt(4.0 * k[1:] ** 2 - 1)
    A = np.diag(beta, 1) + np.diag(beta, -1)
    values, Q = np.linalg.eigh(A)
    h = 10 / m
    D = (np.eye(m, k=1) - np.eye(m, k=-1)) / (2 * h)
    D2 = (np.eye(m, k=1) - 2 * np.eye(m) + np.eye(m, k=-1)) / (2 * h)
    Y = point(np.random.default_rng(0), (m, n))
    X = Y.full() @ T
    exact = -D @ X @ A + D2 @ X @ (Q * abs(values)) @ Q.T - X @ np.diag(k > 0)
    assert np.abs(p.field(0.0, Y).full() @ T - exact).max() < 1e-12 * np.abs(exact).max()


@pytest.mark.parametrize("t", [0.5, 1.5])
def test_mass_and_spreading(t):
    """``<x^2>' = 2 <x mu> + h <|mu|>``, ``<x mu>' = <mu^2> - <x mu>``, <mu^2> = 1/3: in closed form."""
    m, n = 200, 12
    p = problems.plane_source(m, n)
    h = 10 / m
    x = -5 + h * (np.arange(m) + 0.5)
    density = [h * p.reference(s) @ np.sqrt(p.weights) for s in (0.0, t)]
    assert density[1].sum() == pytest.approx(1, rel=1e-12)
    spread = 2 / 3 * (t - 1 + math.exp(-t)) + h * t * np.sum(p.weights * abs(p.nodes)) / 2
    assert density[1] @ x**2 - density[0] @ x**2 == pytest.approx(spread, rel=1e-11)
    Y = p.initial(3, np.random.default_rng(0))
    assert h * p.density(Y) == pytest.approx(density[0], abs=1e-14)


def ganapol(x, t):
    """``int f dmu`` after a pulse of mass 1 in a point: what has not been scattered, and what has."""
    eta = abs(x) / t
    if eta >= 1:
        return 0.0

    def scattered(u):
        xi = (math.log((1 + eta) / (1 - eta)) + 1j * u) / (eta + 1j * math.tan(u / 2))
        return (xi**2 * np.exp(t / 2 * (1 - eta**2) * xi)).real / math.cos(u / 2) ** 2

    return (
        math.exp(-t)
        / (2 * t)
        * (1 + t * (1 - eta**2) / (4 * math.pi) * scipy.integrate.quad(scattered, 0, math.pi, limit=200)[0])
    )


def test_the_solution_of_the_plane_source():
    """In the mean; the error falls with the width (of order 1 for upwind differences, less at the front)."""
    errors = []
    for m in (100, 400):
        p = problems.plane_source(m, 24)
        x = -5 + 10 / m * (np.arange(m) + 0.5)
        exact = np.array([ganapol(y, 3.0) for y in x])
        errors.append(10 / m * np.abs(p.reference(3.0) @ np.sqrt(p.weights) - exact).sum())
    assert errors[0] < 0.05 and errors[1] < 0.4 * errors[0]


def test_augmented_bug_follows_it():
    p = problems.plane_source(100, 16)
    runs = [solve(AugmentedBUG(substep=Exact()), p, step_size=3 / n, steps=n, rank=4, every=n) for n in (30, 120)]
    assert runs[1].errors[-1] < 1e-2 * np.linalg.norm(p.reference(3.0))
    assert runs[1].errors[-1] < 0.4 * runs[0].errors[-1]


def test_bad_plane_source():
    with pytest.raises(ValueError, match="m must be at least 3, got 2"):
        problems.plane_source(2)
    with pytest.raises(ValueError, match="n must be at least 2, got 1"):
        problems.plane_source(10, 1)
