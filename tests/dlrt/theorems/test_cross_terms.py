"""The counterexample of cross terms: who is caught by it, who is not, and where it does not apply."""

import numpy as np
import pytest

from dlrt.theorems import HOLDS, NOT_APPLICABLE, VIOLATED, CrossTerms
from dlrt.theorems.cross_terms import crossed
from integrators import (
    BUG,
    AugmentedBUG,
    FullRank,
    GeoLoRA,
    MidpointBUG,
    RandRK4,
    RungeKuttaBUG,
    SecondOrderParallelBUG,
)
from problems import solid_body_rotation


def test_the_solution_of_the_smallest_example():
    p = crossed(4)
    exact = np.zeros((4, 4))
    exact[0, 0], exact[1, 1] = np.cosh(0.7), np.sinh(0.7)
    assert np.abs(p.reference(0.7) - exact).max() < 1e-14
    f = p.field(0.0, p.initial(1, np.random.default_rng(0)))
    assert not f.K.any() and not f.L.any() and not f.S.any() and f.full()[1, 1] == 1


@pytest.mark.parametrize("method", [BUG(), AugmentedBUG(), GeoLoRA(), MidpointBUG(), RungeKuttaBUG(order=3)])
def test_methods_that_stand_still(method):
    """Whatever the step size, far from the best approximation."""
    [certificate] = CrossTerms().cases(method)
    assert certificate.verdict == HOLDS and certificate.promised
    rest, behind = certificate.series
    assert len(rest.values) == 4 and min(behind.right) > 1.29  # (cosh 1 - 1)^2 + sinh^2 1 = 1.295^2


@pytest.mark.parametrize("method", [FullRank(), RandRK4()])
def test_methods_that_are_not_caught(method):
    [certificate] = CrossTerms().cases(method)
    assert certificate.verdict == VIOLATED and not certificate.failed


def test_rounding_is_a_direction():
    """In the rotation K is not quite zero: the hypothesis is not met, for good reason."""
    claim = CrossTerms()
    certificate = claim.check(claim.configured(SecondOrderParallelBUG()), solid_body_rotation(16))
    assert certificate.verdict == NOT_APPLICABLE and "a field without tangential part" in certificate.reason
