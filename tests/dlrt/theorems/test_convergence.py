"""Convergence with decreasing step sizes."""

import pytest

from dlrt.theorems import HOLDS, NOT_APPLICABLE, Convergence, ErrorBound, Polynomial
from integrators import FullRank, GeoLoRA, ParallelBUG
from tests.dlrt.theorems.conftest import CutsToOne, flow, regression, small_regression


@pytest.mark.parametrize("method", [GeoLoRA(), ParallelBUG(), FullRank()], ids=lambda m: type(m).__name__)
def test_convergence_in_expectation(method):
    problems = list(Convergence().problems().values())
    claim = Convergence(steps=30, runs=8, max_nodes=300)
    for problem in problems:
        certificate = claim.check(method, problem)
        assert certificate.verdict == HOLDS, certificate.line()
    assert "independent" not in certificate.notes[0] and "8 runs" in certificate.notes[0]


@pytest.mark.parametrize(("p", "met"), [(0.4, False), (0.5, False), (0.51, True), (1.0, True), (1.1, False)])
def test_robbins_monro(p, met):
    certificate = Convergence(steps=5, schedule=Polynomial(0.5, p=p)).check(GeoLoRA(), small_regression())
    assert (certificate.verdict == HOLDS) == met
    if not met:
        assert "Robbins-Monro" in certificate.reason


def test_an_unknown_schedule_is_not_trusted():
    certificate = Convergence(steps=5, schedule=lambda k: 0.1).check(GeoLoRA(), small_regression())
    assert certificate.verdict == NOT_APPLICABLE


@pytest.mark.usefixtures("believed")
def test_lost_singular_values_break_error_bound_and_convergence():
    method = CutsToOne()
    assert ErrorBound(rank=4, steps=100).check(method, flow()).failed
    assert Convergence().check(method, regression()).failed


def test_step_sizes_beyond_the_limit():
    assert Convergence(steps=5, schedule=Polynomial(2.5)).check(GeoLoRA(), small_regression()).verdict == NOT_APPLICABLE
