"""The one runner: many runs in parallel, each kept as soon as it is done, none computed twice."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

from .identity import identify
from .store import Journal, Store

Task = tuple[Callable[..., dict], dict]
"""A function and its arguments."""


def run(
    calls: Mapping[Any, Callable[[], Any]],
    store: Store,
    *,
    jobs: int | None = None,
    progress: Callable | None = None,
    fresh: bool = False,
) -> dict[Any, Any]:
    """Make each call whose result is not in the store yet, in parallel, and keep its result there.

    The work goes through `joblib.Parallel`, each call with one thread for linear algebra: inside
    ``with joblib.parallel_config(backend="dask")`` (or ray, or any other registered backend) a cluster does it. A
    call that raises, or Ctrl-C, ends the runner; what is finished is in the store.

    Parameters
    ----------
    calls : mapping from key to callable
        Functions of no arguments (a bound method, a `functools.partial`), by the keys of their results.
    store : Store
    jobs : int, optional
        Number of calls at a time, negative as in joblib (-1: all processors). Without it joblib's default: 1, or what
        ``joblib.parallel_config`` says.
    progress : callable, optional
        Called as ``progress(key, result, found)`` for each result as it comes: first those found in the store, then the
        others in order of completion.
    fresh : bool
        Make all calls, and replace what the store has of them.

    Returns
    -------
    dict
        The results by their keys.
    """
    results: dict[Any, Any] = {}

    def note(key, found):
        if progress is not None:
            progress(key, results[key], found)

    for key, result in () if fresh else store.find(calls):
        results[key] = result
        note(key, True)
    missing = {key: call for key, call in calls.items() if key not in results}
    with contextlib.closing(_finished(missing, jobs)) as finished:
        for key, result in finished:
            store.add(key, result)
            results[key] = result
            note(key, False)
    return results


def run_tasks(
    tasks: Iterable[Task], *, journal: Path, jobs: int | None = 1, progress: Callable | None = None, fresh: bool = False
) -> list[dict]:
    """Call ``function(**arguments)`` for each task and return the results in order.

    Each result is appended to the `journal` as soon as it is there, so that an interrupted call goes on where it
    stopped. Results made by other code, of the functions or of the project, are not used.

    Parameters
    ----------
    tasks : iterable of (function, arguments)
        Functions of a module; arguments and results are JSON values.
    journal : Path
        File, made when missing.
    jobs : int, optional
        Tasks at a time, as in joblib; each has one thread for linear algebra.
    progress : callable, optional
        Called as ``progress(done, total)`` after each task that was run.
    fresh : bool
        Run all tasks, whatever is in the journal.
    """
    tasks = list(tasks)
    codes = {function: identify(function=function)["code"] for function, _ in tasks}
    keys = [
        (f"{function.__name__} {json.dumps(arguments, sort_keys=True)}", codes[function])
        for function, arguments in tasks
    ]
    calls = {key: functools.partial(function, **arguments) for key, (function, arguments) in zip(keys, tasks)}
    count: Counter[bool] = Counter()

    def note(key, result, found):
        count[found] += 1
        if progress is not None and not found:
            progress(count[False], len(calls) - count[True])

    results = run(calls, Journal(journal), jobs=jobs, progress=note, fresh=fresh)
    return [results[key] for key in keys]


def _finished(calls, jobs) -> Generator[tuple[Any, Any], None, None]:
    """(key, result) of each call as it is done."""
    from joblib import Parallel, delayed, effective_n_jobs  # slow to import, and `import dlrt` comes by here
    from joblib.parallel import get_active_backend

    work = [delayed(_call)(key, call, os.getpid()) for key, call in calls.items()]
    if getattr(get_active_backend()[0], "supports_return_generator", False):
        # one run a batch: each comes back when it ends, and the death of a worker costs one
        yield from Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)(work)
        return
    n = effective_n_jobs(jobs)  # backends made of process pools (ray) return lists only: do with short ones
    for first in range(0, len(work), n):
        yield from Parallel(n_jobs=jobs)(work[first : first + n])


def _call(key, call, parent):
    from threadpoolctl import threadpool_limits

    if os.getpid() != parent == os.getppid():
        _end_with(parent)
    with threadpool_limits(limits=1):
        return key, call()


@functools.cache
def _end_with(parent: int) -> None:
    """End this worker once its parent is gone: killed, a parent cannot tell its workers, which would work on."""

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
