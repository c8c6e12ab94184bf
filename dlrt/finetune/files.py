"""Examples from files of the user: tables of labelled texts, plain text, pictures in folders or in files of MNIST.

Whatever is wrong in them is refused with the name of the file and, where it has lines, the number of the line.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from .assets import read_idx

__all__ = ["Example", "classes", "documents", "fingerprint", "labelled_texts", "labels", "picture", "pictures"]

SEPARATORS = {".csv": ",", ".tsv": "\t"}
LINES = (".jsonl", ".ndjson")
IGNORED = ("thumbs.db", "desktop.ini")


class Example(NamedTuple):
    """Texts or a picture (a path or an array), its class by name, and where it comes from."""

    content: Any
    label: str
    place: str


# -- texts -------------------------------------------------------------------------------------------------------------


def labelled_texts(files: Iterable[Path], text: Sequence[str] = ("text",), label: str = "label") -> list[Example]:
    """Rows of CSV, TSV and JSONL files.

    Parameters
    ----------
    files : iterable of Path
        ``.csv``: commas, fields in double quotes where need be. ``.tsv``: tabs, where quotes mean nothing, as in the
        files of GLUE. Both name their columns in the first line. ``.jsonl``: an object on each line. All in UTF-8.
    text : sequence of str
        One column, or two for pairs of texts.
    label : str
        Column of the class: words or integers.

    Raises
    ------
    ValueError
        Something is missing, empty or no text; file and line are named.
    """
    found = []
    for path in files:
        for row, place in _rows(path, (*text, label)):
            found.append(
                Example(tuple(_text(row[name], name, place) for name in text), _label(row[label], place), place)
            )
    return found


def documents(files: Iterable[Path], text: str = "text") -> list[str]:
    """Whole files of plain text (``.txt``), and the texts of tables as above."""
    found: list[str] = []
    for path in files:
        if path.suffix.lower() == ".txt":
            found.append(_text(_decoded(path), "the file", str(path)))
        else:
            found += [_text(row[text], text, place) for row, place in _rows(path, (text,))]
    return found


def _rows(path: Path, wanted: Sequence[str]) -> Iterator[tuple[dict[str, Any], str]]:
    """The columns that are wanted, row by row, and the place of each."""
    kind = path.suffix.lower()
    if kind in LINES:
        rows = _objects(path)
    elif kind in SEPARATORS:
        rows = _table(path, SEPARATORS[kind], wanted)
    else:
        known = ", ".join((*SEPARATORS, *LINES))
        raise ValueError(f"{path}: the kind of a table is told by its name, which must end in {known}")
    empty = True
    for row, place in rows:
        for name in wanted:
            if name not in row:
                raise ValueError(f"{place}: there is no {name!r} among {', '.join(map(repr, row))}")
        empty = False
        yield {name: row[name] for name in wanted}, place
    if empty:
        raise ValueError(f"{path} holds no examples")


def _table(path: Path, separator: str, wanted: Sequence[str]) -> Iterator[tuple[dict[str, Any], str]]:
    lines = io.StringIO(_decoded(path), newline="")
    reader = csv.reader(
        lines, delimiter=separator, quoting=csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL, strict=True
    )
    header: list[str] | None = None
    first = 1
    try:
        for row in reader:
            place, first = f"{path}, line {first}", reader.line_num + 1
            if not row:
                continue
            if header is None:
                header = row
                for name in wanted:
                    if row.count(name) != 1:
                        has = "is no column" if name not in row else "are several columns"
                        raise ValueError(f"{place}: there {has} {name!r} among {', '.join(map(repr, row))}")
            elif len(row) != len(header):
                raise ValueError(f"{place}: {len(row)} fields, expected {len(header)} as in the first line")
            else:
                yield dict(zip(header, row, strict=True)), place
    except csv.Error as error:
        raise ValueError(f"{path}, line {first}: {error}") from error


def _objects(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    for number, line in enumerate(_decoded(path).split("\n"), 1):
        place = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{place} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f'{place}: expected an object such as {{"text": ...}}, got {line.strip()[:40]}')
        yield row, place


def _decoded(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line} is not UTF-8: {error.reason}") from error


def _text(value: Any, name: str, place: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{place}: {name} must be a text, got {value!r}")
    if not value.strip():
        raise ValueError(f"{place}: {name} is empty")
    return value


def _label(value: Any, place: str) -> str:
    if not isinstance(value, (str, int)):  # True and False are integers
        raise ValueError(f"{place}: a label must be a word or an integer, got {value!r}")
    label = str(value).strip()
    if not label:
        raise ValueError(f"{place}: the label is empty")
    if not _is_integer(label) and _is_number(label):
        raise ValueError(f"{place}: a label must be a word or an integer, for a class, got {label}")
    return label


# -- pictures ----------------------------------------------------------------------------------------------------------


def pictures(paths: Sequence[Path]) -> list[Example]:
    """Pictures of a folder with a folder for each class, or of two files of MNIST's format: images, and labels.

    Each picture is decoded once, so that a damaged one is refused now.

    Raises
    ------
    ValueError
        A file is no picture, is damaged, or has more than 8 bits for a colour; it is named.
    """
    if len(paths) == 1 and paths[0].is_dir():
        return [example for folder in _folders(paths[0]) for example in _of_class(folder)]
    if len(paths) != 2 or any(path.is_dir() for path in paths):
        raise ValueError(
            "data must be a folder with a folder of pictures for each class, or two files of MNIST's format, images "
            f"and labels, got {', '.join(map(str, paths))}"
        )
    images, numbers = read_idx(paths[0], 3), read_idx(paths[1], 1)
    if len(images) != len(numbers):
        raise ValueError(f"{paths[1]} has {len(numbers)} labels for the {len(images)} images of {paths[0]}")
    pairs = enumerate(zip(images, numbers, strict=True))
    return [Example(image, str(label), f"{paths[0]}, image {i}") for i, (image, label) in pairs]


def _folders(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise ValueError(f"{folder} has no folders, expected one of pictures for each class")
    return found


def _of_class(folder: Path) -> Iterator[Example]:
    files = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.name.lower() not in IGNORED)
    if not files:
        raise ValueError(f"{folder} holds no pictures")
    for path in files:
        if path.is_dir():
            raise ValueError(f"{path} is a folder, expected pictures in {folder}: give the folder of the classes")
        picture(path, 1, 3)
        yield Example(path, folder.name, str(path))


def picture(source: Path | np.ndarray, size: int, channels: int) -> torch.Tensor:
    """A picture as bytes (channels, size, size); colours are made grey, or grey ones repeated, where need be."""
    from PIL import Image, ImageOps

    if not isinstance(source, Path):
        return _resized(Image.fromarray(source), size, channels)
    try:
        with Image.open(source) as image:
            if image.mode[0] in "IF":  # whose conversion would clip
                raise ValueError(f"a picture of mode {image.mode}, expected 8 bits for each colour")
            return _resized(ImageOps.exif_transpose(image), size, channels)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{source} is no picture that can be used: {error}") from error


def _resized(image, size: int, channels: int) -> torch.Tensor:
    from PIL import Image

    image = image.convert("L" if channels == 1 else "RGB").resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image).reshape(size, size, -1)).permute(2, 0, 1)


# -- classes -----------------------------------------------------------------------------------------------------------


def classes(examples: Iterable[Example]) -> list[str]:
    """Names of the classes: integers by size, words by the alphabet; at least two."""
    found = sorted({example.label for example in examples})
    if len(found) < 2:
        raise ValueError(f"data must have at least two classes, got {', '.join(found)}")
    return sorted(found, key=int) if all(map(_is_integer, found)) else found


def labels(examples: Iterable[Example], names: Sequence[str]) -> torch.Tensor:
    """Numbers of the classes."""
    number = {name: i for i, name in enumerate(names)}
    for example in examples:
        if example.label not in number:
            raise ValueError(f"{example.place}: the class {example.label!r} is none of {', '.join(names)}")
    return torch.tensor([number[example.label] for example in examples])


def fingerprint(paths: Iterable[Path]) -> str:
    """Digest of the content of files and folders."""
    found = hashlib.blake2b(digest_size=16)
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                name = file.relative_to(path).as_posix() if path.is_dir() else path.suffix
                found.update(f"{name} {file.stat().st_size}\n".encode())
                found.update(file.read_bytes())
    return found.hexdigest()


def _is_integer(label: str) -> bool:
    return label.isascii() and label.removeprefix("-").isdigit()


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return label.lower() not in ("nan", "inf", "infinity")
