"""AveragedModel: averages of the matrices, against dense ones."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.optim import swa_utils

from dlrt.nn import AveragedModel, LinearAdapter, LowRankConv2d, LowRankLinear, LowRankOptimizer, low_rank_layers, ranks
from dlrt.nn.average import aligned
from integrators import Adam, GeoLoRA, LoRA, LowRank, State, Tolerance

METHODS = {
    "ranks that grow": GeoLoRA(truncation=Tolerance(relative=0.05, spare=1)),
    "adam": GeoLoRA(truncation=Tolerance(relative=0.1, spare=1), optimizer=Adam()),
    "factors that are not orthonormal": LoRA(),
}
FUNCTIONS = {
    "mean": ({}, lambda k: 1 / (k + 1)),
    "ema": ({"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.9)}, lambda k: 0.1),
    "ema one by one": ({"avg_fn": swa_utils.get_ema_avg_fn(0.9)}, lambda k: 0.1),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        LowRankConv2d(1, 6, 3, padding=1, rank=2),
        nn.BatchNorm2d(6),
        nn.Flatten(),
        LowRankLinear(6 * 36, 20, rank=2),
        nn.Tanh(),
        LinearAdapter(nn.Linear(20, 8), rank=2, scale=0.5),
    ).double()


def steps(model, method, number, lr=0.05):
    """The model after each step."""
    optimizer = LowRankOptimizer(model, method, lr)
    for k in range(number):
        g = torch.Generator().manual_seed(k)
        x = torch.randn(16, 1, 6, 6, generator=g, dtype=torch.float64)
        y = torch.randn(16, 8, generator=g, dtype=torch.float64)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
        yield model


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("method", METHODS)
def test_the_average_is_that_of_the_matrices(method, function):
    """Within the tolerance of the largest norm, whatever the ranks; all else as torch's class has it, bit for bit."""
    options, weight = FUNCTIONS[function]
    model = network()
    average = AveragedModel(model, tolerance=1e-4, max_rank=20, **options)
    expected = {n: layer.dense() for n, layer in low_rank_layers(model).items()}
    others = swa_utils.AveragedModel(nn.Module(), **options)
    largest = dict.fromkeys(expected, 0.0)
    for k, now in enumerate(steps(model, METHODS[method], 12)):
        average.update_parameters(now)
        plain = nn.ParameterList([p for n, p in now.named_parameters() if n.rpartition(".")[2] not in "USV"])
        if k == 0:
            others = swa_utils.AveragedModel(plain, **options)
        others.update_parameters(plain)
        for n, layer in low_rank_layers(now).items():
            w = weight(k) if k else 1.0
            expected[n] = (1 - w) * expected[n] + w * layer.dense()
            largest[n] = max(largest[n], float(expected[n].norm()))
    found = low_rank_layers(average.module)
    for n, W in expected.items():
        assert float((found[n].dense() - W).norm()) <= 1.01e-4 * largest[n]
    mine = [p for n, p in average.module.named_parameters() if n.rpartition(".")[2] not in "USV"]
    assert all(torch.equal(p, q) for p, q in zip(mine, others.parameters(), strict=True))
    assert all(torch.equal(p, q) for p, q in zip(average.module.buffers(), model.buffers(), strict=True))
    if METHODS[method].rank_adaptive:
        assert max(ranks(model).values()) > 2


def test_the_first_update_is_a_copy():
    model = network()
    average = AveragedModel(model)
    list(steps(model, METHODS["adam"], 3))
    average.update_parameters(model)
    x = torch.randn(4, 1, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(average(x), model(x), rtol=1e-10, atol=1e-10)


def test_a_loss_between_those_of_training_and_zero():
    """The case of an average of factors that was as bad as zero: averaged weights are nearly as good as the last."""
    torch.manual_seed(0)
    x = torch.randn(256, 16)
    y = x @ (torch.randn(16, 3) @ torch.randn(3, 8))
    model = nn.Sequential(LowRankLinear(16, 8, bias=False, rank=3))
    optimizer = LowRankOptimizer(model, GeoLoRA(truncation=Tolerance(relative=0.1, spare=1)), 0.05)
    average = AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.95))
    for _ in range(200):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        average.update_parameters(model)
    error = nn.functional.mse_loss(average(x), y)
    assert float(error.detach()) < 2 * float(loss.detach()) < 0.1 * float(y.square().mean())


def test_new_directions_are_not_lost_for_being_small():
    """With w below the tolerance each update brings less than the tolerance, and yet all arrives."""
    model = nn.Sequential(LowRankLinear(12, 10, bias=False, rank=1, dtype=torch.float64))
    average = AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.998), tolerance=1e-2)
    average.update_parameters(model)
    U, S, V = model[0].Y
    turned = LowRank(torch.roll(U, 1, 0), S.clone(), torch.roll(V, 1, 0))
    start, expected = model[0].dense(), model[0].dense()
    model[0].Y = turned
    for _ in range(1000):
        average.update_parameters(model)
        expected = 0.998 * expected + 0.002 * model[0].dense()
    error = float((average.module[0].dense() - expected).norm())
    assert error <= 1.01e-2 * float(start.norm()) < 0.1 * float((start - expected).norm())


