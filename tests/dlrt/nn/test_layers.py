"""Low-rank layers against their torch namesakes, files at other ranks, and the torch machinery around them."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from dlrt.nn import Adapter, Factor, LowRankConv2d, LowRankConvTranspose2d, LowRankEmbedding, LowRankLinear
from dlrt.nn.model import TRAINED
from integrators import LowRank


def shake(layer, rank=3, seed=0):
    """Give a layer a random matrix of some rank."""
    layer.Y = LowRank.random(layer.shape, rank, np.random.default_rng(seed), like=layer.S.detach())
    return layer


def counterpart(base):
    return next(kind for kind in TRAINED if kind.replaces(base))


def gradients(layer):
    return [getattr(layer, name).grad.clone() for name in ("U", "S", "V")]


def test_full_rank_from_and_to_the_namesake(base_and_input):
    """At full rank nothing is lost, and back again neither."""
    base, x = base_and_input
    matrix = base.weight.detach().flatten(1)
    layer = counterpart(base).from_dense(base, rank=min(matrix.shape))
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
    layer = counterpart(base).from_dense(base, rank=2)
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


def test_a_new_start():
    layer = shake(LowRankLinear(300, 200, rank=3), 7)
    bias, norm = layer.bias.detach().clone(), float(LowRankLinear(300, 200, rank=7).weight.norm())
    layer.reset_parameters()
    assert layer.rank == 7 and float(layer.weight.norm()) == pytest.approx(norm)
    assert not torch.equal(layer.bias, bias)


def test_an_output_size_that_is_asked_for():
    base, x = nn.ConvTranspose2d(3, 4, 3, stride=2), torch.randn(2, 3, 4, 4)
    layer = LowRankConvTranspose2d.from_dense(base, rank=3)
    torch.testing.assert_close(layer(x, output_size=(10, 9)), base(x, output_size=(10, 9)))
    adapter = Adapter(base, rank=2)
    shake(adapter, 2)
    expected = base(x, output_size=(10, 10)) + nn.functional.conv_transpose2d(
        x, adapter.dense(), stride=2, output_padding=1
    )
    torch.testing.assert_close(adapter(x, output_size=(10, 10)), expected)


def test_the_linear_layer_of_gpt2():
    base, x = Conv1D(6, 9), torch.randn(2, 3, 9)
    layer = LowRankLinear.from_dense(base, rank=6)
    torch.testing.assert_close(layer(x), base(x))
    torch.testing.assert_close(layer.to_dense()(x), base(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_factors(base_and_input, dtype):
    """Outputs and the rest change their type as in torch, factors and their gradients do not."""
    base, x = base_and_input
    x = x.to(dtype) if x.is_floating_point() else x
    for layer in (shake(counterpart(base).from_dense(base, rank=3)), shake(Adapter(copy.deepcopy(base), rank=3))):
        before, dense = layer.Y, copy.deepcopy(base)
        dense.weight.data.copy_(layer.dense() + (base.weight if isinstance(layer, Adapter) else 0))
        layer.U.grad = torch.zeros_like(layer.U)
        layer.to(dtype)
        assert all(a is b or torch.equal(a, b) for a, b in zip(before, layer.Y, strict=True))
        assert {X.dtype for X in (layer.U.grad, *layer.factors)} == {torch.float32}
        assert all(p.dtype == dtype for n, p in layer.named_parameters() if n not in ("U", "S", "V"))
        y = layer(x)
        assert y.dtype == dtype and layer.weight.dtype == dtype
        expected = dense.to(dtype)(x)
        assert float((y - expected).norm() / expected.norm()) < 8 * torch.finfo(dtype).eps
        y.sum().backward()
        assert layer.S.grad.dtype == torch.float32
        layer.float()
        assert layer(x.float() if x.is_floating_point() else x).dtype == torch.float32
    layer = LowRankLinear(4, 3, rank=2, dtype=dtype)
    assert layer.U.dtype == torch.float32 and layer.bias.dtype == dtype and layer.double().U.dtype == torch.float64


def test_loading_by_assignment_keeps_the_factors():
    layer = LowRankLinear(4, 3, rank=2)
    layer.load_state_dict({k: X.bfloat16() for k, X in layer.state_dict().items()}, assign=True)
    assert layer.U.dtype == torch.float32 and isinstance(layer.U, Factor)


def test_factors_set_by_a_loader_stay_factors():
    """Transformers sets parameters by name: an ordinary optimiser must go on refusing them."""
    layer = LowRankLinear(4, 3, rank=2)
    layer.U = nn.Parameter(layer.U.data.clone(), requires_grad=False)
    assert type(layer.U) is Factor and not layer.U.requires_grad and layer._parameters["U"] is layer.U
    layer.bias = nn.Parameter(layer.bias.data)
    assert type(layer.bias) is nn.Parameter


def test_complex_numbers_are_refused():
    with pytest.raises(TypeError, match="low-rank layers are real, got torch"):
        LowRankLinear(4, 3, rank=2, dtype=torch.complex64)
    with pytest.raises(TypeError, match="Linear has a complex weight"):
        LowRankLinear.from_dense(nn.Linear(4, 3, dtype=torch.complex64), 2)
    with pytest.raises(TypeError, match="got an input of torch"):
        LowRankLinear(4, 3, rank=2)(torch.ones(4, dtype=torch.complex64))


def test_derivatives_by_x_and_functions_of_the_parameters():
    """A force in the loss, and gradients of each sample by torch.func, against one sample at a time."""
    model = nn.Sequential(LowRankLinear(3, 8, rank=2), nn.Tanh(), Adapter(nn.Linear(8, 1), rank=1, scale=0.5))
    shake(model[0], 2), shake(model[2], 1)
    x = torch.randn(5, 3, requires_grad=True)
    (force,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    force.square().sum().backward()
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def energy(parameters, x):
        return torch.func.functional_call(model, parameters, (x[None],)).sum()

    def loss(parameters, x):
        return torch.func.grad(energy, 1)(parameters, x).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x.detach())
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(found[name].sum(0), p.grad, msg=name)
        else:
            assert name.startswith("2.") and "base" in name  # frozen, or without an influence on the force


@pytest.mark.parametrize("adapter", [False, True])
def test_copies_of_data_parallel_have_their_factors_as_attributes(adapter):
    """Each copy sees half of the batch, and torch adds the gradients of all copies."""
    torch.manual_seed(0)
    layer = Adapter(nn.Linear(4, 3), rank=2) if adapter else LowRankLinear(4, 3, rank=2)
    x = torch.randn(6, 4)
    expected = layer(x)
    expected.square().sum().backward()
    gradients = [p.grad.clone() for p in layer.factors]
    layer.zero_grad()
    found = []
    for part in x.chunk(2):
        replica = layer._replicate_for_data_parallel()
        for name, p in layer.named_parameters(recurse=False):
            setattr(replica, name, p.clone())  # through which gradients flow back
        found.append(replica(part))
        found[-1].square().sum().backward()
    torch.testing.assert_close(torch.cat(found), expected)
    for p, gradient in zip(layer.factors, gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient)


def test_shapes_without_memory():
    with torch.device("meta"):
        layers, x = (LowRankLinear(4, 3, rank=2), Adapter(nn.Linear(4, 3), rank=2)), torch.ones(5, 4)
    assert [(layer(x).shape, layer.dense().shape) for layer in layers] == [((5, 3), (3, 4))] * 2


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
        return LowRankLinear(6, 8, rank=rank) if kind == "train" else Adapter(nn.Linear(6, 8), rank=rank)

    saved, loaded = shake(make(5), 5), make(2)
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    parameter = loaded.U
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert loaded.U is parameter and loaded.rank == 5
    assert torch.equal(loaded.Y.full(), saved.Y.full())
    with pytest.raises(RuntimeError, match="size mismatch for V"):
        (LowRankLinear(7, 8, rank=2) if kind == "train" else Adapter(nn.Linear(7, 8), rank=2)).load_state_dict(
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
    trained = counterpart(base).from_dense(base, rank=3)
    with torch.autocast("cpu", dtype=dtype):
        assert trained(x).dtype == dtype


@pytest.mark.parametrize("kind", ["train", "adapter"])
def test_compile_without_breaks_and_with_few_graphs(kind):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    layer = LowRankLinear(16, 20, rank=2) if kind == "train" else Adapter(nn.Linear(16, 20), rank=2)
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
