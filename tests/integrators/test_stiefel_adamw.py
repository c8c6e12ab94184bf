"""Stiefel-AdamW: the contract, its equations with torch's Adam, and an orthonormal V."""

import numpy as np
import pytest
import torch

from dlrt.testing import SHAPES, Contract, defect, eps, point, regression, run
from integrators import SGD, Adam, LoRA, LowRank, StiefelAdamW
from integrators.stiefel_adamw import retracted


class TestStiefelAdamW(Contract):
    integrator = StiefelAdamW()
    h = 0.02
    test_gauge_invariance = None  # elementwise moments see the factors


class TestStiefelSGD(Contract):
    integrator = StiefelAdamW(optimizer=SGD())


def test_with_the_adam_of_torch(problem, Y):
    """K and V in torch: V - h D projected to the tangent space at V, then the polar factor; ten steps."""
    K = torch.tensor(Y.K, requires_grad=True)
    V = torch.tensor(Y.V, requires_grad=True)
    adam = torch.optim.AdamW([K, V], lr=0.05, weight_decay=0.0)
    method = StiefelAdamW()
    assert method.optimizer == Adam()
    state = method.init(Y)
    for _ in range(10):
        adam.zero_grad()
        (0.5 * torch.sum((K @ V.T - torch.tensor(problem.target)) ** 2)).backward()
        old = V.detach().clone()
        adam.step()
        with torch.no_grad():
            D = V - old
            D = D - old @ (old.T @ D + D.T @ old) / 2
            P, _, QT = torch.linalg.svd(old + D, full_matrices=False)
            V.copy_(P @ QT)
        state = method.step(problem.field, 0.0, state, 0.05).state
    assert np.linalg.norm(state.Y.full() - (K @ V.T).detach().numpy()) <= 1e-12


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_v_stays_orthonormal(shape, dtype):
    problem = regression(shape, dtype=dtype)
    method = StiefelAdamW()
    Y = run(method, problem.field, method.init(point(problem, 3)), 0.02, 1000).Y
    assert defect(Y.V) <= 100 * eps(Y)


def test_start(problem, Y):
    """Bit for bit from a state of its own; from any factors the same matrix, with V orthonormal."""
    method = StiefelAdamW()
    own = method.init(Y).Y
    assert all(np.array_equal(X, Z) for X, Z in zip(own, method.init(own).Y, strict=True))
    T = np.random.default_rng(1).standard_normal((3, 3))
    other = LoRA().init(LowRank(Y.K @ T, np.eye(3), Y.V @ np.linalg.inv(T).T)).Y
    found = method.init(other).Y
    assert defect(found.V) <= 1e-13 and np.linalg.norm(found.full() - Y.full()) <= 1e-12


def test_retraction(problem, Y):
    """A normal direction does not move V, and a tangential one to first order by itself."""
    rng = np.random.default_rng(2)
    X = rng.standard_normal((3, 3))
    np.testing.assert_allclose(retracted(Y.V, Y.V @ (X + X.T)), Y.V, atol=1e-13)
    D = rng.standard_normal((7, 3))
    D = D - Y.V @ (Y.V.T @ D + D.T @ Y.V) / 2
    np.testing.assert_allclose(retracted(Y.V, 1e-6 * D), Y.V + 1e-6 * D, atol=1e-12 * np.linalg.norm(D) ** 2)
