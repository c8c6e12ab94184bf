"""Make the notebooks from their sources: runs each ``NAME.py`` and writes ``NAME.ipynb`` with its outputs.

``python notebooks/build.py`` makes all of them, ``python notebooks/build.py NAME ...`` some. The sources are what is
edited; a test compares them with the notebooks. With Jupyter and jupytext installed the pair can be edited as one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent


def sources() -> list[Path]:
    """The percent-format sources, in order."""
    return sorted(FOLDER.glob("[0-9]*.py"))


def read(source: Path) -> nbformat.NotebookNode:
    """The notebook of a source, without outputs. Cell names are numbers, so that equal sources give equal files."""
    notebook = jupytext.read(source, fmt="py:percent")
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i}"
        cell.metadata = nbformat.NotebookNode()
    notebook.metadata = nbformat.NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        jupytext={"formats": "ipynb,py:percent"},
    )
    return notebook


def execute(source: Path, quick: bool = False) -> nbformat.NotebookNode:
    """The notebook with its outputs, from a fresh kernel in the folder of the sources.

    Raises nbclient.exceptions.CellExecutionError where a cell fails: every claim is an assertion.
    """
    notebook = read(source)
    environment = {key: value for key, value in os.environ.items() if key not in ("MPLBACKEND", "DLRT_QUICK")}
    environment["PYTHONPATH"] = os.pathsep.join([str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore::DeprecationWarning,ignore:IProgress not found"}
    if quick:
        environment["DLRT_QUICK"] = "1"
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", record_timing=False, resources={"metadata": {"path": str(FOLDER)}}
    )
    client.execute(env=environment)
    notebook.metadata.pop("language_info", None)  # holds the Python version of whoever ran it
    return notebook


def main(names: list[str]) -> None:
    """Build the notebooks whose names begin with one of the given ones; all of them without."""
    for source in sources():
        if not names or any(source.stem.startswith(Path(name).stem) for name in names):
            print(source.stem, flush=True)
            nbformat.write(execute(source), source.with_suffix(".ipynb"))


if __name__ == "__main__":
    main(sys.argv[1:])
