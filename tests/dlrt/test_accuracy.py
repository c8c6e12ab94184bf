"""Errors beside the solution: relative, and what a rank allows."""

from types import SimpleNamespace

import numpy as np
import pytest

from dlrt import accuracy
from dlrt.accuracy import Solution, ended, lost, solutions


def problem(matrix):
    return SimpleNamespace(reference=lambda t: t * matrix)


def test_best_approximation_is_the_tail_of_the_singular_values():
    solution = Solution.at(problem(np.diag([4.0, 3.0, 0.0])), 2.0)
    assert solution.norm == pytest.approx(10.0) and solution.relative(5.0) == pytest.approx(0.5)
    assert [solution.best(rank) for rank in (0, 1, 2, 3, 9)] == pytest.approx([1.0, 0.6, 0.0, 0.0, 0.0], abs=1e-15)


def test_a_large_solution_has_a_norm_alone(monkeypatch):
    monkeypatch.setattr(accuracy, "LARGEST", 2)
    solution = Solution.at(problem(np.eye(3)), 1.0)
    assert solution.norm == pytest.approx(np.sqrt(3)) and solution.best(1) is None


def test_nothing_is_divided_by_zero():
    assert Solution.at(problem(np.zeros((2, 2))), 1.0).relative(0.25) == 0.25


def run(status, t=1.0):
    kinds = {kind: status.startswith(kind) for kind in ("diverged", "failed")}
    return SimpleNamespace(status=status, times=np.array([0.0, t]), **kinds)


def test_steps_at_which_runs_were_lost():
    states = ("diverged at step 12", "finished", "failed at step 2: KeyError: 'step 7'", "diverged at step 3")
    assert lost(list(map(run, states))) == {"diverged": [3, 12], "failed": [2]}
    assert lost([run("stopped")]) == {}


def test_solutions_are_those_at_the_ends_of_runs_that_ended():
    def result(status, t):
        return SimpleNamespace(case=SimpleNamespace(problem=problem(np.eye(2))), trajectory=run(status, t))

    states = ("finished", "stopped", "diverged at step 3", "failed at step 2: ZeroDivisionError: division by zero")
    results = [result(status, 1.0 + i) for i, status in enumerate(states)]
    assert [ended(r.trajectory) for r in results] == [True, True, False, False]
    assert {t: s.norm for t, s in solutions(results).items()} == pytest.approx({1.0: 2**0.5, 2.0: 2 * 2**0.5})
