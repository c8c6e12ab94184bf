"""What every command shares at the terminal: lines, tables, progress bar, and one line for whatever goes wrong."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import re
import sys
import traceback
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..layout import aligned

__all__ = [
    "FRESH",
    "JOBS",
    "SCHEDULER",
    "answer",
    "bar",
    "errors",
    "interrupted",
    "option",
    "say",
    "say_origins",
    "show",
    "width",
    "writable",
]

errors = Console(stderr=True, soft_wrap=True)
"""Console for everything that is no result."""

EXPECTED = (ValueError, TypeError, OSError, NotImplementedError)
"""Exceptions whose text says what was wrong with what the user gave."""
REPLACEMENTS = {
    "±": "+/-",
    "×": "x",
    "·": "*",
    "≤": "<=",
    "≥": ">=",
    "²": "^2",
    "³": "^3",
    "⁻": "^-",
    "—": "-",
    "–": "-",
    "−": "-",
    "─": "-",
    "…": "...",
    "→": "->",
    "’": "'",
}
JOBS = typer.Option(help="Runs at the same time; -1: one per processor.")
SCHEDULER = typer.Option(help="Run on the Dask cluster of this scheduler, with all its workers (extra: cluster).")
FRESH = typer.Option("--fresh", help="Run everything anew, whatever is there.")
ARGUMENTS = {"relative": "--tau", "step size": "--step-size", "name_or_path": "--target"}
"""Options by the names of arguments of the library, where these differ in more than dashes."""


def width() -> int:
    """Number of characters in a line of results: at least 80, also in a file or a pipe."""
    return max(80, Console().width)


def writable(text: str, encoding: str | None) -> str:
    """`text` in the characters that the encoding has: Greek letters by name, others by what stands for them."""

    def known(character):
        try:
            character.encode(encoding or "utf-8")
        except UnicodeEncodeError:
            name = unicodedata.name(character, "").split()
            if name[:1] == ["GREEK"] and len(name) > 3:
                return name[3].capitalize() if name[1] == "CAPITAL" else name[3].lower()
            bare = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
            return REPLACEMENTS.get(character) or bare or "?"
        except LookupError:
            pass
        return character

    return "".join(map(known, text)).replace("^-^", "^-")


def say(text: object = "") -> None:
    """Text among the results, as it is."""
    _write(text, sys.stdout)


def show(rows: Iterable[Mapping[str, object] | str], title: str = "") -> None:
    """A table among the results, see `dlrt.layout.aligned`."""

    def plain(cell):
        return writable(str(cell), sys.stdout.encoding)

    rows = [plain(row) if isinstance(row, str) else {plain(k): plain(row[k]) for k in row} for row in rows]
    say(aligned(rows, title=plain(title), width=width()))


def say_origins(**names: Iterable[str]) -> dict[str, str]:
    """A line for each method and problem of another package among the names, and the packages by name."""
    from ..registry import ORIGINS  # slow to import

    found = {name: ORIGINS[kind][name] for kind, used in names.items() for name in used if name in ORIGINS[kind]}
    for name, origin in found.items():
        say(f"{name}: from {origin}")
    return found


def bar() -> Progress:
    """A progress bar on the error stream that vanishes at the end; nothing where that is no terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal)


def option(parameter: str) -> str:
    """The option as it is typed, by the name of its parameter."""
    return "--" + parameter.replace("_", "-")


def answer(error: BaseException, parameters: Iterable[str] = ()) -> int:
    """Say in one line what went wrong; the exit code. With DLRT_DEBUG=1 the traceback comes first.

    Parameters
    ----------
    error : exception
    parameters : iterable of str
        Names of the parameters of all commands. Where the message begins with one, or has one with an underscore, the
        option that the user knows takes its place.
    """
    logging.getLogger(__name__).debug("refused", exc_info=error)
    if os.environ.get("DLRT_DEBUG"):
        _complain("".join(traceback.format_exception(error)).rstrip())
    text, code = _explained(error), 2
    if hasattr(error, "format_message"):  # a usage error of typer
        context, code = getattr(error, "ctx", None), getattr(error, "exit_code", 2)
        text = f"{text.rstrip('.')}{f'; see {context.command_path} --help' if context else ''}"
    elif isinstance(error, EXPECTED):
        text = _with_options(text, parameters)
    _complain(f"dlrt: error: {text}")
    return code


def interrupted(out: Path, done: str = "what is done is") -> NoReturn:
    """End after Ctrl-C with a line on where the finished part is, and exit code 130."""
    _write(f"Interrupted: {done} saved in {out}; the same command goes on from there.", sys.stderr)
    raise typer.Exit(130)


def _explained(error: BaseException) -> str:
    """What went wrong, and what to do where the exception does not say it."""
    message = getattr(error, "format_message", error.__str__)()
    text = (message.splitlines() or [""])[0]
    if isinstance(error, MemoryError) or "can't allocate memory" in text:  # torch has no exception of its own for it
        return f"not enough memory{f': {text}' if text else ''}; try a smaller problem or rank, or fewer --jobs"
    if isinstance(error, concurrent.futures.BrokenExecutor):
        return "a worker process was killed, perhaps for want of memory: try fewer --jobs; what is done is saved"
    if isinstance(error, ModuleNotFoundError):
        extra = "cluster" if error.name in ("dask", "distributed") else "finetuning"
        return f"{text}: pip install -c constraints.txt '.[{extra}]'"
    if isinstance(error, EXPECTED) or hasattr(error, "format_message"):
        return text or type(error).__name__
    return f"{type(error).__name__}{f': {text}' if text else ''}; DLRT_DEBUG=1 shows where it was raised"


def _with_options(text: str, parameters: Iterable[str]) -> str:
    names = {name: option(name) for name in parameters} | ARGUMENTS
    known = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    text = re.sub(
        rf"^({known})(?= (must|exceeds|and|is|has|holds|could|'|-?\d))", lambda name: names[name[0]], text, count=1
    )
    inner = "|".join(name for name in names if "_" in name) or "(?!)"
    return re.sub(rf"(?<![\w-])({inner})(?!\w)", lambda name: names[name[0]], text)


def _complain(text: str) -> None:
    errors.print(writable(text, errors.encoding), style="red", markup=False, highlight=False)


def _write(text: object, stream: TextIO) -> None:
    print(writable(str(text), stream.encoding), file=stream)
