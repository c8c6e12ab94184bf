"""Comparisons: how rates are tuned, what the runs are averaged over, and the times."""

import numpy as np
import pytest

from dlrt.finetune import comparison


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
    found = comparison.compare(fake, ["lora", "geolora"], {}, seeds=2, journal=tmp_path / "j")
    assert [row["lr"] for row in found] == [1e-4, 3.16e-3]
    assert [[lr for lr, *_ in row["tried"]] for row in found] == [
        [3.16e-5, 1e-4, 3.16e-4, 1e-3, 3.16e-3],
        [3.16e-4, 1e-3, 3.16e-3, 1e-2],
    ]
    assert all(len(row["runs"]) == 2 for row in found)
    assert ("lora", 1e-4, 1) in calls and ("lora", 1e-3, 1) not in calls
    fixed = comparison.compare(fake, ["lora"], {}, seeds=1, journal=tmp_path / "j", first=(-6,), ends=(-6, -6))
    assert [lr for lr, *_ in fixed[0]["tried"]] == [1e-3]


@pytest.fixture
def records(monkeypatch):
    """The best of three rates diverges with the second seed; what was asked for."""
    asked = []

    def fake(tasks, **_):
        tasks = list(tasks)
        asked.extend((a["lr"], a["seed"], a["network"]) for _, a in tasks)
        bad = {"status": "diverged at step 1", "losses": [], "validation": None}
        return [
            bad if (a["lr"], a["seed"]) == (1e-2, 1)
            else {"status": "finished", "validation": a["lr"] + a["seed"], "losses": [2.0, a["seed"]]}
            for _, a in tasks
        ]  # fmt: skip

    monkeypatch.setattr(comparison, "run_tasks", fake)
    return asked


def test_rates_tuned_on_several_seeds(records):
    [row] = comparison.compare(
        print, ["x"], {"network": 1}, seeds=3, tuning_seeds=2, first=(-6, -5, -4), ends=(-6, -4), journal=None
    )
    assert row["lr"] == 3.16e-3 and [run["validation"] for run in row["runs"]] == [3.16e-3, 1 + 3.16e-3, 2 + 3.16e-3]
    assert row["tried"] == [[1e-3, 0.501, 0.5], [3.16e-3, 0.50316, 0.5], [1e-2, None, None]]
    assert records.count((3.16e-3, 2, 1)) == 1 and not records.count((1e-3, 2, 1))


def test_rates_tuned_by_another_score(records):
    [row] = comparison.compare(
        print, ["x"], {"network": 1}, seeds=1, ends=(-7, -5), score=lambda r: -r["validation"], journal=None
    )
    assert row["lr"] == 3.16e-4


def test_a_given_rate_is_not_tuned(records):
    [row] = comparison.compare(print, ["x"], {"network": 1}, seeds=2, lr=0.5, journal=None)
    assert row["lr"] == 0.5 and row["tried"] == [] and records == [(0.5, 0, 1), (0.5, 1, 1)]


def test_times(setting, tmp_path):
    found = comparison.times(setting, [{"method": "probe", "lr": 1e-3}], rounds=1, journal=tmp_path / "j", rank=2)
    assert found["probe"]["median"] > 0
