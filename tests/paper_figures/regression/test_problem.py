"""The regression of Figure 5."""

import numpy as np
import pytest

from paper_figures.regression.problem import RATE, SIGMA, STEPS, TRUE_RANK, adalora_method, problem


@pytest.mark.parametrize("equal", [False, True])
def test_singular_values(equal):
    values = np.linalg.svd(problem(3, equal=equal).target, compute_uv=False)
    assert problem(3).dtype == np.float32
    assert values[0] == pytest.approx(SIGMA, rel=1e-5) and np.sum(values > 1e-4 * SIGMA) == TRUE_RANK
    if equal:
        np.testing.assert_allclose(values[:TRUE_RANK], SIGMA, rtol=1e-5)


def test_sigma_makes_the_rate_of_the_paper_the_limit():
    assert 2 / (3 * SIGMA ** (4 / 3)) == pytest.approx(RATE)


def test_budget_of_adalora_ends_where_it_is_told():
    assert adalora_method(0.1, 5).truncation.final == 5
    assert adalora_method(0.1).truncation.total_steps == STEPS
