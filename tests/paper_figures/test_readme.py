"""Statements and README say what the reference numbers say."""

import json
from pathlib import Path

import pytest

from paper_figures import FIGURES, TABLES
from paper_figures.catalogue import PICTURES
from paper_figures.item import FOLDER
from paper_figures.readme import README, blocks, filled, texts, worded

ITEMS = {item.stem: item for item in [*FIGURES.values(), *TABLES.values()]}


@pytest.mark.parametrize("stem", ITEMS)
def test_committed_results_stay_valid(stem):
    """Statements follow from the committed numbers, exactly, and every table of them is in the README as it should."""
    item = ITEMS[stem]
    reference = item.reference()
    assert not reference["quick"]
    assert json.loads(json.dumps(item.statements(reference))) == reference["statements"]
    readme = README.read_text(encoding="utf-8")
    for name, lines in item.tables(reference).items():
        assert "\n".join([f"<!-- {item.kind} {item.name}: {name} -->", "", *lines, "", "<!-- end -->"]) in readme


def test_nothing_else_is_between_markers():
    readme = README.read_text(encoding="utf-8")
    assert readme.count("<!-- end -->") == len(blocks(readme)) == len(set(blocks(readme)))
    assert filled(readme) == readme


def test_a_table_is_written_anew():
    readme = README.read_text(encoding="utf-8")
    assert filled(readme.replace("| 1 of 1 |", "| 0 of 1 |")) == readme


def test_each_reference_belongs_to_an_item():
    folder = FOLDER / "reference"
    assert {path.stem for path in folder.glob("*.json")} == ITEMS.keys()
    assert all((folder / f"{stem}.png").is_file() for stem in ITEMS)


def test_pictures_get_their_words():
    assert (
        worded("![old](reference/losses.png) ![x](y.png)")
        == f"![{PICTURES['losses']}](reference/losses.png) ![x](y.png)"
    )
    found = [file.read_text(encoding="utf-8") for file in texts(Path(__file__).parents[2])]
    assert len(found) > 10 and all(worded(text) == text for text in found)
    assert PICTURES.keys() == {path.stem for path in (FOLDER / "reference").glob("*.png")}
