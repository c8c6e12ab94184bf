"""Learning rates chosen alike for all methods, on validation data."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

__all__ = ["best", "late", "late_loss", "rate", "tune"]

Method = TypeVar("Method", bound=Hashable)


def rate(k: int) -> float:
    """10^(k/2)."""
    return float(f"{10 ** (k / 2):.3g}")


def late(losses: Sequence[float]) -> float:
    """Mean over the last tenth."""
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def late_loss(record: dict) -> float:
    """Mean training loss over the last tenth of the steps, to five digits after the point."""
    return round(late(record["losses"]), 5)


def _accuracy_then_loss(record: dict) -> tuple[float, float]:
    return record["validation"], -late_loss(record)


def tune(
    methods: Iterable[Method],
    runs: Callable[[list[tuple[Method, int]]], list[dict]],
    *,
    first: Sequence[int],
    ends: tuple[int, int],
    extend: bool = True,
    score: Callable = _accuracy_then_loss,
) -> dict[Method, dict[int, dict]]:
    """Try half decades for each method until the best one lies inside of those tried.

    Parameters
    ----------
    methods : iterable
        Their names, or other keys.
    runs : callable
        ``runs([(method, k), ...])`` trains at the rates ``rate(k)`` and returns a record for each: a dict with
        ``status``, and whatever `score` looks at where the status is ``finished``.
    first : sequence of int
        Half decades k tried first.
    ends : pair of int
        The smallest and largest k ever tried.
    extend : bool
        Whether the half decade beyond the best one is tried too, while that is the smallest or the largest tried.
    score : callable
        The larger ``score(record)``, the better the finished run; by default the accuracy ``validation``, then the mean
        of ``losses`` over the last tenth of the steps.

    Returns
    -------
    dict
        For each method, the record of each k tried.
    """
    methods = list(methods)
    tried: dict[Method, dict[int, dict]] = {method: {} for method in methods}
    missing = [(method, k) for method in methods for k in first]
    while missing:
        for (method, k), record in zip(missing, runs(missing), strict=True):
            tried[method][k] = record
        missing = [(m, k) for m in methods for k in [_next(tried[m], ends, score)] if k is not None and extend]
    return tried


def best(records: dict[int, dict], score: Callable = _accuracy_then_loss) -> int:
    """The half decade with the highest score; one where training did not finish only if there is no other."""

    def of(k):
        return (True, score(records[k])) if records[k]["status"] == "finished" else (False,)

    return max(records, key=of)


def _next(records, ends, score):
    """The half decade beyond the best one, if that is at an end of those tried."""
    middle = best(records, score)
    for end, beyond in ((min(records), -1), (max(records), 1)):
        if middle == end and ends[0] <= middle + beyond <= ends[1]:
            return middle + beyond
    return None
