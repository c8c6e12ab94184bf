"""Stacks of matrices (leading axes): the same as one by one, and no invented directions."""

import numpy as np
import pytest
import torch

from integrators import (
    BUG,
    AdaLoRA,
    Adam,
    AugmentedBUG,
    FixedRank,
    FullRank,
    GeoLoRA,
    GlobalBudget,
    LoRA,
    LowRank,
    Momentum,
    ParallelBUG,
    ProjectorSplitting,
    Proposal,
    State,
    SVDLoRA,
    Tolerance,
    conclude,
    stack,
    unstack,
)
from integrators.linalg import complement, double_svd, eps, qr, rotate

DTYPES = {"float32": torch.float32, "float64": torch.float64, "complex128": torch.complex128}


def randn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("library", ["torch", "numpy"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_complement_of_a_stack(library, dtype):
    """Generic, dependent, in the span already, tiny, badly scaled, zero: each as alone, zero columns at the end."""
    U = torch.linalg.qr(randn(6, 40, 5, dtype=DTYPES[dtype]))[0]
    X = randn(6, 40, 5, dtype=DTYPES[dtype], seed=1)
    X[1, :, 3] = X[1, :, 2]
    X[2] = U[2] @ X[2, :5]
    X[3] *= 1e-30
    X[4, :, 0] *= 1e-3
    X[5] = 0
    if library == "numpy":
        U, X = U.numpy(), X.numpy()
    Q = complement(U, X)
    assert tuple(Q.shape) == (6, 40, 5)
    for i, width in enumerate((5, 4, 0, 5, 5, 0)):
        alone, mine = complement(U[i], X[i]), Q[i][:, :width]
        assert alone.shape[1] == width and not bool((Q[i][:, width:] != 0).any())
        A, B, V = (torch.as_tensor(Z) for Z in (alone, mine, U[i]))
        tolerance = 100 * eps(X)
        assert float((A @ A.mH - B @ B.mH).abs().max() if width else 0) <= tolerance
        assert float((B.mH @ B - torch.eye(width, dtype=B.dtype)).abs().max() if width else 0) <= tolerance
        assert float((V.mH @ B).abs().max() if width else 0) <= tolerance


@pytest.mark.parametrize("condition", [1e0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_ways_to_a_complement_span_the_same(condition, dtype):
    """Whatever the condition: the basis from torch's fast way, or from its fall-back, against that of numpy."""
    U = np.linalg.qr(randn(60, 4).numpy())[0]
    P, Q = np.linalg.qr(randn(60, 6, seed=1).numpy())[0], np.linalg.qr(randn(6, 6, seed=2).numpy())[0]
    X = (P - U @ (U.T @ P)) * np.geomspace(1, 1 / condition, 6) @ Q
    U, X = U.astype(dtype), X.astype(dtype)
    slow, fast = complement(U, X), complement(torch.tensor(U), torch.tensor(X)).numpy()
    assert fast.shape == slow.shape
    assert np.abs(fast.T @ fast - np.eye(fast.shape[1])).max() <= 100 * np.finfo(dtype).eps
    assert np.abs(U.T @ fast).max() <= 100 * np.finfo(dtype).eps
    assert np.linalg.norm(X - fast @ (fast.T @ X) - U @ (U.T @ X)) <= 200 * np.finfo(dtype).eps * np.linalg.norm(X)


def test_no_room_is_capped():
    U = torch.linalg.qr(randn(3, 8, 5))[0]
    assert complement(U, randn(3, 8, 5, seed=1)).shape == (3, 8, 3)


def test_one_bad_matrix_in_a_stack():
    U, X = torch.linalg.qr(randn(3, 9, 2))[0], randn(3, 9, 2, seed=1)
    X[1, 0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="non-finite"):
        complement(U, X)


def test_factorisations_leave_the_number_of_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        U = qr(randn(9, 2))[0]
        complement(U, randn(9, 2, seed=1))
        rotate(U, double_svd(randn(2, 2))[0])
        with pytest.raises(FloatingPointError):
            double_svd(torch.full((2, 2), torch.nan))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


class Regression:
    """The field A - Y through the bases of a point, for one matrix or a stack."""

    def __init__(self, Y, A):
        F = A - Y.full()
        self.K, self.L, self.S = F @ Y.V, F.mH @ Y.U, Y.U.mH @ F @ Y.V


def proposal_of(method, state, A):
    stages = method.advance(0.0, state, 0.1)
    try:
        request = next(stages)
        while True:
            request = stages.send(Regression(request[1], A))
    except StopIteration as stop:
        return stop.value


METHODS = [
    FullRank(optimizer=Adam()),
    LoRA(optimizer=Momentum()),
    SVDLoRA(),
    AdaLoRA(),
    ProjectorSplitting(),
    ProjectorSplitting(order=2),
    BUG(optimizer=Momentum()),
    AugmentedBUG(truncation=Tolerance(relative=0.05, spare=1)),
    ParallelBUG(truncation=FixedRank(4)),
    GeoLoRA(),
    GeoLoRA(optimizer=Adam()),
    GeoLoRA(truncation=GlobalBudget(9), optimizer=Momentum()),
]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_stack_steps_as_its_matrices_alone(method):
    """One matrix has a target of lower rank, so fewer new directions and another rank than the rest."""
    assert method.stackable
    rng, like = np.random.default_rng(0), randn(1)
    targets = [LowRank.random((12, 9), r, rng, like, singular_values=range(r, 0, -1)).full() for r in (5, 1, 5)]
    states = [method.init(LowRank.random((12, 9), 3, rng, like)) for _ in targets]
    together = unstack(proposal_of(method, stack(states), torch.stack(targets)), 3, method.manifold)
    alone = [proposal_of(method, state, A) for state, A in zip(states, targets, strict=True)]
    for a, b in zip(together, alone, strict=True):
        assert a.Y.S.shape == b.Y.S.shape
    for (a, error), (b, expected) in zip(
        conclude(method.truncation, together), conclude(method.truncation, alone), strict=True
    ):
        torch.testing.assert_close(a.Y.full(), b.Y.full())
        assert error == pytest.approx(expected, abs=1e-12)
        assert a.memory.keys() == b.memory.keys()


def test_states_that_do_not_fit_are_refused():
    Y = LowRank(randn(4, 2), randn(2, 2), randn(5, 2))
    with pytest.raises(ValueError, match="different values of step"):
        stack([State(Y, {"step": 1}), State(Y, {"step": 2})])


def test_truncation_of_equal_shapes_together_is_that_of_each():
    rng = np.random.default_rng(1)
    matrices = [LowRank.random(shape, 4, rng, like=randn(1)) for shape in ((9, 7), (9, 7), (6, 8), (9, 7))]
    rule = Tolerance(relative=0.4)
    together = rule([Proposal(Y) for Y in matrices])
    for Y, (truncated, error) in zip(matrices, together, strict=True):
        [(alone, expected)] = rule([Proposal(Y)])
        torch.testing.assert_close(truncated.full(), alone.full())
        assert error == pytest.approx(expected) and truncated.rank == alone.rank
