"""Adapters: what they add to a frozen layer, merging, and the torch machinery around them."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dlrt.nn import Adapter, LowRankDelta
from integrators import LowRank


def shake(layer, rank=3, seed=0):
    """Give a layer a random matrix of some rank."""
    layer.Y = LowRank.random(layer.shape, rank, np.random.default_rng(seed), like=layer.S.detach())
    return layer


def gradients(layer):
    return [getattr(layer, name).grad.clone() for name in ("U", "S", "V")]


def test_adapter_adds_nothing_at_first_then_its_dense_matrix(base_and_input):
    base, x = base_and_input
    expected = base(x)
    layer = Adapter(base, rank=3, scale=0.5)
    torch.testing.assert_close(layer(x), expected)
    shake(layer)
    dense = copy.deepcopy(base)
    with torch.no_grad():
        dense.weight += layer.dense()
    torch.testing.assert_close(layer(x), dense(x))
    assert not torch.allclose(layer(x), expected)
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == ["U", "S", "V"]


def test_merge_and_unmerge(base_and_input):
    base, x = base_and_input
    layer = shake(Adapter(base, rank=3, scale=0.5))
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
    torch.testing.assert_close(layer.map.weight(layer.settings, B @ A), layer.dense())


def test_scale_does_not_depend_on_the_rank():
    layer = Adapter(nn.Linear(8, 8), rank=4, scale=2.0)
    x = torch.randn(3, 8)
    Y = LowRank.random((8, 8), 2, np.random.default_rng(0), like=layer.S.detach())
    layer.Y = Y
    expected = layer(x)
    U, V = (torch.linalg.qr(torch.cat([X, torch.randn(8, 3)], 1))[0] for X in (Y.U, Y.V))
    layer.Y = Y.embed(U, V)
    assert layer.rank == 5
    torch.testing.assert_close(layer(x), expected)


def test_wrapping_any_module_with_the_call():
    class Quantised(nn.Module):
        in_features, out_features = 6, 4

        def forward(self, x):
            return torch.round(x[..., :4])

    layer = shake(Adapter(Quantised(), rank=2), 2)
    x = torch.randn(5, 6)
    torch.testing.assert_close(layer(x), torch.round(x[..., :4]) + x @ layer.Y.full().mT)
    assert layer.in_features == 6
    with pytest.raises(TypeError, match="no floating-point weight"):
        layer.merge()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Adapter(nn.Linear(4, 6), rank=5), ValueError, r"rank 5 exceeds min\(m, n\) = 4"),
        (
            lambda: Adapter(nn.ReLU(), rank=1),
            TypeError,
            "the map of ReLU is not known",
        ),
        (lambda: Adapter(nn.Linear(4, 6), rank=1, scale=0.0), ValueError, "scale must be"),
        (lambda: Adapter(nn.Linear(4, 6), rank=1, dropout=1.0), ValueError, "dropout must be less than 1, got 1.0"),
        (lambda: Adapter(nn.Linear(4, 6), rank=1, dropout=-0.1), ValueError, "dropout must be"),
        (lambda: Adapter("query", rank=1), TypeError, "layer must be a torch"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant):
    layer = Adapter(nn.Linear(6, 6), rank=3)
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
    layer = shake(Adapter(base, rank=3))
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


def test_a_half_precision_base():
    layer = shake(Adapter(nn.Linear(6, 6).bfloat16(), rank=3))
    assert layer.U.dtype == torch.float32
    y = layer(torch.randn(4, 6).bfloat16())
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert layer.U.grad.dtype == torch.float32


def test_a_delta_beside_a_layer_that_it_does_not_own(base_and_input):
    base, x = base_and_input
    delta = LowRankDelta(base, rank=3, scale=0.5)
    assert [name for name, _ in delta.named_parameters()] == ["U", "S", "V"]
    assert all(p.requires_grad for p in base.parameters())
    torch.testing.assert_close(delta(x, base(x)), base(x))
    shake(delta)
    torch.testing.assert_close(delta(x, base(x)), shake(Adapter(base, rank=3, scale=0.5))(x))
    again = copy.deepcopy(nn.ModuleList([base, delta]))[1]
    torch.testing.assert_close(again(x, base(x)), delta(x, base(x)))


def test_dropout_in_training_alone():
    torch.manual_seed(0)
    layer = shake(Adapter(nn.Linear(1000, 4, bias=False), rank=3, dropout=0.25))
    nn.init.zeros_(layer.weight)
    torch.nn.init.constant_(layer.V, 1.0)
    x = torch.ones(200, 1000)
    expected = layer.eval()(x)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.dense() @ x.mT, expected.mT)
    y = layer.train()(x)  # the sum of 1000 entries that are 0 or 4/3: its deviation is (1/3 / 1000)^(1/2) of it
    deviation = (y / expected - 1).std()
    assert float(deviation) == pytest.approx((1 / 3 / 1000) ** 0.5, rel=0.2)


def test_settings_are_read_at_each_call():
    """As people do who make the convolutions of a trained network periodic."""
    base, x = nn.Conv2d(2, 3, 3, padding=1), torch.randn(1, 2, 5, 5)
    layer = shake(Adapter(base, rank=2), 2)
    layer.settings.padding_mode = "circular"
    base._reversed_padding_repeated_twice = [1] * 4
    dense = copy.deepcopy(base)
    dense.weight.data += layer.dense()
    torch.testing.assert_close(layer(x), dense(x))


def test_the_weight_is_that_of_the_base():
    base = nn.Linear(4, 4)
    layer = Adapter(base, rank=2)
    assert layer.weight is base.weight and layer.bias is base.bias and layer.in_features == 4
    other = nn.Embedding(4, 4)
    layer.weight = other.weight  # as transformers tie a head
    assert base.weight is other.weight and "weight" not in layer._parameters


def test_several_matrices_on_one_layer():
    base, x = nn.Linear(6, 5), torch.randn(3, 6)
    first = shake(Adapter(base, rank=2, name="first"), 2)
    second = shake(Adapter(first, rank=3, scale=0.5, name="second"), 3, seed=1)
    assert all(p.requires_grad for p in first.factors) and not base.weight.requires_grad
    assert second.settings is base and second.weight is base.weight
    plain = base(x)
    torch.testing.assert_close(second(x), plain + x @ (first.dense() + second.dense()).mT)
    first.active = False
    torch.testing.assert_close(second(x), plain + x @ second.dense().mT)
    second(x).sum().backward()
    assert first.S.grad is None and second.S.grad is not None
    with pytest.raises(RuntimeError, match="switched off"):
        first.merge()
    expected = second(x)
    weight = base.weight.clone()
    assert second.to_dense() is base
    torch.testing.assert_close(base(x), expected)
    torch.testing.assert_close(base.weight, weight + second.dense())
