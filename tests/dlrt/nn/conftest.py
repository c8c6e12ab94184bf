"""Torch layers of each type with an input, which layers and adapters are compared with."""

import pytest
import torch
from torch import nn

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


@pytest.fixture(params=BASES)
def base_and_input(request):
    torch.manual_seed(0)
    return BASES[request.param]()
