"""What the checks measure with."""

import numpy as np
import pytest

from dlrt.theorems.measure import attempt, bases, dense, normal_part, run, tangent_part
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
