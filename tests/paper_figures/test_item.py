"""The driver: rounds with one journal, strict JSON, pictures and tables of a small module."""

import json
import sys
import types

import pytest
from matplotlib.figure import Figure

from paper_figures import Item
from paper_figures.item import Runs
from paper_figures.statements import finding
from paper_figures.tasks import cases


def square(x):
    return {"square": x * x}


def compute(runs, quick, first, last=3):
    """The squares of two numbers, then that of their sum."""
    found = runs.groups({"first": cases(square, x=[first]), "last": cases(square, x=[last, last + 1])})
    [total] = runs([(square, {"x": found["first"][0]["square"] + found["last"][0]["square"]})])
    return {"settings": {"pair": (first, last)}, **found, "total": total["square"]}


@pytest.fixture
def item(monkeypatch):
    module = types.ModuleType("paper_figures.small")
    module.compute, module.PACKAGES = compute, ("pillow",)
    module.statements = lambda data: {"the total is large": finding(f"{data['total']}", [data["total"] > 99])}
    module.draw = lambda data: {"": Figure(), "-more": Figure()}
    module.tables = lambda data: {"rows": [{"total": str(data["total"])}]}
    monkeypatch.setitem(sys.modules, "paper_figures.small", module)
    return Item("figure", "small", "small", "A small figure", {"first": 2})


def test_run_writes_numbers_pictures_and_journal(item, tmp_path):
    seen = []
    data = item.run(tmp_path, quick=True, progress=lambda *args: seen.append(args), last=3)
    assert data["total"] == (4 + 9) ** 2 and data["settings"] == {"pair": [2, 3]}
    assert (data["schema_version"], data["figure"], data["quick"]) == (1, "small", True)
    assert {"python", "numpy", "pillow"} <= data["versions"].keys()
    assert data["statements"] == [{"claim": "the total is large", "paper": "—", "found": "169", "holds": 1, "of": 1}]
    assert json.loads((tmp_path / "small.json").read_text()) == data
    names = {"small.json", "small.png", "small.pdf", "small-more.png", "small-more.pdf", "journal.jsonl"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert seen == [(1, 3), (2, 3), (3, 3), (1, 1)]


def test_a_second_run_goes_on_where_the_first_one_stopped(item, tmp_path):
    seen = []
    first = item.run(tmp_path)
    assert item.run(tmp_path, progress=lambda *args: seen.append(args)) == first
    assert not seen


def test_options_are_those_of_compute_without_the_settings(item):
    assert item.options() == {"last"}


def test_tables_are_markdown_and_begin_with_the_statements(item, tmp_path):
    tables = item.tables(item.run(tmp_path))
    assert list(tables) == ["statements", "rows"]
    assert tables["rows"] == ["| total |", "|---|", "| 169 |"]
    assert tables["statements"][-1] == "| the total is large | — | 169 | 1 of 1 |"
    assert item.rows(json.loads((tmp_path / "small.json").read_text())) == [{"total": "169"}]


def test_results_that_are_not_json_are_refused(item, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["paper_figures.small"], "compute", lambda runs, quick, first: {"x": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        item.run(tmp_path)


def test_groups_keep_their_order(tmp_path):
    groups = {"a": cases(square, x=[3, 1]), "b": [], "c": cases(square, x=[3])}
    found = Runs(tmp_path).groups(groups)
    assert found == {"a": [{"square": 9}, {"square": 1}], "b": [], "c": [{"square": 9}]}
