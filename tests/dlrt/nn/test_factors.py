"""Factors keep their type and their object whatever happens to them; assign changes their shape."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

from dlrt.nn import Factor, LowRankLinear, assign
from integrators import LowRank


def shake(layer, rank=3, seed=0):
    """Give a layer a random matrix of some rank."""
    layer.Y = LowRank.random(layer.shape, rank, np.random.default_rng(seed), like=layer.S.detach())
    return layer


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
    assign([parameter], [value])
    value.zero_()
    assert torch.equal(parameter, torch.ones(2, 3)) and parameter.is_contiguous()


def test_copies_moves_and_files_keep_the_type():
    layer = LowRankLinear(6, 8, rank=2)
    assert isinstance(copy.deepcopy(layer).U, Factor)
    assert isinstance(copy.deepcopy(layer).to("meta").to_empty(device="cpu").U, Factor)
    assert layer.to(torch.float64).U.dtype == torch.float64
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    assert isinstance(torch.load(file, weights_only=False).S, Factor)
