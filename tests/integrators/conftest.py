"""A small regression problem and a point of rank 3, to write the equations of a method out for."""

import pytest
import torch

from dlrt.testing import rng
from integrators import LowRank
from problems import MatrixRegression


@pytest.fixture
def problem():
    return MatrixRegression(rng(1).standard_normal((9, 7)))


@pytest.fixture
def Y():
    return LowRank.random((9, 7), 3, rng(2))


@pytest.fixture
def peft_lora(Y):
    """A model with PEFT's LoRA layer of W = B A = Y in double precision, and its A and B."""
    peft = pytest.importorskip("peft")
    model = torch.nn.Sequential(torch.nn.Linear(7, 9, bias=False))
    model = peft.get_peft_model(model, peft.LoraConfig(r=3, lora_alpha=3, target_modules=["0"])).double()
    layer = model.base_model.model[0]
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    A.data, B.data = torch.tensor(Y.V.T.copy()), torch.tensor(Y.K)
    return model, A, B
