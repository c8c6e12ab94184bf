"""Adam on tangent vectors against dense arithmetic."""

import numpy as np
import pytest

from dlrt.testing import Contract, one_step, rng
from integrators import (
    BUG,
    Adam,
    AlignedAdam,
    FactoredAdam,
    FixedRank,
    GeoLoRA,
    LoRA,
    LowRank,
    Projections,
    State,
)

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestFactoredAdam(Contract):
    integrator = GeoLoRA(optimizer=FactoredAdam(), truncation=FixedRank(4))
    h = 0.01
    # follows another flow than the field's
    test_order = test_robust_to_small_singular_values = None


class TestFactoredAdamBUG(Contract):
    integrator = BUG(optimizer=FactoredAdam())
    h = 0.01
    test_order = test_robust_to_small_singular_values = None


class TestAlignedAdam(Contract):
    integrator = GeoLoRA(optimizer=AlignedAdam(), truncation=FixedRank(4))
    h = 0.01
    test_order = test_robust_to_small_singular_values = None
    # elementwise: a step depends on the bases in which a run starts
    test_gauge_invariance = test_start_in_any_bases = None


def test_adam_on_moving_bases_by_hand(problem, Y):
    """First step of GeoLoRA with Adam: rows of K and L, and S, over root mean squares, at least that of all rows."""
    f = problem.field(0.0, Y)

    def row(X):
        return X / (np.sqrt(np.maximum(np.mean(X**2, axis=1, keepdims=True), np.mean(X**2))) + 1e-8)

    dK, dL, dS = row(f.K), row(f.L), f.S / (np.sqrt(np.mean(f.S**2)) + 1e-8)
    PU, PV = np.eye(9) - Y.U @ Y.U.T, np.eye(7) - Y.V @ Y.V.T
    expected = Y.full() + 0.1 * (Y.U @ dS @ Y.V.T + PU @ dK @ Y.V.T + Y.U @ dL.T @ PV)
    step = one_step(GeoLoRA(optimizer=Adam()), problem, Y)
    assert np.linalg.norm(step.augmented.full() - expected) <= 10 * EPS


def test_adam_survives_a_constant_input():
    """A column of the field that is always zero stays harmless although transport puts something into its moment."""
    A = rng(1).standard_normal((9, 7))
    A[:, 2] = 0.0
    Y = LowRank.random((9, 7), 3, rng(2), singular_values=[0.0] * 3)

    def field(t, Z):
        F = A - Z.full()
        F[:, 2] = 0.0
        return Projections.of(F, Z)

    method = GeoLoRA(optimizer=Adam(), truncation=FixedRank(3))
    state = method.init(Y)
    for _ in range(50):
        before = state.Y
        state = method.step(field, 0.0, state, 0.01).state
        # blocks of root mean square at most ~ 1 / (1 - beta1) each: |dW| <= h (||dK|| + ||dL|| + ||dS||)
        assert np.linalg.norm(state.Y.full() - before.full()) <= 2 * 0.01 * 10 * np.sqrt(3 * (9 + 7 + 3))


def test_second_moments_have_one_entry_per_row():
    state = GeoLoRA(optimizer=Adam()).init(LowRank.random((9, 7), 3, rng()))
    assert state.memory["second.K"].shape == (9, 1)
    assert state.memory["second.L"].shape == (7, 1)
    assert state.memory["second.S"].shape == (1, 1)


def test_factored_adam_in_dense_arithmetic(problem, Y):
    """Row and column sums of squares of P F, and P(A M B), over steps with truncation."""
    method = GeoLoRA(optimizer=FactoredAdam(0.8, 0.9, 1e-8), truncation=FixedRank(3))
    state, M, x, y = method.init(Y), np.zeros((9, 7)), np.zeros((9, 1)), np.zeros((1, 7))
    for k in range(1, 5):
        Y = state.Y
        F = Y.project(problem.target - Y.full()).full()
        M = 0.8 * Y.project(M).full() + 0.2 * F
        rows, columns = (np.sum(F**2, axis=axis, keepdims=True) / 3 for axis in (1, 0))
        x = 0.9 * x + 0.1 * np.maximum(rows, np.mean(rows))
        y = 0.9 * y + 0.1 * np.maximum(columns, np.mean(columns))
        first, X, Z = M / (1 - 0.8**k), x / (1 - 0.9**k), y / (1 - 0.9**k)
        D = first * np.sqrt(16 / 63 * np.sum(X)) / ((np.sqrt(X) + 1e-8) * (np.sqrt(Z) + 1e-8))
        step = method.step(problem.field, 0.0, state, 0.05)
        assert np.linalg.norm(step.augmented.full() - (Y.full() + 0.05 * Y.project(D).full())) <= 10 * EPS
        state = step.state
    assert state.memory["second.rows"].shape == (9, 1) and state.memory["second.columns"].shape == (7, 1)


def test_factored_adam_descends(problem, Y):
    """<G, D> = -||A^{1/2} P(G) B^{1/2}||^2 without momentum, here with A and B of one step."""
    W1 = one_step(GeoLoRA(optimizer=FactoredAdam(0.0), truncation=FixedRank(6)), problem, Y, 0.1).augmented.full()
    D, G = (W1 - Y.full()) / 0.1, Y.full() - problem.target
    N = Y.project(G).full()
    x, y = (np.sum(N**2, axis=axis, keepdims=True) / 3 for axis in (1, 0))
    x, y = np.maximum(x, x.mean()), np.maximum(y, y.mean())
    expected = -np.sum(N**2 / np.sqrt(x) / np.sqrt(y)) * np.sqrt(16 / 63 * np.sum(x))
    assert np.sum(G * D) == pytest.approx(expected, rel=1e-6)  # eps = 1e-8 apart


