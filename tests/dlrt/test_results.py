"""`results.json`: strict JSON that says what the trajectories say."""

import json

import numpy as np
import pytest

import problems
from dlrt import Case, Trajectory, read_results, results, sweep, write_results
from integrators import BUG, GeoLoRA, SVDLoRA
from integrators.bibliography import keys

REGRESSION = problems.MatrixRegression(problems.synthetic((10, 8), [4.0, 3.0, 2.0], np.random.default_rng(0)))


def cases():
    methods = {"bug": BUG(), "geolora": GeoLoRA(), "svd-lora": SVDLoRA()}
    return [
        Case(label=label, integrator=method, problem=REGRESSION, step_size=h, steps=30, rank=4, seed=seed)
        for label, method in methods.items()
        for h in (0.9, 0.1)
        for seed in range(2)
    ]


def test_results_are_strict_json(tmp_path):
    found = sweep(cases(), out=tmp_path)
    path = write_results(tmp_path, found, {"tau": float("inf"), "out": tmp_path})

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    content = json.loads(path.read_text(), parse_constant=refuse)
    assert content == read_results(tmp_path)
    assert content["schema_version"] == 1 and content["seeds"] == [0, 1]
    assert content["versions"].keys() == {"python", "dlrt", "numpy", "scipy"}
    assert len(content["cases"]) == 12
    for record, result in zip(content["cases"], found, strict=True):
        run = Trajectory.load(tmp_path / record["trajectory"])
        assert record["loss"] == run.losses[-1] and record["error"] is None
        assert record["status"] == run.status and record["label"] == result.case.label
        assert record["evaluations"] == run.evaluations[-1]
        assert record["references"] == keys(result.case.integrator) == keys(result.case.integrator, REGRESSION)
        assert record["steps_taken"] == run.steps[-1] and record["steps"] == 30
    assert all(f" {key} " in results.__doc__ for key in (*content, *content["cases"][0]) if key != "settings")


def test_another_comparison_is_moved_and_said(tmp_path, caplog):
    first, second = cases()[:4], cases()[4:]
    write_results(tmp_path, sweep(first, out=tmp_path), {"step_size": [0.9]})
    for name in ("loss.png", "rank.pdf", "of-the-user.png"):
        (tmp_path / name).write_text("first")
    before = read_results(tmp_path)
    write_results(tmp_path, sweep(first, out=tmp_path), {"step_size": [0.9]})
    assert read_results(tmp_path) == before and not caplog.text
    write_results(tmp_path, sweep(second, out=tmp_path), {"step_size": [0.1]})
    [folder] = tmp_path.glob("earlier-*")
    assert f"the earlier comparison in {tmp_path}, of other settings, was moved to {folder}" in caplog.text
    assert {path.name for path in folder.iterdir()} == {"results.json", "loss.png", "rank.pdf"}
    moved = read_results(folder)
    for record, old in zip(moved["cases"], before["cases"], strict=True):
        assert Trajectory.load(folder / record["trajectory"]).losses[-1] == old["loss"]
        assert record | {"trajectory": old["trajectory"]} == old
    assert (tmp_path / "of-the-user.png").is_file() and not (tmp_path / "loss.png").exists()


def test_a_damaged_file_is_set_aside(tmp_path, caplog):
    (tmp_path / "results.json").write_text("{")
    write_results(tmp_path, sweep(cases()[:1], out=tmp_path), {})
    assert len(read_results(tmp_path)["cases"]) == 1
    assert (tmp_path / "results.json.aside").read_text() == "{" and "set aside" in caplog.text


def test_bad_results(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"results\.json is damaged"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text('{"schema_version": 7}')
    with pytest.raises(ValueError, match="schema version 7"):
        read_results(tmp_path)
