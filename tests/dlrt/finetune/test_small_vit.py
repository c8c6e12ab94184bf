"""The small vision transformer: changed pictures pixel by pixel, and a network that is made once."""

import numpy as np
import pytest
import torch

from dlrt.finetune import assets, small_vit
from dlrt.finetune.data import CHANGED, load
from dlrt.finetune.loop import fine_tune
from dlrt.finetune.small_vit import PATCH, Pretraining, checksum, pictures, scaled, shuffled, turned

TINY = Pretraining(width=8, blocks=1, heads=1, steps=3, batch=8)


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 1, 28, 28), np.uint8))


def test_turned_pictures(images):
    """The first row of a turned picture is the last column, top first; black becomes white."""
    found = turned(images)
    assert torch.equal(found[:, :, 0], 255 - images[..., -1]) and found.dtype == torch.uint8
    for _ in range(3):
        found = turned(found)
    assert torch.equal(found, images)  # four turns, inverted four times


def test_shuffled_pictures(images):
    """Each patch is there, transposed; all pictures have the same order."""

    def patches(x):
        blocks = [x[..., PATCH * i : PATCH * (i + 1), PATCH * j : PATCH * (j + 1)] for i in range(4) for j in range(4)]
        return torch.stack(blocks, 1)[:, :, 0]

    old, new = patches(images).mT, patches(shuffled(images))
    orders = [[next(j for j in range(16) if torch.equal(q, old[n, j])) for q in new[n]] for n in range(3)]
    assert sorted(orders[0]) == list(range(16)) and orders[0] != sorted(orders[0])
    assert orders[1] == orders[2] == orders[0]


def test_pretraining_has_not_seen_the_other_pictures():
    parts = pictures()
    assert [len(parts[name][1]) for name in ("pretraining", "train", "test")] == [50_000, 10_000, 10_000]
    x = np.concatenate([parts[name][0] for name in ("pretraining", "train")])[:, 0]
    seen = assets.fashion_mnist()["train"][0]
    np.testing.assert_array_equal(np.sort(x.sum((1, 2))), np.sort(seen.sum((1, 2))))
    assert (float(scaled(parts["test"][0]).min()), float(scaled(parts["test"][0]).max())) == (-1, 1)


def test_a_network_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("DLRT_CACHE", str(tmp_path))
    x, y = torch.randint(0, 256, (20, 1, 28, 28), dtype=torch.uint8), torch.arange(20) % 10
    monkeypatch.setattr(small_vit, "pictures", lambda: {"pretraining": (x, y)})
    folder = TINY.folder()
    first = checksum(folder)
    assert folder.parent == tmp_path and Pretraining(width=8, blocks=1, heads=1, steps=2, batch=8).folder() != folder
    monkeypatch.setattr(Pretraining, "write", None)
    assert TINY.folder() == folder and len(first) == 16
    monkeypatch.undo()
    monkeypatch.setenv("DLRT_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(small_vit, "pictures", lambda: {"pretraining": (x, y)})
    assert checksum(TINY.folder()) == first


def test_pretraining_learns(tmp_path):
    """Far above chance, a tenth with a deviation of .013, on pictures that it has not seen."""
    from transformers import AutoModelForImageClassification

    Pretraining(width=16, blocks=1, heads=2, steps=200, batch=16).write(tmp_path)
    model = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    x, y = (part[:500] for part in pictures()["train"])
    with torch.no_grad():
        assert (model(pixel_values=scaled(x)).logits.argmax(-1) == y).float().mean() > 0.3


def test_the_head_is_that_of_pretraining():
    from dataclasses import replace

    setting = replace(CHANGED["turned"], model=str(TINY.folder()), train=20, validation=10, test=10, batch=4, steps=2)
    first, second = (load(setting).build() for _ in "ab")
    assert torch.equal(first.classifier.weight, second.classifier.weight)
    found = fine_tune(setting=setting.json(), method="lora", lr=1e-3, seed=0, rank=2)
    assert found["status"] == "finished" and found["parameters"] - found["head"] == 2 * (4 * 16 + 2 * 40)
    with pytest.raises(ValueError, match="size must be 28 for turned pictures, got 56"):
        load(replace(setting, size=56))
    with pytest.raises(ValueError, match="data must be None for turned pictures, got 'x'"):
        load(replace(setting, data="x"))
