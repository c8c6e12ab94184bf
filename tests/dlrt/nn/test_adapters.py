"""Adapters: what they add to a frozen layer, merging, and the torch machinery around them."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dlrt.nn import LinearAdapter
from dlrt.nn.model import KINDS
from integrators import LowRank


def shake(layer, rank=3, seed=0):
    """Give a layer a random matrix of some rank."""
    layer.Y = LowRank.random(layer.shape, rank, np.random.default_rng(seed), like=layer.S.detach())
    return layer


def gradients(layer):
    return [getattr(layer, name).grad.clone() for name in ("U", "S", "V")]


def test_adapter_adds_nothing_at_first_then_what_its_weight_says(base_and_input):
    base, x = base_and_input
    expected = base(x)
    layer = KINDS[type(base)]["adapter"](base, rank=3, scale=0.5)
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
    layer = shake(KINDS[type(base)]["adapter"](base, rank=3, scale=0.5))
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
        (lambda: LinearAdapter(nn.Linear(4, 6), rank=5), ValueError, r"rank 5 exceeds min\(m, n\) = 4"),
        (
            lambda: LinearAdapter(nn.ReLU(), rank=1),
            TypeError,
            "ReLU cannot be adapted: it has no attribute out_features",
        ),
        (lambda: LinearAdapter(nn.Linear(4, 6), rank=1, scale=0.0), ValueError, "scale must be"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


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
    layer = shake(KINDS[type(base)]["adapter"](base, rank=3))
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
    layer = shake(LinearAdapter(nn.Linear(6, 6).bfloat16(), rank=3))
    assert layer.U.dtype == torch.float32
    y = layer(torch.randn(4, 6).bfloat16())
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert layer.U.grad.dtype == torch.float32
