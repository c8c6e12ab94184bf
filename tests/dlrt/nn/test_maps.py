"""The map of each torch layer: shape, settings, which layers have one, and what is refused."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from transformers.pytorch_utils import Conv1D

from dlrt.nn.maps import MAPS, Conv1DMap, ConvMap, EmbeddingMap, LinearMap, map_of
from integrators import LowRank


def test_at_full_rank_the_map_of_the_torch_layer(base_and_input):
    base, x = base_and_input
    map = map_of(base)
    matrix = map.matrix(base.weight.detach())
    assert map.shape(base) == tuple(matrix.shape)
    pixels = map.pixels(base)
    if pixels and x.ndim == pixels + 1:  # one image without a batch
        x = x[None]
    Y = LowRank.from_dense(matrix, rank=min(matrix.shape))
    torch.testing.assert_close(map.weight(base, Y.full()), base.weight.detach())
    expected = base(x)
    if getattr(base, "bias", None) is not None:
        expected = expected - base.bias[(..., *[None] * pixels)]
    torch.testing.assert_close(map.apply(base, x, Y.U, Y.S, Y.V), expected)
    torch.testing.assert_close(map.apply(base, x, Y.U, Y.S, Y.V, expected, 0.5), 1.5 * expected)


def test_the_linear_layer_of_gpt2():
    base, x = Conv1D(6, 9), torch.randn(2, 3, 9)
    assert map_of(base) is Conv1DMap and Conv1DMap.shape(base) == (6, 9)
    Y = LowRank.from_dense(Conv1DMap.matrix(base.weight.detach()), rank=6)
    torch.testing.assert_close(Conv1DMap.apply(base, x, Y.U, Y.S, Y.V), base(x) - base.bias)
    torch.testing.assert_close(Conv1DMap.weight(base, Y.full()), base.weight.detach())


def test_the_padding_row_is_not_used():
    W = torch.ones(3, 2)
    assert EmbeddingMap.weight(nn.Embedding(3, 2, padding_idx=1), W).tolist() == [[1, 1], [0, 0], [1, 1]]
    assert EmbeddingMap.weight(nn.Embedding(3, 2), W) is W


class Same(nn.Linear):
    """The forward pass of its torch layer."""


class Other(nn.Linear):
    """Not the map of its weight."""

    def forward(self, x):
        return torch.relu(super().forward(x))


class OtherConv(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight - weight.mean(), bias)


class LookAlike(nn.Module):
    in_features = out_features = 4

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))


class Packed(nn.Module):
    """Two 4-bit numbers in a byte."""

    in_features, out_features = 6, 4

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(12, 1, dtype=torch.uint8), requires_grad=False)


class Packed8(nn.Linear):
    """As bitsandbytes: a class of its own for the weight, and a forward pass that knows what to do with it."""

    class Weight(nn.Parameter):
        pass

    def __init__(self, m, n):
        super().__init__(m, n)
        self.weight = self.Weight(self.weight.data)

    def forward(self, x):
        raise NotImplementedError


def test_which_layers_are_known(monkeypatch):
    assert map_of(Same(2, 3)) is map_of(weight_norm(nn.Linear(2, 3))) is LinearMap
    assert map_of(Packed()) is map_of(Packed8(2, 3)) is map_of(nn.Linear(2, 3).bfloat16()) is LinearMap
    monkeypatch.setitem(MAPS, Other, LinearMap)
    assert map_of(Other(2, 3)) is LinearMap
    assert map_of(nn.Conv1d(2, 3, 1)) is ConvMap


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (nn.ReLU(), TypeError, "the map of ReLU is not known: expected Linear, Conv1D, Conv1d"),
        (Other(2, 3), TypeError, "the map of Other is not known"),
        (OtherConv(2, 3, 1), TypeError, "the map of OtherConv is not known"),
        (LookAlike(), TypeError, "the map of LookAlike is not known"),
        (nn.Bilinear(2, 3, 4), TypeError, "the map of Bilinear is not known"),
        (nn.Sequential(nn.Linear(2, 3)), TypeError, "the map of Sequential is not known"),
        (nn.LazyLinear(3), TypeError, "LazyLinear has no weight yet"),
        (nn.Linear(2, 3, dtype=torch.complex64), TypeError, "Linear has a complex weight"),
        (nn.Conv2d(2, 3, 1, dtype=torch.complex64), TypeError, "Conv2d has a complex weight"),
    ],
)
def test_which_are_not(layer, error, message):
    with pytest.raises(error, match=message):
        map_of(layer)


def test_errors():
    with pytest.raises(TypeError, match="ReLU cannot be adapted: it has no attribute out_features, in_features"):
        LinearMap.shape(nn.ReLU())
    with pytest.raises(ValueError, match=r"max_norm=1\.0 has no low-rank counterpart"):
        EmbeddingMap.shape(nn.Embedding(4, 3, max_norm=1.0))
