"""The command ``dlrt verify`` and the matrix of the README."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dlrt import verify as module
from dlrt.cli import app
from dlrt.cli.verify import BEGIN, END, cell, matrix, matrix_text, with_matrix
from dlrt.registry import INTEGRATORS, Entry
from dlrt.theorems import THEOREMS, Certificate, Series
from integrators import GeoLoRA

ROOT = Path(__file__).resolve().parents[2]
run = CliRunner().invoke


class Hasty(GeoLoRA):
    """Steps twice as long as it is told."""

    def stages(self, t, state, h):
        return (yield from super().stages(t, state, 2 * h))


def test_one_theorem_prints_one_line():
    result = run(app, ["verify", "stationary-points"])
    assert result.exit_code == 0, result.output
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
    monkeypatch.setitem(INTEGRATORS, "hasty", Entry("too long steps", lambda o: Hasty()))
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
        (["exactness", "--integrator", "bug", "--problem", "rotating", "--step-size", "0.1"], "does not concern"),
        (["descent", "--rank", "3"], "--rank needs --problem"),
        (["--write-matrix", "/nowhere/README.md"], "no such file"),
    ],
)
def test_refusals(arguments, message):
    result = run(app, ["verify", *arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split()) + " ".join(getattr(result, "stderr", "").split())


def test_matrix_has_a_row_for_a_new_integrator(monkeypatch):
    monkeypatch.setattr(module, "methods", lambda: {"hasty": Hasty(), "geolora": GeoLoRA()})
    few = {name: THEOREMS[name] for name in ("riemannian-step", "stationary-points", "exactness")}
    monkeypatch.setattr("dlrt.theorems.THEOREMS", few)
    columns, rows, failed = matrix()
    assert failed and columns == list(few)
    assert rows["hasty"][0].startswith("**VIOLATED** (off by ")
    assert rows["geolora"] == ["**holds**", "**holds**", "–"]
    text = matrix_text(columns, rows)
    assert "| geolora | **holds** | **holds** | – |" in text


def test_cells():
    def certificate(left, right, slack=0.0, label="bound", promised=False):
        series = Series.of("n", "k", [(1, left, right, slack)], "measured", label)
        return Certificate("t", "s", "s", "i", "p", series=(series,), promised=promised)

    assert cell([certificate(1.0, 2.0)]) == "holds"
    assert cell([certificate(1.0, 2.0, promised=True)]) == "**holds**"
    assert cell([certificate(6.0, 2.0), certificate(1.0, 2.0)]) == "violated (3×)"
    assert cell([certificate(0.25, 0.0, 1e-10, "0")]) == "violated (off by 0.25)"
    assert cell([certificate(float("inf"), 1.0)]) == "violated (diverged)"
    assert cell([certificate(0.5, 0.0)]) == "violated (0.5 > 0)"
    assert cell([]) == "–"


def test_text_between_the_markers():
    text = with_matrix("# dlrt\n\nText.\n", "| table |")
    assert text.startswith("# dlrt\n\nText.\n") and f"{BEGIN}\n| table |\n{END}" in text
    again = with_matrix(text, "| other |")
    assert "| table |" not in again and again.count(BEGIN) == 1
    assert with_matrix(again, "| other |") == again
    for wrong in (BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}"):
        with pytest.raises(ValueError, match="once each"):
            with_matrix(wrong, "")


def test_readme_has_the_matrix_of_all_integrators_and_theorems():
    """Names only, figures depend on the machine; `dlrt verify --write-matrix README.md` brings it up to date."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    header, _, *rows = [line for line in table.splitlines() if line.startswith("|")]
    assert [x.strip() for x in header.strip("|").split("|")][1:] == [t for t in THEOREMS if t != "symbolic"]
    assert [row.strip("|").split("|")[0].strip() for row in rows] == list(INTEGRATORS)
    assert "VIOLATED" not in table


@pytest.mark.slow
def test_all_small_cases():
    assert run(app, ["verify"]).exit_code == 0
