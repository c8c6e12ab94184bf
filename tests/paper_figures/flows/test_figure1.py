"""Figure 1: the reference numbers against a fresh small run, and the geometry against its formulas."""

import math

import numpy as np
import pytest

from integrators import LowRank, SVDLoRA
from paper_figures.flows import figure1
from problems import MatrixRegression
from tests.paper_figures.contract import ItemContract

ITEMS = ["figure1"]


class TestItem(ItemContract):
    """Of Figure 1."""


# -- the reference -----------------------------------------------------------------------------------------------------


def test_reference_is_a_full_run(reference):
    assert reference["settings"]["seeds"] == list(range(20))
    assert np.array_equal(reference["settings"]["target"], figure1.TARGET)


def test_every_statement_held(reference, fresh):
    for data in (reference, fresh):
        for s in data["statements"]:
            assert s["holds"] == s["of"], s


def test_numbers_agree(reference, fresh):
    assert fresh["at_rest"] == pytest.approx(reference["at_rest"])
    for now, before in zip(fresh["flows"], reference["flows"]):
        assert now["angle"] == pytest.approx(before["angle"], abs=0.01)  # the steps are five times as large
        assert now["riemannian_gradient"] == pytest.approx(before["riemannian_gradient"], rel=1e-3)
        assert now["riemannian_least_norm"] == pytest.approx(before["riemannian_least_norm"], rel=0.05)
        assert now["symmetric"] and before["symmetric"]


# -- the geometry ------------------------------------------------------------------------------------------------------


def test_coordinates_keep_the_norm_and_turn_rank_1_into_a_cone():
    rng = np.random.default_rng(0)
    W = rng.standard_normal((20, 2, 2))
    W = W + W.swapaxes(-1, -2)
    np.testing.assert_allclose(np.linalg.norm(figure1.coordinates(W), axis=-1), np.linalg.norm(W, axis=(-2, -1)))
    u = rng.standard_normal((20, 2))
    x, y, z = figure1.coordinates(-0.7 * u[:, :, None] * u[:, None, :]).T
    np.testing.assert_allclose(x**2 + y**2, z**2)


@pytest.mark.parametrize("seed", range(20))
def test_ends_of_the_bisection(seed):
    """The eigenvector of the negative eigenvalue, and a u with u^T A u = 0 at less than 90 degrees from it."""
    A = figure1.target(seed)
    w, zero = (np.array([math.cos(a), math.sin(a)]) for a in figure1.angles(A))
    assert abs(zero @ A @ zero) < 1e-14
    np.testing.assert_allclose(A @ w, np.linalg.eigvalsh(A)[0] * w, atol=1e-14)
    assert abs(np.subtract(*figure1.angles(A))) < math.pi / 2


def test_hat_projection_is_the_direction_of_svd_lora():
    problem, Y, h = MatrixRegression(figure1.TARGET), figure1.point(-0.3, 0.8), 1e-7
    step = SVDLoRA().step(problem.field, 0.0, SVDLoRA().init(Y), h).augmented
    moved = (step.full() - Y.full()) / h
    np.testing.assert_allclose(moved, -figure1.hat_projection(Y, problem.gradient(Y).full()), atol=1e-5)


def test_projection_is_the_tangent_projection():
    Y = figure1.point(-0.3, 0.8)
    Z = np.random.default_rng(1).standard_normal((2, 2))
    np.testing.assert_allclose(figure1.projection(Y, Z), Y.project(Z).full(), atol=1e-14)


def test_point_of_rest_is_a_saddle():
    """Eigenvalues of the step there: those of the linearisation s' = 2 q - |u|^4 s, q' = |A u|^2 s."""
    A, length, h = figure1.TARGET, 0.6, 1e-3
    u = np.array([length, 0.0])
    method, problem = SVDLoRA(), MatrixRegression(A)

    def advance(x):
        """(s, u_1, u_2) after a step, for U = V = u."""
        Y = LowRank(x[1:, None], x[:1, None], x[1:, None])
        new = method.step(problem.field, 0.0, method.init(Y), h).state.Y
        return np.concatenate([new.S[0], new.U[:, 0]])

    x, d = np.array([0.0, *u]), 1e-6
    assert np.array_equal(advance(x), x)
    J = np.array([(advance(x + d * e) - advance(x - d * e)) / (2 * d) for e in np.eye(3)]).T
    rates = np.sort(np.linalg.eigvals((J - np.eye(3)) / h).real)
    a, b = length**4, 2 * float((A @ u) @ (A @ u))
    expected = sorted([-a / 2 - math.sqrt(a**2 / 4 + b), 0.0, -a / 2 + math.sqrt(a**2 / 4 + b)])
    np.testing.assert_allclose(rates, expected, atol=1e-6)
