"""What is committed besides the numbers, made of them: ``python -m paper_figures.readme [--pictures]``.

Writes the tables of the README between their markers, and the words of pictures there and in other texts; with
``--pictures`` it also draws the committed pictures anew.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from dlrt.plots import save_figure

from .catalogue import FIGURES, PICTURES, TABLES
from .item import FOLDER

README = FOLDER / "README.md"
_BLOCK = re.compile(r"(<!-- (figure|table) (\S+): (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_PICTURE = re.compile(r"!\[[^\]]*\]\(((?:paper_figures/)?reference/([\w-]+)\.png)\)")


def filled(text: str) -> str:
    """The text with the lines between ``<!-- figure NAME: TABLE -->`` and ``<!-- end -->`` and all words made anew."""

    def block(match):
        start, kind, name, table, end = match.groups()
        item = {"figure": FIGURES, "table": TABLES}[kind][name]
        lines = item.tables(item.reference())[table]
        return "\n".join([start, *lines, "", end])

    return worded(_BLOCK.sub(block, text))


def worded(text: str) -> str:
    """The text whose pictures have the words of `catalogue.PICTURES`."""
    return _PICTURE.sub(lambda match: f"![{PICTURES[match[2]]}]({match[1]})", text)


def texts(checkout: Path = FOLDER.parent) -> list[Path]:
    """The texts of a checkout that may show pictures."""
    return [checkout / "paper_figures/README.md", checkout / "README.md", *sorted((checkout / "docs").rglob("*.md"))]


def blocks(text: str) -> list[tuple]:
    """Kind, name and table of each marker."""
    return [match.group(2, 3, 4) for match in _BLOCK.finditer(text)]


def draw_pictures() -> None:
    """Draw the committed pictures from the committed numbers (and the runs that Figures 1 and 5 show step by step)."""
    for item in [*FIGURES.values(), *TABLES.values()]:
        for suffix, figure in item.draw(item.reference()).items():
            stem = FOLDER / "reference" / f"{item.stem}{suffix}"
            if stem.with_suffix(".png").is_file():
                save_figure(figure, stem)
                stem.with_suffix(".pdf").unlink()


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
    for file in texts():
        file.write_text(worded(file.read_text(encoding="utf-8")), encoding="utf-8")
    if "--pictures" in sys.argv[1:]:
        draw_pictures()
