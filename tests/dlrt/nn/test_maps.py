"""The map of each torch layer: shape, settings and what is refused."""

import pytest
import torch
from torch import nn

from dlrt.nn.maps import EmbeddingMap, LinearMap
from dlrt.nn.model import KINDS
from integrators import LowRank


def test_at_full_rank_the_map_of_the_torch_layer(base_and_input):
    base, x = base_and_input
    map = KINDS[type(base)]["adapter"].map
    matrix = base.weight.detach().flatten(1)
    assert map.shape(base) == tuple(matrix.shape)
    if x.ndim == map.pixels + 1:  # one image without a batch
        x = x[None]
    Y = LowRank.from_dense(matrix, rank=min(matrix.shape))
    expected = base(x)
    if getattr(base, "bias", None) is not None:
        expected = expected - base.bias[(..., *[None] * map.pixels)]
    torch.testing.assert_close(map.apply(base, x, Y.U, Y.S, Y.V), expected)
    torch.testing.assert_close(map.apply(base, x, Y.U, Y.S, Y.V, expected, 0.5), 1.5 * expected)


def test_the_padding_row_is_not_used():
    W = torch.ones(3, 2)
    assert EmbeddingMap.effective(nn.Embedding(3, 2, padding_idx=1), W).tolist() == [[1, 1], [0, 0], [1, 1]]
    assert EmbeddingMap.effective(nn.Embedding(3, 2), W) is W


def test_errors():
    with pytest.raises(TypeError, match="ReLU cannot be adapted: it has no attribute out_features, in_features"):
        LinearMap.shape(nn.ReLU())
    with pytest.raises(ValueError, match=r"max_norm=1\.0 has no low-rank counterpart"):
        EmbeddingMap.shape(nn.Embedding(4, 3, max_norm=1.0))
