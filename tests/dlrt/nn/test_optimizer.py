"""LowRankOptimizer: against the matrix problem, all methods, resume, and what it refuses."""

import copy
import functools
import io
import pickle
import warnings
from contextlib import nullcontext
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.optim import lr_scheduler, swa_utils

from dlrt.nn import (
    Factor,
    LinearAdapter,
    LowRankConv2d,
    LowRankEmbedding,
    LowRankLinear,
    adapt,
    lockstep,
    low_rank_layers,
    ranks,
)
from dlrt.nn.lockstep import Coefficients
from dlrt.nn.optimizer import LowRankOptimizer
from integrators import (
    BUG,
    INTEGRATORS,
    RK4,
    SGD,
    AdaLoRA,
    Adam,
    AlignedAdam,
    AugmentedBUG,
    FactoredAdam,
    FixedRank,
    FullRank,
    GeoLoRA,
    GlobalBudget,
    Heun,
    ImportanceBudget,
    Integrator,
    LoRA,
    LowRank,
    Momentum,
    Normalised,
    ParallelBUG,
    Projections,
    ProjectorSplitting,
    Spectral,
    SVDLoRA,
    Tolerance,
    count_evaluations,
)
from tests.dlrt.nn.counting import Calls, Reads, counted, give_gradients, stepper

TAU = Tolerance(relative=0.05, spare=1)
METHODS = {
    "full rank": FullRank(),
    "full rank heun": FullRank(substep=Heun()),
    "lora": LoRA(),
    "lora adam": LoRA(optimizer=Adam()),
    "svd-lora": SVDLoRA(),
    "adalora": AdaLoRA(truncation=ImportanceBudget(12, 6, 10, 2, 2)),
    "projector splitting": ProjectorSplitting(),
    "projector splitting 2": ProjectorSplitting(order=2),
    "projector splitting heun": ProjectorSplitting(order=2, substep=Heun()),
    "bug": BUG(),
    "bug rk4 momentum": BUG(substep=RK4(), optimizer=Momentum(0.5)),
    "augmented bug": AugmentedBUG(truncation=TAU),
    "augmented bug heun": AugmentedBUG(truncation=TAU, substep=Heun()),
    "parallel bug": ParallelBUG(truncation=TAU),
    "parallel bug rejecting": ParallelBUG(truncation=TAU, rejection=5.0),
    "geolora": GeoLoRA(truncation=TAU),
    "geolora published": GeoLoRA(truncation=Tolerance(relative=0.1)),
    "geolora momentum": GeoLoRA(truncation=TAU, optimizer=Momentum(0.9)),
    "geolora adam": GeoLoRA(truncation=TAU, optimizer=Adam()),
    "geolora budget": GeoLoRA(truncation=GlobalBudget(columns=12, spare=1)),
    "geolora spectral": GeoLoRA(truncation=FixedRank(4), optimizer=Spectral()),
}


def linear_network(names, shapes, rank, dtype=torch.float64, seed=0):
    """Parallel linear layers, their inputs and targets: loss = sum of 1/2 |x W^T - y|^2 / tokens."""
    torch.manual_seed(seed)
    layers = {
        n: LowRankLinear(s[1], s[0], bias=False, rank=rank, dtype=dtype) for n, s in zip(names, shapes, strict=True)
    }
    x = {n: torch.randn(20, s[1], dtype=dtype) for n, s in zip(names, shapes, strict=True)}
    y = {n: torch.randn(20, s[0], dtype=dtype) for n, s in zip(names, shapes, strict=True)}
    return nn.ModuleDict(layers), x, y


def network_loss(net, x, y):
    return sum(0.5 * (net[n](x[n]) - y[n]).square().sum() / 20 for n in net)


def closure_for(optimizer, loss):
    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


