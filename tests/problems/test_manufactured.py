"""Problems made by sympy: the solution solves the equation, the derived constants bound what they bound."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
import sympy as sp

from integrators import BUG, Exact, GeoLoRA, LowRank, ProjectorSplitting
from problems import Manufactured, manufactured

from .contract import Contract, ExactFlows, NoExactFlows, TorchPoints, as_torch, derivative_in_time


class TestManufactured(NoExactFlows, TorchPoints, Contract):
    dtypes = (np.float64,)
    formula_error = 1e-10

    def build(self, rng, dtype):
        p = manufactured((5, 4), rank=1)

        def g(W):
            return np.sin(2 * W) / 2

        return p, lambda t, W: derivative_in_time(p.reference, t) + g(W) - g(p.reference(t))


class TestLinear(ExactFlows, TorchPoints, Contract):
    dtypes = (np.float64,)
    formula_error = 1e-10

    def build(self, rng, dtype):
        p = manufactured((5, 4), rank=1, nonlinearity=None)
        return p, lambda t, W: derivative_in_time(p.reference, t)


@pytest.fixture(scope="module")
def problem():
    return manufactured((7, 6), rank=2, rest=0.1)


def point(problem, rank=2, seed=0):
    return problem.initial(rank, np.random.default_rng(seed))


def test_solution_solves_the_equation(problem):
    """F(t, A(t)) = A'(t), the derivative by central differences."""
    t, h = 0.4, 1e-5
    A = LowRank.from_dense(problem.reference(t), rank=3)  # rank 2 and the rest
    derivative = (problem.reference(t + h) - problem.reference(t - h)) / (2 * h)
    np.testing.assert_allclose(problem.field(t, A).full(), derivative, atol=1e-8)


def test_normal_component(problem):
    """Zero for exact rank, rest |cos t| here."""
    assert manufactured(nonlinearity=None).normal == sp.zeros(7, 6)
    for t in (0.0, 0.3, 1.0):
        assert np.linalg.norm(problem.normal_component(t)) == pytest.approx(0.1 * abs(np.cos(t)))
    assert 0.1 <= problem.normal_bound(0.0, 1.0) <= 0.1 * (1 + 1e-9)


def test_normal_component_of_bases_that_are_not_orthonormal():
    t = sp.Symbol("t", real=True)
    U, V = sp.Matrix([1, t, t**2]), sp.Matrix([1 + t, sp.exp(t)])
    assert Manufactured(U, sp.Matrix([[1 + t]]), V, t).normal == sp.zeros(3, 2)


@pytest.mark.parametrize(
    ("g", "lipschitz", "one_sided"),
    [("sin(2*y)/2", 1.0, 1.0), ("-y**3", np.inf, 0.0), ("-3*y", 3.0, -3.0), ("atan(y)", 1.0, 1.0), (None, 0.0, 0.0)],
)
def test_lipschitz_constants_in_Y(g, lipschitz, one_sided):
    problem = manufactured(nonlinearity=g)
    assert problem.lipschitz == pytest.approx(lipschitz)
    assert problem.one_sided_lipschitz == pytest.approx(one_sided)


def test_lipschitz_constant_is_attained_up_to_a_factor(problem):
    rng = np.random.default_rng(0)
    largest = 0.0
    for _ in range(20):
        X = LowRank.random(problem.shape, 2, rng, singular_values=[1e-3, 1e-4])
        Y = LowRank.random(problem.shape, 2, rng, singular_values=[1e-3, 1e-4])
        change = np.linalg.norm(problem.field(0.2, X).full() - problem.field(0.2, Y).full())
        largest = max(largest, change / np.linalg.norm(X.full() - Y.full()))
    assert 0.9 < largest <= problem.lipschitz * (1 + 1e-9)


def test_lipschitz_constant_in_time(problem):
    Y = point(problem)
    bound = problem.time_lipschitz(0.0, 1.0)
    times = np.linspace(0, 1, 60)
    fields = [problem.field(t, Y).full() for t in times]
    slopes = [np.linalg.norm(b - a) / (times[1] - times[0]) for a, b in pairwise(fields)]
    assert bound / 20 < max(slopes) <= bound
    assert problem.time_lipschitz(0.0, 0.1) < bound


def test_exact_sub_flows_give_the_solution_again():
    problem = manufactured(nonlinearity=None)
    for method in (ProjectorSplitting(substep=Exact()), BUG(substep=Exact())):
        state = method.init(point(problem))
        for k in range(5):
            state = method.step(problem.field, 0.2 * k, state, 0.2).state
        assert problem.error(1.0, state.Y) < 1e-13


def test_first_order_convergence(problem):
    errors = []
    exact = manufactured((7, 6), rank=2)
    for n in (20, 40, 80):
        state, method = GeoLoRA().init(point(exact)), GeoLoRA()
        for k in range(n):
            state = method.step(exact.field, k / n / 2, state, 0.5 / n).state
        errors.append(exact.error(0.5, state.Y))
    assert np.log2(errors[-2] / errors[-1]) == pytest.approx(1.0, abs=0.2)


def test_pickled_and_in_torch(problem):
    torch = pytest.importorskip("torch")
    again = pickle.loads(pickle.dumps(problem))
    Y = point(problem)
    expected = problem.field(0.3, Y).K
    np.testing.assert_array_equal(again.field(0.3, Y).K, expected)
    found = again.field(0.3, as_torch(Y)).K
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-14)


def test_refusals():
    t = sp.Symbol("t")
    with pytest.raises(ValueError, match="shapes"):
        Manufactured(sp.ones(3, 2), sp.eye(1), sp.ones(3, 1), t)
    with pytest.raises(ValueError, match="rest must have shape"):
        Manufactured(sp.ones(3, 1), sp.eye(1), sp.ones(3, 1), t, sp.ones(2, 2))
    with pytest.raises(ValueError, match="2 rank"):
        manufactured((4, 4), rank=2)
