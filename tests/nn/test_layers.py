"""Low-rank layers against their torch namesakes, their rank changes, and the torch machinery around them."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dlrt.nn import (
    Conv2dAdapter,
    EmbeddingAdapter,
    Factor,
    LinearAdapter,
    LowRankConv2d,
    LowRankEmbedding,
    LowRankLinear,
    assign,
)
from integrators import LowRank

BASES = {
    "linear": lambda: (nn.Linear(6, 9), torch.randn(2, 4, 6)),
    "linear wide no bias": lambda: (nn.Linear(9, 5, bias=False), torch.randn(3, 9)),
    "conv": lambda: (nn.Conv2d(4, 6, 3, padding=1), torch.randn(2, 4, 5, 6)),
    "conv same groups": lambda: (nn.Conv2d(4, 6, (2, 3), padding="same", groups=2), torch.randn(2, 4, 5, 6)),
    "conv strided": lambda: (nn.Conv2d(4, 6, 3, (2, 1), "valid", (1, 2), bias=False), torch.randn(2, 4, 7, 8)),
    "conv reflect": lambda: (nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="reflect"), torch.randn(2, 4, 5, 6)),
    "conv circular": lambda: (nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular"), torch.randn(2, 4, 5, 6)),
    "conv one image": lambda: (nn.Conv2d(4, 6, 3), torch.randn(4, 5, 6)),
    "embedding": lambda: (nn.Embedding(11, 6), torch.tensor([[1, 2, 2], [0, 10, 4]])),
    "embedding padding": lambda: (nn.Embedding(11, 6, padding_idx=-2), torch.tensor([9, 3, 10])),
}
TRAINED = {nn.Linear: LowRankLinear, nn.Conv2d: LowRankConv2d, nn.Embedding: LowRankEmbedding}
ADAPTERS = {nn.Linear: LinearAdapter, nn.Conv2d: Conv2dAdapter, nn.Embedding: EmbeddingAdapter}


def shake(layer, rank=3, seed=0):
    """Give a layer a random matrix of some rank."""
    layer.Y = LowRank.random(layer.shape, rank, np.random.default_rng(seed), like=layer.S.detach())
    return layer


@pytest.fixture(params=BASES)
def base_and_input(request):
    torch.manual_seed(0)
    return BASES[request.param]()


def test_full_rank_from_and_to_the_namesake(base_and_input):
    """At full rank nothing is lost, and back again neither."""
    base, x = base_and_input
    matrix = base.weight.flatten(1)
    layer = TRAINED[type(base)].from_dense(base, rank=min(matrix.shape))
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
    layer = TRAINED[type(base)].from_dense(base, rank=2)
    matrix = base.weight.detach().flatten(1)
    values = torch.linalg.svdvals(matrix)
    torch.testing.assert_close((layer.Y.full() - matrix).norm(), values[2:].norm())


def test_adapter_adds_nothing_at_first_then_what_its_weight_says(base_and_input):
    base, x = base_and_input
    expected = base(x)
    layer = ADAPTERS[type(base)](base, rank=3, scale=0.5)
    torch.testing.assert_close(layer(x), expected)
    shake(layer)
    dense = copy.deepcopy(base)
    with torch.no_grad():
        dense.weight.copy_(layer.weight)
    torch.testing.assert_close(layer(x), dense(x))
    assert not torch.allclose(layer(x), expected)
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == ["U", "S", "V"]


def test_merge_and_unmerge(base_and_input):
    base, x = base_and_input
    layer = shake(ADAPTERS[type(base)](base, rank=3, scale=0.5))
    weight, expected = base.weight.clone(), layer(x)
    layer.merge()
    layer.merge()
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(base(x), expected)
    with pytest.raises(RuntimeError, match="unmerge"):
        layer.state_dict()
    layer.unmerge()
    layer.unmerge()
    torch.testing.assert_close(base.weight, weight)
    torch.testing.assert_close(layer(x), expected)
    B, A = layer.lora_factors()
    torch.testing.assert_close(B @ A, 0.5 * layer.Y.full())


def test_scale_does_not_depend_on_the_rank():
    layer = LinearAdapter(nn.Linear(8, 8), rank=4, scale=2.0)
    x = torch.randn(3, 8)
    Y = LowRank.random((8, 8), 2, np.random.default_rng(0), like=layer.S.detach())
    layer.Y = Y
    expected = layer(x)
    U, V = (torch.linalg.qr(torch.cat([X, torch.randn(8, 3)], 1))[0] for X in (Y.U, Y.V))
    layer.Y = Y.embed(U, V)
    assert layer.rank == 5
    torch.testing.assert_close(layer(x), expected)


def test_start_has_the_size_of_torch():
    layer = LowRankLinear(300, 200, rank=7)
    assert float(layer.weight.norm()) == pytest.approx(float(nn.Linear(300, 200).weight.norm()), rel=0.05)
    one = torch.eye(7)
    torch.testing.assert_close(layer.U.mT @ layer.U, one)
    torch.testing.assert_close(layer.V.mT @ layer.V, one)
    first, second = (LowRankLinear(6, 5, rank=2, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.weight, second.weight) and torch.equal(first.bias, second.bias)


def test_wrapping_any_module_with_the_call():
    class Quantised(nn.Module):
        in_features, out_features = 6, 4

        def forward(self, x):
            return torch.round(x[..., :4])

    layer = shake(LinearAdapter(Quantised(), rank=2), 2)
    x = torch.randn(5, 6)
    torch.testing.assert_close(layer(x), torch.round(x[..., :4]) + x @ layer.Y.full().mT)
    assert layer.in_features == 6
    with pytest.raises(TypeError, match="no floating-point weight"):
        layer.merge()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LowRankLinear(4, 6, rank=5), ValueError, r"between 1 and min\(m, n\) = 4, got 5"),
        (lambda: LowRankLinear(4, 6, rank=0), ValueError, "got 0"),
        (lambda: LowRankLinear(4, 6, rank=2.0), TypeError, "rank must be an integer, got 2.0"),
        (lambda: LinearAdapter(nn.Linear(4, 6), rank=5), ValueError, "= 4, got 5"),
        (
            lambda: LinearAdapter(nn.ReLU(), rank=1),
            TypeError,
            "ReLU cannot be adapted: it has no attribute out_features",
        ),
        (lambda: LinearAdapter(nn.Linear(4, 6), rank=1, scale=0.0), ValueError, "scale must be"),
        (lambda: LowRankLinear.from_linear(nn.ReLU(), rank=1), TypeError, "replaces Linear, got ReLU"),
        (lambda: LowRankEmbedding.from_embedding(nn.Embedding(4, 3, sparse=True), 2), ValueError, "sparse=True"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


# -- rank changes ------------------------------------------------------------------------------------------------------


def test_assign_keeps_the_object_and_its_hooks():
    layer = shake(LowRankLinear(5, 6, rank=1), 1)
    parameter, calls = layer.U, []
    parameter.register_post_accumulate_grad_hook(lambda p: calls.append(p.grad.shape))
    alive = layer(torch.randn(3, 5)).sum()
    alive.backward(retain_graph=True)
    shake(layer, 4)
    assert layer.U is parameter and parameter.grad is None and isinstance(parameter, Factor)
    fresh, x = [], torch.randn(3, 5)
    for _ in range(2):
        layer.zero_grad()
        layer(x).sum().backward()
        fresh.append(parameter.grad.clone())
    assert calls == [(6, 1), (6, 4), (6, 4)]
    reference = shake(LowRankLinear(5, 6, rank=4), 4)
    reference(x).sum().backward()
    torch.testing.assert_close(fresh[0], reference.U.grad)
    assert torch.equal(*fresh)
    with pytest.raises(RuntimeError):  # the old graph belongs to the old rank
        alive.backward()


def test_assign_never_shares():
    parameter, value = nn.Parameter(torch.zeros(2, 2)), torch.ones(2, 3)
    assign(parameter, value)
    value.zero_()
    assert torch.equal(parameter, torch.ones(2, 3)) and parameter.is_contiguous()


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


def test_copies_moves_and_files_keep_the_type():
    layer = LowRankLinear(6, 8, rank=2)
    assert isinstance(copy.deepcopy(layer).U, Factor)
    assert isinstance(copy.deepcopy(layer).to("meta").to_empty(device="cpu").U, Factor)
    assert layer.to(torch.float64).U.dtype == torch.float64
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    assert isinstance(torch.load(file, weights_only=False).S, Factor)


# -- torch machinery ---------------------------------------------------------------------------------------------------


def gradients(layer):
    return [getattr(layer, name).grad.clone() for name in ("U", "S", "V")]


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


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant):
    layer = LinearAdapter(nn.Linear(6, 6), rank=3)
    shake(layer)
    x = torch.randn(4, 6, requires_grad=True)
    layer(x).square().sum().backward()
    expected = [*gradients(layer), x.grad.clone()]
    layer.zero_grad()
    x.grad = None
    checkpoint(layer, x, use_reentrant=reentrant).square().sum().backward()
    for a, b in zip([*gradients(layer), x.grad], expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(base_and_input, dtype):
    """Products in half precision: outputs and gradients within its rounding, gradients in the type of the factors."""
    base, x = base_and_input
    layer = shake(ADAPTERS[type(base)](base, rank=3))
    layer(x).square().sum().backward()
    expected = [*gradients(layer)]
    layer.zero_grad()
    with torch.autocast("cpu", dtype=dtype):
        y = layer(x)
        assert y.dtype == base(x).dtype
    y.float().square().sum().backward()
    for a, b in zip(gradients(layer), expected, strict=True):
        assert a.dtype == torch.float32
        assert float((a - b).norm() / b.norm()) < 8 * torch.finfo(dtype).eps  # a handful of rounded products in a row
    trained = TRAINED[type(base)].from_dense(base, rank=3)
    with torch.autocast("cpu", dtype=dtype):
        assert trained(x).dtype == dtype


def test_a_half_precision_base():
    layer = shake(LinearAdapter(nn.Linear(6, 6).bfloat16(), rank=3))
    assert layer.U.dtype == torch.float32
    y = layer(torch.randn(4, 6).bfloat16())
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert layer.U.grad.dtype == torch.float32


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
