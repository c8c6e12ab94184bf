"""Claims about results: what was found, in how many runs it held, the numbers in words, and tables of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

import numpy as np


def finding(found: str, holds: Iterable[Any], paper: str = "—") -> dict:
    """What the paper says of a claim, what was found, and in how many of the runs it held."""
    outcomes = [bool(x) for x in holds]
    return {"paper": paper, "found": found, "holds": sum(outcomes), "of": len(outcomes)}


def each(
    rows: Sequence[dict], found: str, holds: Callable[[dict], Any], paper: str = "—", *, missing: bool = False
) -> dict:
    """A finding run by run.

    Parameters
    ----------
    rows : sequence of dict
        The numbers of each run.
    found : str
        Words with the numbers by their keys: ``{error:.1e}`` stands for median, least and largest of all runs,
        ``{error.range:.1e}`` for the latter two alone.
    holds : callable
        Whether the claim holds of a run.
    paper : str
        What the paper says.
    missing : bool
        Whether the claim holds of a run without one of the numbers in `found`.
    """
    keys = [name.split(".")[0] for _, name, _, _ in Formatter().parse(found) if name]
    there = [all(row.get(key) is not None for key in keys) for row in rows]
    words = found.format(**{key: _Numbers([row.get(key) for row in rows]) for key in keys})
    return finding(words, [holds(row) if known else missing for row, known in zip(rows, there, strict=True)], paper)


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


@dataclass(frozen=True)
class _Numbers:
    """Numbers of all runs, and with ``range`` what :func:`range_text` makes of them, for the words of a finding."""

    values: list
    short: bool = False

    @property
    def range(self):
        return _Numbers(self.values, short=True)

    def __format__(self, form):
        form = form or ".3g"
        return range_text(self.values, form) if self.short else median_text(spread(self.values), form)


def where(rows: Iterable[dict], **values) -> list[dict]:
    """The rows that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def grouped(rows, *keys):
    """Rows with equal values of the keys together: {values: rows}."""
    groups: dict[tuple, list] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return groups
