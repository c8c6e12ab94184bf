"""Hypotheses that are not met end a check and say so."""

import numpy as np
import pytest

from dlrt.theorems import (
    NOT_APPLICABLE,
    THEOREMS,
    Decay,
    Descent,
    ErrorBound,
    Exactness,
    RiemannianStep,
    Spare,
    Stiffness,
)
from integrators import BUG, RK4, Adam, AugmentedBUG, Exact, FixedRank, GeoLoRA, Heun, ParallelBUG, Tolerance
from problems import lyapunov, manufactured, rotating, schroedinger
from tests.dlrt.theorems.conftest import small_regression


@pytest.mark.parametrize(
    ("claim", "method", "problem", "reason"),
    [
        (Descent(), GeoLoRA(optimizer=Adam()), small_regression(), "plain gradient descent"),
        (Descent(), ParallelBUG(substep=Heun()), small_regression(), "explicit Euler steps"),
        (Descent(), GeoLoRA(), rotating(np.random.default_rng(0), (8, 7)), "a loss with Lipschitz gradient"),
        (RiemannianStep(), ParallelBUG(rejection=10.0), small_regression(), "no step rejection"),
        (
            ErrorBound(),
            BUG(substep=RK4()),
            rotating(np.random.default_rng(0), (8, 7)),
            "Euler steps or exact sub-flows",
        ),
        (ErrorBound(), BUG(), small_regression(), "reference solution"),
        (ErrorBound(), BUG(), manufactured(nonlinearity="-y**3"), "Lipschitz continuous in Y"),
        (Exactness(), BUG(), rotating(np.random.default_rng(0), (8, 7), 2), "exact sub-flows"),
        (Exactness(), BUG(substep=Exact()), small_regression(), "independent of Y"),
        (
            Exactness(),
            AugmentedBUG(substep=Exact(), truncation=FixedRank(3)),
            rotating(np.random.default_rng(0), (8, 7), 2),
            "rank fixed at that of A",
        ),
        (Decay(), AugmentedBUG(substep=Exact()), rotating(np.random.default_rng(0), (8, 7)), "a convex loss"),
        (Spare(), GeoLoRA(truncation=FixedRank(2)), None, "relative tolerance"),
        (Spare(), GeoLoRA(truncation=Tolerance(relative=0.1)), None, "spare >= 1"),
        (Spare(), GeoLoRA(truncation=Tolerance(relative=0.6, spare=1)), None, "truncation keeps W"),
        (Stiffness(), GeoLoRA(optimizer=Adam()), None, "plain gradient descent"),
    ],
    ids=lambda x: type(x).__name__ if not isinstance(x, str) else x.replace(" ", "-"),
)
def test_hypotheses_can_fail_and_say_so(claim, method, problem, reason):
    certificate = claim.check(method, problem)
    assert certificate.verdict == NOT_APPLICABLE and not certificate.failed
    assert reason in certificate.reason


@pytest.mark.parametrize(
    "problem",
    [small_regression(), lyapunov(8, np.random.default_rng(0)), schroedinger(np.random.default_rng(0), 8)],
    ids=lambda p: p.name,
)
def test_a_problem_that_does_not_fit_is_answered(problem):
    """No theorem crashes, on a problem without a reference solution in particular."""
    for theorem in THEOREMS.values():
        if not theorem.own_problem:
            certificate = theorem.check(theorem.configured(BUG()), problem)
            assert certificate.verdict != NOT_APPLICABLE or certificate.reason