@pytest.mark.parametrize("method", METHODS)
def test_one_linear_layer_is_the_matrix_problem_step_by_step(method):
    integrator = METHODS[method]
    net, x, y = linear_network(["a"], [(6, 9)], 4)
    optimizer = LowRankOptimizer(net, integrator, lr=0.1, rest=None)
    state = integrator.init(LowRank(*(X.clone() for X in (net["a"].Y.U, net["a"].Y.S, net["a"].Y.V))))

    def field(t, Y):
        return Projections.of(-(x["a"] @ Y.full().mT - y["a"]).mT @ x["a"] / 20, Y)

    closure = closure_for(optimizer, lambda: network_loss(net, x, y))
    for _ in range(12):
        optimizer.step(closure)
        step = integrator.step(field, 0.0, state, 0.1)
        state = step.state
        assert net["a"].rank == state.Y.rank
        torch.testing.assert_close(net["a"].Y.full(), state.Y.full(), rtol=1e-8, atol=1e-10)
        assert optimizer.truncation_errors["a"] == pytest.approx(step.truncation_error, rel=1e-6, abs=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_layers_stepped_together_are_layers_stepped_alone(method):
    """Stacks of equal layers, other layers beside them, and one without a gradient: W as from single layers."""
    integrator = METHODS[method]
    if integrator.truncation is not None and not isinstance(integrator.truncation, (Tolerance, FixedRank)):
        pytest.skip("the truncation compares layers")
    names, shapes = ["a", "b", "c", "d"], [(6, 9), (6, 9), (6, 9), (8, 5)]
    net, x, y = linear_network(names, shapes, 4)
    net["unused"] = LowRankLinear(9, 6, bias=False, rank=4, dtype=torch.float64)
    alone = {n: nn.ModuleDict({n: copy.deepcopy(net[n])}) for n in names}
    unused = net["unused"].weight
    together = LowRankOptimizer(net, integrator, lr=0.1)
    optimizers = {n: LowRankOptimizer(alone[n], integrator, lr=0.1) for n in names}
    used = nn.ModuleDict({n: net[n] for n in names})
    for _ in range(6):
        together.step(closure_for(together, lambda: network_loss(used, x, y)))
        for n in names:
            optimizers[n].step(closure_for(optimizers[n], lambda n=n: network_loss(alone[n], x, y)))
            torch.testing.assert_close(net[n].Y.full(), alone[n][n].Y.full(), rtol=1e-7, atol=1e-9)
            assert net[n].rank == alone[n][n].rank
    torch.testing.assert_close(net["unused"].weight, unused)


def test_dropped_directions_in_a_stack():
    """A layer that finds fewer new directions than others of its stack gets its own rank, and no zero basis vectors."""
    net, x, y = linear_network(["a", "b"], [(6, 9), (6, 9)], 3)
    x["b"] = x["b"][:, :1] * torch.ones(1, 9, dtype=torch.float64)  # rank-1 gradient
    integrator = GeoLoRA(truncation=Tolerance(absolute=0.0, spare=2))
    optimizer = LowRankOptimizer(net, integrator, lr=0.1)
    optimizer.step(closure_for(optimizer, lambda: network_loss(net, x, y)))
    assert ranks(net) == {"a": 6, "b": 4}
    for layer in net.values():
        for X in (layer.U, layer.V):
            torch.testing.assert_close(X.mT @ X, torch.eye(layer.rank, dtype=torch.float64))


@pytest.mark.parametrize("method", METHODS)
def test_backward_passes_are_those_the_method_states(method):
    integrator = METHODS[method]
    net, x, y = linear_network(["a", "b"], [(6, 9), (7, 5)], 3)
    optimizer = LowRankOptimizer(net, integrator, lr=0.01)
    calls = []

    def closure():
        calls.append(None)
        return closure_for(optimizer, lambda: network_loss(net, x, y))()

    loss = optimizer.step(closure)
    expected = network_loss(*linear_network(["a", "b"], [(6, 9), (7, 5)], 3))
    torch.testing.assert_close(loss, expected)
    if method != "parallel bug rejecting":
        assert len(calls) == count_evaluations(integrator)
    if count_evaluations(integrator) > 1:
        network_loss(net, x, y).backward()
        with pytest.raises(ValueError, match=r"needs \d+ backward passes per step: call step\(closure\)"):
            optimizer.step()


# -- a small network with everything -----------------------------------------------------------------------------------


class Mixed(nn.Module):
    """Embedding, convolution, two equal linear layers, a norm and a plain head."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.table = LowRankEmbedding(12, 16, padding_idx=0, rank=4)
        self.conv = LowRankConv2d(1, 6, 3, padding=1, rank=3)
        self.first = LowRankLinear(96, 16, rank=4)
        self.second = LinearAdapter(nn.Linear(16, 16), rank=4)
        self.third = LinearAdapter(nn.Linear(16, 16), rank=4)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 3)

    def forward(self, index):
        z = torch.relu(self.conv(self.table(index)[:, None, 0].reshape(-1, 1, 4, 4)))
        z = torch.relu(self.first(z.flatten(1)))
        z = z + self.third(torch.tanh(self.second(self.norm(z))))
        return self.head(z)


def data(k, size=8):
    g = torch.Generator().manual_seed(k)
    index = torch.randint(0, 12, (size, 1), generator=g)
    return index, index[:, 0] % 3


def train(model, optimizer, first, last, scheduler=None, clip=None):
    losses = []
    for k in range(first, last):
        index, target = data(k)

        def closure(index=index, target=target):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(index), target)
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            return loss

        losses.append(optimizer.step(closure).item())
        if scheduler is not None:
            scheduler.step()
    return losses


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_a_mixed_network(method):
    integrator = METHODS[method]
    if isinstance(integrator.truncation, GlobalBudget):
        integrator = GeoLoRA(truncation=GlobalBudget(columns=23, spare=1))
    model = Mixed()
    rates = {Adam: 2e-3, Spectral: 2e-3, Momentum: 0.02}
    lr = rates.get(type(integrator.optimizer), 0.1)
    optimizer = LowRankOptimizer(model, integrator, lr, rest=functools.partial(torch.optim.AdamW, lr=1e-2))
    losses = train(model, optimizer, 0, 40)
    assert np.mean(losses[-5:]) < 0.95 * np.mean(losses[:5])
    assert torch.equal(model(torch.zeros(1, 1, dtype=torch.int64)), model(torch.zeros(1, 1, dtype=torch.int64)))
    assert not model.table.weight[0].any()


SETTINGS = {
    **{method: (METHODS[method], {}) for method in METHODS if method != "geolora budget"},
    "coefficient steps": (GeoLoRA(optimizer=Momentum(0.9)), {"coefficient_steps": 3, "coefficient_lr": 1e-3}),
    "late truncation": (GeoLoRA(optimizer=Momentum(0.9)), {"coefficient_steps": 3, "truncate_after": 2}),
    "sgd coefficients": (BUG(), {"coefficient_steps": 2, "coefficient_optimizer": SGD()}),
    "groups": (GeoLoRA(), {"groups": {"second": {"lr": 0.01}, "t*": {"weight_decay": 0.1}}}),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_resume_bit_for_bit(setting):
    """Saved after 5 of 9 steps and loaded into new objects of another rank: the same losses as without a stop."""
    integrator, options = SETTINGS[setting]

    def make(model):
        optimizer = LowRankOptimizer(model, integrator, lr=0.02, weight_decay=0.01, **options)
        return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)

    model = Mixed()
    optimizer, scheduler = make(model)
    train(model, optimizer, 0, 5, scheduler, clip=1.0)
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), scheduler.state_dict()], file)
    expected = train(model, optimizer, 5, 9, scheduler, clip=1.0)

    for load_model_first in (True, False):
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        other = Mixed(seed=1)
        if load_model_first:
            other.load_state_dict(saved[0])
        new, rates = make(other)
        if not load_model_first:
            other.load_state_dict(saved[0])
        new.load_state_dict(saved[1])
        rates.load_state_dict(saved[2])
        assert train(other, new, 5, 9, rates, clip=1.0) == expected
        for a, b in zip(other.state_dict().values(), model.state_dict().values(), strict=True):
            assert torch.equal(a, b)


# -- options -----------------------------------------------------------------------------------------------------------


def test_schedulers_act_on_all_groups():
    model = Mixed()
    optimizer = LowRankOptimizer(
        model, GeoLoRA(), 0.1, rest=functools.partial(torch.optim.SGD, lr=1.0), groups={"second": {"lr": 0.5}}
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 0.5**k)
    train(model, optimizer, 0, 2, scheduler)
    assert [group["lr"] for group in optimizer.param_groups] == [0.025, 0.125, 0.25]
    assert optimizer.param_groups[-1] is optimizer.rest.param_groups[0]
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert optimizer.param_groups[-1] is optimizer.rest.param_groups[0]
    assert [group["lr"] for group in optimizer.param_groups] == [0.025, 0.125, 0.25]


@pytest.mark.parametrize("method", ["geolora", "lora", "full rank", "bug", "svd-lora"])
def test_weight_decay_acts_on_W(method):
    net, x, _ = linear_network(["a"], [(6, 9)], 4)
    W = net["a"].weight
    optimizer = LowRankOptimizer(net, METHODS[method], lr=0.1, weight_decay=0.5)
    y = {"a": x["a"] @ W.mT}  # no gradient at W
    closure = closure_for(optimizer, lambda: network_loss(net, x, y))
    if count_evaluations(METHODS[method]) > 1:  # later stages see the gradient that the decay brings about
        closure = closure_for(optimizer, lambda: 0.0 * network_loss(net, x, y))
    optimizer.step(closure)
    torch.testing.assert_close(net["a"].weight, 0.95 * W)
    if METHODS[method].manifold:
        U = net["a"].U
        torch.testing.assert_close(U.mT @ U, torch.eye(U.shape[1], dtype=U.dtype))


def test_clipping_scales_the_step():
    """Clipped to a tenth, a GeoLoRA step without truncation is a tenth as long."""
    moves = []
    for clip in (None, 0.1):
        net, x, y = linear_network(["a"], [(6, 9)], 4)
        W = net["a"].weight
        optimizer = LowRankOptimizer(net, GeoLoRA(truncation=Tolerance(absolute=0.0)), lr=0.1)
        network_loss(net, x, y).backward()
        if clip:
            norm = torch.nn.utils.get_total_norm([p.grad for p in net.parameters()])
            nn.utils.clip_grad_norm_(net.parameters(), float(clip * norm))
        optimizer.step()
        moves.append(net["a"].weight - W)
    torch.testing.assert_close(moves[1], 0.1 * moves[0], rtol=1e-4, atol=1e-8)


def test_coefficient_steps_keep_the_bases():
    model = Mixed()
    optimizer = LowRankOptimizer(model, GeoLoRA(), 0.1, coefficient_steps=4, truncate_after=3, coefficient_lr=1e-2)
    ranks_seen, bases, flags = [], [], []
    for k in range(10):
        train(model, optimizer, k, k + 1)
        ranks_seen.append(model.first.rank)
        bases.append(model.first.U.detach().clone())
        flags.append(model.first.U.requires_grad)
    assert flags == [False, False, False, False, True] * 2
    assert ranks_seen[0] == 8 and ranks_seen[2] == 8 > ranks_seen[3]  # augmented, then truncated
    assert torch.equal(bases[0], bases[2]) and torch.equal(bases[3], bases[4])
    assert bases[4].shape != bases[5].shape


def test_the_rest_moves_with_the_first_gradient_after_all_stages():
    """Two stages: the head sees the same gradient, and every stage the same head, as with a one-stage method."""

    def moved(integrator):
        model = Mixed()
        optimizer = LowRankOptimizer(model, integrator, 0.1, rest=functools.partial(torch.optim.SGD, lr=0.1))
        heads = []
        index, target = data(0)

        def closure():
            heads.append(model.head.weight.detach().clone())
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(index), target)
            loss.backward()
            return loss

        optimizer.step(closure)
        assert all(torch.equal(head, heads[0]) for head in heads)
        return model.head.weight

    torch.testing.assert_close(moved(BUG()), moved(GeoLoRA()))


def test_global_budget_over_layers():
    model = Mixed()
    optimizer = LowRankOptimizer(model, GeoLoRA(truncation=GlobalBudget(columns=11)), 0.1)
    train(model, optimizer, 0, 3)
    assert sum(ranks(model).values()) == 11


def test_a_budget_in_parameters_is_held_in_every_step():
    """Spare directions included, with the weights in the memory of each layer."""
    model = Mixed()
    rule = GlobalBudget(parameters=500, spare=1, fisher=0.98)
    optimizer = LowRankOptimizer(model, GeoLoRA(truncation=rule, optimizer=Spectral()), 1e-3)
    for k in range(5):
        train(model, optimizer, k, 1)
        columns = ranks(model)
        sizes = {name: sum(layer.Y.shape) for name, layer in optimizer.layers.items()}
        used = sum(sizes[name] * r for name, r in columns.items())
        assert 500 - max(sizes.values()) < used <= 500 and min(columns.values()) >= 2
    weights = [entry["memory"]["fisher"] for entry in optimizer.state.values() if "memory" in entry]
    assert len(weights) == len(optimizer.layers)
    assert all(w.shape == (1, 1) and w > 0 for w in weights)


def test_adalora_allocates_over_layers():
    model = Mixed()
    optimizer = LowRankOptimizer(model, AdaLoRA(truncation=ImportanceBudget(19, 7, 6)), 0.1)
    train(model, optimizer, 0, 8)
    assert sum(int((layer.S.diagonal() != 0).sum()) for layer in optimizer.layers.values()) == 7


def test_a_layer_from_another_method_is_made_orthonormal():
    net, x, y = linear_network(["a"], [(6, 9)], 4)
    lora = LowRankOptimizer(net, LoRA(), lr=0.1)
    for _ in range(3):
        lora.step(closure_for(lora, lambda: network_loss(net, x, y)))
    W = net["a"].weight
    LowRankOptimizer(net, GeoLoRA(), lr=0.1)
    torch.testing.assert_close(net["a"].weight, W)
    torch.testing.assert_close(net["a"].U.mT @ net["a"].U, torch.eye(4, dtype=torch.float64))
    assert all(p.requires_grad for p in net.parameters())


def test_a_layer_turned_to_double_precision_is_made_orthonormal():
    """Its bases are orthonormal to single precision only; the matrix stays."""
    model = Mixed().double()
    before = {name: layer.dense() for name, layer in low_rank_layers(model).items()}
    for name, layer in LowRankOptimizer(model, GeoLoRA(), lr=0.1).layers.items():
        for X in (layer.U, layer.V):
            one = torch.eye(layer.rank, dtype=torch.float64)
            assert float((X.mT @ X - one).detach().abs().max()) <= 100 * torch.finfo(torch.float64).eps
        torch.testing.assert_close(layer.dense(), before[name], rtol=0, atol=1e-14)


@pytest.mark.parametrize("method", [*INTEGRATORS.values(), GeoLoRA(optimizer=Adam())], ids=repr)
def test_an_overflow_in_a_step_changes_nothing(method):
    """The gradient is finite, the step is not."""
    net, x, y = linear_network(["a"], [(6, 9)], 4, torch.float32)
    optimizer = LowRankOptimizer(net, method, lr=1e39)
    before = [p.detach().clone() for p in net.parameters()]
    scale = 1e25 if type(method.optimizer) is Adam else 1e10  # Adam squares it, and would stand still at infinity

    with pytest.raises(FloatingPointError, match=r"^a: .*; no parameter has been changed"):
        optimizer.step(closure_for(optimizer, lambda: scale * network_loss(net, x, y)))
    assert all(torch.equal(p, q) for p, q in zip(before, net.parameters(), strict=True))


def test_the_layer_whose_memory_overflows_is_named():
    net, x, y = linear_network(["a", "b", "c"], [(6, 9)] * 3, 4, torch.float32)
    optimizer = LowRankOptimizer(net, GeoLoRA(optimizer=Adam()), lr=1e-3)
    before = [p.detach().clone() for p in net.parameters()]

    def loss():
        return 1e25 * network_loss({"b": net["b"]}, x, y) + network_loss(net, x, y)

    with pytest.raises(FloatingPointError, match=r"^b: .*; no parameter has been changed"):
        optimizer.step(closure_for(optimizer, loss))
    assert all(torch.equal(p, q) for p, q in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize("half", [False, True])
def test_grad_scaler(half):
    """An overflow is skipped, and otherwise the scaled step is the plain one, to the rounding of float16 under it."""
    results = []
    for scaled in (False, True):
        model = Mixed()
        optimizer = LowRankOptimizer(model, GeoLoRA(), 0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, enabled=scaled)
        for k in range(3):
            index, target = data(k)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16, enabled=half and scaled):
                loss = nn.functional.cross_entropy(model(index).float(), target)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
        results.append(model.first.weight)
        if scaled:
            before, scale = copy.deepcopy(model.state_dict()), scaler.get_scale()
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16, enabled=half):
                loss = float("inf") * model(index).float().sum()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            assert scaler.get_scale() < scale
            assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    plain, found = results
    error = float((found - plain).norm() / plain.norm())
    assert error < (8 * torch.finfo(torch.float16).eps if half else 1e-5)


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["geolora", "bug", "augmented bug", "adalora"])
@pytest.mark.parametrize("stage", [0, 1])
def test_a_bad_gradient_changes_nothing_and_names_the_layer(method, stage):
    integrator = METHODS[method]
    if stage >= count_evaluations(integrator):
        pytest.skip("the method has one stage")
    model = Mixed()
    optimizer = LowRankOptimizer(model, integrator, 0.1)
    train(model, optimizer, 0, 2)
    before, memory = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    calls = []
    index, target = data(2)

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(index), target)
        loss.backward()
        if len(calls) == stage:
            for p in model.second.factors:
                if p.grad is not None:
                    p.grad[0, 0] = float("nan")
        calls.append(None)
        return loss

    with pytest.raises(FloatingPointError, match=r"^second: the field .*has non-finite entries; no parameter"):
        optimizer.step(closure)
    for name, X in model.state_dict().items():
        assert torch.equal(X, before[name]), name
    assert all(p.requires_grad for layer in optimizer.layers.values() for p in (layer.U, layer.S, layer.V))
    reference = Mixed()
    reference.load_state_dict(before)
    other = LowRankOptimizer(reference, integrator, 0.1)
    other.load_state_dict(memory)
    assert train(model, optimizer, 3, 5) == train(reference, other, 3, 5)


def test_a_matrix_that_overflows_changes_nothing_and_names_the_layer():
    model = Mixed()
    optimizer = LowRankOptimizer(model, GeoLoRA(), 1e300)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(FloatingPointError, match="no parameter has been changed"):
        train(model, optimizer, 0, 1)
    for name, X in model.state_dict().items():
        assert torch.equal(X, before[name]), name


@pytest.mark.parametrize("make", [torch.optim.AdamW, functools.partial(torch.optim.SGD, lr=0.1), torch.optim.LBFGS])
def test_ordinary_optimisers_refuse_the_factors(make):
    layer = LowRankLinear(5, 4, rank=2)
    optimizer = make(layer.parameters())
    layer(torch.randn(3, 5)).sum().backward()
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(TypeError, match=r"use dlrt\.nn\.LowRankOptimizer"):
        optimizer.step(lambda: layer(torch.randn(3, 5)).sum())
    assert all(torch.equal(X, before[name]) for name, X in layer.state_dict().items())
    make([p for p in layer.parameters() if not isinstance(p, Factor)]).step(lambda: torch.zeros(()))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: LowRankOptimizer(m, "geolora", 0.1), TypeError, "integrator must be an integrators.Integrator"),
        (lambda m: LowRankOptimizer(m, GeoLoRA, 0.1), TypeError, r"got the class GeoLoRA: write GeoLoRA\(\)"),
        (
            lambda m: LowRankOptimizer(m.parameters(), GeoLoRA(), 0.1),
            TypeError,
            "model must be a torch.Module, got gen",
        ),
        (lambda m: LowRankOptimizer(m, GeoLoRA(), 0.1, rest="adamw"), TypeError, "rest must make an optimiser"),
        (lambda m: LowRankOptimizer(m, GeoLoRA(), 0.1, groups=["table"]), TypeError, "groups must be a coll.*got list"),
        (
            lambda m: LowRankOptimizer(m, GeoLoRA(), 0.1, groups={"table": 0.1}),
            TypeError,
            r"groups\['table'\] must be a",
        ),
        (
            lambda m: LowRankOptimizer(m, GeoLoRA(), 0.1, weight_decay="0"),
            TypeError,
            "weight_decay must be a real number",
        ),
        (
            lambda m: LowRankOptimizer(m, GeoLoRA(), 0.1, coefficient_optimizer="adam"),
            TypeError,
            "optimizer must be an integrators.Optimizer",
        ),
        (lambda m: LowRankOptimizer(m, GeoLoRA(), -1.0), ValueError, "lr must be finite and >= 0, got -1.0"),
        (lambda m: LowRankOptimizer(nn.Linear(3, 3), GeoLoRA(), 0.1), ValueError, "no trained low-rank layer"),
        (
            lambda m: LowRankOptimizer(m, GeoLoRA(), 0.1, weight_decay=-1),
            ValueError,
            "weight_decay must be finite and >= 0",
        ),
        (lambda m: LowRankOptimizer(m, LoRA(), 0.1, coefficient_steps=2), ValueError, "LoRA has none"),
        (lambda m: LowRankOptimizer(m, GeoLoRA(), 0.1, coefficient_steps=1, truncate_after=2), ValueError, "got 2"),
        (lambda m: LowRankOptimizer(m, GeoLoRA(), 0.1, groups={"nope": {}}), ValueError, "left for 'nope' among table"),
        (lambda m: LowRankOptimizer(m, GeoLoRA(), 0.1, groups={"first": {"momentum": 1}}), ValueError, "got momentum"),
        (lambda m: LowRankOptimizer(m, GeoLoRA(), 0.1).add_param_group({"params": []}), RuntimeError, "no further"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(Mixed())


def test_a_rank_changed_behind_its_back():
    model = Mixed()
    optimizer = LowRankOptimizer(model, GeoLoRA(optimizer=Momentum(0.9)), 0.1)
    train(model, optimizer, 0, 2)
    model.first.Y = LowRank.random((16, 96), 3, np.random.default_rng(0), like=model.first.S.detach())
    with pytest.raises(RuntimeError, match="layer first has rank 3, but its memory belongs to rank"):
        train(model, optimizer, 2, 3)


def test_state_of_another_method_is_refused():
    model = Mixed()
    state = LowRankOptimizer(model, GeoLoRA(optimizer=Adam()), 0.1).state_dict()
    with pytest.raises(ValueError, match="belongs to GeoLoRA with Adam, this optimiser is GeoLoRA with SGD"):
        LowRankOptimizer(Mixed(), GeoLoRA(), 0.1).load_state_dict(state)
    with pytest.raises(ValueError, match="belongs to GeoLoRA with Adam, this optimiser is AugmentedBUG with Adam"):
        LowRankOptimizer(Mixed(), AugmentedBUG(optimizer=Adam()), 0.1).load_state_dict(state)
    with pytest.raises(ValueError, match="the state of layer table holds"):
        LowRankOptimizer(Mixed(), GeoLoRA(optimizer=Adam(beta1=0.0)), 0.1).load_state_dict(state)
    with pytest.raises(ValueError, match=r"has 1 parameter groups of low-rank layers and 1 of other.*expected 1 and 0"):
        LowRankOptimizer(Mixed(), GeoLoRA(optimizer=Adam()), 0.1, rest=None).load_state_dict(state)
    with pytest.raises(ValueError, match="belongs to the layers"):
        LowRankOptimizer(nn.Sequential(Mixed()), GeoLoRA(), 0.1).load_state_dict(state)


def test_adapted_model_and_frozen_layers():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Linear(4, 3))
    adapt(model, ["0", "2"], rank=2, trainable="3")
    model[2].requires_grad_(False)
    optimizer = LowRankOptimizer(model, GeoLoRA(), 0.1)
    assert list(optimizer.layers) == ["0", "2"]
    assert [p.shape for p in optimizer.rest.param_groups[0]["params"]] == [(3, 4), (3,)]


@pytest.mark.slow
def test_inductor_compiles_a_whole_training_step():
    """torch's default backend: the same losses as without it, whatever the ranks become."""
    torch._dynamo.reset()
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(32, 12, generator=generator), torch.randn(32, 8, generator=generator)
    losses: dict[bool, list[float]] = {}
    for compiles in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(LowRankLinear(12, 16, rank=5), nn.ReLU(), LinearAdapter(nn.Linear(16, 8), rank=3))
        run = torch.compile(net, fullgraph=True) if compiles else net
        optimizer = LowRankOptimizer(net, GeoLoRA(truncation=Tolerance(relative=0.2, spare=1)), 0.05)
        found, seen = [], set()
        for _ in range(8):
            seen.add((net[0].rank, net[2].rank))
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(run(x), y)
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        assert len(seen) > 1
        losses[compiles] = found
    torch._dynamo.reset()
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)


