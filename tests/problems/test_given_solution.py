"""The nonlinear equation with given solution: the contract, its constants, bad input."""

import math
from itertools import pairwise

import numpy as np
import pytest

import problems

from .contract import SHAPE, ComplexPoints, Contract, NoExactFlows, TorchPoints, derivative_in_time, point


class TestGivenSolution(NoExactFlows, TorchPoints, ComplexPoints, Contract):
    formula_error = 1e-10

    def build(self, rng, dtype):
        p = problems.given_solution(rng, SHAPE, rank=3, dtype=dtype)

        def N(W):
            sine = np.sin(2 * W.real) + 1j * np.sin(2 * W.imag) if np.iscomplexobj(W) else np.sin(2 * W)
            return p.M1 @ W + W @ p.M2 + sine

        return p, lambda t, W: derivative_in_time(p.reference, t) + N(W) - N(p.reference(t))


@pytest.mark.parametrize("smallest", [1e-1, 1e-14])
def test_rank_and_smallest_singular_value_are_as_asked(smallest):
    p = problems.given_solution(np.random.default_rng(0), (12, 10), rank=4, smallest=smallest)
    for t in (0.0, 0.7):
        s = np.linalg.svd(p.reference(t), compute_uv=False) * math.exp(-t)
        expected = np.sort(p.singular_values)[::-1]
        assert np.abs(s[:4] - expected).max() < 1e-14
        assert s[4] < 1e-14
    assert p.singular_values[-1] == smallest
    assert p.error(0.0, p.initial(4, np.random.default_rng(1))) < 1e-14


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_given_solution_is_lipschitz(dtype):
    rng = np.random.default_rng(0)
    p = problems.given_solution(rng, dtype=dtype)
    assert p.lipschitz == pytest.approx(3.0)
    for _ in range(20):
        X, Y = (point(rng, p.shape, (3, 3), dtype, orthonormal=True) for _ in range(2))
        change = p.field(0.2, X).full() - p.field(0.2, Y).full()
        distance = np.linalg.norm(X.full() - Y.full())
        assert np.linalg.norm(change) <= p.lipschitz * distance


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_lipschitz_constant_in_time(dtype):
    p = problems.given_solution(np.random.default_rng(2), dtype=dtype)
    Y = point(np.random.default_rng(3), p.shape, dtype=dtype)
    times = np.linspace(0.0, 1.0, 41)
    fields = [p.field(t, Y).full() for t in times]
    steepest = max(np.linalg.norm(b - a) for a, b in pairwise(fields)) * 40
    assert p.time_lipschitz(0.0, 1.0) / 10 < steepest <= p.time_lipschitz(0.0, 1.0)
    assert p.time_lipschitz(0.0, 0.1) < p.time_lipschitz(0.0, 1.0)


def test_bad_given_solution():
    rng = np.random.default_rng(0)
    p = problems.given_solution(rng, (8, 8), 2)
    with pytest.raises(ValueError, match=r"rank 5 exceeds min\(m, n\) / 2 = 4"):
        problems.given_solution(rng, (8, 9), 5)
    with pytest.raises(ValueError, match="singular_values must be positive and finite"):
        problems.given_solution(rng, (8, 8), 2, smallest=0.0)
    with pytest.raises(ValueError, match="P must have orthonormal columns"):
        problems.GivenSolution(2 * p.P, p.Q, p.singular_values, p.M1, p.M2)
    with pytest.raises(ValueError, match=r"Q must have 2 r = 4 columns for r = 2 singular values, got 3"):
        problems.GivenSolution(p.P, p.Q[:, :3], p.singular_values, p.M1, p.M2)
    with pytest.raises(ValueError, match=r"M2 must have shape \(8, 8\), got \(3, 8\)"):
        problems.GivenSolution(p.P, p.Q, p.singular_values, p.M1, p.M2[:3])
    with pytest.raises(TypeError, match="rng must be a numpy"):
        problems.given_solution(None)
