"""Moments of the Vlasov-Poisson equation: kept by a truncation that keeps them apart, and by no other."""

import numpy as np
import pytest

from dlrt import solve
from dlrt.theorems import HOLDS, NOT_APPLICABLE, VIOLATED, Moments
from integrators import AugmentedBUG, Conservative, FixedRank, GeoLoRA, ProjectedRungeKutta, RungeKuttaBUG, Tolerance
from problems import Vlasov, landau


@pytest.mark.parametrize("method", [AugmentedBUG(), GeoLoRA(), RungeKuttaBUG(order=3), ProjectedRungeKutta(order=2)])
def test_moments(method):
    """With the truncation that keeps them, as promised; and not with the truncation to the same rank."""
    claim = Moments()
    for problem in claim.problems().values():
        certificate = claim.check(claim.configured(method), problem)
        assert certificate.verdict == HOLDS and certificate.promised
        [mass, *_] = certificate.series
        assert len(mass.values) == claim.steps and max(mass.left) < 1e-13
    other = claim.check(type(method)(truncation=FixedRank(5)), problem)
    assert other.verdict == VIOLATED and not other.promised


def test_a_stage_that_is_truncated_without_moments_is_found():
    rule = Conservative(landau(4, 32).moment_functions, FixedRank(2))
    certificate = Moments().check(ProjectedRungeKutta(order=2, truncation=rule), Moments().problems()["two-stream"])
    assert certificate.verdict == VIOLATED and not certificate.promised


def test_other_moments_are_no_failure():
    """Mass alone, or another number of points: the statement is about more."""
    problem = Moments().problems()["landau"]
    for W in (problem.moment_functions[:, :1], landau(4, 16).moment_functions):
        method = AugmentedBUG(truncation=Conservative(W, FixedRank(2)))
        certificate = Moments().check(method, problem)
        assert certificate.verdict == NOT_APPLICABLE and "keeps mass, momentum and energy" in certificate.reason


def test_a_run_keeps_mass_momentum_and_energy():
    """A beam beside a plasma, in the weighted norm: 150 steps change mass and momentum by rounding alone.

    The rounding of a step is some 1e-13 of f, of size 1. The total energy changes by what the Runge-Kutta method gives.
    """
    x, v = 4 * np.pi * np.arange(16) / 16, 10 * (2 * np.arange(80) / 80 - 1)
    P = 1 + 0.05 * np.cos(x / 2)
    Q = (0.9 * np.exp(-(v**2) / 2) + 0.1 * np.sqrt(2) * np.exp(-((v - 3) ** 2))) / np.sqrt(2 * np.pi)
    p = Vlasov(P[:, None], Q[:, None], bound=10.0, temperature=1.5)
    start = p.moments(p.initial(8, np.random.default_rng(0)))
    found = []
    for rule in (Tolerance(absolute=1e-4), Conservative(p.moment_functions, Tolerance(absolute=1e-4))):
        run = solve(RungeKuttaBUG(truncation=rule), p, step_size=0.02, steps=150, rank=8, every=150)
        end = p.moments(run.Y)
        energy = end.kinetic + end.electric - start.kinetic - start.electric
        found.append([abs(end.mass - start.mass), abs(end.momentum - start.momentum), abs(energy), run.errors[-1]])
    plain, kept = found
    assert max(kept[:2]) < 150 * 1e-13 and min(plain[:2]) > 1e-7
    assert kept[2] < 0.5 * plain[2] and kept[3] < 2 * plain[3]
