"""``dlrt figure`` and ``dlrt table``: they run the item of the name with what was given."""

import importlib
from types import SimpleNamespace

from typer.testing import CliRunner

from dlrt.cli import app

runner = CliRunner()


def run(*arguments):
    return runner.invoke(app, [str(argument) for argument in arguments])


def test_figure_runs_its_item(tmp_path, monkeypatch):
    calls = []

    def draw(out, quick=False, jobs=1, progress=None):
        progress(1, 2)
        calls.append((out, quick, jobs))
        return {"loss": 1.0}

    item = SimpleNamespace(description="Figure 5", run=draw)
    monkeypatch.setattr("paper_figures.FIGURES", {"5": item})
    result = run("figure", "5", "--out", tmp_path, "--quick", "--jobs", 2)
    assert result.exit_code == 0, result.output
    assert calls == [(tmp_path, True, 2)]
    assert "Figure 5" in result.output and str(tmp_path) in result.output.replace("\n", "")


def test_table_shows_its_rows_and_passes_what_is_given(tmp_path, monkeypatch):
    calls = []

    def make(out, quick=False, jobs=1, progress=None, model=None):
        calls.append((out, quick, jobs, model))
        return {"title": "network on data", "method": "GeoLoRA", "accuracy": "0.800"}

    def rows(result):
        return [{key: result[key] for key in ("method", "accuracy")}]

    item = SimpleNamespace(description="Table 3", run=make, rows=rows, options=lambda: {"model"})
    monkeypatch.setattr("paper_figures.TABLES", {"3": item})
    result = run("table", "3", "--out", tmp_path, "--model", "folder")
    assert result.exit_code == 0, result.output
    assert calls == [(tmp_path, False, 1, "folder")]
    assert all(word in result.output for word in ("network on data", "method", "GeoLoRA", "0.800"))
    result = run("table", "3", "--out", tmp_path, "--data", "folder")
    assert result.exit_code == 2 and "table 3 takes no --data" in result.output
    assert len(calls) == 1


def test_tables_fit_80_columns_with_no_number_or_name_cut(tmp_path, monkeypatch):
    """The committed numbers of all tables."""
    tables = importlib.import_module("paper_figures").TABLES
    for name, item in tables.items():
        data, rows = item.reference(), item.rows(item.reference())
        known = SimpleNamespace(description=item.description, run=lambda *_, data=data, **__: data, rows=item.rows)
        monkeypatch.setattr("dlrt.cli.figure.known", lambda kind, name=name, known=known: {name: known})
        result = run("table", name, "--out", tmp_path)
        lines = [line for line in result.output.splitlines() if not line.startswith("Wrote")]
        assert result.exit_code == 0 and all(len(line) <= 80 for line in lines)
        assert all(value in result.output for row in rows for item in row.items() for value in item)


def test_unknown_names_and_missing_packages_are_answered_with_one_line(tmp_path, monkeypatch):
    def run_without_package(*args, **options):
        importlib.import_module("nowhere")

    monkeypatch.setattr("dlrt.cli.figure.known", lambda kind: {"5": SimpleNamespace(run=run_without_package)})
    for name, message in (("55", "unknown figure '55', did you mean '5'?"), ("5", "pip install -c constraints.txt")):
        result = run("figure", name, "--out", tmp_path)
        assert result.exit_code == 2
        [line] = result.stderr.strip().splitlines()
        assert line.startswith("dlrt: error: ") and message in line
    assert not list(tmp_path.iterdir())


def test_an_interrupted_figure_says_how_to_go_on(tmp_path, monkeypatch):
    def interrupted(out, quick=False, jobs=1, progress=None):
        raise KeyboardInterrupt

    monkeypatch.setattr("paper_figures.FIGURES", {"5": SimpleNamespace(run=interrupted)})
    result = run("figure", "5", "--out", tmp_path)
    assert result.exit_code == 130 and "the same command goes on from there" in result.stderr
