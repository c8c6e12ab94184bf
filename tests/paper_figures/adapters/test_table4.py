"""Counterpart of Table 4: the reference, a small run of all methods, and the adapters on the U-Net."""

import numpy as np
import pytest
import torch

from dlrt.finetune.diffusion import FULL, METHODS, QUICK, SCHEDULE, Examples, Network, adaptable, pictures, subject
from tests.paper_figures.contract import ItemContract

ITEMS = ["table4"]


class TestItem(ItemContract):
    """Of Table 4."""


def test_reference_is_a_full_run_of_all_methods(reference):
    assert reference["settings"]["task"] == FULL.json()
    assert [m["method"] for m in reference["methods"]] == list(METHODS)
    assert all(len(m["runs"]) == reference["settings"]["seeds"] == 3 for m in reference["methods"])


def test_rates_are_the_best_ones_tried(reference):
    """On validation pictures, and not at an end of those tried."""
    for m in reference["methods"]:
        losses = {lr: loss for lr, loss in m["tried"] if loss is not None}
        assert losses[m["lr"]] == min(losses.values())
        rates = [lr for lr, _ in m["tried"]]
        assert min(rates) < m["lr"] < max(rates)


@pytest.mark.parametrize("which", ["reference", "fresh"])
def test_injection_step_save_and_merge_work(which, request):
    result = request.getfixturevalue(which)
    claims = {s["claim"]: s for s in result["statements"]}
    for part in ("takes an adapter", "right after injection", "lowers the loss by", "three steps", "saved after these",
                 "merged: the same", "merged: all modules", "the merged U-Net"):  # fmt: skip
        [claim] = [claim for claim in claims if part in claim]
        assert claims[claim]["holds"] == claims[claim]["of"] > 0, claims[claim]
    layers = result["checks"]["layers"]
    assert (layers["Linear"], layers["Conv2d"]) == (52, 32)  # 50 linear ones of the U-Net, 2 of the encoder
    assert layers["refused"] == {"unet.conv_out": "rank must lie between 1 and min(m, n) = 1, got 8"}


def test_small_run(fresh):
    assert [m["method"] for m in fresh["methods"]] == list(METHODS)
    assert all(m["diverged"] == 0 and m["test"] > 0 for m in fresh["methods"])
    network = Network(QUICK.channels)
    shapes = [(len(m.weight), m.weight[0].numel()) for m in adaptable(network, QUICK.rank)[0].values()]
    counts = {m["method"]: m["parameters"] for m in fresh["methods"]}
    assert counts["full"] == sum(p.numel() for p in network.parameters())
    assert counts["lora"] == counts["peft-lora"] == QUICK.rank * sum(map(sum, shapes))
    assert counts["svd-lora"] == counts["lora"] + QUICK.rank**2 * len(shapes)


def test_pretraining_is_repeated_where_its_network_has_been_deleted(item, fresh, out):
    """And then it ends at the same loss."""
    ran = []
    (out / "pretrained.safetensors").unlink()
    again = item.run(out, quick=True, progress=lambda done, total: ran.append(done))
    assert ran == [1]
    assert again["pretrained"] == pytest.approx(fresh["pretrained"], rel=1e-5)


def test_examples_are_pictures_with_noise_of_their_times():
    """sqrt(a) x + sqrt(1 - a) e, a falling from nearly 1 to nearly 0 over the 1000 times."""
    x = torch.rand(50, 1, 16, 16) * 2 - 1
    examples = Examples.draw(x, torch.zeros(50, dtype=torch.int64), torch.Generator().manual_seed(0))
    a = SCHEDULE.alphas_cumprod[examples.times].reshape(-1, 1, 1, 1)
    torch.testing.assert_close(examples.noisy, a.sqrt() * x + (1 - a).sqrt() * examples.noise)
    assert SCHEDULE.alphas_cumprod[0] > 0.999 and SCHEDULE.alphas_cumprod[-1] < 1e-4
    assert torch.equal(torch.cat([part.noisy for part in examples.split(7)]), examples.noisy)


def test_pictures_to_train_on_and_held_out_ones_are_different():
    x, _ = pictures("train", lambda labels: np.arange(3))
    assert x.shape == (3, 1, 16, 16) and float(x.min()) == -1 and float(x.max()) <= 1
    (train, labels), held_out = subject(FULL)
    assert len(train) == FULL.train and set(labels.tolist()) == {FULL.subject}
    for name, number in (("validation", FULL.validation), ("test", FULL.test)):
        examples = held_out[name]
        assert len(examples.times) == number * FULL.draws and set(examples.labels.tolist()) == {FULL.subject}
        assert torch.equal(subject(FULL)[1][name].noisy, examples.noisy)  # the same at each call
        a = SCHEDULE.alphas_cumprod[examples.times].reshape(-1, 1, 1, 1)
        clean = ((examples.noisy - (1 - a).sqrt() * examples.noise) / a.sqrt())[a.flatten() > 0.5]
        assert float(torch.cdist(clean.flatten(1), train.flatten(1)).min()) > 0.1  # rounding is below 1e-5
