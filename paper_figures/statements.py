"""Statements about results, the numbers in their words, and tables of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def statement(claim: str, found: str, holds: Iterable[Any], paper: str = "—") -> dict:
    """A claim, what the paper says of it, what was found, and in how many of the runs it held."""
    outcomes = [bool(x) for x in holds]
    return {"claim": claim, "paper": paper, "found": found, "holds": sum(outcomes), "of": len(outcomes)}


def markdown_table(rows: Sequence[dict]) -> list[str]:
    """Rows of strings by their headings as lines of a Markdown table."""
    heads = list(rows[0])
    return [
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
        *("| " + " | ".join(row.values()) + " |" for row in rows),
    ]


def spread(values: Iterable[float | None]) -> dict:
    """Median, least and largest of the numbers that are there, and how many are."""
    there = [v for v in values if v is not None]
    if not there:
        return {"median": None, "min": None, "max": None, "count": 0}
    return {"median": float(np.median(there)), "min": min(there), "max": max(there), "count": len(there)}


def median_text(found: dict, form: str = ".3g") -> str:
    """A :func:`spread` in words: ``2 (1 to 4)``; ``none`` without numbers."""
    if not found["count"]:
        return "none"
    return "{:{form}} ({:{form}} to {:{form}})".format(*(found[k] for k in ("median", "min", "max")), form=form)


def range_text(values: Iterable[float | None], form: str = ".3g", to: str = " to ", none: str = "never") -> str:
    """Least and largest of the numbers that are there: ``1 to 4``, or one number where both read the same."""
    there = [v for v in values if v is not None]
    if not there:
        return none
    return to.join(dict.fromkeys(format(v, form) for v in (min(there), max(there))))


def grouped(rows, *keys):
    """Rows with equal values of the keys together: {values: rows}."""
    groups: dict[tuple, list] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return groups
