"""State: what moves, in stacks, to other points and through files."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from integrators import (
    LowRank,
    Projections,
    State,
    stack,
    tangent,
    unstack,
)
from integrators.linalg import concat


def randn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def test_states_that_do_not_fit_are_refused():
    Y = LowRank(randn(4, 2), randn(2, 2), randn(5, 2))
    with pytest.raises(ValueError, match="different values of step"):
        stack([State(Y, {"step": 1}), State(Y, {"step": 2})])
    with pytest.raises(ValueError, match="different shapes"):
        stack([State(Y), State(Y.H)])


def random_state(seed=0, like=None, rank=3):
    rng = np.random.default_rng(seed)
    Y, Z = (LowRank.random((9, 7), rank, rng, like) for _ in range(2))
    f = Projections.of(LowRank.random((9, 7), 7, rng, like).full(), Z)
    return State(Y, {"first.K": f.K, "first.L": f.L, "first.S": f.S, "second.K": f.K[:, :1] ** 2, "step": 3}, Z, 2)


def test_at_projects_the_tangent_vector():
    """The first moment at the new point is P(Y1) M, in dense arithmetic; the rest of the memory stays as it is."""
    state = random_state()
    first = Projections(*(state.memory[f"first.{part}"] for part in "KLS"))
    M = tangent(state.origin, first).full()
    Y1 = LowRank.random((9, 7), 4, np.random.default_rng(5))
    after = state.at(Y1)
    assert after.Y is Y1 and after.origin is None and after.rejected == 0
    moved = Projections(*(after.memory[f"first.{part}"] for part in "KLS"))
    np.testing.assert_allclose(tangent(Y1, moved).full(), Y1.project(M).full(), atol=1e-13)
    assert after.memory["step"] == 3 and after.memory["second.K"] is state.memory["second.K"]
    stays = State(state.Y, state.memory).at(Y1)  # no origin: a method whose factors do not turn
    assert stays.memory is state.memory


def test_map_goes_over_every_array_and_keeps_counters():
    state = random_state()
    doubled = state.map(lambda X: 2 * X)
    for a, b in zip([*state.Y, *state.origin], [*doubled.Y, *doubled.origin], strict=True):
        np.testing.assert_array_equal(2 * a, b)
    assert doubled.memory["step"] == 3 and doubled.rejected == 2
    np.testing.assert_array_equal(doubled.memory["first.L"], 2 * state.memory["first.L"])
    total = state.map(lambda X, Z: X + Z, doubled)
    np.testing.assert_allclose(total.memory["second.K"], 3 * state.memory["second.K"])
    as_torch = state.map(torch.asarray)
    assert isinstance(as_torch.Y.U, torch.Tensor) and isinstance(as_torch.memory["first.S"], torch.Tensor)


@pytest.mark.parametrize("like", [np.zeros(()), torch.zeros((), dtype=torch.float64)], ids=["numpy", "torch"])
def test_stack_and_unstack_are_inverse(like):
    """Whatever the ranks: before, after a move of the tangent vector, and with the bases augmented."""
    states = [random_state(seed, like, rank) for seed, rank in enumerate((3, 1, 2))]
    together = stack(states)
    assert together.Y.shape == (3, 9, 7) and together.origin.shape == (3, 9, 7) and together.memory["step"] == 3
    for one, other in zip(states, unstack(together, states), strict=True):
        for name, X in one.arrays().items():
            np.testing.assert_array_equal(X, other.arrays()[name])
        for X, Z in zip(one.origin, other.origin, strict=True):
            np.testing.assert_array_equal(X, Z)
        assert other.rejected == 2
    for one, other in zip(states, unstack(together.at(together.Y), states), strict=True):
        for name, X in one.at(one.Y).arrays().items():
            np.testing.assert_allclose(X, other.arrays()[name], atol=1e-14)
    U, S, V = together.Y
    wide = replace(together, Y=LowRank(concat(U, U), concat(concat(S, S), concat(S, S), axis=-2), concat(V, V)))
    for one, other in zip(states, unstack(wide, states), strict=True):
        assert other.Y.rank == 2 * one.Y.rank
        np.testing.assert_allclose(np.asarray(other.Y.full()), 4 * np.asarray(one.Y.full()), atol=1e-13)


def test_arrays_and_back():
    state = random_state()
    flat = state.arrays()
    assert set(flat) == {"U", "S", "V", "memory.first.K", "memory.first.L", "memory.first.S", "memory.second.K",
                         "memory.step"}  # fmt: skip
    again = State.of({**flat, "something else": 1})
    assert again.memory == state.memory and again.Y.U is state.Y.U
    with pytest.raises(KeyError, match="S"):
        State.of({"U": 1})


def test_what_is_no_state_is_not_stacked():
    for states in ([], np.zeros(0)):
        with pytest.raises(ValueError, match="states must hold at least one state"):
            stack(states)
    with pytest.raises(TypeError, match=r"each of states must be an integrators\.State"):
        stack([random_state(), 1])
    with pytest.raises(TypeError, match=r"state must be an integrators\.State"):
        unstack(3, [random_state()])
