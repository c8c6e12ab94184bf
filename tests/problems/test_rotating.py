"""The rotating matrix: the contract, its parts against matrix exponentials, bad input."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg

import problems

from .contract import SHAPE, ComplexPoints, Contract, ExactFlows, TorchPoints, point


class TestRotating(ExactFlows, TorchPoints, ComplexPoints, Contract):
    def build(self, rng, dtype):
        p = problems.rotating(rng, SHAPE, rank=4, dtype=dtype)

        def derivative(t, W):
            D = np.zeros(SHAPE)
            np.fill_diagonal(D, list(p.singular_values) + [0] * 3)
            A = scipy.linalg.expm(t * p.W1) @ (np.exp(t) * D) @ scipy.linalg.expm(t * p.W2)
            return p.W1 @ A + A + A @ p.W2

        return p, derivative


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("shape", [(12, 12), (9, 14)])
def test_rotating_matrix(shape, dtype):
    p = problems.rotating(np.random.default_rng(0), shape, dtype=dtype)
    for W in (p.W1, p.W2):
        assert np.array_equal(W, -W.conj().T)
        assert np.linalg.norm(W, 2) == pytest.approx(1)
    D = np.zeros(shape)
    np.fill_diagonal(D, 2.0 ** -np.arange(1, min(shape) + 1))
    for t in (0.0, 0.4, 1.0):
        exact = scipy.linalg.expm(t * p.W1) @ (math.exp(t) * D) @ scipy.linalg.expm(t * p.W2)
        assert np.abs(p.reference(t) - exact).max() < 1e-14
        F = p.field(t, point(np.random.default_rng(1), shape, dtype=dtype)).full()
        bound = math.exp(t) * 3 * np.linalg.norm(p.singular_values)
        assert np.linalg.norm(F) <= bound
    assert p.lipschitz == 0


@pytest.mark.parametrize("smallest", [1e-1, 1e-14])
def test_rank_and_smallest_singular_value_are_as_asked(smallest):
    p = problems.rotating(np.random.default_rng(0), (12, 10), rank=4, smallest=smallest)
    for t in (0.0, 0.7):
        s = np.linalg.svd(p.reference(t), compute_uv=False) * math.exp(-t)
        expected = np.sort(p.singular_values)[::-1]
        assert np.abs(s[:4] - expected).max() < 1e-14
        assert s[4] < 1e-14
    assert p.singular_values[-1] == smallest
    assert p.error(0.0, p.initial(4, np.random.default_rng(1))) < 1e-14


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_lipschitz_constant_in_time(dtype):
    """It bounds the second derivative of A, and is at most a few times as large."""
    p = problems.rotating(np.random.default_rng(2), (9, 7), dtype=dtype)
    Y = point(np.random.default_rng(3), dtype=dtype)
    times = np.linspace(0.0, 1.0, 41)
    fields = [p.field(t, Y).full() for t in times]
    steepest = max(np.linalg.norm(b - a) for a, b in pairwise(fields)) * 40
    assert p.time_lipschitz(0.0, 1.0) / 5 < steepest <= p.time_lipschitz(0.0, 1.0)
    assert p.time_lipschitz(0.0, 0.1) < p.time_lipschitz(0.0, 1.0)


def test_bad_rotating():
    rng = np.random.default_rng(0)
    W = problems.rotating(rng, (4, 4)).W1
    d = np.ones(2)
    with pytest.raises(ValueError, match=r"W1 must be square, got shape \(3, 4\)"):
        problems.Rotating(W[:3], W, d)
    with pytest.raises(ValueError, match="W2 must be skew-Hermitian"):
        problems.Rotating(W, W + np.eye(4), d)
    with pytest.raises(ValueError, match=r"singular_values must be 1 to min\(m, n\) = 4 numbers, got shape \(5,\)"):
        problems.Rotating(W, W, np.ones(5))
    with pytest.raises(ValueError, match="singular_values must be positive and finite"):
        problems.rotating(rng, (4, 4), smallest=-1.0)
    with pytest.raises(ValueError, match=r"singular_values must be 1 to min\(m, n\) = 4 numbers"):
        problems.rotating(rng, (4, 4), rank=5)
    with pytest.raises(ValueError, match="n must be at least 2, got 1"):
        problems.rotating(rng, (4, 1))
    with pytest.raises(TypeError, match="rng must be a numpy"):
        problems.rotating(0)
