"""Matrix regression: the contracts, its minimum, its gradient flow, bad input."""

import numpy as np
import pytest
import torch

import problems

from .contract import (
    SHAPE,
    SMALL,
    AttainedGradientBound,
    Contract,
    ExactFlows,
    LossContract,
    TorchPoints,
    gaussian,
    whole,
)

A = np.ones((3, 4))


class TestRegression(ExactFlows, TorchPoints, AttainedGradientBound, LossContract, Contract):
    def build(self, rng, dtype):
        A, W0 = gaussian(rng, *SHAPE, dtype=dtype), gaussian(rng, *SHAPE, dtype=dtype)
        return problems.MatrixRegression(A, W0), lambda t, W: A - W

    def in_torch(self, p):
        return problems.MatrixRegression(torch.asarray(p.target), torch.asarray(p.start))

    def loss(self, rng, dtype=np.float64):
        return problems.MatrixRegression(gaussian(rng, *SMALL, dtype=dtype))

    def value(self, p, W):
        return 0.5 * np.sum((W - p.target) ** 2)

    def steepest(self, p):
        D = np.zeros(SMALL)
        D[5, 0] = 1.0
        return D


def test_one_sided_lipschitz_constant_is_attained():
    """Two solutions of the full gradient flow approach each other like e^{-t}."""
    rng = np.random.default_rng(0)
    A, X, Y = (gaussian(rng, *SMALL) for _ in range(3))
    p, q = problems.MatrixRegression(A, X), problems.MatrixRegression(A, Y)
    ratio = np.linalg.norm(p.reference(0.7) - q.reference(0.7)) / np.linalg.norm(X - Y)
    assert ratio == pytest.approx(np.exp(0.7 * p.one_sided_lipschitz), rel=1e-12)


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
    A, W0 = gaussian(rng, *SMALL), gaussian(rng, *SMALL)
    p = problems.MatrixRegression(A, W0)
    assert np.allclose(p.reference(0.0), W0, rtol=0, atol=1e-14)
    assert np.allclose(p.reference(60.0), A, rtol=0, atol=1e-14)
    assert problems.MatrixRegression(A).reference(1.0) is None
    with pytest.raises(ValueError, match=r"norm must be 0 for a problem with a given start, got 1\.5"):
        p.initial(2, rng, norm=1.5)


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
