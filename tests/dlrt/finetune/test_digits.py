"""The digits comparison: every method, both networks, tuned rates, means over the seeds."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from dlrt.finetune import digits as train
from dlrt.finetune.data import digits
from dlrt.finetune.digits import BATCH, METHODS, compare_digits, summary, train_digits

TAPES = {
    "projector-splitting": 3,
    "projector-splitting-strang": 5,
    "bug": 2,
    "augmented-bug": 2,
    "parallel-bug-rejection": 2,
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_the_dense_network(method):
    run = train_digits(method, epochs=3)
    assert run["status"] == "finished" and len(run["losses"]) == 51
    tapes = 51 * TAPES.get(method, 1)
    assert (
        run["tapes"] >= tapes if method == "parallel-bug-rejection" else run["tapes"] == tapes
    )  # a repeated step: two more
    assert run["accuracies"][-1] > 0.7
    assert np.mean(run["losses"][-10:]) < 0.9 * np.mean(run["losses"][:10])
    dense = 64 * 256 + 256 * 256 + 256 * 10 + 256 + 256 + 10
    assert run["parameters"][-1] == dense if method.startswith("full-rank") else run["parameters"][-1] < 0.3 * dense


@pytest.mark.parametrize("method", ["geolora-momentum", "augmented-bug", "adalora"])
def test_the_convolutional_network(method):
    run = train_digits(method, network="conv", epochs=3)
    assert run["status"] == "finished" and np.mean(run["losses"][-10:]) < 0.8 * np.mean(run["losses"][:10])
    assert list(run["ranks"]) == ["0", "2", "5"]


def test_runs_repeat_and_seeds_differ():
    first, again, other = (train_digits("geolora", seed, epochs=1) for seed in (1, 1, 2))
    assert first["losses"] == again["losses"] != other["losses"]


def test_divergence_is_a_result():
    run = train_digits("svd-lora", epochs=2, lr=5.0)
    assert run["status"].startswith("diverged at step") and all(map(math.isfinite, run["losses"]))
    [row] = summary([{"method": "svd-lora", "lr": 5.0, "tried": [], "runs": [run]}])
    assert row["diverged"] == 1 and "accuracy" not in row


def test_summary_over_seeds():
    runs = [
        {"status": "finished", "accuracies": [0.1, a], "parameters": [90, 100], "tapes": 5, "seconds": 1.0}
        for a in (0.9, 0.8)
    ]
    [row] = summary([{"method": "geolora", "lr": 0.1, "tried": [], "runs": runs}])
    assert row["accuracy"] == pytest.approx(0.85) and row["std"] == pytest.approx(0.1 / 2**0.5)


def test_parts_do_not_overlap():
    """1,797 images: each in one of the three parts."""
    data = digits()
    assert {name: len(labels) for name, (_, labels) in data.items()} == {"train": 1097, "validation": 250, "test": 450}
    images = {name: {image.numpy().tobytes() for image in x} for name, (x, _) in data.items()}
    assert not images["train"] & images["validation"] and not (images["train"] | images["validation"]) & images["test"]


def test_rates_are_those_best_on_the_validation_images(tmp_path):
    """At rate 0.01 hardly anything is learned in an epoch, so the range is left at its upper end."""
    journal, calls = tmp_path / "journal.jsonl", []
    given = {"seeds": 2, "epochs": 1, "rank": 4, "journal": journal}
    [found] = compare_digits(["geolora"], **given, progress=lambda done, total: calls.append(done))
    runs, tried = found["runs"], found["tried"]
    rates = [row[0] for row in tried]
    made = journal.read_text().splitlines()
    assert rates[:4] == [0.01, 0.0316, 0.1, 0.316] and len(made) == 2 * len(rates) and calls[-1] == int(calls[-1])
    assert [run["seed"] for run in runs] == [0, 1]
    chosen = {run["lr"] for run in runs}
    [best] = [row for row in tried if row[0] in chosen]
    assert best[1] == max(row[1] for row in tried)
    assert best[1] == pytest.approx(np.mean([run["validation"] for run in runs]), abs=1e-5)

    def fail(**arguments):
        raise AssertionError("was there already")

    fail.__name__ = "train_digits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train_digits", fail)
        fail.__module__ = train.__name__
        assert compare_digits(["geolora"], **given) == [found]


def test_a_rate_at_which_a_seed_diverges_is_not_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "FIRST", (-1, 1))
    monkeypatch.setattr(train, "ENDS", (-1, 1))
    [found] = compare_digits(["svd-lora"], seeds=1, epochs=1, journal=tmp_path / "journal.jsonl")
    assert found["lr"] == found["runs"][0]["lr"] == 0.316 and found["tried"][1] == [3.16, None, None]


@pytest.mark.slow
def test_geolora_reaches_full_rank_accuracy_with_a_third_of_the_parameters():
    """Over 5 seeds within 1 % of full rank (the better of two optimisers), with under 30 % of the parameters."""
    accuracy = {
        method: np.mean([train_digits(method, seed)["accuracies"][-1] for seed in range(5)])
        for method in ("full-rank", "full-rank-adam", "geolora-momentum")
    }
    assert accuracy["geolora-momentum"] >= max(accuracy["full-rank"], accuracy["full-rank-adam"]) - 0.01
    assert train_digits("geolora-momentum", 0)["parameters"][-1] < 0.3 * 85002


@pytest.mark.slow
def test_geolora_reaches_full_rank_accuracy_on_the_convolutional_network():
    """There against torch's own layers and Adam (rate: best of 1e-3, 2e-3, 4e-3), same batches and schedule."""
    found, full = [], []
    for seed in range(5):
        run = train_digits("geolora-adam", seed, network="conv", lr=1e-2)
        found.append(run["accuracies"][-1])
        assert run["parameters"][-1] < 0.3 * 58314
        full.append(_accuracy_of_plain_torch(seed))
    assert np.mean(found) >= np.mean(full) - 0.01


def _accuracy_of_plain_torch(seed, epochs=30, lr=4e-3):
    (x, y), _, (x_test, y_test) = digits().values()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10),
        )  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == 58314
    per_epoch = len(x) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * per_epoch)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=generator)[: per_epoch * BATCH].split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return float((model(x_test).argmax(1) == y_test).float().mean())
