"""``dlrt list``: every name once, with what it is."""

from types import SimpleNamespace

from typer.testing import CliRunner

from dlrt.cli import app
from dlrt.registry import INTEGRATORS, PROBLEMS

runner = CliRunner()


def run(*arguments):
    return runner.invoke(app, [str(argument) for argument in arguments])


def test_list_names_everything(monkeypatch):
    item = SimpleNamespace(description="loss and entries of S")
    monkeypatch.setattr("dlrt.cli.list.known", lambda kind: {kind.lower(): item})
    result = run("list")
    lines = result.output.splitlines()
    assert result.exit_code == 0 and all(len(line) <= 80 for line in lines)
    for name in (*INTEGRATORS, *PROBLEMS, "figures", "tables"):
        assert sum(line.startswith(f"  {name} ") for line in lines) == 1
