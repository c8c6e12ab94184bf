"""Checks of a built site: every link inside of it leads somewhere, and every picture says what it shows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page links to, its anchors, and its pictures without words."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.wordless: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := found.get(key))}
        self.targets += [value for key in ("href", "src") if (value := found.get(key))]
        if tag not in ("a", "link") or found.get("rel") in ("stylesheet", "preconnect", "preload", "icon"):
            self.loaded += self.targets[-1:] if {"href", "src"} & found.keys() else []
        if tag == "img" and not (found.get("alt") or "").strip():
            self.wordless.append(found.get("src") or "a picture")


def faults(folder: Path) -> Iterator[str]:
    """Each fault in words. Links that leave the site are not followed, but what a page loads must not leave it."""
    pages = {}
    for file in sorted(folder.rglob("*.html")):
        pages[file] = Page()
        pages[file].feed(file.read_text(encoding="utf-8"))
    for file, page in pages.items():
        where = file.relative_to(folder)
        for src in page.wordless:
            yield f"{where}: {src} has no text that says what it shows"
        for target in page.loaded:
            if urlsplit(target).scheme not in ("", "data") or urlsplit(target).netloc:
                yield f"{where}: {target} is not part of the site"
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or where.name == "404.html":
                continue
            goal = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if goal.is_dir():
                yield f"{where}: {target} leads to a folder, which a page from a file cannot show"
            elif not goal.is_file():
                yield f"{where}: {target} leads nowhere"
            elif parts.fragment and goal in pages and unquote(parts.fragment) not in pages[goal].anchors:
                yield f"{where}: {target} leads to no place on that page"


if __name__ == "__main__":
    found = list(faults(Path(sys.argv[1] if len(sys.argv) > 1 else "site")))
    print(*found, f"{len(found)} faults", sep="\n")
    sys.exit(bool(found))
