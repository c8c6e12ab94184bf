"""The figures and tables by name."""

import subprocess
import sys

import pytest

from paper_figures import FIGURES, TABLES


def test_names_are_those_of_the_items():
    for kind, items in (("figure", FIGURES), ("table", TABLES)):
        assert all((item.kind, item.name) == (kind, name) for name, item in items.items())
    assert [FIGURES[name].stem for name in ("1", "rank-recovery")] == ["figure1", "rank-recovery"]


@pytest.mark.parametrize("item", [*FIGURES.values(), *TABLES.values()], ids=lambda item: item.stem)
def test_modules_have_what_an_item_needs(item):
    """And those that fine-tune a pretrained network take the user's own."""
    module = item.load()
    assert all(callable(getattr(module, name)) for name in ("compute", "statements", "draw"))
    assert hasattr(module, "tables") or item.kind == "figure"
    own = item.stem in ("figure2", "figure3", "figure4", "table2", "table3")
    assert item.options() == ({"model", "data"} if own else set())


def test_import_is_cheap():
    code = "import sys, paper_figures; sys.exit(bool({'torch', 'matplotlib', 'joblib'} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], check=True)
