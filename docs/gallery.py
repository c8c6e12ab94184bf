"""The gallery: every committed picture and those of the notebooks, small, with what they show, and where they are."""

from __future__ import annotations

import io
import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dlrt.plots import class_name
from docs import notebooks
from docs.text import ROOT, Pages, anchor, heading_before, read, tables
from paper_figures.catalogue import PICTURES

DOCS = ROOT / "docs"
FIGURES = "paper_figures/README.md"
WIDTH = 480
"""Of a small picture, in pixels."""
_PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Section:
    """A part of a text from one heading to the next one."""

    heading: str
    text: str

    @property
    def anchor(self) -> str:
        """Of its heading."""
        return anchor(self.heading)


@dataclass(frozen=True)
class Picture:
    """A picture of the site: its address, what it shows, and the page and heading where it is."""

    address: str
    words: str
    page: str
    heading: str

    @property
    def small(self) -> str:
        """Address of the small version."""
        return "gallery/" + self.address.replace("/", "-")


def pages() -> Pages:
    """The gallery and its small pictures."""
    found: Pages = {}
    groups = {
        "Figures and tables of the paper": list(of_figures()),
        "Work against precision": list(of_written("work-precision")),
        "Notebooks": list(of_notebooks()),
    }
    text = ["# Gallery", "Every picture leads to the page that tells what it shows and how it was made."]
    content = notebooks.pages()
    for title, pictures in groups.items():
        text += [f"## {title}", grid(pictures, "")]
        for picture in pictures:
            data = content.get(picture.address)
            found[picture.small] = small(data if isinstance(data, bytes) else file(picture).read_bytes())
    return {"gallery.md": "\n\n".join(text) + "\n"} | found


def sections(text: str) -> list[Section]:
    """The parts of a text."""
    parts = re.split(r"^#+ +(.+)\n", text, flags=re.MULTILINE)
    return [Section(heading, body) for heading, body in zip(parts[1::2], parts[2::2])]


def of_figures() -> Iterator[Picture]:
    """The pictures that are committed, in the order of the page of figures."""
    text = read(FIGURES)
    for match in _PICTURE.finditer(text):
        address = posixpath.join(posixpath.dirname(FIGURES), match[2])
        stem = posixpath.splitext(posixpath.basename(address))[0]
        yield Picture(address, PICTURES[stem], FIGURES, heading_before(text, match.start()))


def of_notebooks() -> Iterator[Picture]:
    """The pictures of the notebooks."""
    for address, text in notebooks.pages().items():
        if isinstance(text, str):
            for match in _PICTURE.finditer(text):
                place = posixpath.join(posixpath.dirname(address), match[2])
                yield Picture(place, match[1], address, heading_before(text, match.start()))


def of_written(folder: str) -> Iterator[Picture]:
    """The pictures of the written pages in a folder of ``docs``."""
    for page in sorted((DOCS / folder).glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for match in _PICTURE.finditer(text):
            yield Picture(
                f"{folder}/{match[2]}", match[1], f"{folder}/{page.name}", heading_before(text, match.start())
            )


def file(picture: Picture) -> Path:
    """Where a picture is in the project that is not made with the site."""
    places = ROOT / picture.address, DOCS / picture.address
    return next(place for place in places if place.is_file())


def of_method(name: str) -> list[Picture]:
    """The pictures in whose section a table has a row about the method of this class."""
    named = {
        section.heading
        for section in sections(read(FIGURES))
        if any(row and class_name(row[0]) == name for rows in tables(section.text) for row in rows[1:])
    }
    return [picture for picture in of_figures() if picture.heading in named]


def grid(pictures: Iterable[Picture], folder: str) -> str:
    """Small pictures with links, for a page in that folder."""

    def at(address: str) -> str:
        return posixpath.relpath(address, folder or ".")

    def cell(picture: Picture) -> str:
        link = f"{at(picture.page)}#{anchor(picture.heading)}"
        return (
            f"[![{picture.words}]({at(picture.small)}){{ loading=lazy }}]({link})\n{picture.heading.replace('`', '')}"
        )

    cells = [cell(picture) for picture in pictures]
    return '<div class="gallery" markdown>\n\n' + "\n\n".join(cells) + "\n\n</div>"


def small(picture: bytes) -> bytes:
    """The picture at most `WIDTH` pixels wide, as PNG."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.thumbnail((WIDTH, WIDTH))
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()
