"""Losses: gradients against differences, constants against their definition, mini-batches by exact enumeration."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import problems

SHAPE = (6, 5)


def gaussian(rng, *shape, dtype=np.float64):
    X = rng.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        X = X + 1j * rng.standard_normal(shape)
    return X.astype(dtype)


def whole(W):
    I = np.eye(W.shape[1], dtype=W.dtype)
    return SimpleNamespace(U=W, S=I, V=I)


def regression(rng, dtype=np.float64):
    return problems.MatrixRegression(gaussian(rng, *SHAPE, dtype=dtype))


def completion(rng, dtype=np.float64, batch_size=None):
    rows, cols = np.array([0, 5, 2, 3, 3, 1, 0]), np.array([1, 0, 4, 2, 3, 1, 0])
    return problems.MatrixCompletion(rows, cols, gaussian(rng, 7, dtype=dtype), SHAPE, batch_size)


def least_squares(rng, dtype=np.float64, batch_size=None):
    m, n = SHAPE
    return problems.LinearLeastSquares(gaussian(rng, 7, n, dtype=dtype), gaussian(rng, 7, m, dtype=dtype), batch_size)


LOSSES = [regression, completion, least_squares]
BATCHED = [completion, least_squares]


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("family", LOSSES)
def test_gradient_is_the_derivative_of_the_loss(family, dtype):
    rng = np.random.default_rng(0)
    p = family(rng, dtype)
    W, D = gaussian(rng, *SHAPE, dtype=dtype), gaussian(rng, *SHAPE, dtype=dtype)
    G = p.gradient(whole(W)).full()
    plus, minus = p.loss(whole(W + D)), p.loss(whole(W - D))
    # for a quadratic function the central difference is exact at any step
    assert (plus - minus) / 2 == pytest.approx(np.vdot(G, D).real, abs=1e-13 * (plus + minus))
    assert np.array_equal(p.field(0.0, whole(W)).full(), -G)


@pytest.mark.parametrize("family", LOSSES)
def test_losses_by_their_definition(family):
    rng = np.random.default_rng(1)
    p = family(rng)
    W = gaussian(rng, *SHAPE)
    if family is regression:
        exact = 0.5 * np.sum((W - p.target) ** 2)
    elif family is completion:
        exact = 30 / (2 * 7) * np.sum((W[p.rows, p.cols] - p.values) ** 2)
    else:
        exact = np.sum((p.inputs @ W.T - p.outputs) ** 2) / 14
    assert p.loss(whole(W)) == pytest.approx(exact, rel=1e-13)
    assert isinstance(p.loss(whole(W)), float)


@pytest.mark.parametrize("family", LOSSES)
@given(seed=st.integers(0, 10**6), radius=st.floats(1e-3, 1e3))
def test_constants_bound_what_they_should(family, seed, radius):
    rng = np.random.default_rng(seed)
    p = family(rng)
    X, Y = gaussian(rng, *SHAPE), gaussian(rng, *SHAPE)
    X *= radius / np.linalg.norm(X)
    G, H = p.gradient(whole(X)).full(), p.gradient(whole(Y)).full()
    above = 1 + 1e-12
    assert np.linalg.norm(G) <= p.gradient_bound(radius) * above
    assert np.linalg.norm(G - H) <= p.lipschitz * np.linalg.norm(X - Y) * above
    assert p.convex
    assert p.loss(whole(Y)) * above >= p.loss(whole(X)) + np.vdot(G, Y - X) - 1e-12 * radius**2
    for rank in range(1, 6):
        U, S, V = p.initial(rank, rng, norm=radius)
        assert np.linalg.norm(S) == pytest.approx(radius)
        assert p.loss(SimpleNamespace(U=U, S=S, V=V)) * above >= p.minimum(rank) >= p.minimum(5) >= 0
    assert p.minimum() == pytest.approx(p.minimum(5), abs=1e-12)


@pytest.mark.parametrize("family", LOSSES)
def test_lipschitz_constant_is_attained(family):
    rng = np.random.default_rng(2)
    p = family(rng)
    D = np.zeros(SHAPE)
    if family is least_squares:
        D[2] = np.linalg.svd(p.inputs)[2][0]
    else:
        D[5, 0] = 1.0  # observed
    W = gaussian(rng, *SHAPE)
    change = p.gradient(whole(W + D)).full() - p.gradient(whole(W)).full()
    assert np.linalg.norm(change) == pytest.approx(p.lipschitz, rel=1e-12)


@pytest.mark.parametrize("family", [regression, completion])
def test_gradient_bound_is_attained(family):
    p = family(np.random.default_rng(3))
    A = -p.gradient(whole(np.zeros(SHAPE))).full()
    W = -2.5 * A / np.linalg.norm(A)
    assert np.linalg.norm(p.gradient(whole(W)).full()) == pytest.approx(p.gradient_bound(2.5), rel=1e-13)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("samples", [3, 7])
def test_least_squares_minimum_is_attained(samples, dtype):
    rng = np.random.default_rng(4)
    X, Y = gaussian(rng, samples, 5, dtype=dtype), gaussian(rng, samples, 6, dtype=dtype)
    X[:, 4] = X[:, 0] + X[:, 1]  # singular
    p = problems.LinearLeastSquares(X, Y)
    for rank in range(1, 6):
        fitted = X @ np.linalg.pinv(X) @ Y
        U, s, V_H = np.linalg.svd(fitted, full_matrices=False)
        W = (np.linalg.pinv(X) @ (U[:, :rank] * s[:rank]) @ V_H[:rank]).T
        assert np.linalg.matrix_rank(W) <= rank
        assert p.loss(whole(W)) == pytest.approx(p.minimum(rank), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_regression_minimum_is_the_truncated_svd(dtype):
    A = problems.synthetic((8, 6), [4, 3, 2, 1e-3], np.random.default_rng(5), dtype)
    p = problems.MatrixRegression(A)
    tolerance = 1e-5 if dtype is np.float32 else 1e-12
    assert p.minimum(1) == pytest.approx((9 + 4 + 1e-6) / 2, rel=tolerance)
    assert p.minimum(3) == pytest.approx(5e-7, rel=1e-3)
    assert p.minimum(4) == pytest.approx(0, abs=1e-12)
    assert p.minimum() == 0


def test_regression_loss_keeps_its_digits_near_the_minimum():
    A = gaussian(np.random.default_rng(6), 20, 20, dtype=np.float32)
    p = problems.MatrixRegression(A)
    W = A.copy()
    W[0, 0] += np.float32(1e-6)
    exact = 0.5 * (np.float64(W[0, 0]) - np.float64(A[0, 0])) ** 2
    assert p.loss(whole(W)) == pytest.approx(exact, rel=1e-12)


def test_regression_gradient_flow():
    rng = np.random.default_rng(7)
    A, W0 = gaussian(rng, *SHAPE), gaussian(rng, *SHAPE)
    p = problems.MatrixRegression(A, W0)
    assert np.allclose(p.reference(0.0), W0, rtol=0, atol=1e-14)
    assert np.allclose(p.reference(60.0), A, rtol=0, atol=1e-14)
    assert problems.MatrixRegression(A).reference(1.0) is None
    with pytest.raises(ValueError, match=r"norm must be 0 for a problem with a given start, got 1\.5"):
        p.initial(2, rng, norm=1.5)


@pytest.mark.parametrize("family", LOSSES)
def test_default_start_is_zero_with_random_bases(family):
    p = family(np.random.default_rng(8))
    U, S, V = p.initial(3, np.random.default_rng(0))
    assert np.all(S == 0)
    U2, S2, V2 = p.initial(3, np.random.default_rng(0), norm=2.0)
    assert np.array_equal(U, U2) and np.array_equal(V, V2)
    assert np.linalg.norm(S2) == pytest.approx(2.0)
    for bad in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="norm must be finite and not negative"):
            p.initial(3, np.random.default_rng(0), norm=bad)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("batch_size", [1, 3, 6, 7])
@pytest.mark.parametrize("family", BATCHED)
def test_mini_batches_are_unbiased_with_known_variance(family, batch_size, dtype):
    rng = np.random.default_rng(9)
    p = family(rng, dtype, batch_size)
    Y = whole(gaussian(rng, *SHAPE, dtype=dtype))
    batches = list(p.enumerate_minibatches())
    assert len(batches) == math.comb(7, batch_size)
    assert np.mean([b.loss(Y) for b in batches]) == pytest.approx(p.loss(Y), rel=1e-12)
    G, g = p.gradient(Y).full(), np.stack([b.gradient(Y).full() for b in batches])
    assert np.linalg.norm(g.mean(axis=0) - G) < 1e-12 * np.linalg.norm(g)
    spread = np.mean(np.sum(np.abs(g - G) ** 2, axis=(1, 2)))
    assert p.variance(Y) == pytest.approx(spread, rel=1e-10, abs=1e-12)
    assert p.variance(Y) <= p.variance_bound(np.linalg.norm(Y.U)) * (1 + 1e-12)
    assert p.stochastic == (batch_size < 7)
    assert not any(b.stochastic for b in batches)


def test_completion_variance_bound_is_attained():
    p = completion(np.random.default_rng(10), batch_size=2)
    A = -p.gradient(whole(np.zeros(SHAPE))).full()
    W = whole(-1.5 * A / np.linalg.norm(A))
    assert p.variance(W) == pytest.approx(p.variance_bound(1.5), rel=1e-12)


@pytest.mark.parametrize("family", BATCHED)
def test_mini_batches_are_drawn_uniformly(family):
    p = family(np.random.default_rng(11), batch_size=3)
    data = p.values if family is completion else p.inputs[:, 0]
    rng = np.random.default_rng(0)
    counts = np.zeros(7)
    for _ in range(700):
        b = p.minibatch(rng)
        drawn = b.values if family is completion else b.inputs[:, 0]
        assert len(set(drawn)) == 3
        counts[np.searchsorted(data[np.argsort(data)], drawn)] += 1
    # mean 300 and standard deviation sqrt(700 * 3/7 * 4/7) = 13 for each
    assert np.abs(counts - 300).max() < 65


@pytest.mark.parametrize("family", LOSSES)
def test_deterministic_problems_are_their_own_mini_batch(family):
    p = family(np.random.default_rng(12))
    assert not p.stochastic
    assert p.minibatch(np.random.default_rng(0)) is p
    Y = whole(np.ones(SHAPE))
    assert p.variance(Y) == p.variance_bound(1.0) == 0.0


def test_too_many_mini_batches_are_refused():
    rng = np.random.default_rng(13)
    p = problems.LinearLeastSquares(gaussian(rng, 100, 2), gaussian(rng, 100, 2), 10)
    with pytest.raises(ValueError, match=r"\d+ mini-batches \(10 of 100\) are too many to enumerate"):
        p.enumerate_minibatches()


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


# --- bad input -----------------------------------------------------------------------------------------------------

A = np.ones((3, 4))


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (np.ones(3), ValueError, r"target must be a matrix \(2 dimensions\), got 1 dimensions, shape \(3,\)"),
        (np.ones((0, 3)), ValueError, r"target must not be empty, got shape \(0, 3\)"),
        (np.full((2, 2), np.nan), ValueError, "target must be finite, got NaN or infinite entries"),
        (np.ones((2, 2), int), TypeError, "target must have a real or complex floating dtype, got int64"),
        ([[1.0]], TypeError, "target must be a numpy array or torch tensor, got list"),
    ],
)
def test_bad_target(target, error, message):
    with pytest.raises(error, match=message):
        problems.MatrixRegression(target)


def test_bad_start():
    with pytest.raises(ValueError, match=r"start must have the shape \(3, 4\) of target, got \(4, 3\)"):
        problems.MatrixRegression(A, A.T)
    with pytest.raises(TypeError, match="start must have the dtype float64 of target, got float32"):
        problems.MatrixRegression(A, A.astype(np.float32))


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
            {"rows": np.array([1, 1]), "cols": np.array([2, 2])},
            ValueError,
            "rows and cols must name distinct positions",
        ),
        ({"batch_size": 3}, ValueError, "batch_size 3 exceeds the number of samples 2"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"batch_size": 1.5}, TypeError, "batch_size must be an integer, got 1.5"),
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


def test_bad_least_squares():
    with pytest.raises(ValueError, match="inputs and outputs must have the same number of rows, got 3 and 4"):
        problems.LinearLeastSquares(A, A.T)
    with pytest.raises(TypeError, match="outputs must have the dtype float64 of inputs, got float32"):
        problems.LinearLeastSquares(A, A.astype(np.float32))
    with pytest.raises(ValueError, match="inputs must be a matrix"):
        problems.LinearLeastSquares(A[0], A)
    with pytest.raises(ValueError, match="batch_size 9 exceeds the number of samples 3"):
        problems.LinearLeastSquares(A, A, 9)
