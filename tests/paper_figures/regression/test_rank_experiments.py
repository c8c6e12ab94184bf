"""Premature rank loss: the formulas against the truncation rule and the integrators."""

import math

import numpy as np
import pytest

from integrators import Tolerance
from paper_figures.regression.rank_experiments import SPECTRA, TAILS, resting_rank, rule_rank, steps_to_count


@pytest.mark.parametrize("tau", [0.0, 0.03, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("spectrum", SPECTRA.values())
def test_rule_rank_is_the_truncation_rule(spectrum, tau):
    rank, error = rule_rank(spectrum, tau)
    assert max(rank, 1) == Tolerance(relative=tau).ranks([np.array(spectrum)])[0]
    assert error == pytest.approx(np.linalg.norm(spectrum[rank:]))


def test_resting_rank_with_every_direction_spare_is_that_of_the_rule():
    for spectrum in TAILS.values():
        assert resting_rank(spectrum, 0.1, len(spectrum), 1) == rule_rank(spectrum, 0.1)[0]


def test_steps_to_count():
    assert steps_to_count(1.9, 20.0, 0.1, 0.1) is None
    # s_k = sigma (1 - (1 - lam)^(k-1)) passes s_tau exactly there
    k = steps_to_count(5.0, 20.0, 0.1, 0.1)
    s = 5.0 * (1 - 0.9 ** (k - 1))
    assert s == pytest.approx(0.1 * math.hypot(20.0, s))
