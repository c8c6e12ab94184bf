"""Robust error bounds, and how their terms scale."""

from dataclasses import replace

import numpy as np
import pytest

from dlrt.theorems import HOLDS, VIOLATED, ErrorBound, Scaling, Spare
from dlrt.theorems.local_error import LOCAL, kind_of
from integrators import (
    BUG,
    AugmentedBUG,
    Exact,
    FixedRank,
    FullRank,
    GeoLoRA,
    LoRA,
    ParallelBUG,
    ProjectorSplitting,
    SVDLoRA,
    Tolerance,
)
from problems import lyapunov
from tests.dlrt.theorems.conftest import FrozenBasis, flow


@pytest.mark.parametrize("kind", LOCAL, ids="-".join)
def test_error_bounds_of_all_methods_and_substeps(kind):
    """On the rotating matrix, a gradient flow, and a nonlinear problem; the ratio is at most 1 at every step."""
    methods = [
        FullRank(),
        GeoLoRA(),
        ParallelBUG(),
        AugmentedBUG(),
        BUG(),
        ProjectorSplitting(),
        ProjectorSplitting(order=2),
    ]
    [method] = [m for m in methods if kind_of(m) == kind[0]]
    claim = ErrorBound()
    method = claim.configured(method)
    if kind[1] == "Exact":
        method = replace(method, substep=Exact())
    for name, problem in claim.problems().items():
        if kind[1] == "Exact" and name in ("given-solution", "manufactured"):
            continue
        certificate = replace(claim, t_end=0.4, steps=12).check(method, problem)
        assert certificate.verdict == HOLDS and certificate.promised, certificate.line()


@pytest.mark.parametrize("steps", [5, 40])
def test_error_bound_on_a_linear_stiff_equation(steps):
    """The one-sided constant is negative: the bound does not grow, and holds where explicit steps are stable."""
    problem = lyapunov(12, np.random.default_rng(0))
    certificate = ErrorBound(t_end=0.2, steps=steps, rank=4).check(AugmentedBUG(truncation=FixedRank(6)), problem)
    assert certificate.verdict == HOLDS
    assert certificate.constants["l"].value < certificate.constants["L"].value


@pytest.mark.parametrize("method", [GeoLoRA(), BUG()], ids=lambda m: type(m).__name__)
def test_each_term_of_the_error_bound_scales_as_predicted(method):
    certificate = Scaling().check(ErrorBound().configured(method))
    assert certificate.verdict == HOLDS, certificate.line()
    names = {s.name for s in certificate.series}
    assert {"slope over h", "error over eps", "error free of sigma_min, gradient flow"} <= names


@pytest.mark.parametrize("method", [LoRA(), SVDLoRA()], ids=lambda m: type(m).__name__)
def test_methods_of_factors_do_not_converge_with_h(method):
    """The finding that theory predicts: slope 0, and the local error h ||F - P^ F||."""
    certificate = Scaling().check(method)
    assert certificate.verdict == VIOLATED and not certificate.failed
    [slope] = [s for s in certificate.series if s.name == "slope over h"]
    assert slope.left[0] == pytest.approx(1.0, abs=0.1)


@pytest.mark.usefixtures("believed")
def test_a_frozen_basis_breaks_the_error_bound_and_the_way_out_of_a_small_rank():
    assert ErrorBound(rank=4, steps=100).check(FrozenBasis(truncation=FixedRank(4)), flow()).failed
    spare = Spare().check(FrozenBasis(truncation=Tolerance(relative=0.1, spare=1)))
    assert spare.failed