def test_aligned_adam_by_hand(problem, Y):
    """The first step: each entry over its size, at least a tenth of the root mean square of all."""
    f = problem.field(0.0, Y)

    def entries(X):
        return X / (np.sqrt(np.maximum(X**2, 0.01 * np.mean(X**2))) + 1e-8)

    dK, dL, dS = map(entries, (f.K, f.L, f.S))
    PU, PV = np.eye(9) - Y.U @ Y.U.T, np.eye(7) - Y.V @ Y.V.T
    expected = Y.full() + 0.1 * (Y.U @ dS @ Y.V.T + PU @ dK @ Y.V.T + Y.U @ dL.T @ PV)
    step = one_step(GeoLoRA(optimizer=AlignedAdam()), problem, Y)
    assert np.linalg.norm(step.augmented.full() - expected) <= 10 * EPS


def turned(A, B):
    """A truncation to fixed rank that returns its matrix in other bases."""

    class Turned(FixedRank):
        stackable = False

        def __call__(self, states):
            found = super().__call__(states)
            return [(LowRank(Y.U @ A, A.T @ Y.S @ B, Y.V @ B), error) for Y, error in found]

    return Turned(3)


def test_aligned_adam_does_not_depend_on_the_bases_of_the_truncation(problem, Y):
    """Nor, at its start, on the order and the signs of columns; on other bases it does."""
    ends = {}
    A, B = (LowRank.random((3, 3), 3, rng(s)).U for s in (5, 6))
    flip, swap = np.diag([1.0, -1.0, 1.0]), np.eye(3)[:, [2, 0, 1]]
    for name, rule, (Q, R) in (
        ("usual", FixedRank(3), (np.eye(3), np.eye(3))),
        ("turned", turned(A, B), (np.eye(3), np.eye(3))),
        ("flipped", FixedRank(3), (flip @ swap, swap)),
        ("other", FixedRank(3), (A, B)),
    ):
        method = GeoLoRA(optimizer=AlignedAdam(), truncation=rule)
        state = method.init(LowRank(Y.U @ Q, Q.T @ Y.S @ R, Y.V @ R))
        for _ in range(5):
            state = method.step(problem.field, 0.0, state, 0.02).state
        ends[name] = state.Y.full()
    assert np.linalg.norm(ends["turned"] - ends["usual"]) <= 100 * EPS
    assert np.linalg.norm(ends["flipped"] - ends["usual"]) <= 100 * EPS
    assert np.linalg.norm(ends["other"] - ends["usual"]) > 1e-3


def test_entries_follow_their_columns():
    """Moments at bases that come back in another order, with signs, one column less and one more."""
    rng1 = rng(3)
    U, V = (np.linalg.qr(rng1.standard_normal((m, 4)))[0] for m in (9, 7))
    K, L, S = (rng1.random(shape) for shape in ((9, 3), (7, 3), (3, 3)))
    memory = {f"entries.{part}": X for part, X in zip("KLS", (K, L, S), strict=True)}
    state = State(LowRank(U[:, :3], np.eye(3), V[:, :3]), memory, origin=LowRank(U[:, :3], np.eye(3), V[:, :3]))

    def moved(i, j):
        Y1 = LowRank(-U[:, i], np.diag(np.arange(1.0, 1 + len(i))), V[:, j])
        after = state.at(Y1)
        np.testing.assert_allclose(after.Y.full(), Y1.full(), atol=EPS)
        return after.Y, (after.memory[f"entries.{part}"] for part in "KLS")

    Y, (K1, L1, S1) = moved([2, 0, 1], [1, 0, 2])
    for X, Z in ((Y.U, U[:, :3]), (Y.V, V[:, :3]), (K1, K), (L1, L), (S1, S)):
        np.testing.assert_allclose(X, Z, atol=EPS)
    Y, (K1, L1, S1) = moved([2, 0], [1, 0])
    for X, Z in ((Y.U, U[:, [0, 2]]), (K1, K[:, :2]), (L1, L[:, [0, 2]]), (S1, S[[0, 2]][:, :2])):
        np.testing.assert_allclose(X, Z, atol=EPS)
    Y, (K1, L1, S1) = moved([3, 2, 0, 1], [3, 1, 0, 2])
    np.testing.assert_allclose(Y.U[:, :3], U[:, :3], atol=EPS)
    np.testing.assert_allclose(K1, np.hstack([K, K.mean(axis=1, keepdims=True)]), atol=EPS)
    np.testing.assert_allclose(S1[3, 3], S.mean(), atol=EPS)


def test_refusals(problem, Y):
    with pytest.raises(ValueError, match="AlignedAdam has no direction of S at a later stage of a step: take GeoLoRA"):
        one_step(BUG(optimizer=AlignedAdam()), problem, Y)
    for optimizer in (AlignedAdam(), FactoredAdam()):
        with pytest.raises(TypeError, match="Adam is for methods with orthonormal bases"):
            LoRA(optimizer=optimizer).init(Y)
