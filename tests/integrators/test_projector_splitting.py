"""Projector splitting: the contract, Lie and Strang by hand, exactness on Sylvester equations."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg

from dlrt import solve
from dlrt.testing import Contract, eps, one_step, rng
from integrators import Exact, Heun, LowRank, ProjectorSplitting
from problems import DenseField, OperatorField, Sylvester, klein_gordon, lyapunov

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestProjectorSplitting(Contract):
    integrator = ProjectorSplitting()
    exact = True


class TestProjectorSplittingStrang(Contract):
    integrator = ProjectorSplitting(order=2, substep=Heun())
    exact = True


@pytest.mark.parametrize("method", [ProjectorSplitting(), ProjectorSplitting(order=2)], ids=["lie", "strang"])
@pytest.mark.parametrize("h", [0.1, 1.0])
def test_splitting_is_exact_on_sylvester(method, h):
    """X' = A X + X B with nonsymmetric A, B: both splittings are exact with exact sub-flows, also for h ||A|| = 10."""
    m, n, r = 18, 14, 3
    A, B = (10 * X / np.linalg.norm(X, 2) for X in (rng(1).standard_normal((m, m)), rng(2).standard_normal((n, n))))
    problem = Sylvester(A, B, None)
    Y = LowRank.random((m, n), r, rng(3), singular_values=[1.0, 0.5, 0.1])
    exact = scipy.linalg.expm(h * A) @ Y.full() @ scipy.linalg.expm(h * B)
    integrator = replace(method, substep=Exact())
    Y1 = integrator.step(problem.field, 0.0, integrator.init(Y), h).state.Y
    # the backward S-flow multiplies rounding errors by at most e^{h (||A|| + ||B||)} relative to the forward growth
    growth = np.exp(h * (np.linalg.norm(A, 2) + np.linalg.norm(B, 2)))
    assert np.linalg.norm(Y1.full() - exact) <= 1e3 * eps(Y) * min(growth, 1e9) * np.linalg.norm(exact)


@pytest.mark.parametrize("order", [1, 2])
def test_a_backward_step_that_amplifies_rounding_says_so(order):
    """Where the warning comes the result is of no use, though finite; at a quarter of that step size it is good."""
    problem = lyapunov(60, rng(1), stiff=True)
    method = ProjectorSplitting(order=order, substep=Exact())
    largest = np.linalg.norm(problem.A, 2)
    for size, useful in ((60 * order, False), (15 * order, True)):
        state, warnings, h = method.init(problem.initial(8, rng(2))), [], size / largest
        for k in range(5):
            step = method.step(problem.field, k * h, state, h)
            state, warnings = step.state, [*warnings, step.warning]
        exact = problem.reference(5 * h)
        error = np.linalg.norm(state.Y.full() - exact) / np.linalg.norm(exact)
        if useful:
            assert warnings == [None] * 5 and error <= 0.1
        else:
            assert "the backward S-step multiplied ||S|| by" in next(filter(None, warnings)) and 1 < error < np.inf
    assert state.warning is None  # it is about one step, and the memory of a run has none


def test_a_start_at_zero_is_no_growth(problem):
    method = ProjectorSplitting()
    step = method.step(problem.field, 0.0, method.init(LowRank.zeros((9, 7), 3, rng(1))), 0.1)
    assert step.warning is None


def test_projector_splitting_lie_by_hand(problem, Y):
    """K forward, S backward, L forward, in dense arithmetic."""
    F = lambda W: problem.target - W  # noqa: E731
    h = 0.1
    K = Y.K + h * F(Y.full()) @ Y.V
    U1, R = np.linalg.qr(K)
    S = R - h * U1.T @ F(U1 @ R @ Y.V.T) @ Y.V
    L = Y.V @ S.T + h * F(U1 @ S @ Y.V.T).T @ U1
    assert np.linalg.norm(one_step(ProjectorSplitting(), problem, Y).state.Y.full() - U1 @ L.T) <= EPS


def test_strang_is_a_composition_of_lie_and_its_adjoint(problem, Y):
    """With exact sub-flows, K S L over h/2 followed by L S K over h/2 (by transposition) is the Strang step."""
    h = 0.2
    lie = ProjectorSplitting(substep=Exact())
    half = lie.step(problem.field, 0.0, lie.init(Y), h / 2).state.Y

    # L S K: K S L for the transposed problem with the sub-steps in reverse order, written out
    f = problem.field(0.0, half)
    V1, R = np.linalg.qr(f.flow_L(h / 2))
    Z = LowRank(half.U, R.T, V1)
    Z = LowRank(Z.U, problem.field(0.0, Z).flow_S(h / 2, -1), V1)
    expected = problem.field(0.0, Z).flow_K(h / 2) @ V1.T
    strang = one_step(ProjectorSplitting(order=2, substep=Exact()), problem, Y, h).state.Y
    assert np.linalg.norm(strang.full() - expected) <= 10 * EPS


