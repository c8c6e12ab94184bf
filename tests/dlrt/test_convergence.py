"""The order estimator: on a known order, at a plateau, and with runs that diverge."""

import numpy as np
import pytest

import problems
from dlrt import Convergence, convergence
from integrators import BUG, RK4, Euler, FullRank, Heun, ProjectorSplitting

EQUATION = problems.given_solution(np.random.default_rng(0), (12, 9), rank=2)


@pytest.mark.parametrize(("substep", "order"), [(Euler(), 1), (Heun(), 2), (RK4(), 4)])
def test_the_order_of_a_full_rank_method_is_that_of_its_substep(substep, order):
    found = convergence(FullRank(substep=substep), EQUATION, [20, 40, 80, 160], rank=2)
    assert found.order == pytest.approx(order, abs=0.1)
    assert found.orders == pytest.approx([order] * 3, abs=0.25)
    assert found.evaluations.tolist() == [order * n for n in (20, 40, 80, 160)]
    assert found.usable.all()


def test_steps_are_sorted_and_end_at_the_end():
    found = convergence(ProjectorSplitting(order=2, substep=Heun()), EQUATION, [64, 16, 32], rank=2, t_end=0.5)
    assert found.steps.tolist() == [16, 32, 64]
    assert found.step_sizes.tolist() == [0.5 / 16, 0.5 / 32, 0.5 / 64]
    assert found.order == pytest.approx(2, abs=0.2)
    lines = found.table().splitlines()
    assert len(lines) == 5 and lines[-1].startswith(f"order {found.order:.2f}") and "*" not in found.table()


def test_the_plateau_of_a_low_rank_is_not_taken_for_an_order():
    found = convergence(ProjectorSplitting(substep=RK4()), EQUATION, [8, 16, 32], rank=1)
    best = np.linalg.svd(EQUATION.reference(1.0), compute_uv=False)[1]
    assert found.floors == pytest.approx([best] * 3, rel=1e-10)
    assert np.isnan(found.order) and not found.usable.any()
    assert found.table().count("*") == 3


def test_divergence_is_a_nan():
    problem = problems.lyapunov(20, np.random.default_rng(0), stiff=True)
    found = convergence(BUG(), problem, [300, 1000, 2000], rank=8)
    assert np.isnan(found.errors[0]) and not found.usable[0]
    assert found.errors[2] < found.errors[1]


def test_errors_below_rounding_are_not_used():
    found = Convergence(
        steps=np.array([1, 2, 4, 8]),
        step_sizes=np.array([1, 1 / 2, 1 / 4, 1 / 8]),
        errors=np.array([1e-9, 1e-9 / 4, 1e-9 / 16, 3e-14]),
        floors=np.full(4, 1e-14),
        evaluations=np.array([1, 2, 4, 8]),
    )
    assert found.usable.tolist() == [True, True, True, False]
    assert found.order == pytest.approx(2)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"steps": [4]}, ValueError, r"steps must hold at least two different numbers, got \[4\]"),
        ({"steps": [4, 0]}, ValueError, "steps must be at least 1, got 0"),
        ({"steps": 4}, TypeError, "steps must be a sequence of integers, got 4"),
        ({"t_end": -1.0}, ValueError, "t_end must be positive"),
        ({"seed": np.random.default_rng(0)}, TypeError, "seed must be an integer"),
        ({"problem": problems.MatrixRegression(np.eye(3))}, ValueError, "problem must have a reference solution"),
    ],
)
def test_bad_arguments(change, kind, message):
    arguments = {"problem": EQUATION, "steps": [2, 4], "rank": 2} | change
    with pytest.raises(kind, match=message):
        convergence(BUG(), arguments.pop("problem"), arguments.pop("steps"), **arguments)