def test_the_rank_of_the_average():
    """At most twice that of the layer, or as is said."""
    for options, largest in (({}, 4), ({"max_rank": 3}, 3)):
        model = nn.Sequential(LowRankLinear(12, 10, rank=2))
        average = AveragedModel(model, tolerance=0.0, **options)
        for _ in range(4):
            model[0].Y = LowRankLinear(12, 10, rank=2).Y
            average.update_parameters(model)
        assert ranks(average.module) == {"0": largest}


def test_state_buffers_and_statistics():
    """As torch's class: saved and loaded at any rank, buffers averaged, statistics of batch norm made anew."""
    model = network()
    average = AveragedModel(model, use_buffers=True)
    means = []
    for now in steps(model, METHODS["adam"], 4):
        average.update_parameters(now)
        means.append(now[1].running_mean.clone())
    torch.testing.assert_close(average.module[1].running_mean, torch.stack(means).mean(0))
    other = AveragedModel(network(), use_buffers=True)
    other.load_state_dict(copy.deepcopy(average.state_dict()))
    x = torch.randn(32, 1, 6, 6, dtype=torch.float64)
    assert torch.equal(other.eval()(x), average.eval()(x)) and other.n_averaged == 4
    swa_utils.update_bn([x], average)
    torch.testing.assert_close(average.module[1].running_mean, average.module[0](x).mean((0, 2, 3)))


def test_errors():
    model = network()
    with pytest.raises(ValueError, match="tolerance must be >= 0"):
        AveragedModel(model, tolerance=-1.0)
    with pytest.raises(ValueError, match="max_rank must be at least 1"):
        AveragedModel(model, max_rank=0)
    average = AveragedModel(model, avg_fn=lambda average, new, n: torch.maximum(average, new))
    average.update_parameters(model)
    with pytest.raises(ValueError, match=r"avg_fn must be a weighted mean, it made 1\.0 of 0 and 1, and 1\.0 of 1 and"):
        average.update_parameters(model)
    with pytest.raises(ValueError, match=r"the low-rank layers of model are 0, expected 0, 3, 5"):
        average.update_parameters(nn.Sequential(LowRankLinear(3, 4, rank=1)))


def test_a_matrix_that_is_not_finite_changes_nothing():
    for bad in ("0", "3", "5"):
        model = network()
        average = AveragedModel(model)
        average.update_parameters(model)
        before = copy.deepcopy(average.state_dict())
        model[0].bias.data.add_(1.0)
        low_rank_layers(model)[bad].S.data[0, 0] = float("nan")
        with pytest.raises(FloatingPointError, match="not finite; the average has not been changed"):
            average.update_parameters(model)
        assert all(torch.equal(X, before[n]) for n, X in average.state_dict().items())


def test_aligned_is_the_nearest_of_all_bases():
    """Procrustes: no other orthogonal turn is nearer; other ranks are left as they are, tangent vectors turn along."""
    torch.manual_seed(0)
    before = {n: LowRankLinear(9, 7, rank=r, dtype=torch.float64).Y for n, r in (("a", 3), ("b", 2))}
    turn = torch.linalg.qr(torch.randn(2, 3, 3, dtype=torch.float64))[0]
    U, S, V = before["a"]
    noise = 1e-3 * torch.randn(7, 3, dtype=torch.float64)
    Y = LowRank(torch.linalg.qr(U + noise)[0] @ turn[0], S, V @ turn[1])
    first = {
        f"first.{part}": torch.randn(size, 3, dtype=torch.float64) for part, size in zip("KLS", (7, 9, 3), strict=True)
    }
    grown = State(LowRankLinear(9, 7, rank=3, dtype=torch.float64).Y, {})
    found = aligned({"a": (State(Y, {**first, "step": 3}), 0.5), "b": (grown, 0.0)}, before)
    assert found["b"] == (grown, 0.0) and found["a"][1] == 0.5
    state = found["a"][0]
    torch.testing.assert_close(state.Y.full(), Y.full())
    distance = float((state.Y.U - U).norm())
    assert distance < 2 * float(noise.norm()) and float((state.Y.V - V).norm()) < 1e-12
    for _ in range(20):
        small = 1e-2 * torch.randn(3, 3, dtype=torch.float64)
        other = torch.linalg.matrix_exp(small - small.mT)
        assert float((state.Y.U @ other - U).norm()) > distance
    vectors = [
        (M["first.K"] - Z.U @ M["first.S"]) @ Z.V.mT + Z.U @ M["first.L"].mT
        for Z, M in ((Y, first), (state.Y, state.memory))
    ]
    torch.testing.assert_close(*vectors)
    assert state.memory["step"] == 3 and math.isclose(
        float(state.memory["first.S"].norm()), float(first["first.S"].norm())
    )
