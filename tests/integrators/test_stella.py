"""StelLA: the contract, and its equations with torch's Adam."""

import numpy as np
import torch

from dlrt.testing import Contract
from integrators import Adam, StelLA


class TestStelLA(Contract):
    integrator = StelLA()


class TestStelLAAdam(Contract):
    integrator = StelLA(optimizer=Adam())
    h = 0.02
    test_gauge_invariance = test_start_in_any_bases = None  # elementwise moments see the factors
    test_stack = None  # at its point of rest Adam divides rounding errors by their size


def test_with_the_adam_of_torch(problem, Y):
    """The authors' order of things: Riemannian gradients, Adam, scaling, tangent projection, polar factor."""
    factors = U, S, V = [torch.tensor(X, requires_grad=True) for X in Y]
    adam = torch.optim.Adam(factors, lr=0.05)
    method = StelLA(optimizer=Adam())
    state = method.init(Y)
    for _ in range(10):
        adam.zero_grad()
        (0.5 * torch.sum((U @ S @ V.T - torch.tensor(problem.target)) ** 2)).backward()
        bases = [(X, X.detach().clone()) for X in (U, V)]
        with torch.no_grad():
            for X, old in bases:
                X.grad -= old @ X.grad.T @ old
            adam.step()
            for X, old in bases:
                D = (X - old) * np.sqrt(7 / len(X))
                D = D - old @ (old.T @ D + D.T @ old) / 2
                P, _, QT = torch.linalg.svd(old + D, full_matrices=False)
                X.copy_(P @ QT)
        state = method.step(problem.field, 0.0, state, 0.05).state
    assert np.linalg.norm(state.Y.full() - (U @ S @ V.T).detach().numpy()) <= 1e-12


def test_moments_are_elementwise(problem, Y):
    memory = StelLA(optimizer=Adam()).init(Y).memory
    assert {name: np.shape(X) for name, X in memory.items()} == {
        "first.U": (9, 3), "first.S": (3, 3), "first.V": (7, 3),
        "second.U": (9, 3), "second.S": (3, 3), "second.V": (7, 3), "step": (),
    }  # fmt: skip
