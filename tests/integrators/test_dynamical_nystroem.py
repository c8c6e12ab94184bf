"""Dynamical generalised Nystroem method: the contract, its equations in dense arithmetic."""

import numpy as np
import pytest

from dlrt.testing import Contract, one_step, rng
from integrators import DynamicalNystroem, FixedRank, LowRank
from problems import MatrixRegression

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestDynamicalNystroem(Contract):
    integrator = DynamicalNystroem()
    exact = True
    test_orthonormal_after_3000_steps = None  # what QR and truncation leave, as for others; long


def test_dynamical_nystroem_by_hand():
    """With Euler, B, C and D are sketches of Z = Y0 + h F(Y0): the Nystroem approximation of Z."""
    A, h = rng(1).standard_normal((30, 25)), 0.1
    F, Y = (lambda W: A - W), LowRank.random((30, 25), 3, rng(2))
    method, Y0 = DynamicalNystroem(oversampling=2, truncation=FixedRank(3)), Y.full()
    X, X2 = method.sketches(method.init(Y), (25, 5), (30, 7))
    for _ in range(2):
        Q1 = np.linalg.qr(Y0 @ X + h * F(Y0 @ X @ X.T) @ X)[0]
        X = np.linalg.qr(Y0.T @ Q1 + h * F(Q1 @ Q1.T @ Y0).T @ Q1)[0]
        Q2 = np.linalg.qr(Y0.T @ X2 + h * F(X2 @ X2.T @ Y0).T @ X2)[0]
        X2 = np.linalg.qr(Y0 @ Q2 + h * F(Y0 @ Q2 @ Q2.T) @ Q2)[0]
    Q1, Q2 = np.linalg.qr(np.hstack([Y.U, Q1]))[0], np.linalg.qr(np.hstack([Y.V, Q2]))[0]
    Z = Y0 + h * F(Y0)
    P, d, QH = np.linalg.svd(Q1.T @ Z @ Q2)
    expected = Z @ Q2 @ (QH[:3].T / d[:3]) @ P[:, :3].T @ Q1.T @ Z
    step = one_step(method, MatrixRegression(A), Y, h)
    assert np.linalg.norm(step.augmented.full() - expected) <= 10 * EPS
    assert step.evaluations == 8 and step.augmented.rank == 3


def test_singular_values_of_rounding_are_not_inverted():
    """Start and field of rank 2, D truncated to rank 3: its third value is rounding."""
    Y = LowRank.random((20, 16), 3, rng(3), singular_values=[2.0, 1.0, 0.0])
    step = one_step(DynamicalNystroem(truncation=FixedRank(3)), MatrixRegression(2 * Y.full()), Y, 0.1)
    assert np.linalg.norm(step.state.Y.full() - 1.1 * Y.full()) <= EPS


def test_power_is_checked():
    with pytest.raises(ValueError, match="power must be at least 0, got -1"):
        DynamicalNystroem(power=-1)
