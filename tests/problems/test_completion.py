"""Matrix completion: the contracts, mini-batches of entries, sparsity at a size where nothing dense fits, bad input."""

import tracemalloc

import numpy as np
import pytest

import problems

from .contract import (
    SHAPE,
    SMALL,
    AttainedGradientBound,
    ComplexPoints,
    Contract,
    LossContract,
    MiniBatches,
    NoExactFlows,
    gaussian,
    point,
    whole,
)

A = np.ones((3, 4))


def completion(rng, dtype=np.float64, batch_size=None):
    rows, cols = np.array([0, 5, 2, 3, 3, 1, 0]), np.array([1, 0, 4, 2, 3, 1, 0])
    return problems.MatrixCompletion(rows, cols, gaussian(rng, 7, dtype=dtype), SMALL, batch_size)


class TestCompletion(NoExactFlows, ComplexPoints, AttainedGradientBound, MiniBatches, LossContract, Contract):
    def build(self, rng, dtype):
        A = gaussian(rng, *SHAPE, dtype=dtype)
        p = problems.completion(rng, A, 0.5)
        mask = np.zeros(SHAPE)
        mask[p.rows, p.cols] = A.size / p.samples
        return p, lambda t, W: mask * (A - W)

    def loss(self, rng, dtype=np.float64, batch_size=None):
        return completion(rng, dtype, batch_size)

    def value(self, p, W):
        return 30 / (2 * 7) * np.sum((W[p.rows, p.cols] - p.values) ** 2)

    def steepest(self, p):
        D = np.zeros(SMALL)
        D[5, 0] = 1.0  # observed
        return D

    def labels(self, p):
        return p.values


def test_completion_variance_bound_is_attained():
    p = completion(np.random.default_rng(10), batch_size=2)
    A = -p.gradient(whole(np.zeros(SMALL))).full()
    W = whole(-1.5 * A / np.linalg.norm(A))
    assert p.variance(W) == pytest.approx(p.variance_bound(1.5), rel=1e-12)


def test_completion_observes_the_target():
    rng = np.random.default_rng(14)
    A = problems.synthetic((30, 20), [3, 2], rng)
    p = problems.completion(rng, A, 0.4, batch_size=24)
    assert p.samples == 240
    assert p.lipschitz == pytest.approx(2.5)
    assert np.array_equal(A[p.rows, p.cols], p.values)
    assert len(set(zip(p.rows.tolist(), p.cols.tolist(), strict=True))) == 240
    assert p.loss(whole(A)) == pytest.approx(0, abs=1e-25)
    assert p.minimum(2) == 0
    assert p.minibatch(rng).samples == 24


def test_large_completion_problem_stays_sparse():
    m = n = 20_000
    r, N = 5, 100_000
    rng = np.random.default_rng(0)
    positions = rng.choice(m * n, N, replace=False, shuffle=False)
    p = problems.MatrixCompletion(*np.divmod(positions, n), rng.standard_normal(N), (m, n), 1000)
    Y = point(rng, (m, n), (r, r), orthonormal=True)
    tracemalloc.start()
    f = p.field(0.0, Y)
    assert f.K.shape == f.L.shape == (m, r)
    assert p.loss(Y) > 0
    assert p.minibatch(rng).field(0.0, Y).K.shape == (m, r)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * (N * r + (m + n) * r) * 8


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"rows": [0, 1]}, TypeError, "rows must be a numpy array of integers, got list"),
        ({"cols": np.array([0.0, 1.0])}, TypeError, "cols must be a numpy array of integers, got an array of float64"),
        ({"rows": np.array([0])}, ValueError, r"rows and values must be vectors of the same length, at least 1, got"),
        ({"cols": np.array([0, 4])}, ValueError, "cols must lie between 0 and 3, got 0 to 4"),
        ({"rows": np.array([-1, 0])}, ValueError, "rows must lie between 0 and 2, got -1 to 0"),
        (
            {"values": np.array([1, 2])},
            TypeError,
            "values must be a numpy array of floating numbers, got an array of int",
        ),
        ({"values": np.array([1, np.inf])}, ValueError, "values must be finite"),
        (
            {"values": np.ma.masked_array([1.0, 2.0], [0, 1])},
            TypeError,
            "values must be .* with 1 masked entries: fill",
        ),
        ({"values": np.ones(2, np.float16)}, TypeError, "values must be in single or double precision, got float16"),
        ({"values": [1.0, 2.0]}, TypeError, "values must be a numpy array or torch tensor, got list: use numpy.array"),
        (
            {"rows": np.array([1, 1]), "cols": np.array([2, 2])},
            ValueError,
            "rows and cols must name distinct positions",
        ),
        ({"batch_size": 3}, ValueError, "batch_size 3 exceeds the number of samples 2"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"batch_size": 1.5}, TypeError, "batch_size must be an integer, got float 1.5"),
        ({"size": (3, 0)}, ValueError, "n must be at least 1, got 0"),
    ],
)
def test_bad_completion(changes, error, message):
    good = {"rows": np.array([0, 1]), "cols": np.array([0, 1]), "values": np.array([1.0, 2.0]), "size": (3, 4)}
    problems.MatrixCompletion(**good)
    with pytest.raises(error, match=message):
        problems.MatrixCompletion(**(good | changes))


def test_bad_completion_builder():
    rng = np.random.default_rng(0)
    for fraction in (0.0, 1.5, np.nan):
        with pytest.raises(ValueError, match=r"fraction must lie in \(0, 1\], got"):
            problems.completion(rng, A, fraction)
    with pytest.raises(TypeError, match="rng must be a numpy"):
        problems.completion(0, A, 0.5)
    with pytest.raises(ValueError, match="target must be a matrix"):
        problems.completion(rng, A[0], 0.5)
