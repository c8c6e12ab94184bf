"""Fine-tuning runs on a tiny vision transformer with random weights: every method, repeatable, counted by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from dlrt.finetune import comparison
from dlrt.finetune.data import Setting, load
from dlrt.finetune.loop import METHODS, fine_tune, prepare, time_steps

BLOCKS, WIDTH = 2, 16
MATRICES = BLOCKS * (4 * [(WIDTH, WIDTH)] + [(4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)])
HEAD = 2 * WIDTH * 2 + 2  # class token and mean patch, two classes


@pytest.fixture(scope="module")
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


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_repeats(setting, method):
    first, again = (fine_tune(setting=setting.json(), method=method, lr=3e-3, seed=1, rank=4, looks=2) for _ in "ab")
    assert first["status"] == "finished" and len(first["losses"]) == 12
    assert [look["step"] for look in first["looks"]] == [6, 12]
    assert np.mean(first["losses"][-3:]) < np.mean(first["losses"][:3])
    assert {**first, "seconds": 0} == {**again, "seconds": 0}


def test_parameters_are_those_counted_by_hand(setting):
    def count(method):
        found = fine_tune(setting=setting.json(), method=method, lr=1e-3, seed=0, rank=4)
        return found["parameters"], found["head"], found["ranks"]

    lora = 4 * sum(m + n for m, n in MATRICES)
    assert count("lora")[:2] == count("peft-lora")[:2] == (lora + HEAD, HEAD)
    assert count("svd-lora")[0] == lora + len(MATRICES) * 16 + HEAD
    assert count("probe")[:2] == (HEAD, HEAD)
    for method, extra in (("geolora", 2), ("geolora-budget", 2), ("adalora", 1), ("peft-adalora", 1)):
        parameters, _, ranks = count(method)
        by_hand = sum(r * (m + n) + r**extra for r, (m, n) in zip(ranks.values(), MATRICES, strict=True))
        assert parameters == by_hand + HEAD
        if method in ("geolora-budget", "adalora"):
            assert sum(ranks.values()) == 4 * len(MATRICES)  # the budget, spare columns included


def test_a_layer_without_triplets_has_none(setting):
    """A budget of 6 for 12 layers: AdaLoRA masks some of them as a whole."""
    found = fine_tune(setting=setting.json(), method="adalora", lr=1e-3, seed=0, budget=6)
    assert sum(found["ranks"].values()) == 6 and 0 in found["ranks"].values()


def test_all_start_from_the_network_with_the_same_head(setting):
    task = load(setting)
    inputs = task.batch(task.splits["test"][0], torch.arange(20))
    outputs = {}
    for method in METHODS:
        torch.manual_seed(3)
        model = prepare(task.build(), method, 1e-3, rank=4, tau=0.3, budget=None, steps=12, seed=3).model.eval()
        with torch.no_grad():
            outputs[method] = model(**inputs).logits
    for method, found in outputs.items():
        torch.testing.assert_close(found, outputs["full"], msg=method)


def test_divergence_is_recorded(setting):
    found = fine_tune(setting=setting.json(), method="full", lr=1e30, seed=0)
    assert found["status"].startswith("diverged at step") and "test" not in found


def test_time_of_a_step(setting):
    found = time_steps(setting=setting.json(), rates={"lora": 1e-3, "geolora": 1e-3}, rounds=3, rank=4)
    assert list(found) == ["lora", "geolora"]
    assert all(0 < t["quartiles"][0] <= t["median"] <= t["quartiles"][1] for t in found.values())


def test_tuning_goes_on_at_the_end_of_the_grid(tmp_path, monkeypatch):
    """Best at 10^-4 for one method, at 10^-2.5 for the other; a rate of 10^-2 diverges."""
    calls = []

    def fake(tasks, **_):
        records = []
        for _, a in tasks:
            calls.append((a["method"], a["lr"], a["seed"]))
            best = {"lora": -4.0, "geolora": -2.5}[a["method"]]
            fine = a["lr"] < 0.009
            accuracy = 1 - abs(np.log10(a["lr"]) - best) / 10
            records.append({"status": "finished", "validation": accuracy, "losses": [1.0]} if fine
                           else {"status": "diverged at step 1", "losses": []})  # fmt: skip
        return records

    monkeypatch.setattr(comparison, "run_tasks", fake)
    found = comparison.compare(Setting("images"), ["lora", "geolora"], seeds=2, journal=tmp_path / "j")
    assert [row["lr"] for row in found] == [1e-4, 3.16e-3]
    assert [[lr for lr, *_ in row["tried"]] for row in found] == [
        [3.16e-5, 1e-4, 3.16e-4, 1e-3, 3.16e-3],
        [3.16e-4, 1e-3, 3.16e-3, 1e-2],
    ]
    assert all(len(row["runs"]) == 2 for row in found)
    assert ("lora", 1e-4, 1) in calls and ("lora", 1e-3, 1) not in calls
    fixed = comparison.compare(Setting("images"), ["lora"], seeds=1, journal=tmp_path / "j", grid=(-6,))
    assert [lr for lr, *_ in fixed[0]["tried"]] == [1e-3]
