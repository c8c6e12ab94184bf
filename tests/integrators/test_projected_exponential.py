"""Projected exponential Runge-Kutta: the contract, its equations in dense arithmetic, stiff equations."""

import numpy as np
import pytest
import scipy.linalg

from dlrt.testing import Contract, one_step, rng
from integrators import FixedRank, LowRank, ProjectedExponential, ProjectedRungeKutta, Tolerance
from problems import MatrixRegression, Sylvester, allen_cahn, given_solution, lyapunov

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestProjectedExponential(Contract):
    integrator = ProjectedExponential()


class TestProjectedExponential2(Contract):
    integrator = ProjectedExponential(order=2)
    test_orthonormal_after_3000_steps = None  # its truncation is that of order 1; long


def best(W, rank):
    """Best approximation of this rank."""
    return LowRank.from_dense(W, rank)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_by_hand(order, dtype):
    """With the matrix of the linear part and its exponential, on an equation whose L is half of the field."""
    problem, h, t = given_solution(rng(1), (12, 9), dtype=dtype), 0.1, 0.3
    Y = LowRank.random((12, 9), 3, rng(2), problem.like)
    big = np.kron(problem.M1, np.eye(9)) + np.kron(np.eye(12), problem.M2.T)
    E, one = scipy.linalg.expm(h * big), np.eye(108)
    phi1 = np.linalg.solve(h * big, E - one)
    phi2 = np.linalg.solve(h * big, phi1 - one)
    apply = lambda P, W: (P @ W.ravel()).reshape(W.shape)  # noqa: E731

    def PG(t, Z):
        G = problem.field(t, Z).full() - problem.M1 @ Z.full() - Z.full() @ problem.M2
        return Z.project(G).full()

    g = PG(t, Y)
    expected = apply(E, Y.full()) + h * apply(phi1, g)
    if order == 2:
        expected = expected + h * apply(phi2, PG(t + h, best(expected, 3)) - g)
    method = ProjectedExponential(order=order, truncation=FixedRank(3))
    step = method.step(problem.field, t, method.init(Y), h)
    assert step.evaluations == order and step.state.Y.rank == 3
    # phi_2 here by dividing by hL twice, whose condition is some hundred
    assert np.linalg.norm(step.augmented.full() - expected) <= 100 * EPS


def test_without_a_linear_part_it_is_a_projected_runge_kutta_method():
    """phi_k(0) = 1 / k!: Euler's method, the same as that of `ProjectedRungeKutta`."""
    problem = MatrixRegression(rng(1).standard_normal((20, 17)))
    Y = LowRank.random((20, 17), 3, rng(2))
    one, other = (one_step(method, problem, Y).augmented for method in (ProjectedExponential(), ProjectedRungeKutta()))
    assert np.linalg.norm(one.full() - other.full()) <= EPS


@pytest.mark.parametrize("order", [1, 2])
def test_exact_on_a_homogeneous_sylvester_equation(order):
    A, B = (10 * X / np.linalg.norm(X, 2) for X in (rng(k).standard_normal((12, 12)) for k in (1, 2)))
    Y, h = LowRank.random((12, 12), 3, rng(3)), 0.5
    exact = scipy.linalg.expm(h * A) @ Y.full() @ scipy.linalg.expm(h * B)
    method = ProjectedExponential(order=order, truncation=FixedRank(3))
    Y1 = one_step(method, Sylvester(A, B), Y, h).state.Y
    assert np.linalg.norm(Y1.full() - exact) <= 1e3 * EPS * np.linalg.norm(exact)


@pytest.mark.parametrize("order", [1, 2])
def test_order_on_the_allen_cahn_equation(order):
    """Steps far beyond the bound of explicit methods, h ||L|| from 40 to 10, at a rank that holds the solution."""
    problem = allen_cahn(48, eps=0.1)
    method = ProjectedExponential(
        order=order, truncation=Tolerance(absolute=1e-9), stage_truncation=Tolerance(absolute=1e-9)
    )
    start, errors, counts = problem.initial(10, rng(1)), [], (5, 10, 20, 40)
    for steps in counts:
        state = method.init(start)
        for k in range(steps):
            state = method.step(problem.field, 2.0 * k / steps, state, 2.0 / steps).state
        errors.append(problem.error(2.0, state.Y))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope - order) <= 0.2, (slope, errors)


@pytest.mark.parametrize("order", [1, 2])
def test_the_error_does_not_grow_with_stiffness(order):
    """The heat equation with a source, its operator times 1, 100, 10,000, all with the same steps.

    What is left of the source in the projection of the first steps, from a start of rank 1, is an error of first order.
    """
    errors = []
    for scale in (1.0, 1e2, 1e4):
        p = lyapunov(24, rng(1))
        problem = Sylvester(scale * p.A, scale * p.B, p.C, p.start)
        method = ProjectedExponential(order=order, truncation=FixedRank(8))
        state = method.init(problem.initial(8, rng(2)))
        for k in range(5):
            state = method.step(problem.field, 0.1 * k, state, 0.1).state
        errors.append(problem.error(0.5, state.Y) / np.linalg.norm(problem.reference(0.5)))
    assert errors[2] <= errors[1] <= errors[0] <= 0.05


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="order must be 1 or 2, got 3"):
        ProjectedExponential(order=3)
    with pytest.raises(TypeError, match=r"stage_truncation must be an integrators.Truncation such as FixedRank\(4\)"):
        ProjectedExponential(stage_truncation=4)
