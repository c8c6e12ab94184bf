"""The command ``dlrt``: its subcommands, put together.

What is slow to import (problems, matplotlib, torch) is imported inside the commands, so that ``--help`` is quick.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ..version import __version__
from .compare import compare
from .figure import figure, table
from .list import list_
from .runs import runs
from .train import app as train
from .verify import verify

app = typer.Typer(
    name="dlrt",
    help="Compare dynamical low-rank integrators on matrix problems, and redo the figures of the GeoLoRA paper.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"dlrt {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Compare dynamical low-rank integrators on matrix problems, and redo the figures of the GeoLoRA paper."""


app.command("list")(list_)
for command in (compare, figure, table, verify, runs):
    app.command()(command)
app.add_typer(train, name="train")
