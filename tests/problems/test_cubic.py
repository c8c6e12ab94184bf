"""The cubic term in factors: the entries, the number of columns, the choice between factors and the dense matrix."""

import numpy as np
import pytest

import problems
from problems.cubic import columns, cube

from .contract import gaussian, point


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
@pytest.mark.parametrize("ranks", [(1, 1), (2, 3), (5, 4)])
def test_the_factors_have_the_entries_of_the_cube(ranks, dtype):
    Y = point(np.random.default_rng(0), (12, 10), ranks, dtype)
    P, Q = cube(Y)
    W = Y.full()
    assert P.dtype == Q.dtype == dtype and P.shape[1] == Q.shape[1] == columns(Y)
    size = np.linalg.norm(Y.K, axis=1).max() ** 3 * np.linalg.norm(Y.V, axis=1).max() ** 3
    assert np.abs(P @ Q.conj().T - np.abs(W) ** 2 * W).max() < 20 * np.finfo(dtype).eps * size


def test_the_number_of_columns():
    """Multisets of 3 of r: r = 4 has 20; of complex ones the conjugate is apart: 4 * 10."""
    rng = np.random.default_rng(0)
    assert columns(point(rng, (9, 9), (4, 4))) == 20
    assert columns(point(rng, (9, 9), (4, 4), np.complex128)) == 40


@pytest.mark.parametrize(("n", "factored"), [(30, False), (60, True)])
def test_factors_are_used_where_they_are_smaller(n, factored):
    """r = 4: 20 columns of 2 n entries each beside n^2. Both ways give the field."""
    problem = problems.allen_cahn(n)
    rng = np.random.default_rng(1)
    Y = point(rng, (n, n), (3, 4))
    f, W = problem.field(0.0, Y), Y.full()
    assert isinstance(f.nonlinear, tuple) == factored
    F, X = problem.rate(0.0, W), gaussian(rng, n, 2)
    assert np.linalg.norm(f.K - F @ Y.V) < 1e-12 * np.linalg.norm(F) * np.linalg.norm(Y.V)
    assert np.linalg.norm(f.apply_H(X) - F.T @ X) < 1e-12 * np.linalg.norm(F) * np.linalg.norm(X)
