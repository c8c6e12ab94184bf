"""What the checks measure with."""

import numpy as np
import pytest

from dlrt.theorems.measure import attempt, bases, dense, msign, normal_part, nuclear, run, tangent_core, tangent_part
from integrators import FixedRank, GeoLoRA, LowRank, Projections


def test_a_run_ends_at_the_step_that_fails():
    """Growth by a factor of 1e200 per step overflows in the second."""

    def field(t, Y):
        return Projections(1e200 * Y.K, 1e200 * Y.L, 1e200 * Y.S)

    method = GeoLoRA(truncation=FixedRank(2))
    start = method.init(LowRank.random((6, 5), 2, np.random.default_rng(0)))
    with np.errstate(all="ignore"):
        steps = list(run(method, field, start, 1.0, 5))
        assert attempt(method, field, steps[-1][1], 1.0) is None
    assert [k for k, _, _ in steps] == list(range(1, len(steps) + 1)) and len(steps) < 5
    assert steps[-1][2] is None and all(step is not None for _, _, step in steps[:-1])


@pytest.mark.parametrize("orthonormal", [True, False])
def test_tangent_and_normal_part_add_up(orthonormal):
    rng = np.random.default_rng(0)
    Y = LowRank.random((7, 6), 2, rng)
    if not orthonormal:
        Y = LowRank(3.0 * Y.U, Y.S, Y.V @ np.array([[1.0, 2.0], [0.0, 1.0]]))
    Z = rng.standard_normal((7, 6))
    tangent, normal = tangent_part(Z, *bases(Y)), normal_part(Z, *bases(Y))
    np.testing.assert_allclose(tangent + normal, Z, atol=1e-14)
    np.testing.assert_allclose(tangent_part(dense(Y), *bases(Y)), dense(Y), atol=1e-14)
    assert abs(np.sum(tangent * normal)) < 1e-13


@pytest.mark.parametrize(("m", "n", "r"), [(7, 6, 2), (4, 7, 3), (5, 5, 5)])
def test_core_of_a_tangent_vector(m, n, r):
    """In orthonormal bases whose first columns span the ranges of U and V; its last block is zero."""
    rng = np.random.default_rng(0)
    Y = LowRank.random((m, n), r, rng)
    Z = rng.standard_normal((m, n)) + 1j * rng.standard_normal((m, n))
    Uh, C, Vh = tangent_core(Z, Y.U, Y.V)
    np.testing.assert_allclose(Uh @ C @ Vh.conj().T, tangent_part(Z, Y.U, Y.V), atol=1e-13)
    assert C.shape == (min(m, 2 * r), min(n, 2 * r)) and not C[r:, r:].any()
    for Q, X in ((Uh, Y.U), (Vh, Y.V)):
        np.testing.assert_allclose(Q.conj().T @ Q, np.eye(Q.shape[1]), atol=1e-13)
        np.testing.assert_allclose(Q[:, :r] @ (Q[:, :r].conj().T @ X), X, atol=1e-13)


def test_matrix_sign_and_nuclear_norm():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((5, 2)) @ rng.standard_normal((2, 4))
    S = msign(X)
    np.testing.assert_allclose(np.linalg.svd(S, compute_uv=False), [1, 1, 0, 0], atol=1e-14)
    assert np.vdot(X, S) == pytest.approx(nuclear(X), rel=1e-14)
    assert not msign(np.zeros((3, 2))).any()
