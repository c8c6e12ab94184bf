"""Tables as aligned text, of which wide ones are split and nothing is cut, and in Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["aligned", "markdown_table"]

GAP = "  "


def aligned(rows: Iterable[Mapping[str, object] | str], *, title: str = "", width: int = 80) -> str:
    """Rows by their headings as text, the first column to the left and the others to the right.

    Columns that do not fit beside each other go into further blocks below, each of which begins with the first column
    again. A cell is never cut: a single one that is wider than `width` makes a wider line.

    Parameters
    ----------
    rows : iterable of mapping or str
        Cells by their headings; a text is the heading of the rows that follow it.
    title : str
        Stands above, in lines of at most `width`.
    width : int
        Number of characters in a line.

    Examples
    --------
    >>> print(aligned([{"method": "bug", "error": 0.5}, {"method": "geolora", "error": 0.25}], title="two methods"))
    two methods
    method   error
    ──────────────
    bug        0.5
    geolora   0.25
    """
    rows = [part for row in rows for part in (textwrap.wrap(row, width) if isinstance(row, str) else [row])]
    headings = list(dict.fromkeys(heading for row in rows if not isinstance(row, str) for heading in row))
    cells = [row if isinstance(row, str) else [str(row.get(heading, "")) for heading in headings] for row in rows]
    columns = [[heading, *(row[i] for row in cells if not isinstance(row, str))] for i, heading in enumerate(headings)]
    widths = [max(map(len, column)) for column in columns]
    blocks: list[list[int]] = []
    for i in range(1, len(headings)):
        if not blocks or _width(widths, [*blocks[-1], i]) > width:
            blocks.append([0])
        blocks[-1].append(i)
    tables = [_block(headings, cells, widths, block) for block in blocks or [[0][: len(headings)]]]
    return "\n".join([*textwrap.wrap(title, width), "\n\n".join(tables)])


def markdown_table(rows: Sequence[dict]) -> list[str]:
    """Rows of strings by their headings as lines of a Markdown table."""
    heads = list(rows[0])
    return [
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
        *("| " + " | ".join(row.values()) + " |" for row in rows),
    ]


def _width(widths: list[int], block: list[int]) -> int:
    return sum(widths[i] for i in block) + len(GAP) * (len(block) - 1)


def _block(headings, cells, widths, block) -> str:
    def line(row):
        shown = (row[i].rjust(widths[i]) if i else row[i].ljust(widths[i]) for i in block)
        return GAP.join(shown).rstrip()

    body = [row if isinstance(row, str) else line(row) for row in cells]
    return "\n".join([line(headings), "─" * _width(widths, block), *body])
