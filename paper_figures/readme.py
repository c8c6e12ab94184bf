"""Tables of the README, written between markers from the reference numbers: ``python -m paper_figures.readme``."""

from __future__ import annotations

import re
from pathlib import Path

from .catalogue import FIGURES, TABLES
from .item import FOLDER

README = FOLDER / "README.md"
_BLOCK = re.compile(r"(<!-- (figure|table) (\S+): (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """The text with the lines between ``<!-- figure NAME: TABLE -->`` and ``<!-- end -->`` made anew."""

    def block(match):
        start, kind, name, table, end = match.groups()
        item = {"figure": FIGURES, "table": TABLES}[kind][name]
        lines = item.tables(item.reference())[table]
        return "\n".join([start, *lines, "", end])

    return _BLOCK.sub(block, text)


def blocks(text: str) -> list[tuple[str, str, str]]:
    """Kind, name and table of each marker."""
    return [match.group(2, 3, 4) for match in _BLOCK.finditer(text)]


def main(path: Path = README) -> None:
    """Write the tables into the README."""
    path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
