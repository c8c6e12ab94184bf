"""Randomised methods: sketches that depend on the seed and the number of steps, in any library; the range they find."""

import numpy as np
import pytest

from dlrt.testing import DTYPES, LIBRARIES, defect, point, regression, rng, run
from integrators import DRSVD, DynamicalNystroem, Euler, Exact, LowRank, Momentum, Projections, RandRK4, State
from integrators.linalg import to_numpy
from integrators.sketches import bases_in_turn
from problems import rotating


def drawn(method, Y, draws, *sizes):
    return method.sketches(State(Y, {"draws": draws}), *sizes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("library", LIBRARIES)
def test_sketches(library, dtype):
    """Orthonormal, of the library and dtype of Y, at most square, the same numbers for the same seed and count."""
    Y = LowRank(*map(LIBRARIES[library], point(regression((9, 7), dtype=dtype), 3)))
    method = RandRK4(seed=5)
    A, B = drawn(method, Y, 2, (9, 4), (7, 12))
    assert A.shape == (9, 4) and B.shape == (7, 7) and type(A) is type(Y.U) and A.dtype == Y.U.dtype
    assert max(defect(A), defect(B)) <= 100 * 1.2e-7
    again, other = drawn(method, Y, 2, (9, 4))[0], drawn(method, Y, 3, (9, 4))[0]
    assert np.array_equal(to_numpy(A), to_numpy(again)) and not np.allclose(to_numpy(A), to_numpy(other))
    assert not np.allclose(to_numpy(A), to_numpy(drawn(RandRK4(seed=6), Y, 2, (9, 4))[0]))


def test_the_state_counts_the_steps():
    problem = regression((14, 20))
    for method in (DRSVD(), DRSVD(optimizer=Momentum(0.5))):
        state = run(method, problem.field, method.init(point(problem, 3)), 0.05, 3)
        assert state.memory["draws"] == 3


@pytest.mark.parametrize("method", [DRSVD(), DynamicalNystroem(), RandRK4()], ids=lambda m: type(m).__name__)
def test_the_first_field_is_that_at_the_start(method):
    """In the bases of the start, where a network has it; the numbers do not depend on it."""
    problem = regression((14, 20))
    state = method.init(point(problem, 3))
    asked = []

    def field(t, Y):
        asked.append(Y)
        return problem.field(t, Y) if len(asked) > 1 else Projections(S=np.eye(3))

    step = method.step(field, 0.0, state, 0.05)
    assert asked[0].S.shape == (3, 3) and np.array_equal(asked[0].full(), state.Y.full())
    assert np.array_equal(step.state.Y.full(), method.step(problem.field, 0.0, state, 0.05).state.Y.full())


def test_the_range_of_the_solution_is_found():
    """F = A'(t): with exact sub-flows, from any sketch, the ranges of A(t1) on both sides."""
    problem = rotating(rng(1), shape=(24, 18), rank=4)
    Y = problem.initial(4, rng(2))
    A = problem.reference(0.3)
    for part, size, times, target in (("K", 18, 1, A), ("L", 24, 1, A.T), ("K", 18, 3, A), ("K", 18, 2, A.T)):
        X = LowRank.random((size, 6), 6, rng(3)).U
        stages = bases_in_turn(0.0, Y, 0.3, part, X, times, Exact())
        request = next(stages)
        asked = []
        try:
            while True:
                asked.append(request[2])
                request = stages.send(problem.field(*request[:2]))
        except StopIteration as stop:
            Q = stop.value
        assert asked == ["K" if (part == "K") == (i % 2 == 0) else "L" for i in range(times)]
        assert np.linalg.norm(target - Q @ (Q.T @ target)) <= 1e-13 * np.linalg.norm(A)


@pytest.mark.parametrize("name", ["seed", "oversampling"])
def test_numbers_are_checked(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 0, got -1"):
        RandRK4(**{name: -1})
    with pytest.raises(TypeError, match=f"{name} must be an integer"):
        DRSVD(substep=Euler(), **{name: 0.5})
