"""Spectral steps: the contract, dense arithmetic, descent."""

from dataclasses import replace

import numpy as np
import pytest

from dlrt.testing import LIBRARIES, Contract, one_step, rng
from integrators import (
    BUG,
    RK4,
    AugmentedBUG,
    FixedRank,
    FullRank,
    GeoLoRA,
    GlobalBudget,
    LoRA,
    LowRank,
    ParallelBUG,
    Projections,
    ProjectorSplitting,
    Spectral,
    Tolerance,
)

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestSpectral(Contract):
    integrator = GeoLoRA(optimizer=Spectral(), truncation=FixedRank(4))
    h = 0.01
    # follows another flow than the field's
    test_order = test_robust_to_small_singular_values = None


class TestSpectralByProducts(Contract):
    integrator = GeoLoRA(optimizer=Spectral(method="newton-schulz"), truncation=FixedRank(4))
    h = 0.01
    test_order = test_robust_to_small_singular_values = None


class TestSpectralParallelBUG(Contract):
    integrator = ParallelBUG(optimizer=Spectral(), truncation=FixedRank(4))
    h = 0.01
    test_order = test_robust_to_small_singular_values = None


class TestSpectralBUG(Contract):
    integrator = BUG(optimizer=Spectral())
    h = 0.01
    test_order = test_robust_to_small_singular_values = None


class TestSpectralAugmentedBUG(Contract):
    # new singular values are all equal, so that where FixedRank cuts would be for rounding to say
    integrator = AugmentedBUG(optimizer=Spectral(), truncation=Tolerance(absolute=1e-8))
    h = 0.01
    test_order = test_robust_to_small_singular_values = None


def sign(Z):
    """U V^T of the singular vectors that belong to more than rounding."""
    P, d, QT = np.linalg.svd(Z)
    k = int(np.sum(d > 1e-12 * d[0]))
    return P[:, :k] @ QT[:k]


@pytest.mark.parametrize("values", [(3.0, 1.0, 0.5), (3.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 1e-9, 1e-14)])
def test_steps_in_dense_arithmetic(problem, values):
    """W^ = W + lam c P(sign(N)), N Nesterov's combination of the moment and P(W) F, over steps with truncation."""
    method = GeoLoRA(optimizer=Spectral(0.8), truncation=FixedRank(3))
    state, M = method.init(LowRank.random((9, 7), 3, rng(2), singular_values=values)), np.zeros((9, 7))
    for _ in range(4):
        Y = state.Y
        F = Y.project(problem.target - Y.full()).full()
        M = 0.8 * Y.project(M).full() + 0.2 * F
        D = np.sqrt(8) * Y.project(sign(0.8 * M + 0.2 * F)).full()
        step = method.step(problem.field, 0.0, state, 0.1)
        assert np.linalg.norm(step.augmented.full() - (Y.full() + 0.1 * D)) <= 10 * EPS
        state = step.state


def test_a_step_on_S_is_the_sign_of_S(problem, Y):
    """BUG: the Galerkin step in the new bases."""
    step = one_step(BUG(optimizer=Spectral(0.0)), problem, Y)
    U, V = step.state.Y.U, step.state.Y.V
    W0 = U @ (U.T @ Y.full() @ V) @ V.T
    expected = W0 + 0.1 * np.sqrt(8) * U @ sign(U.T @ (problem.target - W0) @ V) @ V.T
    assert np.linalg.norm(step.state.Y.full() - expected) <= EPS


@pytest.mark.parametrize("method", ["svd", "newton-schulz"])
@pytest.mark.parametrize("values", [(3.0, 1.0, 0.5), (1.0, 1e-9, 0.0), (0.0, 0.0, 0.0)])
@pytest.mark.parametrize("eta", [1e-3, 0.1, 1.0])
def test_descent_in_the_nuclear_norm(problem, values, eta, method):
    """L(W + eta D) <= L(W) - eta ||P G||_* + L/2 eta^2 ||D||^2 and ||D||^2 <= 2 r, here with L = 1.

    The loss is quadratic with the identity for its Hessian, so the first is an equation, which holds for no other D of
    this length: <G, D> = -||P G||_* is the least that it can be for ||D||_2 <= 1.
    """
    Y, c, r = LowRank.random((9, 7), 3, rng(2), singular_values=values), np.sqrt(8), 3
    optimizer = Spectral(0.0, method=method)
    W1 = one_step(GeoLoRA(optimizer=optimizer, truncation=FixedRank(6)), problem, Y, eta / c).augmented.full()
    D, G = (W1 - Y.full()) / eta, Y.full() - problem.target
    d = np.linalg.svd(Y.project(G).full(), compute_uv=False)
    nuclear, delta, l = d.sum(), 1e-3, 1e-3
    gained = -np.sum(G * D)
    loss, before = 0.5 * np.linalg.norm(W1 - problem.target) ** 2, 0.5 * np.linalg.norm(G) ** 2
    if method == "svd":
        assert abs(gained - nuclear) <= EPS / eta
        assert np.sum(D**2) <= 2 * r + EPS / eta
        assert loss <= before - eta * nuclear + 0.5 * eta**2 * np.sum(D**2) + EPS
    else:
        assert gained >= (1 - delta) * (nuclear - 0.5 * l * r * np.linalg.norm(d)) - EPS / eta
        assert np.sum(D**2) <= 2 * r * (1 + delta) ** 2 + EPS / eta
    if eta < nuclear / (2 * r):
        assert loss < before
    # of a contraction with a block set to zero
    assert np.linalg.norm(D, 2) <= 2 / np.sqrt(3) * (1 + delta) + EPS / eta


