"""The notebooks run, every claim in them being an assertion, and the committed ones are those of the sources."""

import importlib.util
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
spec = importlib.util.spec_from_file_location("notebooks_build", FOLDER / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

SOURCES = build.sources()
REMEDY = "run `python notebooks/build.py`"


def name(source: Path) -> str:
    return source.stem


def test_one_notebook_for_each_source():
    assert SOURCES
    assert [path.stem for path in sorted(FOLDER.glob("*.ipynb"))] == [source.stem for source in SOURCES], REMEDY


@pytest.mark.parametrize("source", SOURCES, ids=name)
def test_notebook_is_that_of_the_source(source):
    """Same cells, executed from top to bottom without an error, with pictures, and small enough to be shown."""
    file = source.with_suffix(".ipynb")
    committed, expected = nbformat.read(file, as_version=4), build.read(source)
    assert [(cell.cell_type, cell.source) for cell in committed.cells] == [
        (cell.cell_type, cell.source) for cell in expected.cells
    ], REMEDY
    assert committed.metadata == expected.metadata, REMEDY
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), REMEDY
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert file.stat().st_size < 300_000


@pytest.mark.parametrize("source", SOURCES, ids=name)
def test_notebook_runs(source):
    """In a fresh kernel, at a small size."""
    build.execute(source, quick=True)
