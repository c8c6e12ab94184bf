"""`dlrt runs`: what is in a folder, and what made it."""

import numpy as np
from typer.testing import CliRunner

import problems
from dlrt import Case, sweep
from dlrt.cli import app
from dlrt.runs import run_tasks
from integrators import BUG, GeoLoRA

REGRESSION = problems.MatrixRegression(problems.synthetic((10, 8), [4.0, 3.0, 2.0], np.random.default_rng(0)))


def task(number):
    return {"value": number}


def runs(folder):
    return CliRunner().invoke(app, ["runs", str(folder)])


def make(folder):
    methods = {"bug": BUG(), "geolora": GeoLoRA()}
    made = [
        Case(label=label, integrator=method, problem=REGRESSION, step_size=0.1, steps=9, rank=4)
        for label, method in methods.items()
    ]
    return [result.case.file for result in sweep(made, out=folder)]


def test_what_is_there(tmp_path, monkeypatch):
    make(tmp_path)
    run_tasks([(task, {"number": n}) for n in range(3)], journal=tmp_path / "below" / "journal.jsonl")
    with (tmp_path / "below" / "journal.jsonl").open("a") as file:
        file.write("{")
    monkeypatch.setattr("dlrt.runs.identity.package_code", lambda: "feedbeef")
    [first, _] = make(tmp_path)
    (tmp_path / first).write_bytes(b"damaged")
    make(tmp_path)
    shown = runs(tmp_path).stdout
    now, _, before = shown.partition("other code")
    assert "the present code" in now
    for part in (now, before):
        assert "bug-seed0" in part and "geolora-seed0" in part and "0.1" in part and "finished" in part
    assert "journal.jsonl: 3 made by other code" in shown and "damaged lines: 1" in shown
    assert f"Set aside, damaged or under a wrong name: {first}.aside" in shown
    assert max(map(len, now.splitlines())) <= 80


def test_folders_within(tmp_path):
    """`dlrt compare` makes one for each problem; their common folder shows all of them."""
    make(tmp_path / "first")
    make(tmp_path / "second")
    shown = runs(tmp_path).stdout
    assert shown.index("first: made by the present code") < shown.index("second: made by the present code")


def test_nothing_there(tmp_path):
    assert "no runs in" in runs(tmp_path).stdout
    refused = runs(tmp_path / "missing")
    assert refused.exit_code == 2 and "missing is no folder" in refused.stderr