def test_least_norm_over_a_run(problem, Y):
    """min_k ||P G_k||_* <= (L(W_0) - L_inf) / (K eta) + L r eta, without momentum and truncation of what counts."""
    eta, steps, least = 0.05, 200, np.inf
    method = GeoLoRA(optimizer=Spectral(0.0), truncation=FixedRank(7))
    state = method.init(Y)
    before = problem.loss(state.Y)
    for _ in range(steps):
        G = state.Y.project(state.Y.full() - problem.target).full()
        least = min(least, np.linalg.svd(G, compute_uv=False).sum())
        state = method.step(problem.field, 0.0, state, eta / np.sqrt(8)).state
    assert least <= before / (steps * eta) + 7 / 2 * eta  # ||D||^2 <= rank = 7, and not 2 r = 14


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("method", ["svd", "newton-schulz"])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
@pytest.mark.parametrize("stacked", [False, True])
def test_no_field_and_fields_of_any_size(stacked, scale, method, library):
    """In single precision: nothing for nothing, and a direction of the same length for all others."""
    Y = LowRank.random((9, 7), 3, rng(2), np.zeros((), np.float32))
    U, S, V = (LIBRARIES[library](np.stack([X, X]) if stacked else X) for X in Y)
    F = scale * rng(3).standard_normal((9, 7))
    f = Projections.of(F.astype(np.float32), Y)
    M = {part: LIBRARIES[library](np.stack([X, X]) if stacked else X) for part, X in zip("KLS", (f.K, f.L, f.S))}
    optimizer, Y = Spectral(method=method), LowRank(U, S, V)
    D = optimizer.direction(M, {}, Y)
    for part in "KLS":
        X = np.asarray(D[part])
        assert X.shape == tuple(M[part].shape) and np.isfinite(X).all()
        assert np.any(X) == (scale > 0)
    size = sum(np.sum(np.asarray(D[part], dtype=float) ** 2) for part in "KL") / (1 + stacked)
    assert size <= 16 * 3 * 2 and (scale == 0 or size >= 8 * 3)


@pytest.mark.parametrize("method", [ProjectorSplitting(), BUG(substep=RK4())], ids=repr)
def test_a_direction_of_a_part_is_refused(method, problem, Y):
    """Where the method asks for K or L alone at a later stage."""
    with pytest.raises(ValueError, match=r"Spectral has no direction of [KL] at a later stage of a step: take GeoLoRA"):
        one_step(replace(method, optimizer=Spectral()), problem, Y)


@pytest.mark.parametrize("method", [LoRA, FullRank])
def test_fixed_factors_are_refused(method, problem, Y):
    with pytest.raises(TypeError, match="Spectral is for methods with orthonormal bases"):
        method(optimizer=Spectral()).init(Y)


def test_tolerances_that_let_the_rank_grow_are_refused():
    """From S = 0 all values are about the same, and 2 r (1 - tau^2) of 2 r stay."""
    for rule in (Tolerance(relative=0.1, spare=1), Tolerance(relative=0.7)):
        with pytest.raises(ValueError, match=r"grows without bound: take GlobalBudget\(parameters=...\)"):
            GeoLoRA(optimizer=Spectral(), truncation=rule)
    with pytest.raises(ValueError, match="grows without bound"):
        AugmentedBUG(optimizer=Spectral())
    for rule in (Tolerance(relative=0.71), Tolerance(relative=0.1, max_rank=8), FixedRank(3), GlobalBudget(columns=9)):
        assert GeoLoRA(optimizer=Spectral(), truncation=rule).truncation is rule


@pytest.mark.parametrize("tau,rank", [(0.1, 8), (0.71, 4)])
def test_what_a_tolerance_keeps_of_a_first_step(tau, rank):
    A = LowRank.random((30, 20), 20, rng(1), singular_values=[1.0] * 20).full()
    Y = LowRank.zeros((30, 20), 4, rng(2))
    method = GeoLoRA(optimizer=Spectral(), truncation=Tolerance(relative=tau, max_rank=20))
    assert method.step(lambda t, Z: Projections.of(A, Z), 0.0, method.init(Y), 0.1).state.Y.rank == rank


@pytest.mark.parametrize(
    "build,message",
    [
        (lambda: Spectral(1.0), "beta must lie in"),
        (lambda: Spectral(method="qr"), "method must be one of auto, svd, newton-schulz, got 'qr'"),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(ValueError, match=message):
        build()
