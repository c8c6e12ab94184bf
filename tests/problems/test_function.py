"""Problems from plain functions: every form of a right-hand side is the same equation; what it may not return."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.linalg
import torch

import problems
from dlrt import solve
from integrators import BUG, RK4, AugmentedBUG, FixedRank, FullRank, LowRank, Projections, ProjectorSplitting

from .contract import Contract, gaussian

rng = np.random.default_rng(0)
A, B = rng.standard_normal((6, 6)) / 4, rng.standard_normal((5, 5)) / 4
P, Q = rng.standard_normal((6, 1)), rng.standard_normal((5, 1))
START = LowRank.random((6, 5), 2, rng)
ONE = np.eye(1)


def dense(t, Y):
    return A @ Y.full() + Y.full() @ B + np.cos(t) * P @ Q.T


def low_rank(t, Y):
    return [LowRank(A @ Y.U, Y.S, Y.V), LowRank(Y.U, Y.S, B.T @ Y.V), LowRank(P, np.cos(t) * ONE, Q)]


def projections(t, Y):
    return Projections.of(dense(t, Y), Y)


@dataclass
class Linear:
    """f(t, Y) = e^-t M Y + Y N as a sum; a function of a module, so that it can be pickled."""

    M: np.ndarray
    N: np.ndarray

    def __call__(self, t, Y):
        return LowRank(math.exp(-t) * (self.M @ Y.U), Y.S, Y.V), LowRank(Y.U, Y.S, self.N.conj().T @ Y.V)


class TestFunctionProblem(Contract):
    test_lipschitz_constants_bound_the_field = None  # nothing is known of a function

    def build(self, rng, dtype):
        f = Linear(gaussian(rng, 9, 9, dtype=dtype), gaussian(rng, 7, 7, dtype=dtype))
        start = LowRank.random((9, 7), 3, rng, np.zeros((), dtype))
        return problems.from_function((9, 7), f, initial=start), lambda t, W: math.exp(-t) * (f.M @ W) + W @ f.N


@pytest.mark.parametrize(
    "method", [BUG(), ProjectorSplitting(order=2), AugmentedBUG(truncation=FixedRank(3))], ids=repr
)
def test_all_forms_are_the_same_equation(method):
    options = {"step_size": 0.05, "steps": 10, "rank": 3}
    ends = [
        solve(method, problems.from_function((6, 5), f, initial=START), **options).Y.full()
        for f in (dense, low_rank, projections)
    ]
    assert np.abs(ends[0] - ends[1]).max() <= 1e-13 and np.abs(ends[0] - ends[2]).max() <= 1e-13


def test_against_the_exact_solution():
    """Y' = A Y has the solution e^{tA} Y(0), and the classical Runge-Kutta method errs by O(h^4), forth and back."""

    def reference(t):
        return LowRank(scipy.linalg.expm(t * A) @ START.U, START.S, START.V)

    def f(t, Y):
        return LowRank(A @ Y.U, Y.S, Y.V)

    problem = problems.from_function([6, 5], f, initial=START.full(), reference=reference)
    assert problem.name == "f" and problem.shape == (6, 5)
    method = FullRank(substep=RK4())
    errors = [solve(method, problem, step_size=1 / n, steps=n, rank=2).errors[-1] for n in (4, 8)]
    assert errors[1] < 1e-5 and 12 < errors[0] / errors[1] < 20
    back = solve(method, problem, step_size=-1 / 8, steps=8, t0=1.0, start=reference(1.0))
    assert back.errors[0] < 1e-14 and back.errors[-1] < 1e-5 and back.times[-1] == 0.0


def test_a_dense_start_is_filled_up_by_random_directions():
    for start, rank in ((np.zeros((6, 5)), 1), (START.full(), 2)):
        problem = problems.from_function((6, 5), dense, initial=start)
        Y, Z = (problem.initial(4, np.random.default_rng(seed)) for seed in (0, 1))
        assert problem.start.rank == rank and Y.rank == 4
        assert np.abs(Y.full() - start).max() <= 1e-14 and np.abs(Y.U.T @ Y.U - np.eye(4)).max() <= 1e-14
        assert np.linalg.norm(Y.U[:, rank:] - Z.U @ (Z.U.T @ Y.U[:, rank:])) > 0.1


