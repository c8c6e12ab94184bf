"""Files that are never half written, and the two stores of finished runs.

Large results have a folder with a file for each run, small ones a journal with a line for each run. A store has two
methods: ``find(keys)`` yields (key, result) for each of the keys whose result is there and whole, and
``add(key, result)`` keeps a result at once.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from ..version import __version__


def write_atomically(path, write):
    """Call ``write(file)`` on a temporary binary file beside `path`, then move it there in one step.

    A reader sees the old file or the whole new one, whenever the writer is stopped. The folder is made when missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp gives 0600: others may want to read the results
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def write_json(path: Path, data: dict) -> Path:
    """Write strict JSON (no NaN) atomically."""
    text = json.dumps(data, indent=1, allow_nan=False) + "\n"
    return write_atomically(path, lambda file: file.write(text.encode()))


def versions(*packages: str) -> dict[str, str]:
    """Versions of what numbers and pictures depend on.

    These are always Python, dlrt, numpy, scipy, joblib and matplotlib, and the `packages` named.
    """
    names = ("numpy", "scipy", "joblib", "matplotlib", *packages)
    return {"python": platform.python_version(), "dlrt": __version__} | {name: _version(name) for name in names}


class Store(Protocol):
    """What a runner needs of a place for results."""

    def find(self, keys: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """(key, result) for each of the keys whose result is there and whole."""

    def add(self, key: str, result: Any) -> None:
        """Keep the result of a finished run."""


class Folder:
    """A folder with a file for each run, named by its key.

    Parameters
    ----------
    folder : Path
        Made when missing.
    load : callable
        ``load(path)`` reads a result; FileNotFoundError or ValueError where there is none, or a damaged one.
    save : callable
        ``save(result, path)`` writes it, atomically.
    """

    def __init__(self, folder: Path, load: Callable[[Path], Any], save: Callable[[Any, Path], Any]):
        self.folder, self.load, self.save = folder, load, save

    def find(self, keys: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """Load the files one by one; a damaged one counts as missing."""
        for key in keys:
            try:
                yield key, self.load(self.folder / key)
            except (FileNotFoundError, ValueError):
                continue

    def add(self, key: str, result: Any) -> None:
        """Save the file."""
        self.save(result, self.folder / key)


class Journal:
    """A file with one JSON object a line: first what the results were made by, then ``[key, result]`` for each run.

    A journal made by something else is not used, and begun anew.

    Parameters
    ----------
    path : Path
        Made when missing.
    made_by : str
        Digest of the code that makes the results.
    """

    def __init__(self, path: Path, made_by: str):
        self.path, self.header = path, json.dumps({"made_by": made_by})

    def find(self, keys: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """Read the file, without a line that was half written when the program was stopped, and mend it."""
        lines = self.path.read_text().splitlines(keepends=True) if self.path.is_file() else []
        whole = [line for line in lines[1:] if line.endswith("\n")] if lines[:1] == [f"{self.header}\n"] else []
        if not whole or len(whole) < len(lines) - 1:
            write_atomically(self.path, lambda file: file.write("".join([f"{self.header}\n", *whole]).encode()))
        results = dict(json.loads(line) for line in whole)
        yield from ((key, results[key]) for key in keys if key in results)

    def add(self, key: str, result: Any) -> None:
        """Append a line."""
        line = json.dumps([key, result], allow_nan=False)
        with self.path.open("a") as file:
            file.write(f"{line}\n")


_version = functools.cache(metadata.version)  # a search through all packages, milliseconds each


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
