"""The command ``dlrt train digits``: what it writes, shows and refuses."""

import json
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dlrt.cli import app
from dlrt.finetune.digits import METHODS
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
