"""What the tests of the figures share: a test module names its FIGURE, and gets the reference and a quick run of it."""

import importlib
import json
from pathlib import Path

import pytest

import paper_figures

FOLDER = Path(paper_figures.__file__).parent


def _refuse(name):
    raise ValueError(f"not strict JSON: {name}")


def _load(path):
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)


@pytest.fixture(scope="module")
def reference(request):
    """The committed numbers of the full run."""
    return _load(FOLDER / "reference" / f"{request.module.FIGURE}.json")


@pytest.fixture(scope="module")
def out(request, tmp_path_factory):
    """Folder of a quick run."""
    folder = tmp_path_factory.mktemp(request.module.FIGURE)
    name = request.module.FIGURE.replace("-", "_")
    importlib.import_module(f"paper_figures.{name}").run(folder, quick=True)
    return folder


@pytest.fixture(scope="module")
def fresh(request, out):
    """The numbers of the quick run."""
    return _load(out / f"{request.module.FIGURE}.json")


@pytest.fixture(scope="session")
def readme():
    """README of the figures."""
    return (FOLDER / "README.md").read_text(encoding="utf-8")
