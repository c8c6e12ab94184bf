"""Files that are never half written, and the two stores of finished runs.

Large results have a folder with a file for each run, small ones a journal with a line for each run. A store has two
methods: ``find(keys)`` yields (key, result) for each of the keys whose result is there and whole, and
``add(key, result)`` keeps a result at once.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import itertools
import json
import logging
import os
import platform
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed anyway
    fcntl = None  # type: ignore[assignment]

from ..version import __version__

logger = logging.getLogger(__name__)


def write_atomically(path, write):
    """Call ``write(file)`` on a temporary binary file beside `path`, then move it there in one step.

    A reader sees the old file or the whole new one, whenever the writer is stopped. The folder is made when missing. A
    temporary file of `path` whose writer was killed is removed. Ctrl-C comes after the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(OSError), left.open("rb") as file:
            _lock(file)
            left.unlink()
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with _interrupts_held(), os.fdopen(handle, "wb") as file:
            with contextlib.suppress(OSError):  # a file system without locks: nothing is removed there
                _lock(file)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp gives 0600: others may want to read the results
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Raise Ctrl-C at the end: what draws or compresses loses an exception in its midst, or makes another of it."""
    answer = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(answer):
        yield
        return
    held: list[tuple] = []
    signal.signal(signal.SIGINT, lambda *interrupt: held.append(interrupt))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, answer)
        if held:
            answer(*held[0])


def _lock(file) -> None:
    """Hold a file until it is closed or the process ends; OSError where another one holds it."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def cache() -> Path:
    """The folder for what can be had again: ``DLRT_CACHE``, or ``dlrt`` in the user's cache."""
    if given := os.environ.get("DLRT_CACHE"):
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "dlrt/dlrt/Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/dlrt"
    return Path(os.environ.get("XDG_CACHE_HOME", "").strip() or Path.home() / ".cache") / "dlrt"


def check_folder(folder: Path) -> Path:
    """The folder, made when missing; OSError unless files can be written there."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"out must be a folder, got the file {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**16))
    except OSError as error:
        raise type(error)(f"out must be a folder that can be written to, got {folder}: {error.strerror}") from error
    return folder


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

    def find(self, keys: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """(key, result) for each of the keys whose result is there and whole."""

    def add(self, key: Any, result: Any) -> None:
        """Keep the result of a finished run."""


class Folder:
    """A folder with a file for each run, named by its key ``SETTINGS-CODE.SUFFIX``.

    What is damaged or is another run than its name says is set aside.

    Parameters
    ----------
    folder : Path
        Made when missing.
    load : callable
        ``load(path)`` reads a result; FileNotFoundError where there is none, ValueError where it is of no use.
    save : callable
        ``save(result, path)`` writes it, atomically.
    """

    def __init__(self, folder: Path, load: Callable[[Path], Any], save: Callable[[Any, Path], Any]):
        self.folder, self.load, self.save = folder, load, save

    def find(self, keys: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """Load the files one by one."""
        keys, missing = list(keys), []
        for key in keys:
            path = self.folder / key
            try:
                result = self.load(path)
            except FileNotFoundError:
                missing.append(key)
            except ValueError as error:
                logger.warning("%s; set aside as %s", error, set_aside(path).name)
            else:
                yield key, result
        there = {path.name for path in self.folder.glob("*")} if missing else set()
        settings = {_settings(name) for name in there.difference(keys) if ".aside" not in name}
        _say_other_code(sum(_settings(key) in settings for key in missing), self.folder)

    def add(self, key: str, result: Any) -> None:
        """Save the file."""
        self.save(result, self.folder / key)


class Journal:
    """A file with one JSON object a line for each run: ``{"task": ..., "code": ..., "result": ...}``.

    Keys are pairs (task, code). Lines are only ever added; of several for the same key the last one counts.

    Parameters
    ----------
    path : Path
        Made when missing.
    """

    def __init__(self, path: Path):
        self.path = path

    def find(self, keys: Iterable[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], Any]]:
        """Read the file. A damaged line costs that line."""
        results: dict[tuple[str, str], Any] = {}
        lines = self.path.read_bytes().splitlines() if self.path.is_file() else []
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                results[entry["task"], entry["code"]] = entry["result"]
            except (ValueError, KeyError, TypeError):
                logger.warning("%s, line %d is damaged: left out", self.path, number)
        tasks = {task for task, _ in results}
        others = 0
        for key in keys:
            if key in results:
                yield key, results[key]
            elif key[0] in tasks:
                others += 1
        _say_other_code(others, self.path)

    def add(self, key: tuple[str, str], result: Any) -> None:
        """Append a line."""
        task, code = key
        line = json.dumps({"task": task, "code": code, "result": result}, allow_nan=False)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            half = end and file.read(1) != b"\n"  # written when the program was stopped or the disk was full
            file.write((b"\n" if half else b"") + f"{line}\n".encode())


def set_aside(path: Path) -> Path:
    """Rename a file to the first free one of ``NAME.aside``, ``NAME.aside2``, ..., and return that."""
    names = (f"{path.name}.aside{number if number > 1 else ''}" for number in itertools.count(1))
    return path.replace(next(new for new in map(path.with_name, names) if not new.exists()))


def _settings(key: str) -> str:
    return key.rpartition("-")[0]


def _say_other_code(number: int, place: Path) -> None:
    if number:
        logger.warning("%d runs in %s were made by other code: set aside, not shown, made anew", number, place)


_version = functools.cache(metadata.version)  # a search through all packages, milliseconds each


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
