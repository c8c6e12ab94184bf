"""What every command shares at the terminal: consoles, progress bar, table, refusal, interruption."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

__all__ = ["bar", "console", "errors", "interrupted", "refuse", "rows_table", "say"]

errors = Console(stderr=True, soft_wrap=True)
"""Console for everything that is no result."""


def console(width: int = 120) -> Console:
    """Console for results; at least `width` columns wide where the output is a file or a pipe."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=max(terminal.width, width))


def say(text: str) -> None:
    """One line of plain text among the results, without markup."""
    console().print(text, markup=False, highlight=False, soft_wrap=True)


def bar() -> Progress:
    """A progress bar on the error stream that vanishes at the end."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=errors, transient=True)


def rows_table(rows: Iterable[Mapping[str, str]], title: str) -> Table:
    """Rows by their headings: the first column to the left, the others to the right."""
    rows = list(rows)
    table = Table(title=title, title_justify="left")
    for i, heading in enumerate(rows[0]):
        table.add_column(heading, justify="right" if i else "left")
    for row in rows:
        table.add_row(*map(str, row.values()))
    return table


def refuse(error: object) -> NoReturn:
    """End with one line on what was wrong, and exit code 2."""
    logging.getLogger(__name__).debug("refused", exc_info=error if isinstance(error, BaseException) else None)
    lines = str(error).splitlines() or [type(error).__name__]
    errors.print(f"dlrt: error: {lines[0]}", style="red", markup=False, highlight=False)
    raise typer.Exit(2)


def interrupted(out: Path, done: str = "what is done is") -> NoReturn:
    """End after Ctrl-C with a line on where the finished part is, and exit code 130."""
    line = f"Interrupted: {done} saved in {out}; the same command goes on from there."
    errors.print(line, markup=False, highlight=False)
    raise typer.Exit(130)
