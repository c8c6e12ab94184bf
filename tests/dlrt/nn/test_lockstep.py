"""Layers in lockstep: methods that declare nothing, methods from outside, and layers of equal shape in one stack."""

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from dlrt.nn import LowRankLinear, LowRankOptimizer, lockstep
from dlrt.nn.lockstep import Coefficients, batches
from integrators import (
    FixedRank,
    GeoLoRA,
    Integrator,
    LowRank,
    Momentum,
    Optimizer,
    Projections,
    State,
    combine,
    tangent,
)


@dataclass(frozen=True, kw_only=True)
class Midpoint(Integrator):
    """Explicit midpoint rule on S in fixed bases. It says nothing of how often it asks, nor whether it takes stacks."""

    def stages(self, t, state, h):
        U, S, V = state.Y
        assert U.ndim == 2
        f = yield t, state.Y
        g = yield t + h / 2, LowRank(U, S + h / 2 * f.S, V), "S"
        return LowRank(U, S + h * g.S, V)


class Stacked(Midpoint):
    """The same, declared for stacks and as asking twice."""

    stackable = True
    evaluations = 2

    def stages(self, t, state, h):
        U, S, V = state.Y
        f = yield t, state.Y
        g = yield t + h / 2, LowRank(U, S + h / 2 * f.S, V), "S"
        return LowRank(U, S + h * g.S, V)


def train(method, steps=4, layers=1, **options):
    """Losses of a linear network, and its matrices at the end."""
    torch.manual_seed(0)
    model = nn.Sequential(*(LowRankLinear(16, 16, rank=3, bias=False, dtype=torch.float64) for _ in range(layers)))
    x, y = torch.randn(64, 16).double(), torch.randn(64, 16).double()
    optimizer = LowRankOptimizer(model, method, lr=0.3, **options)
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - y).pow(2).mean()
        loss.backward()
        return loss.detach()

    for _ in range(steps):
        losses.append(float(optimizer.step(closure)))
    return losses, [layer.dense() for layer in model]


def test_a_method_that_declares_nothing_trains_rightly():
    """The midpoint rule on S, written out: the same losses whether the class declares its evaluations or not."""
    torch.manual_seed(0)
    layer = LowRankLinear(16, 16, rank=3, bias=False, dtype=torch.float64)
    x, y = torch.randn(64, 16).double(), torch.randn(64, 16).double()
    (U, S, V), expected = (X.clone() for X in layer.Y), []

    def field(S):
        R = (x @ V @ S.mT @ U.mT - y) * 2 / y.numel()
        return -(U.mT @ R.mT @ x @ V)

    for _ in range(4):
        expected.append(float((x @ V @ S.mT @ U.mT - y).pow(2).mean()))
        S = S + 0.3 * field(S + 0.15 * field(S))
    for method in (Midpoint(), Stacked()):
        assert train(method)[0] == pytest.approx(expected, rel=1e-13)


def test_equal_layers_advance_one_by_one_unless_stacks_are_declared():
    """In a network with layers of equal shape: the same numbers either way."""
    (losses, matrices), (expected, others) = train(Midpoint(), layers=3), train(Stacked(), layers=3)
    assert losses == pytest.approx(expected, rel=1e-13)
    torch.testing.assert_close(matrices, others)


def test_a_wrong_declaration_is_an_error_that_changes_nothing():
    class Wrong(Midpoint):
        evaluations = 1

    torch.manual_seed(0)
    layer = LowRankLinear(16, 4, rank=3)
    optimizer = LowRankOptimizer(layer, Wrong(), lr=0.3)
    before = layer.dense()

    def closure():
        optimizer.zero_grad()
        loss = layer(torch.ones(2, 16)).sum()
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="Wrong declares 1 evaluations per step, 2 were counted"):
        optimizer.step(closure)
    assert torch.equal(layer.dense(), before)


