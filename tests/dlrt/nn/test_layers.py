"""Low-rank layers against their torch namesakes, files at other ranks, and the torch machinery around them."""

import io

import numpy as np
import pytest
import torch
from torch import nn

from dlrt.nn import Factor, LinearAdapter, LowRankConv2d, LowRankEmbedding, LowRankLinear
from dlrt.nn.model import KINDS
from integrators import LowRank


def shake(layer, rank=3, seed=0):
    """Give a layer a random matrix of some rank."""
    layer.Y = LowRank.random(layer.shape, rank, np.random.default_rng(seed), like=layer.S.detach())
    return layer


def gradients(layer):
    return [getattr(layer, name).grad.clone() for name in ("U", "S", "V")]


def test_full_rank_from_and_to_the_namesake(base_and_input):
    """At full rank nothing is lost, and back again neither."""
    base, x = base_and_input
    matrix = base.weight.flatten(1)
    layer = KINDS[type(base)]["train"].from_dense(base, rank=min(matrix.shape))
    torch.testing.assert_close(layer(x), base(x))
    back = layer.to_dense()
    assert type(back) is type(base)
    torch.testing.assert_close(back(x), base(x))
    torch.testing.assert_close(layer.weight.reshape(base.weight.shape), base.weight)
    assert {k for k, _ in layer.named_parameters()} - {"U", "S", "V"} == {k for k, _ in base.named_parameters()} - {
        "weight"
    }


def test_low_rank_is_the_best_approximation(base_and_input):
    base, _ = base_and_input
    layer = KINDS[type(base)]["train"].from_dense(base, rank=2)
    matrix = base.weight.detach().flatten(1)
    values = torch.linalg.svdvals(matrix)
    torch.testing.assert_close((layer.Y.full() - matrix).norm(), values[2:].norm())


def test_start_has_the_size_of_torch():
    layer = LowRankLinear(300, 200, rank=7)
    assert float(layer.weight.norm()) == pytest.approx(float(nn.Linear(300, 200).weight.norm()), rel=0.05)
    one = torch.eye(7)
    torch.testing.assert_close(layer.U.mT @ layer.U, one)
    torch.testing.assert_close(layer.V.mT @ layer.V, one)
    first, second = (LowRankLinear(6, 5, rank=2, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.weight, second.weight) and torch.equal(first.bias, second.bias)


def test_integers_of_numpy():
    layer = LowRankLinear(np.int64(4), 6, rank=np.int64(2))
    assert layer.rank == 2 and layer(torch.ones(4)).shape == (6,)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LowRankLinear(4, 6, rank=5), ValueError, r"rank 5 exceeds min\(m, n\) = 4"),
        (lambda: LowRankLinear(4, 6, rank=0), ValueError, "got 0"),
        (lambda: LowRankLinear(4, 6, rank=2.0), TypeError, "rank must be an integer, got float 2.0"),
        (lambda: LowRankLinear.from_linear(nn.ReLU(), rank=1), TypeError, "replaces Linear, got ReLU"),
        (lambda: LowRankEmbedding.from_embedding(nn.Embedding(4, 3, sparse=True), 2), ValueError, "sparse=True"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("kind", ["train", "adapter"])
def test_state_dict_at_another_rank(kind):
    def make(rank):
        torch.manual_seed(1)
        return LowRankLinear(6, 8, rank=rank) if kind == "train" else LinearAdapter(nn.Linear(6, 8), rank=rank)

    saved, loaded = shake(make(5), 5), make(2)
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    parameter = loaded.U
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert loaded.U is parameter and loaded.rank == 5
    assert torch.equal(loaded.Y.full(), saved.Y.full())
    with pytest.raises(RuntimeError, match="size mismatch for V"):
        (LowRankLinear(7, 8, rank=2) if kind == "train" else LinearAdapter(nn.Linear(7, 8), rank=2)).load_state_dict(
            saved.state_dict()
        )
    assigned = make(2)
    assigned.load_state_dict(saved.state_dict(), assign=True)
    assert torch.equal(assigned.Y.full(), saved.Y.full()) and isinstance(assigned.U, Factor)


def test_accumulation_and_a_layer_used_twice():
    layer = LowRankLinear(6, 6, rank=3)
    x = torch.randn(8, 6)
    layer(x).square().sum().backward()
    whole = gradients(layer)
    layer.zero_grad()
    for part in x.chunk(4):
        layer(part).square().sum().backward()
    for a, b in zip(gradients(layer), whole, strict=True):
        torch.testing.assert_close(a, b)
    layer.zero_grad()
    layer(layer(x)).sum().backward()
    W = layer.weight.requires_grad_()
    b = layer.bias.detach()
    nn.functional.linear(nn.functional.linear(x, W, b), W, b).sum().backward()
    torch.testing.assert_close(layer.U.grad, W.grad @ layer.V)
    torch.testing.assert_close(layer.V.grad, W.grad.mT @ layer.U)
    torch.testing.assert_close(layer.S.grad, layer.U.mT @ W.grad @ layer.V)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(base_and_input, dtype):
    base, x = base_and_input
    trained = KINDS[type(base)]["train"].from_dense(base, rank=3)
    with torch.autocast("cpu", dtype=dtype):
        assert trained(x).dtype == dtype


@pytest.mark.parametrize("kind", ["train", "adapter"])
def test_compile_without_breaks_and_with_few_graphs(kind):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    layer = LowRankLinear(16, 20, rank=2) if kind == "train" else LinearAdapter(nn.Linear(16, 20), rank=2)
    compiled = torch.compile(nn.Sequential(layer, nn.ReLU()), fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 16)
    for rank in (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 5):
        shake(layer, rank, seed=rank)
        layer.zero_grad()
        y = compiled(x)
        torch.testing.assert_close(y, torch.relu(layer(x)))
        y.sum().backward()
        found = gradients(layer)
        layer.zero_grad()
        torch.relu(layer(x)).sum().backward()
        for a, b in zip(found, gradients(layer), strict=True):
            torch.testing.assert_close(a, b)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LowRankLinear(0, 3, rank=1), ValueError, "in_features must be at least 1, got 0"),
        (lambda: LowRankLinear(3, None, rank=1), TypeError, "out_features must be an integer"),
        (lambda: LowRankConv2d(torch.ones(2), 3, 1, rank=1), TypeError, "in_channels must be an integer"),
        (lambda: LowRankEmbedding(-2, 3, rank=1), ValueError, "num_embeddings must be at least 1, got -2"),
        (lambda: LowRankLinear(2, 3, rank=3), ValueError, "rank 3 exceeds"),
    ],
)
def test_bad_sizes(make, error, message):
    with pytest.raises(error, match=message):
        make()
