"""Counterpart of Table 4: the reference, a small run of all methods, and the adapters on the U-Net."""

import pytest

from dlrt.finetune.diffusion import FULL, METHODS, QUICK, Network, adaptable
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


def test_injection_step_save_and_merge_work(reference, fresh):
    parts = ("takes an adapter", "right after injection", "lowers the loss by", "three steps", "saved after these",
             "merged: the same", "merged: all modules", "the merged U-Net")  # fmt: skip
    for result in (reference, fresh):
        claims = {s["claim"]: s for s in result["statements"]}
        for part in parts:
            [claim] = [claim for claim in claims if part in claim]
            assert claims[claim]["holds"] == claims[claim]["of"] > 0, claims[claim]
        layers = result["checks"]["layers"]
        assert (layers["Linear"], layers["Conv2d"]) == (52, 32)  # 50 linear ones of the U-Net, 2 of the encoder
        assert list(layers["refused"]) == ["unet.conv_out"] and "min(m, n) = 1" in layers["refused"]["unet.conv_out"]
    assert fresh["checks"]["layers"]["refused"] == {"unet.conv_out": "rank 8 exceeds min(m, n) = 1"}


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
    assert ran[-1] == max(ran) == 1  # the others are parts of the run
    assert again["pretrained"] == pytest.approx(fresh["pretrained"], rel=1e-5)
