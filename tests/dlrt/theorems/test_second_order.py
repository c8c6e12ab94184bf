"""Second order with explicit constants: held by those that promise it, broken by methods of order 1 and wrong ones."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from dlrt.theorems import HOLDS, VIOLATED, SecondOrder
from dlrt.theorems.second_order import rate, sylvester
from integrators import AugmentedBUG, Heun, MidpointBUG, RungeKuttaBUG, SecondOrderParallelBUG
from problems import lyapunov
from tests.dlrt.theorems.conftest import violated


@pytest.mark.parametrize("method", [MidpointBUG(), SecondOrderParallelBUG(), RungeKuttaBUG()])
def test_bound_and_order(method):
    [certificate] = SecondOrder().cases(method)
    assert certificate.verdict == HOLDS and certificate.promised
    assert 0.01 < certificate.tightest < 1 and len(certificate.series) == 5


def test_what_is_not_promised():
    for method in (MidpointBUG(columns=3), RungeKuttaBUG(order=3), AugmentedBUG(substep=Heun())):
        assert not SecondOrder().promises(method)[0]


def test_a_method_of_order_1_is_found_out():
    [certificate] = SecondOrder().cases(AugmentedBUG())
    assert certificate.verdict == VIOLATED and "slope over h" in violated(certificate)


@dataclass(frozen=True, kw_only=True)
class Late(MidpointBUG):
    """Steps that are too long by a hundredth: of order 0, but close."""

    def stages(self, t, state, h):
        return (yield from super().stages(t, state, 1.01 * h))


def test_steps_that_are_a_little_too_long_are_found_out():
    [certificate] = SecondOrder().cases(Late())
    assert {"bound at exact rank", "bound over sigma_min", "slope over h"} <= violated(certificate)


def test_the_bound_is_of_second_order_at_exact_rank():
    """h L^2 t ||F||/6: a quarter where h is halved, as truncation errors are of third order."""
    claim = SecondOrder()
    method = claim.configured(RungeKuttaBUG())
    bounds = [replace(claim, steps=n).bound(method, sylvester(1e-9), 0.5)[-1][2] for n in (10, 20)]
    assert bounds[0] / bounds[1] == pytest.approx(4, abs=0.3)


def test_the_field_at_a_dense_matrix():
    p = lyapunov(8, np.random.default_rng(0))
    Y = p.initial(3, np.random.default_rng(1))
    assert np.abs(rate(p, Y.full()) - p.field(0.0, Y).full()).max() < 1e-12
