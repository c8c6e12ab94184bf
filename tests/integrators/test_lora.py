"""LoRA: the contract, its equations, and torch's Adam."""

import numpy as np

from dlrt.testing import Contract, one_step
from integrators import Adam, LoRA

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestLoRA(Contract):
    integrator = LoRA()


class TestLoRAAdam(Contract):
    integrator = LoRA(optimizer=Adam())
    test_gauge_invariance = None  # elementwise moments see the factors


def test_lora(problem, Y):
    """B1 = B - h G A^H, A1 = A - h B^H G."""
    B, A = Y.K, Y.V.T
    G = B @ A - problem.target
    expected = (B - 0.1 * G @ A.T) @ (A - 0.1 * B.T @ G)
    assert np.linalg.norm(one_step(LoRA(), problem, Y).state.Y.full() - expected) <= EPS


def test_adam_on_factors_is_torch_adam(problem, Y):
    """LoRA with Adam against torch.optim.Adam on B and A, ten steps."""
    import torch

    B = torch.tensor(Y.K, requires_grad=True)
    A = torch.tensor(Y.V.T.copy(), requires_grad=True)
    adam = torch.optim.Adam([B, A], lr=0.05)
    method = LoRA(optimizer=Adam())
    state = method.init(Y)
    for _ in range(10):
        adam.zero_grad()
        (0.5 * torch.sum((B @ A - torch.tensor(problem.target)) ** 2)).backward()
        adam.step()
        state = method.step(problem.field, 0.0, state, 0.05).state
    assert np.linalg.norm(state.Y.full() - (B @ A).detach().numpy()) <= 1e-12