@pytest.mark.parametrize("order", [1, 2])
def test_at_full_rank_an_equation_of_second_order_is_solved_by_the_dense_schemes(order):
    """Symplectic Euler, and the leapfrog scheme drift, kick, drift: with all ranks full nothing is projected."""
    n, h, problem = 10, 0.1, klein_gordon(10)
    method = ProjectorSplitting(order=order)
    state = method.init(problem.initial(2 * n, rng(0)))
    A, B = problem.position, problem.velocity
    for k in range(10):
        step = method.step(problem.field, k * h, state, h)
        state = step.state
        if order == 1:
            A = A + h * B
            B = B + h * problem.dense_force(A)
        else:
            A = A + h / 2 * B
            B = B + h * problem.dense_force(A)
            A = A + h / 2 * B
    assert step.evaluations == {1: 2 * 3, 2: 3 * 5}[order]
    exact = np.block([[A, np.zeros((n, n))], [np.zeros((n, n)), B]])
    assert np.linalg.norm(state.Y.full() - exact) <= EPS


def test_position_and_velocity_are_matrices_of_their_own():
    """Of low rank: the steps of a projector splitting of A with the field B, of B with f(A), and of A again."""
    n, h, problem = 12, 0.1, klein_gordon(12)
    method = ProjectorSplitting(order=2)
    A, B = (LowRank.random((n, n), r, rng(r)) for r in (4, 3))
    state = method.init(LowRank(*(scipy.linalg.block_diag(*X) for X in zip(A, B, strict=True))))
    for k in range(10):
        state = method.step(problem.field, k * h, state, h).state
        for matrix, length in (("A", h / 2), ("B", h), ("A", h / 2)):
            if matrix == "A":
                D = B.full()
                A = method.step(lambda t, Y, D=D: DenseField(Y, D), 0.0, method.init(A), length).state.Y
            else:
                D = problem.dense_force(A.full())
                B = method.step(lambda t, Y, D=D: DenseField(Y, D), 0.0, method.init(B), length).state.Y
    assert not state.Y.full()[:n, n:].any() and not state.Y.full()[n:, :n].any()
    assert (problem.position_of(state.Y).rank, problem.velocity_of(state.Y).rank) == (A.rank, B.rank) == (4, 3)
    assert np.linalg.norm(problem.position_of(state.Y).full() - A.full()) <= EPS
    assert np.linalg.norm(problem.velocity_of(state.Y).full() - B.full()) <= EPS


@pytest.mark.parametrize("order", [1, 2])
def test_parts_without_blocks_are_flows_of_the_whole_matrix(problem, Y, order):
    """F = 0.3 F + 0.7 F, one after the other, or there and back."""
    method, h = ProjectorSplitting(order=order, substep=Heun()), 0.1

    def part(share):
        def field(t, X):
            F = problem.field(t, X)
            return OperatorField(X, lambda Z: share * F.apply(Z), lambda Z: share * F.apply_H(Z))

        return field

    class Sum(OperatorField):
        @property
        def parts(self):
            return part(0.3)(0.0, self.point), part(0.7)(0.0, self.point)

    whole = method.step(lambda t, X: Sum(X, None, None), 0.0, method.init(Y), h).state.Y
    state = method.init(Y)
    for share, length in {1: [(0.3, h), (0.7, h)], 2: [(0.3, h / 2), (0.7, h), (0.3, h / 2)]}[order]:
        state = method.step(part(share), 0.0, state, length).state
    assert np.linalg.norm(whole.full() - state.Y.full()) <= EPS


def test_bases_that_mix_the_blocks_are_turned():
    """A step from other bases of the same block diagonal matrix is the same, and costs one field more."""
    problem, method = klein_gordon(6), ProjectorSplitting(order=2)
    A, B = (LowRank.random((6, 6), 2, rng(r)) for r in (4, 3))
    U, S, V = (scipy.linalg.block_diag(*X) for X in zip(A, B, strict=True))
    P, Q = (np.linalg.qr(rng(i).standard_normal((4, 4)))[0] for i in (1, 2))
    first, second = (
        method.step(problem.field, 0.0, method.init(Y), 0.1)
        for Y in (LowRank(U, S, V), LowRank(U @ P, P.T @ S @ Q, V @ Q))
    )
    assert (first.evaluations, second.evaluations) == (15, 16)
    assert np.linalg.norm(first.state.Y.full() - second.state.Y.full()) <= EPS


def test_step_size_control_of_an_equation_of_second_order():
    """Extrapolation mixes the bases in every step."""
    problem = klein_gordon(16)
    run = solve(ProjectorSplitting(order=2), problem, t_span=(0, 2), rtol=1e-3, rank=24)
    assert run.status == "finished" and run.errors[-1] <= 1e-2 * np.linalg.norm(problem.reference(2.0))
