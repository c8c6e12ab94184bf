"""The command ``dlrt``: its subcommands, put together.

What is slow to import (problems, matplotlib, torch) is imported inside the commands, so that ``--help`` is quick.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..version import __version__
from .cite import cite
from .compare import compare
from .doctor import doctor
from .figure import figure, table
from .list import list_
from .run import run
from .runs import runs
from .terminal import answer, say
from .train import app as train
from .verify import verify


class Program(TyperGroup):
    """The program. Whatever goes wrong in a command ends here, with one line and exit code 2 (Ctrl-C: 130)."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command and exit."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # help and file names in an encoding without the letters
        try:
            code = super().main(*args, **options | {"standalone_mode": False})
        except Exception as error:
            if type(error).__name__ == "NoArgsIsHelpError":
                error.show()  # type: ignore[attr-defined]
                sys.exit(2)
            code = answer(error, set(_parameters(self)))
        sys.exit(code if isinstance(code, int) else 0)

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Read the command line."""
        with _interruptible():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run a command until its output is written."""
        with _interruptible():
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """One line for Ctrl-C, and none for a reader of the output that leaves early (``| head``)."""
    try:
        yield
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        raise typer.Exit(130) from None
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise
        with contextlib.suppress(OSError, ValueError):  # nothing is left to be flushed at the exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None


def _parameters(command: Any) -> Iterator[str]:
    """Names of the parameters that are options, of a command and those below it."""
    yield from (parameter.name for parameter in command.params if parameter.opts[0].startswith("--"))
    for below in getattr(command, "commands", {}).values():
        yield from _parameters(below)


app = typer.Typer(
    cls=Program,
    name="dlrt",
    help="Compare dynamical low-rank integrators on matrix problems, and redo the figures of the GeoLoRA paper.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

START = """\
Dynamical low-rank integrators for matrix equations and for low-rank training. To begin with:

  dlrt compare matrix-regression    GeoLoRA beside LoRA, in a table and pictures (10 s)
  dlrt verify                       what theory promises the methods, checked (1 min)
  dlrt train digits --seeds 1       all methods train a network (3 min)
  dlrt list                         the methods, problems, figures and tables by name
  dlrt doctor                       whether all is well on this machine (5 s)

dlrt --help has all commands; dlrt --install-completion completes them in your shell."""


def _version(wanted: bool) -> None:
    if wanted:
        say(f"dlrt {__version__}")
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Compare dynamical low-rank integrators on matrix problems, and redo the figures of the GeoLoRA paper."""
    if context.invoked_subcommand is None:
        say(START)


app.command("list")(list_)
for command in (compare, run, figure, table, verify, runs, cite, doctor):
    app.command()(command)
app.add_typer(train, name="train")
