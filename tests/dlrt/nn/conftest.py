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
    "conv 1d": lambda: (nn.Conv1d(4, 6, 3, 2, padding=1, groups=2), torch.randn(2, 4, 9)),
    "conv 1d replicate": lambda: (nn.Conv1d(4, 6, 3, padding="same", padding_mode="replicate"), torch.randn(4, 9)),
    "conv 3d": lambda: (nn.Conv3d(2, 6, (1, 3, 2), padding=(0, 1, 2), dilation=(1, 2, 1)), torch.randn(2, 2, 3, 6, 4)),
    "transposed conv 1d": lambda: (nn.ConvTranspose1d(4, 6, 3, 2, 1, 1), torch.randn(2, 4, 5)),
    "transposed conv": lambda: (
        nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), (1, 0), (1, 2), 2, False, (1, 2)),
        torch.randn(2, 4, 5, 3),
    ),
    "transposed conv 3d": lambda: (nn.ConvTranspose3d(4, 3, (1, 2, 3), (1, 2, 1), bias=False), torch.randn(4, 2, 2, 3)),
    "conv one image": lambda: (nn.Conv2d(4, 6, 3), torch.randn(4, 5, 6)),
    "embedding": lambda: (nn.Embedding(11, 6), torch.tensor([[1, 2, 2], [0, 10, 4]])),
    "embedding padding": lambda: (nn.Embedding(11, 6, padding_idx=-2), torch.tensor([9, 3, 10])),
}


@pytest.fixture(params=BASES)
def base_and_input(request):
    torch.manual_seed(0)
    return BASES[request.param]()
