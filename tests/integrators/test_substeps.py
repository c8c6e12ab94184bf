"""Substeps against exact sub-flows."""

import numpy as np
import pytest
import torch

from dlrt.testing import distance, rng
from integrators import BUG, RK4, Euler, Exact, Exponential, Heun, Implicit, LowRank, ProjectedExponential, Repeated
from integrators.substeps import Substep
from problems import MatrixRegression, Sylvester, allen_cahn, given_solution, lyapunov

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


@pytest.mark.parametrize(
    "substep,further",
    [
        (Euler(), 0), (Heun(), 1), (RK4(), 3), (Repeated(Heun(), 3), 5), (Exact(), 0),
        (Exponential(), 0), (Exponential(order=2), 1), (Implicit(), 0), (Implicit(order=2), 1),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("part", ["K", "L", "S"])
@pytest.mark.parametrize("sign", [1, -1])
def test_substeps_against_the_exact_sub_flow(substep, further, part, sign):
    """Local error of order p + 1 on the linear field A - Y; none for Exact."""
    if sign == -1 and part != "S":
        return
    problem = MatrixRegression(rng(1).standard_normal((9, 7)))
    Y = LowRank.random((9, 7), 3, rng(2))
    errors = []
    for h in (0.2, 0.1):
        f = problem.field(0.0, Y)
        flow = getattr(f, f"flow_{part}")
        exact = flow(h, sign) if part == "S" else flow(h)
        stages = getattr(substep, part)(0.0, Y, h, f, *([sign] if part == "S" else []))
        asked = 0
        try:
            request = next(stages)
            while True:
                asked += 1
                request = stages.send(problem.field(*request[:2]))
        except StopIteration as stop:
            errors.append(np.linalg.norm(getattr(Y, part) + stop.value - exact))
        assert asked == further
    if isinstance(substep, Exact):
        assert max(errors) <= EPS
    else:
        assert abs(np.log2(errors[0] / errors[1]) - (substep.order + 1)) <= 0.3


def increment(substep, problem, Y, h, part, sign=1, t=0.0):
    stages = getattr(substep, part)(t, Y, h, problem.field(t, Y), *([sign] if part == "S" else []))
    try:
        request = next(stages)
        while True:
            request = stages.send(problem.field(*request[:2]))
    except StopIteration as stop:
        return stop.value


SPLIT = [Exponential(), Exponential(order=2), Implicit(), Implicit(order=2)]
PARTS = [("K", 1), ("L", 1), ("S", 1), ("S", -1)]


@pytest.mark.parametrize("substep", SPLIT, ids=str)
@pytest.mark.parametrize("part,sign", PARTS)
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_a_linear_part_of_a_nonlinear_field(substep, part, sign, dtype):
    """Local error of order p + 1 where the linear part is half of the field, and one step is not Euler's."""
    problem = given_solution(rng(1), (16, 12), dtype=dtype)
    Y = problem.initial(4, rng(2))
    errors = []
    for h in (0.02, 0.01):
        fine = increment(Repeated(RK4(), 20), problem, Y, h, part, sign, t=0.3)
        errors.append(np.linalg.norm(increment(substep, problem, Y, h, part, sign, t=0.3) - fine))
    assert abs(np.log2(errors[0] / errors[1]) - (substep.order + 1)) <= 0.2
    plain = Euler() if substep.order == 1 else Heun()
    assert np.linalg.norm(
        increment(substep, problem, Y, h, part, sign) - increment(plain, problem, Y, h, part, sign)
    ) > (1e-2 * errors[1])


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("part,sign", PARTS)
def test_exponential_is_exact_for_an_affine_field(order, part, sign):
    """``A Y + Y B + C`` with nonsymmetric, complex A and B, in steps of h ||A|| = 3."""
    A, B = (10 * X / np.linalg.norm(X, 2) for X in (rng(k).standard_normal((9, 9)) for k in (1, 2)))
    C = (rng(3).standard_normal((9, 2)) + 1j, rng(4).standard_normal((9, 2)))
    problem = Sylvester(A * (1 + 0.5j), B, tuple(X.astype(complex) for X in C))
    Y = LowRank.random((9, 9), 3, rng(2), like=problem.like)
    exact = increment(Exact(), problem, Y, 0.3, part, sign)
    found = increment(Exponential(order=order), problem, Y, 0.3, part, sign)
    assert np.linalg.norm(found - exact) <= 10 * EPS * np.linalg.norm(exact)


@pytest.mark.parametrize("order", [1, 2])
def test_implicit_by_hand(order):
    """K of a Sylvester equation, in dense arithmetic with the matrix of its operator."""
    A, B = rng(1).standard_normal((9, 9)), rng(2).standard_normal((7, 7))
    problem, Y, h = Sylvester(A, B), LowRank.random((9, 7), 3, rng(3)), 0.2
    L = np.kron(A, np.eye(3)) + np.kron(np.eye(9), (Y.V.T @ B @ Y.V).T)
    K = Y.K.ravel()
    gamma = 1 - np.sqrt(0.5)
    if order == 1:
        expected = np.linalg.solve(np.eye(27) - h * L, K) - K
    else:
        M = np.eye(27) - gamma * h * L
        k1 = np.linalg.solve(M, L @ K)
        k2 = np.linalg.solve(M, L @ (K + h * k1) - 2 * k1)
        expected = h * (3 * k1 + k2) / 2
    assert np.linalg.norm(increment(Implicit(order=order), problem, Y, h, "K").ravel() - expected) <= 10 * EPS


@pytest.mark.parametrize("substep", SPLIT, ids=str)
def test_no_step_is_too_long_for_the_linear_part(substep):
    """BUG on the stiff heat equation, h ||A|| = 1000; Euler's bound is 1 (2 for both sides)."""
    problem = lyapunov(40, rng(1), stiff=True)
    Y, method = problem.initial(6, rng(2)), BUG(substep=substep)
    h, state = 1000 / np.linalg.norm(problem.A, 2), method.init(Y)
    for k in range(8):
        state = method.step(problem.field, k * h, state, h).state
    rest = np.linalg.norm(problem.reference(8 * h))
    assert np.linalg.norm(state.Y.full() - problem.reference(8 * h)) <= 0.02 * rest


@pytest.mark.parametrize("substep", SPLIT, ids=str)
def test_order_where_diffusion_is_stiff(substep):
    """K of the Allen-Cahn equation on a fine grid: the step sizes are far beyond the bound of Euler's method."""
    problem = allen_cahn(100, eps=0.1)
    Y = problem.initial(4, rng(1))
    errors, hs = [], (0.1, 0.05, 0.025)
    reference = Y.K + increment(Repeated(Exponential(order=2), 100), problem, Y, 0.4, "K")
    for h in hs:
        K = Y.K + increment(Repeated(substep, round(0.4 / h)), problem, Y, 0.4, "K")
        errors.append(np.linalg.norm(K - reference))
    order = np.polyfit(np.log(hs), np.log(errors), 1)[0]
    assert abs(order - substep.order) <= 0.2, (order, errors)


def test_time_runs_forward_in_a_backward_step():
    """The stages of a backward S-step lie in [t, t + h] too."""
    problem = given_solution(rng(1))
    Y = problem.initial(4, rng(2))
    stages = RK4().S(1.0, Y, 0.4, problem.field(1.0, Y), sign=-1)
    times = [next(stages)[0]]
    for _ in range(2):
        times.append(stages.send(problem.field(times[-1], Y))[0])
    assert times == pytest.approx([1.2, 1.2, 1.4])


def test_bad_substeps():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        Repeated(Euler(), 0)
    for method in (Exponential, Implicit):
        with pytest.raises(ValueError, match="order must be 1 or 2, got 3"):
            method(order=3)
    with pytest.raises(TypeError, match="Substep must define advance"):
        Substep().advance(0, None, 0.1, None, "K", None, 1)

    class NoFlows:
        pass

    with pytest.raises(TypeError, match="Exact needs a field with flow_K; NoFlows has none"):
        next(Exact().K(0.0, LowRank.random((4, 3), 1, rng()), 0.1, NoFlows()))


@pytest.mark.parametrize(
    "method", [BUG(substep=substep) for substep in SPLIT] + [ProjectedExponential(order=2)], ids=str
)
def test_a_linear_part_of_torch_points(method):
    """The functions of matrices are scipy's; points come and go in their own library."""
    problem = given_solution(rng(1), (12, 9), dtype=np.complex128)
    Y = problem.initial(4, rng(2))
    T = LowRank(*map(torch.asarray, Y))
    one, other = (method.step(problem.field, 0.0, method.init(X), 0.1).state.Y for X in (Y, T))
    assert isinstance(other.S, torch.Tensor) and distance(one, other) <= 10 * EPS
