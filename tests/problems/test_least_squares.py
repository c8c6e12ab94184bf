"""Linear least squares: the contracts, its minimum, mini-batches of pairs in torch, bad input."""

import numpy as np
import pytest
import torch

import problems
from integrators import LowRank

from .contract import (
    SHAPE,
    SMALL,
    Contract,
    LossContract,
    MiniBatches,
    NoExactFlows,
    TorchPoints,
    as_torch,
    gaussian,
    point,
    whole,
)

A = np.ones((3, 4))


class TestLeastSquares(NoExactFlows, TorchPoints, MiniBatches, LossContract, Contract):
    def build(self, rng, dtype):
        X, Y = gaussian(rng, 11, SHAPE[1], dtype=dtype), gaussian(rng, 11, SHAPE[0], dtype=dtype)
        return problems.LinearLeastSquares(X, Y), lambda t, W: -(X @ W.T - Y).T @ X.conj() / 11

    def in_torch(self, p):
        return problems.LinearLeastSquares(torch.asarray(p.inputs), torch.asarray(p.outputs), 3)

    def loss(self, rng, dtype=np.float64, batch_size=None):
        m, n = SMALL
        X, Y = gaussian(rng, 7, n, dtype=dtype), gaussian(rng, 7, m, dtype=dtype)
        return problems.LinearLeastSquares(X, Y, batch_size)

    def value(self, p, W):
        return np.sum((p.inputs @ W.T - p.outputs) ** 2) / 14

    def steepest(self, p):
        D = np.zeros(SMALL)
        D[2] = np.linalg.svd(p.inputs)[2][0]
        return D

    def labels(self, p):
        return p.inputs[:, 0]


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


def test_torch_mini_batches():
    rng = np.random.default_rng(9)
    X, Y = torch.asarray(gaussian(rng, 6, 4)), torch.asarray(gaussian(rng, 6, 5))
    p = problems.LinearLeastSquares(X, Y, 2)
    batch = p.minibatch(np.random.default_rng(0))
    assert isinstance(batch.inputs, torch.Tensor)
    W = as_torch(point(rng, p.shape))
    mean = sum(b.gradient(W).K for b in p.enumerate_minibatches()) / 15
    assert torch.allclose(mean, p.gradient(W).K, atol=1e-12)
    numpy_twin = problems.LinearLeastSquares(X.numpy(), Y.numpy(), 2)
    W_numpy = LowRank(*(X.numpy() for X in W))
    assert p.variance(W) == pytest.approx(numpy_twin.variance(W_numpy), rel=1e-12)
    assert p.variance_bound(2.0) == pytest.approx(numpy_twin.variance_bound(2.0), rel=1e-12)


def test_bad_least_squares():
    with pytest.raises(ValueError, match="inputs and outputs must have the same number of rows, got 3 and 4"):
        problems.LinearLeastSquares(A, A.T)
    with pytest.raises(TypeError, match="outputs must have the dtype float64 of inputs, got float32"):
        problems.LinearLeastSquares(A, A.astype(np.float32))
    with pytest.raises(ValueError, match="inputs must be a matrix"):
        problems.LinearLeastSquares(A[0], A)
    with pytest.raises(ValueError, match="batch_size 9 exceeds the number of samples 3"):
        problems.LinearLeastSquares(A, A, 9)
