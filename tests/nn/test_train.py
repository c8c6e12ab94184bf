"""The digits comparison: every method, the command, and what it writes."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from dlrt.cli import app
from dlrt.train import BATCH, METHODS, Run, _digits, summary, train_digits

pytest.importorskip("sklearn")
TAPES = {"projector-splitting": 3, "projector-splitting-strang": 5, "bug": 2, "augmented-bug": 2}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_the_dense_network(method):
    run = train_digits(method, epochs=3)
    assert run.status == "finished" and len(run.losses) == 63
    assert run.tapes == 63 * TAPES.get(method, 1)
    assert run.accuracies[-1] > 0.7
    assert np.mean(run.losses[-10:]) < 0.9 * np.mean(run.losses[:10])
    dense = 64 * 256 + 256 * 256 + 256 * 10 + 256 + 256 + 10
    assert run.parameters[-1] == dense if method.startswith("full-rank") else run.parameters[-1] < 0.3 * dense


@pytest.mark.parametrize("method", ["geolora-momentum", "augmented-bug", "adalora"])
def test_the_convolutional_network(method):
    run = train_digits(method, network="conv", epochs=2)
    assert run.status == "finished" and np.mean(run.losses[-10:]) < 0.8 * np.mean(run.losses[:10])
    assert list(run.ranks) == ["0", "2", "5"]


def test_runs_repeat_and_seeds_differ():
    first, again, other = (train_digits("geolora", seed, epochs=1) for seed in (1, 1, 2))
    assert first.losses == again.losses != other.losses


def test_divergence_is_a_result():
    run = train_digits("svd-lora", epochs=2, lr=5.0)
    assert run.status.startswith("diverged at step")
    [row] = summary([run])
    assert row["diverged"] == 1 and "accuracy" not in row


def test_summary_over_seeds():
    runs = [Run("geolora", s, "dense", 0.1, [1.0], [a], [100], {"1": [2, 3]}, 5, 1.0) for s, a in ((0, 0.9), (1, 0.8))]
    [row] = summary(runs)
    assert row["accuracy"] == pytest.approx(0.85) and row["std"] == pytest.approx(0.1 / 2**0.5)


def test_command(tmp_path):
    arguments = ["--methods", "geolora,bug", "--seeds", "2", "--epochs", "1", "--rank", "4", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["train", "digits", *arguments])
    assert result.exit_code == 0, result.output
    assert "geolora" in result.output and "test accuracy" in result.output
    assert len(json.loads((tmp_path / "runs.json").read_text())) == 4
    assert [row["method"] for row in json.loads((tmp_path / "summary.json").read_text())] == ["geolora", "bug"]
    for name in ("loss", "accuracy", "ranks"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "geolora,nope"], "methods must be one of full-rank"),
        (["--network", "resnet"], "network must be one of dense, conv, got 'resnet'"),
        (["--seeds", "0"], "seeds must be at least 1, got 0"),
    ],
)
def test_command_refuses(arguments, message):
    result = CliRunner().invoke(app, ["train", "digits", *arguments])
    assert result.exit_code == 2 and message in result.output


def test_dlrt_is_imported_without_torch():
    code = (
        "import sys, dlrt, dlrt.train, dlrt.cli; assert 'torch' not in sys.modules; dlrt.LowRankOptimizer; dlrt.adapt"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_geolora_reaches_full_rank_accuracy_with_a_third_of_the_parameters():
    """Over 5 seeds within 1 % of full rank (the better of two optimisers), with under 30 % of the parameters."""
    accuracy = {
        method: np.mean([train_digits(method, seed).accuracies[-1] for seed in range(5)])
        for method in ("full-rank", "full-rank-adam", "geolora-momentum")
    }
    assert accuracy["geolora-momentum"] >= max(accuracy["full-rank"], accuracy["full-rank-adam"]) - 0.01
    assert train_digits("geolora-momentum", 0).parameters[-1] < 0.3 * 85002


@pytest.mark.slow
def test_geolora_reaches_full_rank_accuracy_on_the_convolutional_network():
    """There against torch's own layers and Adam (rate: best of 1e-3, 2e-3, 4e-3), same batches and schedule."""
    found, full = [], []
    for seed in range(5):
        run = train_digits("geolora-adam", seed, network="conv")
        found.append(run.accuracies[-1])
        assert run.parameters[-1] < 0.3 * 58314
        full.append(_accuracy_of_plain_torch(seed))
    assert np.mean(found) >= np.mean(full) - 0.01


def _accuracy_of_plain_torch(seed, epochs=30, lr=4e-3):
    (x, y), (x_test, y_test) = _digits()
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