# -- layers of any ranks in one stack ----------------------------------------------------------------------------------

ANY_RANKS = {
    "geolora": (GeoLoRA(truncation=TAU), {"weight_decay": 0.1}),
    "geolora momentum budget": (GeoLoRA(truncation=GlobalBudget(columns=36, spare=1), optimizer=Momentum(0.9)), {}),
    "geolora spectral": (GeoLoRA(truncation=FixedRank(3), optimizer=Spectral()), {"lr": 1e-3, "weight_decay": 0.1}),
    "geolora spectral budget": (
        GeoLoRA(
            truncation=GlobalBudget(parameters=2000, spare=1, fisher=0.98), optimizer=Spectral(method="newton-schulz")
        ),
        {"lr": 1e-3},
    ),
    "geolora factored adam": (GeoLoRA(truncation=TAU, optimizer=FactoredAdam()), {"lr": 0.02}),
    "geolora aligned adam": (GeoLoRA(truncation=TAU, optimizer=AlignedAdam()), {"lr": 0.02}),
    "geolora normalised": (GeoLoRA(truncation=TAU, optimizer=Normalised()), {"lr": 0.002}),
    "augmented bug spectral": (AugmentedBUG(truncation=FixedRank(3), optimizer=Spectral()), {"lr": 1e-3}),
    "geolora adam": (GeoLoRA(truncation=TAU, optimizer=Adam()), {"lr": 0.02}),
    "geolora coefficient steps": (
        GeoLoRA(truncation=TAU, optimizer=Momentum(0.9)),
        {"coefficient_steps": 3, "truncate_after": 2, "coefficient_optimizer": Momentum(0.5)},
    ),
    "parallel bug": (ParallelBUG(truncation=TAU, optimizer=Adam(), substep=Heun()), {"lr": 0.02}),
    "augmented bug": (AugmentedBUG(truncation=TAU, optimizer=Momentum(0.5)), {}),
    "augmented bug fixed rank": (AugmentedBUG(truncation=FixedRank(3), substep=Heun()), {"weight_decay": 0.1}),
    "bug": (BUG(optimizer=Adam()), {"lr": 0.02, "coefficient_steps": 1}),
    "projector splitting": (ProjectorSplitting(optimizer=Momentum(0.5)), {}),
    "projector splitting 2": (ProjectorSplitting(order=2, substep=Heun()), {}),
    "lora": (LoRA(optimizer=Adam()), {"lr": 0.02}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("setting", ANY_RANKS)
def test_any_ranks_together_are_layers_one_by_one(setting, dtype):
    """30 steps of layers of ranks 1 to 6 in stacks, against methods that take no stacks: the same ranks, the same W.

    They differ by a few eps, or by some times what a start changed by eps brings about where that is more.
    """
    integrator, options = ANY_RANKS[setting]
    options, eps = {"lr": 0.1, "rest": None, **options}, torch.finfo(dtype).eps
    single = type("Single", (type(integrator),), {"stackable": False})
    alone = single(**{f.name: getattr(integrator, f.name) for f in fields(integrator)})

    def trained(method, change=0.0):
        torch.manual_seed(0)
        net = nn.ModuleDict(
            {f"{i}": LowRankLinear(20, 16 + 8 * (i % 2), bias=False, rank=i // 2 + 1, dtype=dtype) for i in range(12)}
        )
        x = {n: torch.randn(40, 20, dtype=dtype) for n in net}
        y = {n: torch.randn(40, net[n].out_features, dtype=dtype) for n in net}
        for layer in net.values():
            layer.S.data.mul_(1 + change)
        optimizer = LowRankOptimizer(net, method, **options)
        if method is alone:
            coefficients = type("Single", (Coefficients,), {"stackable": False})
            optimizer.coefficients = coefficients(optimizer=optimizer.coefficients.optimizer)
        seen = []
        for _ in range(30):
            optimizer.step(closure_for(optimizer, lambda: network_loss(net, x, y)))
            seen.append(ranks(net))
        return seen, {n: net[n].weight for n in net}, dict(optimizer.truncation_errors)

    (seen, W, errors), (expected, V, others) = trained(integrator), trained(alone)
    _, Z, _ = trained(alone, 4 * eps)
    assert seen == expected
    for n in W:
        size, distance = float(V[n].norm()), float((W[n] - V[n]).norm())
        tolerance = 10 * eps * size + 10 * float((Z[n] - V[n]).norm())
        assert distance < tolerance
        assert errors[n] == pytest.approx(others[n], abs=tolerance)


COUNTED = {  # layers of each rank on their own make 6,700, 7,700 and 9,100 calls, and some 300 reads
    "plain": (GeoLoRA(truncation=Tolerance(relative=0.1, spare=1)), 700),
    "momentum": (GeoLoRA(truncation=Tolerance(relative=0.1, spare=1), optimizer=Momentum(0.9)), 1000),
    "adam": (GeoLoRA(truncation=Tolerance(relative=0.1, spare=1), optimizer=Adam()), 1000),
    "spectral": (GeoLoRA(truncation=FixedRank(4), optimizer=Spectral()), 1000),
    "spectral by products, with weights": (
        GeoLoRA(
            truncation=GlobalBudget(parameters=10**6, spare=1, fisher=0.98), optimizer=Spectral(method="newton-schulz")
        ),
        1200,
    ),
}


@pytest.mark.parametrize("setting", COUNTED)
def test_calls_and_reads_whatever_the_ranks(setting, monkeypatch):
    """36 layers of two shapes with ranks 1 to 36, and 224 of four shapes, the latter as on a GPU, where calls count."""
    integrator, limit = COUNTED[setting]
    calls, reads = counted([(384, 384), (384, 1536)], range(1, 37), integrator)
    assert calls <= limit and reads <= 4
    monkeypatch.setattr(lockstep, "PART", {})
    calls, reads = counted(
        [(256, 256), (256, 320), (320, 256), (192, 192)], [1 + i % 56 for i in range(224)], integrator
    )
    assert calls <= 2 * limit and reads <= 8


def test_no_double_precision_but_for_small_svds_on_the_host():
    """So that a step works on devices that have none, or only a slow one."""
    model, optimizer = stepper([(32, 24)], range(1, 7), GeoLoRA(optimizer=Adam()))
    give_gradients(model)
    with Calls() as calls:
        optimizer.step()
    assert calls.double <= {"_linalg_svd", "_to_copy"}


def test_memory_follows_its_parameter():
    """A model that is moved after the optimiser was made, here to another dtype."""
    for integrator in (GeoLoRA(optimizer=Adam()), LoRA(optimizer=Momentum())):
        model = Mixed()
        optimizer = LowRankOptimizer(model, integrator, 1e-3, rest=None)
        train(model, optimizer, 0, 2)
        model.double()
        train(model, optimizer, 2, 4)
        for entry in optimizer.state.values():
            assert {X.dtype for X in entry["memory"].values() if isinstance(X, torch.Tensor)} == {torch.float64}


def test_learning_rates_may_be_tensors():
    """As torch's own may; each is read once in a step."""
    weights = []
    for kind in (float, torch.tensor):
        model, optimizer = stepper([(32, 24)], [3, 4], GeoLoRA())
        for group in optimizer.param_groups:
            group["lr"] = kind(0.1)
        give_gradients(model)
        with Reads() as reads:
            optimizer.step()
        assert reads.count == 1 + (kind is not float)
        weights.append(model["0"].weight)
    torch.testing.assert_close(*weights)


def test_what_makes_no_optimiser_is_refused():
    model = nn.Sequential(LowRankLinear(4, 3, rank=2))
    with pytest.raises(TypeError, match=r"rest must make an optimiser, such as .*, got one that made 1"):
        LowRankOptimizer(model, GeoLoRA(), 0.1, rest=len)


@pytest.mark.parametrize("optimizer", [Spectral(), Spectral(method="newton-schulz")], ids=["svd", "products"])
def test_weight_decay_beside_a_spectral_step(optimizer):
    """W <- (1 - lr decay) W, and the direction is that of the gradient alone, since no singular value enters it."""
    weights = {}
    for decay in (0.0, 0.5):
        net, x, y = linear_network(["a"], [(12, 10)], 4)
        stepper = LowRankOptimizer(net, GeoLoRA(truncation=FixedRank(8), optimizer=optimizer), 0.1, weight_decay=decay)
        before = net["a"].weight.clone()
        stepper.step(closure_for(stepper, lambda net=net, x=x, y=y: network_loss(net, x, y)))
        weights[decay] = net["a"].weight
    torch.testing.assert_close(weights[0.5], weights[0.0] - 0.1 * 0.5 * before, rtol=1e-11, atol=1e-11)


def test_coefficient_steps_of_tangent_vectors_are_refused():
    net, _, _ = linear_network(["a"], [(12, 10)], 4)
    with pytest.raises(TypeError, match="Spectral is for methods with orthonormal bases"):
        LowRankOptimizer(net, GeoLoRA(), 0.1, coefficient_steps=1, coefficient_optimizer=Spectral())


def test_a_method_whose_stages_have_no_direction_is_refused_when_the_optimizer_is_made():
    net, _, _ = linear_network(["a"], [(12, 10)], 4)
    with pytest.raises(ValueError, match="Spectral has no direction of L at a later stage"):
        LowRankOptimizer(net, ProjectorSplitting(optimizer=Spectral()), 0.1)


# -- what torch.optim promises -----------------------------------------------------------------------------------------


def contents(model, optimizer):
    """All numbers of a model and of its optimiser, hyper-parameters and the memory of the rest apart."""
    factors = sum(len(group["params"]) for group in optimizer.param_groups if "layers" in group)
    memory = [entry for i, entry in optimizer.state_dict()["state"].items() if i < factors]
    return copy.deepcopy((list(model.state_dict().values()), memory))


def equal(a, b):
    """Whether nested lists and mappings hold the same numbers, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return len(a) == len(b) and all(map(equal, a, b)) if isinstance(a, (list, tuple)) else a == b


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_learning_rate_of_zero_changes_nothing(setting):
    """Neither matrices nor ranks nor memory, whatever the method; the step needs no closure then."""
    integrator, options = SETTINGS[setting]
    model = Mixed()
    optimizer = LowRankOptimizer(model, integrator, 0.1, **options)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = contents(model, optimizer)
    train(model, optimizer, 0, 2)
    index, target = data(0)
    nn.functional.cross_entropy(model(index), target).backward()
    optimizer.step()
    assert equal(contents(model, optimizer), before)


def test_a_warm_up_from_zero_is_the_run_without_the_first_step():
    """The case of a start rank thrown away in a first step of length zero."""
    runs = []
    for rates in ([0.0, 0.05, 0.1], [0.05, 0.1]):
        torch.manual_seed(0)
        model = nn.Sequential(LinearAdapter(nn.Linear(16, 32), rank=4))
        x, y = torch.randn(64, 16), torch.randn(64, 32)
        optimizer = LowRankOptimizer(model, GeoLoRA(optimizer=Adam()), lr=1.0)
        scheduler = lr_scheduler.LambdaLR(optimizer, lambda k, rates=rates: rates[min(k, len(rates) - 1)])
        for _ in rates:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
            scheduler.step()
            runs.append(ranks(model)["0"])
        runs.append(contents(model, optimizer))
    assert runs[0] == 4 and equal(runs[1:4], runs[4:])


def test_a_group_may_stand_still():
    """Its layers keep their factors and their memory while others move, and are truncated if that was still due."""
    model = Mixed()
    options = {"coefficient_steps": 3, "truncate_after": 2, "groups": {"second": {"lr": 0.1}}}
    method = GeoLoRA(truncation=Tolerance(relative=0.3), optimizer=Momentum(0.5))
    optimizer = LowRankOptimizer(model, method, 0.1, **options)
    train(model, optimizer, 0, 1)
    augmented = ranks(model)
    optimizer.param_groups[1]["lr"] = 0.0
    S = model.second.S.detach().clone()
    train(model, optimizer, 1, 2)
    assert torch.equal(model.second.S, S)
    train(model, optimizer, 2, 3)
    assert all(ranks(model)[n] < augmented[n] for n in ("second", "third"))
    before = copy.deepcopy(model.second.state_dict())
    train(model, optimizer, 3, 8)
    assert model.second.S.requires_grad and equal(dict(model.second.state_dict()), dict(before))


@pytest.mark.parametrize(
    "method", ["geolora", "geolora published", "geolora adam", "parallel bug", "augmented bug heun"]
)
def test_a_gradient_of_zeros_changes_nothing(method):
    """As of a batch without labels: neither rank nor matrix, also beside a layer that moves in the same stack.

    Weight decay and momentum do move the layer, and then it is truncated.
    """
    net, x, y = linear_network(["a", "b", "c"], [(9, 12)] * 3, 6)
    net["a"].S.data.zero_()  # an adapter at its start
    net["b"].S.data.copy_(torch.diag(10.0 ** -torch.arange(6)))
    before = {n: copy.deepcopy(net[n].state_dict()) for n in "ab"}
    optimizer = LowRankOptimizer(net, METHODS[method], 0.01)
    for _ in range(2):
        optimizer.step(
            closure_for(optimizer, lambda: network_loss({"c": net["c"]}, x, y) + 0 * network_loss(net, x, y))
        )
    assert all(equal(dict(net[n].state_dict()), dict(before[n])) for n in "ab")
    assert optimizer.truncation_errors["b"] == 0 < optimizer.truncation_errors["c"]
    decaying = LowRankOptimizer(net, METHODS[method], 0.01, weight_decay=0.1)
    decaying.step(closure_for(decaying, lambda: 0 * network_loss(net, x, y)))
    assert net["b"].rank < 6


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.1])
def test_a_bad_learning_rate_is_named(bad):
    model = Mixed()
    optimizer = LowRankOptimizer(model, GeoLoRA(), 0.1, groups={"second": {"lr": 0.1}})
    before = contents(model, optimizer)
    optimizer.param_groups[1]["lr"] = bad
    with pytest.raises(ValueError, match=r"lr of parameter group 1 must be finite and >= 0, got (nan|inf|-0.1)"):
        train(model, optimizer, 0, 1)
    assert equal(contents(model, optimizer), before)


def test_a_tensor_as_learning_rate_belongs_to_one_group():
    optimizer = LowRankOptimizer(Mixed(), GeoLoRA(), torch.tensor(0.5), groups={"second": {}}, rest=None)
    lr_scheduler.LambdaLR(optimizer, [lambda k: 0.5, lambda k: 0.25])
    assert [float(group["lr"]) for group in optimizer.param_groups] == [0.25, 0.125]


SCHEDULERS = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, [lambda k: 0.9**k, lambda k: 0.5**k]),
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda k: 0.9),
    "step": lambda o: lr_scheduler.StepLR(o, 2),
    "multistep": lambda o: lr_scheduler.MultiStepLR(o, [2, 5]),
    "constant": lambda o: lr_scheduler.ConstantLR(o),
    "linear": lambda o: lr_scheduler.LinearLR(o),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, 6),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 6),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
    "chained": lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.LinearLR(o), lr_scheduler.StepLR(o, 2)]),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, [1e-2, 1e-3], total_steps=9),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, [1e-3, 1e-4], [1e-2, 1e-3], step_size_up=3),
    "swa": lambda o: swa_utils.SWALR(o, [1e-3, 1e-4], anneal_epochs=4),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_of_torch(name):
    """The same learning rates, and momenta, of both groups as AdamW with the same groups gets."""
    model = Mixed()
    optimizer = LowRankOptimizer(
        model, GeoLoRA(optimizer=Adam()), 1e-2, rest=functools.partial(torch.optim.AdamW, lr=1e-3)
    )
    like = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    expected = torch.optim.AdamW([{"params": [p], "lr": lr} for p, lr in zip(like, (1e-2, 1e-3), strict=True)])
    schedulers = SCHEDULERS[name](optimizer), SCHEDULERS[name](expected)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Detected call of")
        warnings.filterwarnings("ignore", "The epoch parameter in")  # torch's own, within SequentialLR
        for k in range(7):
            train(model, optimizer, k, k + 1)
            expected.step()
            for scheduler in schedulers:
                scheduler.step()
            for key in ("lr", "betas"):
                found = [group[key] for group in optimizer.param_groups]
                assert found == [group[key] for group in expected.param_groups]
    assert all(X.isfinite().all() for X in model.state_dict().values())


def test_reduce_on_plateau():
    optimizer = LowRankOptimizer(Mixed(), GeoLoRA(), 0.4, rest=functools.partial(torch.optim.SGD, lr=0.2))
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, min_lr=[0.0, 0.2])
    for loss in (1.0, 2.0):
        scheduler.step(loss)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.2]


@pytest.mark.parametrize(
    ("plain", "scheduled", "change"),
    [
        (Adam(), Adam(0.5, 0.9), {"betas": (0.5, 0.9)}),
        (Momentum(0.9), Momentum(0.3), {"momentum": 0.3}),
    ],
)
@pytest.mark.parametrize("method", [GeoLoRA(), LoRA()], ids=repr)
def test_a_scheduled_momentum_is_that_of_the_method(method, plain, scheduled, change):
    """In one of two groups of equal layers; the other keeps its own."""
    names = ["a", "b"]
    net, x, y = linear_network(names, [(6, 9)] * 2, 3)
    expected = {n: copy.deepcopy(net) for n in names}
    optimizer = LowRankOptimizer(net, replace(method, optimizer=plain), 0.01, groups={"b": {}})
    optimizer.param_groups[1].update(change)
    for n, steps in zip(names, (plain, scheduled), strict=True):
        other = LowRankOptimizer(expected[n], replace(method, optimizer=steps), 0.01)
        for _ in range(3):
            other.step(closure_for(other, lambda n=n: network_loss(expected[n], x, y)))
    for _ in range(3):
        optimizer.step(closure_for(optimizer, lambda: network_loss(net, x, y)))
    for n in names:
        torch.testing.assert_close(net[n].weight, expected[n][n].weight, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(net["b"].weight, expected["a"]["b"].weight, rtol=1e-3)


@pytest.mark.parametrize(
    ("optimizer", "rest"),
    [(SGD(), torch.optim.AdamW), (Momentum(), torch.optim.AdamW), (Adam(), functools.partial(torch.optim.SGD, lr=0.1))],
)
def test_a_momentum_that_is_not_everywhere_is_not_cycled(optimizer, rest):
    """torch says which option to take, and it works with that."""
    optimizer = LowRankOptimizer(Mixed(), GeoLoRA(optimizer=optimizer), 0.1, rest=rest)
    with pytest.raises(ValueError, match="cycle_momentum"):
        lr_scheduler.OneCycleLR(optimizer, max_lr=[1e-2, 1e-3], total_steps=100)
    lr_scheduler.OneCycleLR(optimizer, max_lr=[1e-2, 1e-3], total_steps=100, cycle_momentum=False)
    assert [group["max_lr"] for group in optimizer.param_groups] == [1e-2, 1e-3]


def test_a_scheduler_of_the_rest_alone():
    model = Mixed()
    optimizer = LowRankOptimizer(model, GeoLoRA(), 0.1, rest=functools.partial(torch.optim.SGD, lr=1.0))
    scheduler = lr_scheduler.ExponentialLR(optimizer.rest, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, 0, 2, scheduler)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.25]


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda pair: pickle.loads(pickle.dumps(pair)),
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("setting", ["coefficient steps", "geolora adam", "bug rk4 momentum", "adalora", "groups"])
def test_copies_go_on_bit_for_bit(way, setting):
    integrator, options = SETTINGS[setting]
    model = Mixed()
    optimizer = LowRankOptimizer(model, integrator, 0.02, **options)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 9)
    train(model, optimizer, 0, 3, scheduler)
    other, new = COPIES[way]((model, optimizer))
    assert all(a is b for a, b in zip(new.param_groups[-1]["params"], new.rest.param_groups[-1]["params"], strict=True))
    assert new.param_groups[-1] is new.rest.param_groups[-1]
    assert train(other, new, 3, 6) == train(model, optimizer, 3, 6)
    assert equal(contents(other, new), contents(model, optimizer))


def test_hooks_of_the_state_are_called():
    model = Mixed()
    optimizer = LowRankOptimizer(model, GeoLoRA(), 0.1)
    seen = []
    optimizer.register_state_dict_pre_hook(lambda o: seen.append("before saving"))
    optimizer.register_state_dict_post_hook(lambda o, state: {**state, "note": 7})
    optimizer.register_load_state_dict_pre_hook(lambda o, state: seen.append(state.pop("note")))
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append("after loading"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == ["before saving", 7, "after loading"]


def test_the_state_is_where_torch_has_it():
    model = Mixed()
    optimizer = LowRankOptimizer(model, GeoLoRA(optimizer=Adam()), 1e-3)
    train(model, optimizer, 0, 2)
    assert optimizer.state[model.first.S]["memory"]["first.K"].shape == model.first.U.shape
    assert optimizer.state[model.head.bias] is optimizer.rest.state[model.head.bias]
    saved = optimizer.state_dict()
    assert set(saved) == {"state", "param_groups"}
    numbers = [i for group in saved["param_groups"] for i in group["params"]]
    assert numbers == sorted(saved["state"]) == list(range(len(numbers)))


@pytest.mark.parametrize("setting", ["late truncation", "geolora adam", "geolora", "lora adam"])
@pytest.mark.parametrize("flat", [False, True])
def test_distributed_checkpoints(setting, flat, tmp_path):
    """torch's get_state_dict and set_state_dict, directly, and through files."""
    integrator, options = SETTINGS[setting]

    def make(seed):
        model = Mixed(seed)
        return model, LowRankOptimizer(model, integrator, 0.02, **options)

    chosen = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, optimizer = make(0)
    train(model, optimizer, 0, 3)
    weights, memory = copy.deepcopy(get_state_dict(model, optimizer, options=chosen))
    dcp.save({"model": weights, "optimizer": memory}, checkpoint_id=tmp_path / "checkpoint")
    dcp_to_torch_save(tmp_path / "checkpoint", tmp_path / "file.pt")
    expected = train(model, optimizer, 3, 6)

    saved = torch.load(tmp_path / "file.pt", weights_only=False)
    for found in ({"model": weights, "optimizer": memory}, saved):
        other, new = make(1)
        other.load_state_dict(found["model"])
        set_state_dict(
            other,
            new,
            model_state_dict=found["model"],
            optim_state_dict=copy.deepcopy(found["optimizer"]),
            options=chosen,
        )
        assert train(other, new, 3, 6) == expected


def test_checkpoints_filled_in_place(tmp_path):
    """torch.distributed.checkpoint.load into a model of the saved ranks."""
    model = Mixed()
    optimizer = LowRankOptimizer(model, BUG(optimizer=Adam()), 0.02)
    train(model, optimizer, 0, 3)
    weights, memory = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": memory}, checkpoint_id=tmp_path)
    expected = train(model, optimizer, 3, 6)
    other = Mixed(seed=1)
    new = LowRankOptimizer(other, BUG(optimizer=Adam()), 0.02)
    train(other, new, 0, 1)
    weights, memory = get_state_dict(other, new)
    dcp.load({"model": weights, "optimizer": memory}, checkpoint_id=tmp_path)
    set_state_dict(other, new, model_state_dict=weights, optim_state_dict=memory)
    assert train(other, new, 3, 6) == expected


def test_state_of_another_schedule_is_refused():
    model = Mixed()
    optimizer = LowRankOptimizer(model, GeoLoRA(), 0.1, coefficient_steps=5)
    train(model, optimizer, 0, 3)
    for other in (
        {},
        {"coefficient_steps": 5, "truncate_after": 1},
        {"coefficient_steps": 5, "coefficient_optimizer": SGD()},
    ):
        fresh = Mixed(seed=1)
        new = LowRankOptimizer(fresh, GeoLoRA(), 0.2, **other)
        before = contents(fresh, new)
        with pytest.raises(ValueError, match="state belongs to GeoLoRA with SGD, 5 coefficient steps with Adam, trunc"):
            new.load_state_dict(optimizer.state_dict())
        assert equal(contents(fresh, new), before) and new.param_groups[0]["lr"] == 0.2
        assert all(p.requires_grad for layer in new.layers.values() for p in layer.factors)


def test_a_state_from_within_wrappers():
    """Names of layers are those of the model itself."""
    model = Mixed()
    optimizer = LowRankOptimizer(nn.DataParallel(torch.compile(model, backend="eager")), GeoLoRA(), 0.1)
    other = Mixed()
    new = LowRankOptimizer(other, GeoLoRA(), 0.1)
    new.load_state_dict(optimizer.state_dict())
    assert list(new.layers) == list(optimizer.layers)


@pytest.mark.parametrize("method", ["geolora adam", "augmented bug heun", "coefficient steps", "lora"])
def test_a_step_under_autocast_is_the_step_outside(method):
    """Bit for bit, also where autocast keeps copies of weights; a closure is evaluated under it, in all stages."""
    integrator, options = SETTINGS[method]
    weights, dtypes = [], []
    for inside in (False, True):
        model = Mixed()
        optimizer = LowRankOptimizer(model, integrator, 0.02, **options)

        def closure(k, optimizer=optimizer, model=model, inside=inside):
            index, target = data(k)
            optimizer.zero_grad()
            with nullcontext() if inside else torch.autocast("cpu", torch.bfloat16):
                output = model(index)
            dtypes.append(output.dtype)
            loss = nn.functional.cross_entropy(output.float(), target)
            loss.backward()
            return loss

        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            for k in range(4):
                optimizer.step(functools.partial(closure, k))
                assert torch.is_autocast_enabled("cpu") == inside
        weights.append(model.state_dict())
    assert set(dtypes) == {torch.bfloat16}
    assert equal(dict(weights[0]), dict(weights[1]))


@pytest.mark.parametrize("method", ["geolora adam", "bug", "coefficient steps", "lora"])
def test_layers_may_be_frozen_and_freed_at_any_time(method):
    """A layer that is frozen now, or was at the start, stays as it is, and moves when it is free."""
    integrator, options = SETTINGS[method]
    model = Mixed()
    model.third.requires_grad_(False)
    optimizer = LowRankOptimizer(model, integrator, 0.02, **options)
    train(model, optimizer, 0, 2)
    model.second.requires_grad_(False)
    frozen = model.second, model.third
    before = copy.deepcopy([dict(layer.state_dict()) for layer in frozen])
    matrices = [layer.dense() for layer in frozen]
    train(model, optimizer, 2, 7)
    assert not any(p.requires_grad for layer in frozen for p in layer.factors)
    assert equal([dict(layer.state_dict()) for layer in frozen], before)
    for layer in frozen:
        for p in layer.factors:
            p.requires_grad_(True)
    train(model, optimizer, 7, 12)
    assert not any(torch.equal(layer.dense(), W) for layer, W in zip(frozen, matrices, strict=True))


def test_a_layer_frozen_in_part_is_refused():
    model = Mixed()
    optimizer = LowRankOptimizer(model, GeoLoRA(), 0.1)
    model.second.U.requires_grad_(False)
    with pytest.raises(ValueError, match="U of layer second requires no gradient: freeze all three factors or none"):
        train(model, optimizer, 0, 1)


def test_a_closure_that_accumulates_is_refused():
    """As with several tapes the later ones would see the last part of the batch alone."""
    model = Mixed()
    optimizer = LowRankOptimizer(model, BUG(), 0.1)
    (first, a), (second, b) = data(0), data(1)
    nn.functional.cross_entropy(model(first), a).backward()
    before = contents(model, optimizer)

    def last_part():
        loss = nn.functional.cross_entropy(model(second), b)
        loss.backward()
        return loss

    with pytest.raises(ValueError, match="BUG needs 2 backward passes per step, each over the whole batch"):
        optimizer.step(last_part)
    assert equal(contents(model, optimizer), before)

    for set_to_none in (True, False):

        def whole(set_to_none=set_to_none):
            optimizer.zero_grad(set_to_none)
            nn.functional.cross_entropy(model(first), a).backward()
            return last_part()

        for _ in range(2):
            optimizer.step(whole)
    one = LowRankOptimizer(model, GeoLoRA(), 0.1)
    nn.functional.cross_entropy(model(first), a).backward()
    one.step(last_part)  # one tape: torch's usual way


def test_ranks_stay_below_twice_the_largest_at_the_start():
    for rule, largest in ((Tolerance(absolute=0.0), 6), (Tolerance(absolute=0.0, max_rank=9), 9), (FixedRank(7), 7)):
        net, x, y = linear_network(["a", "b"], [(12, 14), (12, 14)], 2)
        net["b"] = LowRankLinear(14, 12, bias=False, rank=3, dtype=torch.float64)
        optimizer = LowRankOptimizer(net, GeoLoRA(truncation=rule), 0.1)
        for _ in range(3):
            optimizer.step(closure_for(optimizer, functools.partial(network_loss, net, x, y)))
        assert max(ranks(net).values()) == largest
        other = LowRankOptimizer(net, GeoLoRA(truncation=rule), 0.1)
        other.load_state_dict(optimizer.state_dict())
        assert other.truncation == optimizer.truncation


@pytest.mark.parametrize(
    "method",  # of those that keep all directions; the third one of BUG would be rounding
    ["midpoint-bug", "midpoint-bug-3r", "runge-kutta-bug-2", "runge-kutta-bug-3", "second-order-parallel-bug",
               "backward-corrected-splitting", "augmented-bug"]
)  # fmt: skip
def test_fewer_examples_than_the_rank(method):
    """Gradients of rank 2 in bases of rank 3: what a stack cannot go on with begins anew alone, and ends alike."""
    found = []
    for stackable in (True, False):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 1)).double()
        adapt(net, ["0", "2"], 3)
        alone = type("Alone", (type(INTEGRATORS[method]),), {"stackable": stackable})
        optimizer = LowRankOptimizer(net, alone(**vars(INTEGRATORS[method])), 0.1)
        x = torch.randn(2, 12, dtype=torch.float64)
        for _ in range(3):
            optimizer.step(closure_for(optimizer, lambda net=net, x=x: net(x).square().mean()))
        found.append([*(layer.dense() for layer in low_rank_layers(net).values()), net[4].weight.detach()])
    for one, other in zip(*found, strict=True):
        assert torch.linalg.norm(one - other) <= 1e-10  # weights of norm 2, three steps of length .1


def test_a_budget_without_numbers_is_that_of_the_start():
    """Held in every step, and by whoever loads the state."""
    net, x, y = linear_network(["a", "b"], [(12, 14), (12, 14)], 2)
    net["b"] = LowRankLinear(14, 12, bias=False, rank=4, dtype=torch.float64)
    optimizer = LowRankOptimizer(net, GeoLoRA.spectral(), 0.01)
    assert optimizer.truncation == GlobalBudget(parameters=(2 + 4) * 26, fisher=0.98)
    for _ in range(4):
        optimizer.step(closure_for(optimizer, functools.partial(network_loss, net, x, y)))
        assert sum(ranks(net).values()) == 6
    saved = optimizer.state_dict()
    saved["param_groups"][0]["parameters"] = 5 * 26
    optimizer.load_state_dict(saved)
    optimizer.step(closure_for(optimizer, functools.partial(network_loss, net, x, y)))
    assert sum(ranks(net).values()) == 5


def test_the_bound_of_ranks_does_not_end_rejection():
    """It is for the end of a step: a method that would grow further within one still checks whether it must."""
    net, x, y = linear_network(["a"], [(12, 14)], 2)
    optimizer = LowRankOptimizer(net, ParallelBUG(truncation=Tolerance(relative=1e-3), rejection=1e-3), 0.1)
    calls = []

    def closure():
        calls.append(None)
        return closure_for(optimizer, lambda: network_loss(net, x, y))()

    optimizer.step(closure)
    assert len(calls) > 2 and net["a"].rank == 4


class TwoStages(Integrator):
    """Explicit midpoint on S by somebody who says nothing about how often it asks."""

    def stages(self, t, state, h):
        """Two fields."""
        Y = state.Y
        f = yield t, Y
        g = yield t + h / 2, LowRank(Y.U, Y.S + h / 2 * f.S, Y.V), "S"
        return LowRank(Y.U, Y.S + h * g.S, Y.V)


def test_nobody_counts_by_hand():
    """The case of a method that trained on overwritten tensors: losses of the matrix problem."""
    net, x, y = linear_network(["a"], [(6, 9)], 3)
    method, Y = TwoStages(), LowRank(*(X.clone() for X in net["a"].Y))
    optimizer = LowRankOptimizer(net, method, 0.3)
    state, losses, expected = method.init(Y), [], []
    for _ in range(4):
        losses.append(float(optimizer.step(closure_for(optimizer, lambda: network_loss(net, x, y))).detach()))
        expected.append(float((x["a"] @ state.Y.full().mT - y["a"]).square().sum() / 40))
        state = method.step(
            lambda t, Y: Projections.of(-(x["a"] @ Y.full().mT - y["a"]).mT @ x["a"] / 20, Y), 0.0, state, 0.3
        ).state
    assert losses == pytest.approx(expected, rel=1e-12)
    network_loss(net, x, y).backward()
    with pytest.raises(ValueError, match="TwoStages needs 2 backward passes"):
        optimizer.step()


@pytest.mark.parametrize("setting", ["coefficient steps", "lora adam"])
def test_a_move_that_makes_new_parameters(setting, monkeypatch):
    """As to some kinds of device: gradients are cleared, memory goes on."""
    integrator, options = SETTINGS[setting]
    results = []
    for overwrite in (False, True):
        model = Mixed()
        optimizer = LowRankOptimizer(model, integrator, 0.02, rest=None, **options)
        train(model, optimizer, 0, 2)
        old = model.second.S
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
        try:
            model.double()
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)
        assert (model.second.S is not old) == overwrite
        results.append((train(model, optimizer, 2, 6), contents(model, optimizer)))
    assert equal(*results)


def test_factors_that_nobody_averages_are_refused(monkeypatch):
    model = Mixed()
    optimizer = LowRankOptimizer(model, GeoLoRA(), 0.1)
    before = contents(model, optimizer)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    with pytest.raises(
        RuntimeError, match=r"2 processes, and nobody averages .* of table: call dlrt\.nn\.prepare_dist"
    ):
        train(model, optimizer, 0, 1)
    assert equal(contents(model, optimizer), before)


ALIGNED = {
    "geolora momentum": GeoLoRA(truncation=FixedRank(3), optimizer=Momentum(0.5)),
    "geolora adam": GeoLoRA(truncation=FixedRank(3), optimizer=Adam()),
    "bug": BUG(),
    "projector splitting": ProjectorSplitting(optimizer=Momentum(0.5)),
}


class OfDiffusers:
    """diffusers' average of parameters, called as torch's."""

    def __init__(self, net):
        training_utils = pytest.importorskip("diffusers.training_utils")
        self.average = training_utils.EMAModel(net.parameters(), decay=0.9, min_decay=0.9)
        self.module = copy.deepcopy(net)

    def update_parameters(self, net):
        self.average.step(net.parameters())
        self.average.copy_to(self.module.parameters())


OF_TORCH = functools.partial(swa_utils.AveragedModel, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))


