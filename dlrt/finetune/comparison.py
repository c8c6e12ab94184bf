"""Methods compared on one problem: rates tuned alike, then several seeds, then the time of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..runs import best, late_loss, rate, run_tasks, tune
from .data import Setting
from .loop import time_steps

FIRST = (-7, -6, -5)
"""Half decades that are tried first: 3.2e-4, 1e-3, 3.2e-3."""
ENDS = (-14, 0)


def compare(
    train: Callable[..., dict],
    methods: Iterable[str],
    given: Mapping[str, Any],
    *,
    seeds: int,
    journal: Path,
    first: Sequence[int] = FIRST,
    ends: tuple[int, int] = ENDS,
    lr: float | None = None,
    tuning_seeds: int = 1,
    score: Callable | None = None,
    jobs: int | None = 1,
    progress: Callable | None = None,
) -> list[dict]:
    """Tune the rate of each method, and run it with several seeds.

    The rates are half decades. Some are tried first; while the best one is the smallest or the largest tried, the next
    one is tried too. A rate at which a run diverges is not chosen while there is another. Test data are not looked at
    for it.

    Parameters
    ----------
    train : callable
        A function of a module: ``train(method=, lr=, seed=, **given)`` is a record of JSON values with ``status``,
        ``losses`` by step, and what `score` looks at (``validation``) where the status is ``finished``.
    methods : iterable of str
    given : mapping
        The other arguments of `train`, alike for all runs.
    seeds : int
        Runs at the chosen rate, those of the tuning among them.
    journal : Path
        File of the runs that are done; the same call goes on from there.
    first : sequence of int
        Half decades tried first.
    ends : pair of int
        The smallest and the largest half decade ever tried.
    lr : float, optional
        Learning rate of all methods; nothing is tuned then.
    tuning_seeds : int
        Runs of each rate that is tried: ``validation`` and losses are averaged over them.
    score : callable
        The larger ``score(record)``, the better; by default the accuracy on the validation data, then the training loss
        over the last tenth of the steps.
    jobs, progress
        As in :func:`run_tasks`.

    Returns
    -------
    list of dict
        For each method ``method``, the chosen ``lr``, ``tried`` (rate, ``validation``, late training loss; None where a
        run diverged), and ``runs``, the records by seed.
    """
    methods = list(methods)
    scored: dict[str, Any] = {} if score is None else {"score": score}

    def runs(wanted: Iterable[tuple[str, float]], seeds: int) -> list[list[dict]]:
        tasks = [
            (train, {**given, "method": m, "lr": value, "seed": seed}) for m, value in wanted for seed in range(seeds)
        ]
        records = run_tasks(tasks, journal=journal, jobs=jobs, progress=progress)
        return [records[i : i + seeds] for i in range(0, len(records), seeds)]

    tried: dict[str, dict[int, dict]] = {m: {} for m in methods}
    chosen: dict[str, Any] = dict.fromkeys(methods, lr)
    if lr is None:
        tried = tune(
            methods,
            lambda wanted: [_mean(group) for group in runs([(m, rate(k)) for m, k in wanted], tuning_seeds)],
            first=first,
            ends=ends,
            **scored,
        )
        chosen = {m: rate(best(tried[m], **scored)) for m in methods}
    rows = {m: [_row(k, record) for k, record in sorted(tried[m].items())] for m in methods}
    found = zip(methods, runs(chosen.items(), seeds), strict=True)
    return [{"method": m, "lr": chosen[m], "tried": rows[m], "runs": group} for m, group in found]


def _mean(records: Sequence[dict]) -> dict:
    """Validation and losses, averaged over seeds that have all finished."""
    if len(records) == 1:
        return records[0]
    for record in records:
        if record["status"] != "finished":
            return record
    losses = [sum(step) / len(records) for step in zip(*(record["losses"] for record in records), strict=True)]
    validation = sum(record["validation"] for record in records) / len(records)
    return {"status": "finished", "validation": round(validation, 5), "losses": losses}


def _row(k: int, record: dict) -> list:
    if record["status"] != "finished":
        return [rate(k), None, None]
    return [rate(k), record["validation"], late_loss(record)]


def times(setting: Setting, chosen: list[dict], *, rounds: int, journal: Path, **options) -> dict[str, dict]:
    """Seconds of a training step of each method at its rate, on one thread, alternating in one process."""
    arguments = {
        "setting": setting.json(),
        "rates": {row["method"]: row["lr"] for row in chosen},
        "rounds": rounds,
        **options,
    }
    [found] = run_tasks([(time_steps, arguments)], journal=journal)
    return found
