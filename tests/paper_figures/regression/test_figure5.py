"""Figure 5: the reference numbers against a fresh small run, and the analysis against dense linear algebra."""

import math

import numpy as np
import pytest

from integrators import LowRank, SVDLoRA
from paper_figures.regression import figure5
from problems import MatrixRegression
from tests.paper_figures.contract import ItemContract

ITEMS = ["figure5"]


class TestItem(ItemContract):
    """Of Figure 5."""


# -- the reference, seed by seed ---------------------------------------------------------------------------------------


def test_reference_is_a_full_run(reference):
    assert reference["settings"]["seeds"] == list(range(20))
    assert reference["settings"]["sigma_1"] == pytest.approx(figure5.SIGMA)


def test_what_held_always_or_never_in_the_reference_does_so_again(reference, fresh):
    expected = {s["claim"]: s for s in reference["statements"]}
    for s in fresh["statements"]:
        before = expected[s["claim"]]
        if before["holds"] in (0, before["of"]):
            assert s["holds"] / s["of"] == before["holds"] / before["of"], s


def test_limits_of_svd_lora_agree(reference, fresh):
    for now, before in zip(fresh["runs"]["limits"], reference["runs"]["limits"]):
        assert now["stable_on_grid"] == before["stable_on_grid"]
        assert now["settled"] == pytest.approx(before["settled"], rel=0.01)
        assert now["bisection"] == pytest.approx(before["bisection"], rel=0.15)  # the outer edge is ragged


def test_losses_and_ranks_agree(reference, fresh):
    for now, before in zip(fresh["runs"]["svd_lora"], reference["runs"]["svd_lora"]):
        assert now["loss"] == pytest.approx(before["loss"], rel=0.5)  # at the limit, rounding shifts the phase
    for name in ("geolora", "geolora_spare"):
        for now, before in zip(fresh["runs"][name], reference["runs"][name]):
            assert (now["rank"], now["columns"]) == (before["rank"], before["columns"])
            assert now["relative_error"] < figure5.SINGLE
            assert abs(now["iterations_to_single"] - before["iterations_to_single"]) <= 5
    for now, before in zip(fresh["runs"]["adalora"], reference["runs"]["adalora"]):
        assert now["triplets"] == before["triplets"]
        assert now["relative_error"] == pytest.approx(before["relative_error"], rel=0.5)


# -- the analysis ------------------------------------------------------------------------------------------------------


def gradient(method, problem, U, S, V):
    """Gradient of the loss in the factors, read off one step of SVD-LoRA itself."""
    step = method.step(problem.field, 0.0, method.init(LowRank(U, S, V)), 1.0).state.Y
    return np.concatenate([(old - new).ravel() for old, new in zip((U, S, V), (step.U, step.S, step.V))])


def sharpness(problem, U, S, V):
    """Largest eigenvalue of the dense Hessian, by central differences of the gradient."""
    method, x = SVDLoRA(), np.concatenate([U.ravel(), S.ravel(), V.ravel()])

    def at(x):
        u, s, v = np.split(x, [U.size, U.size + S.size])
        return gradient(method, problem, u.reshape(U.shape), s.reshape(S.shape), v.reshape(V.shape))

    step = 1e-5
    rows = [(at(x + step * e) - at(x - step * e)) / (2 * step) for e in np.eye(x.size)]
    H = np.array(rows)
    np.testing.assert_allclose(H, H.T, atol=1e-5 * np.abs(H).max())
    return float(np.linalg.eigvalsh((H + H.T) / 2)[-1])


@pytest.fixture
def minimiser():
    """Target of singular values 5, 3, 1 and its balanced factors."""
    rng = np.random.default_rng(3)
    A = LowRank.random((6, 5), 3, rng, singular_values=[5.0, 3.0, 1.0])
    root = np.diag(np.diagonal(A.S) ** (1 / 3))
    return MatrixRegression(A.full()), A.U @ root, root, A.V @ root


def test_sharpness_at_the_balanced_minimiser(minimiser):
    problem, U, S, V = minimiser
    assert sharpness(problem, U, S, V) == pytest.approx(3 * 5 ** (4 / 3), rel=1e-6)
    assert figure5.stable_limit(5.0) == pytest.approx(2 / sharpness(problem, U, S, V), rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_no_minimiser_is_flatter(minimiser, seed):
    """Every gauge (U A, A^-1 S B^-1, V B^T) of the same matrix has at least that curvature."""
    problem, U, S, V = minimiser
    rng = np.random.default_rng(seed)
    A, B = (np.eye(3) + 0.3 * rng.standard_normal((3, 3)) for _ in range(2))
    factors = U @ A, np.linalg.solve(A, S) @ np.linalg.inv(B), V @ B.T
    np.testing.assert_allclose(factors[0] @ factors[1] @ factors[2].T, problem.target, atol=1e-12)
    assert sharpness(problem, *factors) >= 3 * 5 ** (4 / 3) * (1 - 1e-6)


def test_sharpness_with_orthonormal_bases(minimiser):
    problem, U, _, V = minimiser
    orthonormal = [X / np.linalg.norm(X, axis=0) for X in (U, V)]
    assert sharpness(problem, orthonormal[0], np.diag([5.0, 3.0, 1.0]), orthonormal[1]) == pytest.approx(
        2 * 5**2 + 1, rel=1e-6
    )


def test_flow_from_zero_leads_to_the_predicted_minimiser():
    """Small steps from orthonormal U, V and S = 0 end where `limit_from_start` says."""
    rng = np.random.default_rng(0)
    A = LowRank.random((4, 4), 1, rng, singular_values=[5.0])
    problem, method = MatrixRegression(A.full()), SVDLoRA()
    state = method.init(LowRank(*MatrixRegression(A.full()).initial(2, rng)))
    for _ in range(20_000):
        state = method.step(problem.field, 0.0, state, 2e-3).state
    Y = state.Y
    np.testing.assert_allclose(Y.full(), A.full(), atol=1e-8)
    assert sharpness(problem, Y.U, Y.S, Y.V) == pytest.approx(2 / figure5.limit_from_start(5.0), rel=0.02)


def test_bisect_finds_an_edge():
    assert figure5.bisect(lambda x: x < 0.3, 0.1, 1.0) == pytest.approx(0.3, rel=3e-3)
    assert figure5.bisect(lambda x: True, 0.1, 1.0) is None
    assert figure5.bisect(lambda x: False, 0.1, 1.0) is None


def test_unstable_is_a_result():
    diverged = figure5.svd_lora(0, rate=10**-2.25, steps=200)
    assert diverged == {"loss": None}
    assert math.isclose(figure5.SIGMA, 85.137, rel_tol=1e-4)
