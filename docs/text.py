"""Tables, headings and links of Markdown texts, and what a set of pages is."""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

Pages = dict[str, "str | bytes | Path"]
"""What the site has besides the written pages: by its address below ``docs``, a text, bytes, or a file to copy."""

_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])+)\]\(([^()\s]+)\)")


def read(path: str) -> str:
    """A text of the project, by its path from the root."""
    return (ROOT / path).read_text(encoding="utf-8")


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown; strokes in cells stay strokes."""
    lines = [[_cell(cell) for cell in line] for line in (header, *rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    """Strokes as entities, for which code must be marked by tags: between backticks all is literal."""
    code = r"`([^`]*\|[^`]*)`"
    text = re.sub(code, lambda match: f"<code>{html.escape(match[1])}</code>", text.replace("\n", " "))
    return text.replace("|", "&#124;")


def tables(text: str) -> list[list[list[str]]]:
    """The tables in a text, as rows of cells, the header first and without the rule below it."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text + "\n", re.MULTILINE):
        rows = [
            [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in block.splitlines()
        ]
        found.append([row for row in rows if not all(re.fullmatch(":?-+:?", cell) for cell in row)])
    return found


def anchor(heading: str) -> str:
    """The anchor that Python-Markdown gives to a heading."""
    words = re.sub(r"[^\w\s-]", "", heading.encode("ascii", "ignore").decode()).strip().lower()
    return re.sub(r"[-\s]+", "-", words)


def heading_before(text: str, position: int) -> str:
    """The last heading before a place in a text, without its marks."""
    prose = re.sub(r"^```.*?^```$", "", text[:position], flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"^#+ +(.+)$", prose, re.MULTILINE)
    return found[-1] if found else ""


def relinked(text: str, page: str, address: Callable[[str], str | None]) -> str:
    """The text of a page whose links to files of the project lead to the site, or are no links any more.

    Parameters
    ----------
    text : str
    page : str
        Its path in the project, which is its address in the site too.
    address : callable
        From the path of a file in the project to its address in the site; None where the site does not have it.
    """

    def link(match):
        shown, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, mark, place = target.partition("#")
        found = address(posixpath.normpath(posixpath.join(posixpath.dirname(page), path)))
        if found is None:
            return shown
        return f"[{shown}]({posixpath.relpath(found, posixpath.dirname(page) or '.')}{mark}{place})"

    return _LINK.sub(link, text)
