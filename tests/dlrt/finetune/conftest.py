"""A fine-tuning problem of seconds: bright and dark pictures, and a tiny vision transformer with random weights."""

import numpy as np
import pytest
import torch
from PIL import Image

from dlrt.finetune.data import Setting

BLOCKS, WIDTH = 2, 16


@pytest.fixture(scope="session")
def setting(tmp_path_factory):
    """Bright and dark pictures, and a network that has seen nothing."""
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=BLOCKS, num_attention_heads=2, patch_size=7, image_size=14,
        layerscale_value=1.0,
    )  # fmt: skip
    Dinov2Model(config).save_pretrained(folder / "model")
    rng = np.random.default_rng(0)
    for part, number in (("train", 30), ("test", 10)):
        for name, low in (("bright", 128), ("dark", 0)):
            (folder / "data" / part / name).mkdir(parents=True)
            for i in range(number):
                image = rng.integers(low, low + 128, (14, 14, 3), np.uint8)
                Image.fromarray(image).save(folder / "data" / part / name / f"{i}.png")
    return Setting(
        "images", str(folder / "model"), str(folder / "data"), train=40, validation=20, test=20, size=14, batch=8,
        steps=12,
    )  # fmt: skip
