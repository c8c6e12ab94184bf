"""The command ``dlrt verify``."""

import json
import re

import pytest
from typer.testing import CliRunner

from dlrt.cli import app
from dlrt.theorems import Certificate, RiemannianStep
from integrators import INTEGRATORS
from tests.dlrt.theorems.conftest import Hasty

run = CliRunner().invoke


def test_one_theorem_prints_one_line():
    result = run(app, ["verify", "stationary-points"])
    assert result.exit_code == 0, result.output
    assert all(len(line) <= 80 for line in result.output.splitlines())
    assert "nearest to its bound:" in result.output
    [line] = [x for x in result.output.splitlines() if x.startswith("stationary-points")]
    assert "holds" in line and re.search(r"0\.09375\s+0\.09375\s+1", line)


def test_one_theorem_for_one_method_on_one_problem(tmp_path):
    arguments = [
        "verify",
        "error-bound",
        "--integrator",
        "bug",
        "--problem",
        "rotating",
        "--size",
        "20",
        "--steps",
        "10",
    ]
    result = run(app, [*arguments, "--rank", "6", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    certificate = Certificate.load(tmp_path / "error-bound-bug-rotating.json")
    assert certificate.verdict == "holds" and len(certificate.series[0].values) == 10
    assert (tmp_path / "error-bound-bug-rotating.png").stat().st_size > 1000
    json.loads((tmp_path / "error-bound-bug-rotating.json").read_text())


def test_a_violation_is_a_failure_only_where_promised(monkeypatch):
    assert run(app, ["verify", "stationary-points", "--integrator", "svd-lora"]).exit_code == 0
    monkeypatch.setitem(INTEGRATORS, "hasty", Hasty())
    assert run(app, ["verify", "riemannian-step", "--integrator", "hasty"]).exit_code == 0
    monkeypatch.setitem(RiemannianStep.promised, Hasty, "claimed")
    result = run(app, ["verify", "riemannian-step", "--integrator", "hasty"])
    assert result.exit_code == 1
    assert "violated" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["descend"], "did you mean 'descent'"),
        (["descent", "--integrator", "geo-lora"], "did you mean 'geolora'"),
        (["descent", "--problem", "matrix-regression"], "needs a theorem and --integrator"),
        (["stiffness", "--integrator", "lora", "--problem", "rotating"], "makes its own problems"),
        (
            ["exactness", "--integrator", "bug", "--problem", "rotating", "--step-size", "0.1"],
            "does not apply to exactness",
        ),
        (["descent", "--rank", "3"], "--rank needs --problem"),
        (
            ["error-bound", "--integrator", "bug", "--problem", "rotating", "--step-size", "nan"],
            "--step-size must be positive and finite, got nan",
        ),
        (["--write-matrix", "/nowhere/README.md"], "no such file"),
    ],
)
def test_refusals(arguments, message):
    result = run(app, ["verify", *arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split()) + " ".join(getattr(result, "stderr", "").split())


@pytest.mark.parametrize(
    ("name", "verdict"), [("factor-methods", "holds"), ("one-frame", "holds"), ("symbolic", "holds")]
)
def test_predictions_and_proofs_are_run_too(name, verdict):
    result = run(app, ["verify", name])
    assert result.exit_code == 0, result.output
    [line] = [x for x in result.output.splitlines() if x.startswith(name)]
    assert verdict in line


def test_a_problem_without_a_reference_solution():
    arguments = ["--integrator", "bug", "--problem", "lyapunov", "--size", "8", "--steps", "4"]
    result = run(app, ["verify", "error-bound", *arguments])
    assert result.exit_code == 0, result.output
    result = run(app, ["verify", "error-bound", "--integrator", "bug", "--problem", "matrix-regression"])
    assert result.exit_code == 0 and "NOT MET reference solution" in result.output


@pytest.mark.slow
def test_all_small_cases():
    assert run(app, ["verify"]).exit_code == 0
