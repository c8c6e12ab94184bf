"""A small vision transformer, pretrained here in a minute on Fashion-MNIST, and pictures that are new to it.

What adapters of low rank can learn on the larger networks does not depend on their rank: two directions in each layer
are as good as eight. On these pictures it does, since early layers must change in many directions.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from ..runs import digest
from . import assets

__all__ = ["CHANGES", "PATCH", "SIDE", "Pretraining", "checksum", "pictures", "scaled"]

SIDE, PATCH = 28, 7
"""Sides of a picture and of a patch."""
HELD_OUT = 10_000
"""Pictures of the training data that pretraining does not see."""


def turned(images: torch.Tensor) -> torch.Tensor:
    """Pictures (N, 1, 28, 28) of bytes turned by 90 degrees and inverted."""
    return 255 - images.rot90(1, (-2, -1))


def shuffled(images: torch.Tensor) -> torch.Tensor:
    """Pictures (N, 1, 28, 28) with their 16 patches transposed and in another order, the same for all pictures."""
    grid = SIDE // PATCH
    patches = images.unflatten(-1, (grid, PATCH)).unflatten(-3, (grid, PATCH)).transpose(-3, -2)  # (N, 1, 4, 4, 7, 7)
    order = torch.from_numpy(np.random.default_rng(0).permutation(grid * grid))
    patches = patches.mT.flatten(2, 3)[:, :, order].unflatten(2, (grid, grid))
    return patches.transpose(-3, -2).flatten(-4, -3).flatten(-2)


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"turned": turned, "shuffled": shuffled}
"""What is done to the pictures of each task."""


@functools.cache  # 55 MB, which take a second to unpack
def pictures() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Bytes (N, 1, 28, 28) and labels: ``pretraining`` (50,000), ``train`` (10,000 others), ``test`` (10,000)."""
    data = {
        part: (torch.from_numpy(np.array(x))[:, None], torch.from_numpy(y))
        for part, (x, y) in assets.fashion_mnist().items()
    }
    x, y = data["train"]
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(y)))
    new, seen = order[:HELD_OUT], order[HELD_OUT:]
    return {"pretraining": (x[seen], y[seen]), "train": (x[new], y[new]), "test": data["test"]}


def scaled(images: torch.Tensor) -> torch.Tensor:
    """What the network sees: floats from -1 to 1."""
    return images.float() / 127.5 - 1


@dataclass(frozen=True)
class Pretraining:
    """A network of DINOv2's layout, and how it is pretrained: all weights by AdamW, upright pictures, ten classes.

    Parameters
    ----------
    width, blocks, heads : int
        Features of a token, number of blocks, heads of the attention. Each block has six linear layers.
    steps, batch : int
        Batches of pictures, each picture at most once in an epoch.
    """

    width: int = 96
    blocks: int = 4
    heads: int = 4
    steps: int = 1000
    batch: int = 100

    def folder(self) -> Path:
        """Folder for ``from_pretrained`` in the cache, named by these numbers; the network is made when missing."""
        return assets.made(f"small-vit-{digest(asdict(self))}", self.write)

    def write(self, folder: Path) -> None:
        """Pretrain on one thread, and write the network to a folder."""
        from transformers import Dinov2Config, Dinov2ForImageClassification
        from transformers.utils import logging

        config = Dinov2Config(
            hidden_size=self.width, num_hidden_layers=self.blocks, num_attention_heads=self.heads, mlp_ratio=4,
            patch_size=PATCH, image_size=SIDE, num_channels=1, layerscale_value=1.0, num_labels=10,
        )  # fmt: skip
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # so that sums are rounded in the same way everywhere
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = Dinov2ForImageClassification(config)
                self._train(model, *pictures()["pretraining"])
        finally:
            torch.set_num_threads(threads)
        logging.disable_progress_bar()
        model.save_pretrained(folder)

    def _train(self, model, images, labels) -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=self.steps)
        epochs = -(-self.steps * self.batch // len(labels))
        order = torch.cat([torch.randperm(len(labels)) for _ in range(epochs)])
        for chosen in order.split(self.batch)[: self.steps]:
            optimizer.zero_grad()
            model(pixel_values=scaled(images[chosen]), labels=labels[chosen]).loss.backward()
            optimizer.step()
            schedule.step()


def checksum(folder: Path) -> str:
    """The first 16 digits of the SHA-256 of a network's weights: another processor may round them differently."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]
