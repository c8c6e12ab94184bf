"""The command ``dlrt train digits``: what it writes, shows and refuses."""

import json
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dlrt.cli import app
from dlrt.cli.train import _row
from dlrt.finetune.digits import METHODS
from dlrt.layout import aligned
from integrators import INTEGRATORS


def test_command(tmp_path):
    arguments = ["--methods", "geolora,bug", "--seeds", "2", "--epochs", "1", "--rank", "4", "--lr", "0.5"]
    arguments += ["--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["train", "digits", *arguments])
    assert result.exit_code == 0, result.output
    assert "geolora" in result.output and "test accuracy" in result.output
    runs = json.loads((tmp_path / "runs.json").read_text())
    assert len(runs["runs"]) == 4 and runs["settings"]["lr"] == 0.5 and "torch" in runs["versions"]
    found = json.loads((tmp_path / "summary.json").read_text())["methods"]
    assert [row["method"] for row in found] == ["geolora", "bug"]
    for name in ("loss", "accuracy", "ranks"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    before = (tmp_path / "journal.jsonl").read_bytes()
    again = CliRunner().invoke(app, ["train", "digits", *arguments])
    assert again.exit_code == 0 and (tmp_path / "journal.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "geolora,nope"], "methods must be one of full-rank"),
        (["--network", "resnet"], "network must be one of dense, conv, got 'resnet'"),
        (["--seeds", "0"], "seeds must be at least 1, got 0"),
        (["--lr", "-1"], "lr must be positive and finite, got -1.0"),
        (["--jobs", "0"], "jobs must be a positive or negative integer, got 0"),
    ],
)
def test_command_refuses(arguments, message):
    result = CliRunner().invoke(app, ["train", "digits", *arguments])
    assert result.exit_code == 2 and message in result.output


def test_rows_fit_and_name_what_diverged():
    row = {
        "method": "projector-splitting-strang",
        "lr": 0.0316,
        "runs": 5,
        "diverged": 0,
        "accuracy": 0.98,
        "std": 0.01,
    }
    row |= {"parameters": 85002.0, "seconds": 123.4, "tapes": 1234567.0}
    text = aligned([_row(row, 5)])
    assert "0.980 ± 0.010" in text and "time [s]" in text and "diverged" not in text
    assert all(len(line) <= 80 for line in text.splitlines())
    text = aligned([_row(row | {"diverged": 2}, 5), _row({"method": "lora", "lr": 1.0, "runs": 5, "diverged": 5}, 5)])
    assert "2 of 5" in text and "5 of 5" in text and all(len(line) <= 80 for line in text.splitlines())


def test_interruption_says_how_to_go_on(tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("dlrt.finetune.digits.compare_digits", interrupt)
    result = CliRunner().invoke(app, ["train", "digits", "--out", str(tmp_path)])
    assert result.exit_code == 130 and "the same command goes on from there" in result.output


def test_help_names_all_methods_and_needs_no_torch():
    code = (
        "import sys\nfrom dlrt.cli import app\n"
        "try: app(['train', 'digits', '--help'])\nfinally: assert 'torch' not in sys.modules"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert set(METHODS) <= {*INTEGRATORS, *re.findall(r"[a-z-]+", shown)}