def test_a_method_from_a_notebook_in_a_network_with_equal_layers():
    """Projected Heun as users write it, for single matrices: two layers of one shape, as the matrices alone."""

    @dataclass(frozen=True, kw_only=True)
    class ProjectedHeun(Integrator):
        truncation = FixedRank(3)

        def stages(self, t, state, h):
            Y = state.Y
            f = yield t, Y
            Z1 = tangent(Y, f)
            [(middle, _)] = FixedRank(Y.rank)([State(combine([(1.0, Y), (h, Z1)]))])
            g = yield t + h, middle
            return combine([(1.0, Y), (h / 2, Z1), (h / 2, tangent(middle, g))])

    losses, _ = train(ProjectedHeun(), steps=20, layers=2)
    assert losses[-1] < losses[0] and all(a >= b for a, b in itertools.pairwise(losses))


def test_an_optimizer_from_outside_without_a_first_moment():
    """A direction of K, L and S together, in stacks of layers."""

    class Normalised(Optimizer):
        def direction(self, M, memory, Y):
            norm = sum(
                sign * M[p].square().sum((-2, -1), keepdim=True) for p, sign in zip("KLS", (1, 1, -1), strict=True)
            )
            return {part: X / norm.sqrt() for part, X in M.items()}

    method = GeoLoRA(optimizer=Normalised(), truncation=FixedRank(9))
    _, before = train(method, steps=0, layers=2)
    _, after = train(method, steps=1, layers=2)
    for W0, W1 in zip(before, after, strict=True):
        assert float((W1 - W0).norm()) == pytest.approx(0.3, rel=1e-12)  # lr times a direction of norm 1


def test_layers_are_grouped_by_shape_options_and_counters():
    """One batch for what can be stacked, one for each layer of a method that takes no stacks."""
    torch.manual_seed(0)
    sizes = [(8, 6), (8, 6), (6, 8), (8, 6)]
    layers = {f"{i}": LowRankLinear(n, m, rank=2) for i, (m, n) in enumerate(sizes)}
    states = {name: GeoLoRA().init(layer.Y) for name, layer in layers.items()}
    options = dict.fromkeys(layers, (0.1, 0.0)) | {"3": (0.2, 0.0)}
    assert [group.names for group in batches(GeoLoRA(), states, options)] == [["0", "1"], ["2"], ["3"]]
    assert len(batches(Midpoint(), states, options)) == 4


def test_ranks_share_a_stack_unless_filling_up_costs_more_than_another(monkeypatch):
    """Small layers of any rank in one; of large ones those of similar rank: sum (R^2 - r^2) at most 3e6 / (m + n)."""
    ranks = list(range(1, 41, 3))

    def parts(n):
        states = {f"{r}": State(LowRank(torch.zeros(n, r), torch.zeros(r, r), torch.zeros(n, r))) for r in ranks}
        groups = batches(GeoLoRA(), states, dict.fromkeys(states, (0.1, 0.0)))
        return [[state.Y.rank for state in group.before] for group in groups]

    assert parts(50) == [ranks[::-1]]
    assert parts(1000) == [[40, 37, 34, 31], [28, 25, 22, 19, 16], [13, 10, 7, 4, 1]]
    monkeypatch.setattr(lockstep, "PART", {})  # elsewhere than on a processor each call costs more
    assert parts(1000) == [ranks[::-1]]


def test_coefficient_steps_leave_the_bases_alone():
    """S alone by an elementwise optimiser: with momentum, two steps by hand."""
    method = Coefficients(optimizer=Momentum(0.5))
    S, F = torch.eye(2), torch.ones(2, 2)
    state = method.init(LowRank(torch.zeros(0, 2), S, torch.zeros(0, 2)))
    for _ in range(2):
        stages = method.advance(0.0, state, 0.1)
        assert next(stages)[2] == "S"
        with pytest.raises(StopIteration) as stop:
            stages.send(Projections(S=F))
        state = stop.value.value
    torch.testing.assert_close(state.Y.S, S + 0.1 * F + 0.1 * 1.5 * F)
