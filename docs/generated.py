"""All pages that are made, and the navigation."""

from __future__ import annotations

import functools
import posixpath
import re
from pathlib import Path

from dlrt.theorems import THEOREMS
from docs import api, gallery, methods, notebooks, problems, theorems
from docs.text import ROOT, Pages, read, relinked

TEXTS = ("paper_figures/README.md", "benchmarks/README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
"""Texts of the project that are pages as they are, at the same address."""
SECTIONS = {
    "Home": ("index.md",),
    "How to choose": ("choose", "work-precision"),
    "Tutorials": ("tutorials", "notebooks"),
    "Methods": ("methods",),
    "Problems": ("problems",),
    "Theorems": ("theorems",),
    "Results": ("gallery.md", "paper_figures/README.md", "benchmarks/README.md", "limits.md"),
    "Extend": ("extend", "CONTRIBUTING.md"),
    "Reference": ("reference", "CHANGELOG.md", "SECURITY.md"),
}
"""The navigation: pages, and folders with all of their pages."""


@functools.cache
def pages() -> Pages:
    """Everything but what others made, see `fetched`."""
    found: Pages = {}
    for part in (methods, problems, theorems, gallery, notebooks):
        found |= part.pages()
    own = {type(m).__module__: methods.address(m) for group in methods.by_class().values() for m in group.values()}
    own |= {f"problems.{Path(page).stem}": page for page in found if re.fullmatch(r"problems/(?!index).*\.md", page)}
    own |= {type(theorem).__module__: f"theorems/{name}.md" for name, theorem in THEOREMS.items()}
    found |= api.pages(own)
    found |= {picture.address: ROOT / picture.address for picture in gallery.of_figures()}

    def address(path: str) -> str | None:
        path = path.removeprefix("docs/").replace(".ipynb", ".md")
        for known in (path, posixpath.join(path, "README.md")):
            if known in found or known in TEXTS or (ROOT / "docs" / known).is_file():
                return known
        return None

    return found | {page: relinked(read(page), page, address) for page in TEXTS}


def navigation(written: Path) -> list[dict]:
    """The navigation of MkDocs, with the pages in the folder ``written`` and those that are made."""
    known = sorted({*(p.relative_to(written).as_posix() for p in written.rglob("*.md")), *_made()})
    found = []
    for title, places in SECTIONS.items():
        listed: list = []
        for place in places:
            inside = [page for page in known if page == place or page.startswith(place + "/")]
            inside.sort(key=lambda page: (not page.endswith("/index.md"), page))
            if place.endswith("/README.md"):  # the index of its folder, which is not that of the section
                listed.append({title_of(place): inside})
            else:
                listed += api.by_package(inside) if place == "reference" else inside
        if listed:
            found.append({title: listed if len(listed) > 1 else listed[0]})
    return found


def title_of(text: str) -> str:
    """The first heading of a text of the project."""
    return read(text).partition("\n")[0].lstrip("# ")


def _made() -> list[str]:
    return [page for page in pages() if page.endswith(".md")]
