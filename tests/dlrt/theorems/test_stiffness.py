"""Stable step sizes."""

from dataclasses import replace

import numpy as np
import pytest

from dlrt.theorems import HOLDS, Stiffness, predicted_rate
from integrators import AugmentedBUG, GeoLoRA, ProjectorSplitting, SVDLoRA


@pytest.mark.parametrize("method", [GeoLoRA(), AugmentedBUG()], ids=lambda m: type(m).__name__)
def test_stiffness(method):
    claim = Stiffness(steps=80)
    assert replace(claim, sigmas=(1.0, 100.0)).check(claim.configured(method)).verdict == HOLDS


def test_stable_steps_that_theory_predicts_elsewhere():
    """Lie splitting multiplies errors in S by (1 - lam)^2 (1 + lam): stable up to the golden ratio only."""
    rate = Stiffness(sigmas=(10.0,)).check(ProjectorSplitting()).series[0].right[0]
    assert rate == pytest.approx((1 + np.sqrt(5)) / 2, rel=0.01)
    rates = Stiffness(sigmas=(1.0, 20.0)).check(SVDLoRA()).series[0]
    for sigma, rate in zip(rates.values, rates.right, strict=True):
        assert rate == pytest.approx(predicted_rate(SVDLoRA(), sigma, False)[0], rel=0.01)