def test_other_types_are_converted():
    for like in (np.zeros((), np.float32), torch.zeros((), dtype=torch.float32), np.zeros((), complex)):
        start = LowRank.random((6, 5), 2, np.random.default_rng(1), like)
        problem = problems.from_function((6, 5), lambda t, Y: np.ones((6, 5), int), initial=start)
        Y = problem.initial(3, np.random.default_rng(2))
        assert Y.rank == 3 and Y.dtype == like.dtype and type(Y.U) is type(start.U)
        run = solve(BUG(), problem, step_size=0.5, steps=2, rank=3)
        assert run.Y.dtype == like.dtype
        tolerance = 20 * np.finfo(np.float32 if "32" in str(like.dtype) else float).eps
        assert np.abs(np.asarray(run.Y.full() - start.full()) - 1).max() <= tolerance * 10


@pytest.mark.parametrize(
    "value,message",
    [
        (None, "TypeError: what f returns must be a numpy array or torch tensor, got NoneType"),
        (3.0, "TypeError: what f returns must be a numpy array or torch tensor, got float"),
        ([], "TypeError: what f returns must be a numpy array or torch tensor, got list"),
        (np.ones((5, 6)), r"ValueError: what f returns must have shape \(6, 5\), got ndarray of shape \(5, 6\)"),
        (np.ones(5), r"ValueError: what f returns must have shape \(6, 5\), got ndarray of shape \(5,\)"),
        (LowRank(Q, ONE, P), r"ValueError: a matrix that f returns must have shape \(6, 5\), got LowRank of shape"),
        (1j * np.ones((6, 5)), "TypeError: a complex problem needs a complex point, got a point of dtype float64"),
    ],
)
def test_what_a_function_may_not_return(value, message):
    run = solve(
        BUG(), problems.from_function((6, 5), lambda t, Y: value, initial=START), step_size=0.1, steps=3, rank=2
    )
    with pytest.raises(RuntimeError, match=f"the run failed at step 1: {message}"):
        run.checked()


def test_nan_is_divergence():
    problem = problems.from_function((6, 5), lambda t, Y: np.full((6, 5), np.nan if t > 0.3 else 1.0), initial=START)
    assert solve(BUG(), problem, step_size=0.125, steps=9, rank=2).status == "diverged at step 4"


@pytest.mark.parametrize(
    "change,error,message",
    [
        ({"shape": 3}, TypeError, r"shape must be a pair \(m, n\), got int 3"),
        ({"shape": (6, 5, 4)}, TypeError, "shape must be a pair"),
        ({"shape": (6, 0)}, ValueError, "n must be at least 1, got 0"),
        ({"f": 3}, TypeError, "f must be a function of t and Y, got int 3"),
        ({"initial": np.ones((5, 6))}, ValueError, r"initial must have shape \(6, 5\), got LowRank of shape \(5, 6\)"),
        ({"initial": np.ones((6, 5), int)}, TypeError, "initial must have a real or complex floating dtype, got int64"),
        ({"initial": [[1.0]]}, TypeError, "initial must be a numpy array or torch tensor, got list"),
        ({"reference": np.ones((6, 5))}, TypeError, "reference must be a function of t, got ndarray"),
    ],
)
def test_bad_arguments(change, error, message):
    arguments = {"shape": (6, 5), "f": dense, "initial": START} | change
    with pytest.raises(error, match=message):
        problems.from_function(arguments.pop("shape"), arguments.pop("f"), **arguments)


def test_what_is_missing_is_said():
    problem = problems.from_function((6, 5), dense)
    with pytest.raises(ValueError, match=r"dense has no start: give initial to from_function, or start to dlrt.solve"):
        solve(BUG(), problem, step_size=0.1, steps=1, rank=2)
    assert solve(BUG(), problem, step_size=0.1, steps=1, start=START).status == "finished"
    problem = problems.from_function((6, 5), dense, initial=START, reference=lambda t: np.ones((6, 1)))
    with pytest.raises(ValueError, match=r"what reference returns must have shape \(6, 5\), got ndarray of shape"):
        solve(BUG(), problem, step_size=0.1, steps=1, rank=2)
    with pytest.raises(TypeError, match=r"problem must have a method field, .*: see problems.from_function"):
        solve(BUG(), dense, step_size=0.1, steps=1, rank=2)
