"""Lists of tasks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

from dlrt.runs import Task


def cases(function: Callable[..., dict], **arguments: Sequence) -> list[Task]:
    """A function with every combination of the values given for its arguments, those of the last one running fastest.

    Examples
    --------
    >>> [arguments for _, arguments in cases(print, sep=["a", "b"], end=["c"])]
    [{'sep': 'a', 'end': 'c'}, {'sep': 'b', 'end': 'c'}]
    """
    return [(function, dict(zip(arguments, values, strict=True))) for values in itertools.product(*arguments.values())]


def rows(tasks: Iterable[Task], results: Iterable[dict]) -> list[dict]:
    """The results, each with the arguments of its task."""
    return [arguments | result for (_, arguments), result in zip(tasks, results, strict=True)]
