"""What the figures share: runs with a journal and strict JSON, and tables of statements."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dlrt.runs import Task, run_tasks, versions, write_json

__all__ = ["Task", "markdown", "markdown_table", "run_tasks", "statement", "versions", "write_json"]


def statement(claim: str, found: str, holds: Iterable[Any], paper: str = "—") -> dict:
    """A claim, what the paper says of it, what was found, and in how many of the runs it held."""
    outcomes = [bool(x) for x in holds]
    return {"claim": claim, "paper": paper, "found": found, "holds": sum(outcomes), "of": len(outcomes)}


def markdown(statements: list[dict]) -> list[str]:
    """The statements as lines of a Markdown table."""
    lines = ["| claim | paper | here | held in |", "|---|---|---|---|"]
    return lines + ["| {claim} | {paper} | {found} | {holds} of {of} |".format(**s) for s in statements]


def markdown_table(rows: list[dict]) -> list[str]:
    """Rows of strings by their headings as lines of a Markdown table."""
    heads = list(rows[0])
    return [
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
        *("| " + " | ".join(row.values()) + " |" for row in rows),
    ]
