"""The step identity."""

import pytest

from dlrt.theorems import Descent, RiemannianStep, Stationary
from tests.dlrt.theorems.conftest import DividedByRegularisedS, DividedByS, FrozenBasis, TooLong, regression


@pytest.mark.usefixtures("believed")
@pytest.mark.parametrize("method", [DividedByS(), DividedByRegularisedS()], ids=lambda m: type(m).__name__)
def test_gradients_divided_by_S(method):
    certificate = RiemannianStep().check(method, regression())
    assert certificate.failed
    met = certificate.series[0].met
    assert met[0] and not met[-1]  # fine at the largest singular values, not at zero
    assert Stationary().check(method).failed


@pytest.mark.usefixtures("believed")
@pytest.mark.parametrize("method", [FrozenBasis(), TooLong()], ids=lambda m: type(m).__name__)
def test_other_defects(method):
    assert RiemannianStep().check(method, regression()).failed
    assert Descent(step_size=0.9).check(method, regression()).failed
