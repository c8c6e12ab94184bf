"""What the tests of the figures share: a module names its ITEMS, and gets the reference and a quick run of each."""

import json

import pytest

from paper_figures import FIGURES, TABLES
from paper_figures.item import FOLDER

ITEMS = {item.stem: item for item in [*FIGURES.values(), *TABLES.values()]}


def pytest_generate_tests(metafunc):
    """Run tests that use an item, its reference or its quick run for each of the ITEMS of their module."""
    if "item" in metafunc.fixturenames and hasattr(metafunc.module, "ITEMS"):
        metafunc.parametrize("item", metafunc.module.ITEMS, indirect=True, scope="module")


def _refuse(name):
    raise ValueError(f"not strict JSON: {name}")


def _load(path):
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)


@pytest.fixture(scope="module")
def item(request):
    """A figure or table, by the name of its files."""
    return ITEMS[request.param]


@pytest.fixture(scope="module")
def reference(item):
    """The committed numbers of the full run."""
    return _load(FOLDER / "reference" / f"{item.stem}.json")


@pytest.fixture(scope="module")
def out(item, tmp_path_factory):
    """Folder of a quick run."""
    folder = tmp_path_factory.mktemp(item.stem)
    item.run(folder, quick=True)
    return folder


@pytest.fixture(scope="module")
def fresh(item, out):
    """The numbers of the quick run."""
    return _load(out / f"{item.stem}.json")
