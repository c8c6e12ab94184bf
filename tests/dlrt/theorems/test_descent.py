"""Descent, deterministic and in expectation."""

import numpy as np
import pytest

from dlrt.theorems import HOLDS, NOT_APPLICABLE, VIOLATED, Descent, ErrorBound, RiemannianStep
from integrators import AugmentedBUG, GeoLoRA, LowRank, Tolerance
from problems import LinearLeastSquares, MatrixRegression, completion, synthetic
from tests.dlrt.theorems.conftest import (
    Hasty,
    TruncatedTwice,
    TwiceSilently,
    WrongRotation,
    flow,
    regression,
    small_regression,
    violated,
)


def test_the_method_itself_passes_what_the_broken_ones_fail():
    for method in (GeoLoRA(), GeoLoRA(truncation=Tolerance(relative=0.3)), GeoLoRA(truncation=Tolerance(relative=0.1))):
        assert not violated(Descent(step_size=0.5).check(method, regression()))
        assert not violated(RiemannianStep().check(method, regression()))


def test_bases_rotated_by_the_wrong_singular_vectors():
    certificate = Descent(step_size=0.5).check(WrongRotation(), regression())
    assert certificate.verdict == VIOLATED and certificate.failed
    assert {"truncation error is the tail", "reported truncation error"} <= violated(certificate)
    assert "descent before truncation" not in violated(certificate)
    bound = ErrorBound(rank=4).check(WrongRotation(), flow())
    assert bound.constants["theta"].value > 0.1  # the true distance, whatever the method says


def test_truncation_twice():
    """It cuts more than its tolerance; said or unsaid."""
    problem = regression()
    start = LowRank.from_dense(problem.target, rank=7)
    assert Descent(start=start).check(GeoLoRA(truncation=Tolerance(relative=0.3)), problem).verdict == "holds"
    certificate = Descent(start=start).check(TruncatedTwice(), problem)
    assert certificate.failed
    assert violated(certificate) == {"truncation within its tolerance"}
    silent = TruncatedTwice(truncation=TwiceSilently(relative=0.3))
    certificate = Descent(start=start).check(silent, problem)
    assert violated(certificate) == {"truncation within its tolerance", "reported truncation error"}


def test_step_size_beyond_the_limit():
    certificate = Descent(step_size=2.5).check(GeoLoRA(), small_regression())
    assert certificate.verdict == NOT_APPLICABLE and "0 < lam < 2 / L" in certificate.reason


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_descent_in_other_number_types(dtype):
    rng = np.random.default_rng(0)
    problem = MatrixRegression(synthetic((10, 8), [1.0, 0.5, 0.2], rng, dtype))
    certificate = Descent(step_size=0.5, rank=2).check(GeoLoRA(), problem)
    assert certificate.verdict == HOLDS, certificate.line()


def test_descent_in_expectation_by_sampling():
    rng = np.random.default_rng(0)
    problem = completion(rng, synthetic((10, 8), [1.0, 0.5, 0.2], rng), 0.8, batch_size=20)
    certificate = Descent(steps=10, step_size=0.05, rank=2).check(GeoLoRA(), problem)
    assert certificate.verdict == HOLDS and "sampled" in certificate.notes[0]


@pytest.mark.usefixtures("believed")
def test_sampled_expectations_see_a_violation():
    """A step four times too long is no descent in expectation, and 200 samples show it."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 6))
    problem = LinearLeastSquares(X, X @ rng.standard_normal((6, 7)), batch_size=10)
    certificate = Descent(steps=15, step_size=0.6 / problem.lipschitz, rank=3).check(Hasty(factor=4.0), problem)
    assert certificate.failed


def test_expectation_needs_a_projection_that_does_not_depend_on_the_batch():
    problem = Descent().problems()["mini-batches"]
    certificate = Descent(step_size=0.02).check(AugmentedBUG(), problem)
    assert certificate.verdict == NOT_APPLICABLE and "depend on the gradient" in certificate.reason
