"""The README of the figures says what the reference numbers say."""

import json
from pathlib import Path

import pytest

import paper_figures
from paper_figures.tasks import markdown

FOLDER = Path(paper_figures.__file__).parent


@pytest.mark.parametrize("path", sorted((FOLDER / "reference").glob("*.json")), ids=lambda path: path.stem)
def test_every_statement_is_in_the_readme(path):
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for line in markdown(json.loads(path.read_text(encoding="utf-8"))["statements"]):
        assert line in readme
