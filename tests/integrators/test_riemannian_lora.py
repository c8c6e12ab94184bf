"""Riemannian preconditioned LoRA: the contract, its equations, PEFT's own, and its direction on the manifold."""

import numpy as np
import pytest
import torch

from dlrt.testing import Contract, one_step
from integrators import Adam, LowRank, RiemannianLoRA

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestRiemannianLoRA(Contract):
    integrator = RiemannianLoRA()


class TestRiemannianLoRAAdam(Contract):
    integrator = RiemannianLoRA(optimizer=Adam())
    h = 0.02
    test_gauge_invariance = None  # elementwise moments see the factors


def test_riemannian_lora(problem, Y):
    """B1 = B - h G A^T (A A^T + delta I)^-1, A1 = A - h (B^T B + delta I)^-1 B^T G."""
    B, A = Y.K, Y.V.T
    G, one = B @ A - problem.target, np.eye(3)
    B1 = B - 0.1 * G @ A.T @ np.linalg.inv(A @ A.T + 0.3 * one)
    A1 = A - 0.1 * np.linalg.inv(B.T @ B + 0.3 * one) @ B.T @ G
    step = one_step(RiemannianLoRA(delta=0.3), problem, Y)
    assert np.linalg.norm(step.state.Y.full() - B1 @ A1) <= EPS


@pytest.mark.parametrize(("kind", "optimizer"), [("SGD", None), ("AdamW", Adam())])
def test_it_is_that_of_peft(problem, Y, peft_lora, kind, optimizer):
    """create_riemannian_optimizer on a layer with the same loss, ten steps."""
    from peft.optimizers import create_riemannian_optimizer

    model, A, B = peft_lora
    options = {"weight_decay": 0.0} if kind == "AdamW" else {}
    theirs = create_riemannian_optimizer(model, getattr(torch.optim, kind), lr=0.02, reg=0.05, **options)
    method = RiemannianLoRA(delta=0.05) if optimizer is None else RiemannianLoRA(delta=0.05, optimizer=optimizer)
    state = method.init(Y)
    for _ in range(10):
        theirs.zero_grad()
        (0.5 * torch.sum((B @ A - torch.tensor(problem.target)) ** 2)).backward()
        theirs.step()
        state = method.step(problem.field, 0.0, state, 0.02).state
    assert np.linalg.norm(state.Y.full() - (B @ A).detach().numpy()) <= 1e-12


def test_the_direction_of_the_product(problem, Y):
    """-h (G V V^T + U U^T G) to first order in h and delta, for B and A of any splitting."""
    G = Y.full() - problem.target
    D = -(G @ Y.V @ Y.V.T + Y.U @ Y.U.T @ G)
    T = np.random.default_rng(5).standard_normal((3, 3))
    smallest = np.linalg.svd(Y.K @ T)[1][-1] ** 2, np.linalg.svd(np.linalg.inv(T) @ Y.V.T)[1][-1] ** 2
    for start in (Y, LowRank(Y.K @ T, np.eye(3), Y.V @ np.linalg.inv(T).T)):
        moved = one_step(RiemannianLoRA(delta=1e-9), problem, start, h=1e-6).state.Y.full() - Y.full()
        # second order: h^2 ||G||^2 / sigma_3(W), and delta over the eigenvalues of the Gram matrices
        second = 1e-12 * np.linalg.norm(G, 2) ** 2 / 0.01 + 1e-6 * 1e-9 * np.linalg.norm(D) / min(*smallest, 0.01)
        assert np.linalg.norm(moved - 1e-6 * D) <= 3 * second + EPS


def test_damping():
    with pytest.raises(ValueError, match="delta must be positive and finite, got 0"):
        RiemannianLoRA(delta=0)
