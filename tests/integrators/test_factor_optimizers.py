"""Muon and LoRA+ against their formulas and public code, and the polar factor."""

import math

import numpy as np
import pytest
import torch

from dlrt.testing import DTYPES, LIBRARIES, Contract, eps, one_step, rng
from integrators import BUG, SGD, Adam, FixedRank, GeoLoRA, LoRA, LoRAPlus, LowRank, Momentum, Muon, SVDLoRA
from integrators.factor_optimizers import inverse_root, polar
from integrators.linalg import to_numpy

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestLoRAWithMuon(Contract):
    integrator = LoRA(optimizer=Muon())
    h = 0.01


class TestGeoLoRAWithMuon(Contract):
    integrator = GeoLoRA(optimizer=Muon(), truncation=FixedRank(4))
    h = 0.01
    test_order = None  # another flow than the field's
    test_robust_to_small_singular_values = None  # states an error along the field's flow


class TestLoRAPlus(Contract):
    integrator = LoRA(optimizer=LoRAPlus(SGD(), ratio=4.0))
    h = 0.02


def msign(X):
    P, _, QT = np.linalg.svd(X, full_matrices=False)
    return P @ QT


def test_muon_on_factors(problem, Y):
    """M <- beta M + G, N = beta M + G, B <- B - h sqrt(m) msign(N), and A alike."""
    method = LoRA(optimizer=Muon(0.8))
    state = method.init(Y)
    B, A = Y.K, Y.V.T
    MB, MA = np.zeros_like(B), np.zeros_like(A)
    for _ in range(5):
        G = B @ A - problem.target
        GB, GA = G @ A.T, B.T @ G
        MB, MA = 0.8 * MB + GB, 0.8 * MA + GA
        B = B - 0.05 * math.sqrt(9) * msign(0.8 * MB + GB)
        A = A - 0.05 * math.sqrt(7) * msign(0.8 * MA + GA)
        state = method.step(problem.field, 0.0, state, 0.05).state
    assert np.linalg.norm(state.Y.full() - B @ A) <= 1e3 * EPS  # the directions carry eps times their condition


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch is older than 2.9")
def test_muon_is_that_of_torch(problem, Y):
    """torch.optim.Muon orthogonalises by five Newton-Schulz steps, so that singular values end between 0.7 and 1.2.

    Its direction is of the same sign patterns: inner products with the polar factor, singular value by singular value.
    """
    B = torch.nn.Parameter(torch.tensor(Y.K))
    torch_muon = torch.optim.Muon([B], lr=1.0, momentum=0.95, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    B.grad = torch.tensor((Y.full() - problem.target) @ Y.V)
    torch_muon.step()
    moved = Y.K - B.detach().numpy()
    scale = 0.2 * math.sqrt(max(B.shape))
    P, _, QT = np.linalg.svd(B.grad.numpy(), full_matrices=False)
    gains = np.diag(P.T @ moved @ QT.T) / scale
    assert np.all((gains > 0.6) & (gains < 1.3))
    assert np.linalg.norm(moved / scale - P * gains @ QT) <= 0.05  # Newton-Schulz runs in bfloat16


def test_lora_plus_is_that_of_peft(problem, Y, peft_lora):
    """create_loraplus_optimizer on a layer with the same loss, ten steps of Adam."""
    from peft.optimizers import create_loraplus_optimizer

    model, A, B = peft_lora
    adam = create_loraplus_optimizer(model, torch.optim.Adam, lr=0.01, loraplus_lr_ratio=8.0)
    method = LoRA(optimizer=LoRAPlus(ratio=8.0))
    state = method.init(Y)
    for _ in range(10):
        adam.zero_grad()
        (0.5 * torch.sum((B @ A - torch.tensor(problem.target)) ** 2)).backward()
        adam.step()
        state = method.step(problem.field, 0.0, state, 0.01).state
    assert np.linalg.norm(state.Y.full() - (B @ A).detach().numpy()) <= 1e-12


def test_lora_plus_keeps_the_memory_of_its_optimizer(problem, Y):
    assert LoRA(optimizer=LoRAPlus(SGD())).init(Y).memory == {}
    assert LoRA(optimizer=LoRAPlus(Momentum())).init(Y).memory.keys() == {"first.B", "first.A"}
    plain, faster = (LoRA(optimizer=o) for o in (Adam(), LoRAPlus(Adam(), ratio=1.0)))
    assert np.array_equal(one_step(plain, problem, Y).state.Y.full(), one_step(faster, problem, Y).state.Y.full())


def test_methods_they_are_not_for(problem, Y):
    with pytest.raises(TypeError, match="LoRAPlus is for LoRA, with the factors B and A, got a method with U, S, V"):
        SVDLoRA(optimizer=LoRAPlus()).init(Y)
    with pytest.raises(TypeError, match="Muon needs K and L together"):
        one_step(BUG(optimizer=Muon()), problem, Y)
    with pytest.raises(TypeError, match=r"optimizer must be an integrators\.Optimizer"):
        LoRAPlus(optimizer="adam")
    with pytest.raises(ValueError, match="ratio must be positive"):
        LoRAPlus(ratio=0)
    with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\)"):
        Muon(1.0)


# -- the polar factor ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("library", LIBRARIES)
def test_polar(library, dtype):
    """P Q^H, with the singular values of X of any size; those that are rounding errors become zero."""
    like = np.zeros((), DTYPES[dtype])
    for size in (1.0, 1e-30, 1e30):
        X = LowRank.random((12, 4), 4, rng(1), like, singular_values=[3.0, 2.0, 0.5, 0.0]).full() * like.dtype.type(
            size
        )
        P, _, QH = np.linalg.svd(X.astype(np.result_type(X.dtype, np.float64)), full_matrices=False)
        found = polar(LIBRARIES[library](X))
        # a direction of relative size s carries the rounding error eps / s of X
        assert found.dtype == LIBRARIES[library](X).dtype
        assert np.linalg.norm(to_numpy(found) - P[:, :3] @ QH[:3]) <= 100 * eps(LowRank(X, X[:4], X[:4]))


def test_polar_of_zero_and_of_a_wide_matrix():
    assert np.array_equal(polar(np.zeros((5, 3))), np.zeros((5, 3)))
    X = rng(2).standard_normal((3, 8))
    assert np.linalg.norm(polar(X) - msign(X)) <= EPS
    assert np.linalg.norm(polar(1e-310 * X) - msign(X)) <= 1e-10  # of what is left of X below the normal numbers


@pytest.mark.parametrize("library", LIBRARIES)
def test_polar_of_a_stack(library):
    """Each matrix for itself: zero columns stay zero, one that is not finite harms no other."""
    X = rng(3).standard_normal((4, 9, 3))
    X[1, :, 2], X[2, 0, 0], X[3] = 0.0, np.nan, 0.0
    found = to_numpy(polar(LIBRARIES[library](X)))
    assert np.linalg.norm(found[0] - msign(X[0])) <= EPS
    assert np.linalg.norm(found[1, :, :2] - msign(X[1, :, :2])) <= EPS and np.all(found[1, :, 2] == 0)
    assert np.all(np.isnan(found[2])) and np.all(found[3] == 0)
    with pytest.raises(FloatingPointError, match="direction has non-finite entries"):
        polar(LIBRARIES[library](X[2]))


def test_inverse_root():
    X = rng(4).standard_normal((9, 3))
    R = inverse_root(X)
    assert np.linalg.norm(R @ (X.T @ X) @ R - np.eye(3)) <= EPS
    assert np.linalg.norm(inverse_root(10 * X) - R / 10) <= EPS