@pytest.mark.parametrize(
    ("method", "averaged"), [*((name, OF_TORCH) for name in ALIGNED), ("geolora momentum", OfDiffusers)]
)
def test_aligned_bases(method, averaged):
    """The matrices are those of the run without, and an average of the factors is that of the matrices.

    To second order: a mean of U(t) over a path of length delta is off by O(delta^2), here a small part of the path.
    """
    errors, ends = {}, {}
    for align in (False, True):
        net, x, y = linear_network(["a", "b"], [(6, 9), (8, 7)], 3)
        optimizer = LowRankOptimizer(net, ALIGNED[method], 2e-3, align=align)
        average = averaged(net)
        expected = {n: net[n].weight for n in net}
        for k in range(40):
            optimizer.step(closure_for(optimizer, lambda net=net, x=x, y=y: network_loss(net, x, y)))
            average.update_parameters(net)
            expected = {n: net[n].weight if k == 0 else 0.9 * expected[n] + 0.1 * net[n].weight for n in net}
        ends[align] = {n: net[n].weight for n in net}
        errors[align] = max(float((average.module[n].weight - expected[n]).norm() / expected[n].norm()) for n in net)
        path = max(float((net[n].weight - expected[n]).norm() / expected[n].norm()) for n in net)
    for n in ends[True]:
        torch.testing.assert_close(ends[True][n], ends[False][n], rtol=1e-9, atol=1e-10)
    assert errors[True] < 0.1 * path < 0.1 * errors[False]


def test_align_is_for_moving_bases():
    with pytest.raises(ValueError, match="align needs a method with orthonormal bases, LoRA has none"):
        LowRankOptimizer(Mixed(), LoRA(), 0.1, align=True)
    with pytest.raises(ValueError, match="align needs a truncation at once, got truncate_after=1"):
        LowRankOptimizer(Mixed(), GeoLoRA(), 0.1, align=True, coefficient_steps=2, truncate_after=1)
