"""``dlrt cite``: BibTeX of methods, problems and theorems by name."""

from typer.testing import CliRunner

from dlrt.cli import app
from dlrt.theorems import THEOREMS
from integrators import INTEGRATORS, Adam, citation

runner = CliRunner()


def test_methods_problems_and_theorems():
    result = runner.invoke(app, ["cite", "bug", "rotating", "adam", "decay", "bug"])
    assert result.exit_code == 0 and result.stderr == ""
    assert result.stdout.count("@") == 4 and "{kieri2016discretized," in result.stdout  # rotating's paper
    for thing in (INTEGRATORS["bug"], Adam(), THEOREMS["decay"]):
        assert citation(thing) in result.stdout


def test_what_rests_on_no_paper_is_said():
    result = runner.invoke(app, ["cite", "full-rank", "geolora"])
    assert result.exit_code == 0 and result.stderr.startswith("full-rank: its documentation names no paper")
    assert result.stdout.strip() == citation(INTEGRATORS["geolora"])


def test_unknown_names():
    result = runner.invoke(app, ["cite", "geolore"])
    assert result.exit_code == 2 and "unknown name 'geolore', did you mean 'geolora'?" in result.stderr
