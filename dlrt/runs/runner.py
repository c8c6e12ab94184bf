"""The one runner: many runs in parallel, each kept as soon as it is done, none computed twice."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import logging
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .identity import identify
from .store import Journal, Store

logger = logging.getLogger(__name__)

Task = tuple[Callable[..., dict], dict]
"""A function and its arguments."""


def run(
    calls: Mapping[Any, Callable[[], Any]],
    store: Store,
    *,
    jobs: int | None = None,
    progress: Callable | None = None,
    within: Callable[[float], None] | None = None,
    fresh: bool = False,
) -> dict[Any, Any]:
    """Make each call whose result is not in the store yet, in parallel, and keep its result there.

    The work goes through `joblib.Parallel`, each call with one thread for linear algebra: inside
    ``with joblib.parallel_config(backend="dask")`` (or ray, or any other registered backend) a cluster does it. A
    call that raises, or Ctrl-C, ends the runner; what is finished is in the store. Where the store cannot keep a
    result (a full disk), the logger says so and the result is returned all the same.

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
    within : callable, optional
        Called as ``within(done)`` from another thread while calls run: how many of them are done that the store did not
        have, with the fractions of those that say so by `report`.
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
    numbers = {key: number for number, key in enumerate(missing)}
    with _Listener(within) as listener, contextlib.closing(_finished(missing, jobs, listener.address)) as finished:
        for key, result in finished:
            try:
                store.add(key, result)
            except OSError as error:
                logger.error("a result could not be kept: %s", error)
            results[key] = result
            listener.hear(numbers[key], 1.0)
            note(key, False)
    return results


def report(fraction: float) -> None:
    """Say how much of the present call is done, from 0 to 1; outside of the runner it does nothing."""
    if (tell := getattr(_PRESENT, "tell", None)) is not None:
        tell(fraction)


def is_running() -> bool:
    """Whether a runner has made the present call, and keeps what it returns."""
    return getattr(_PRESENT, "tell", None) is not None


@contextlib.contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Let runners inside work on the Dask cluster of this scheduler, with all its workers; None: on this machine.

    Raises
    ------
    ModuleNotFoundError
        The extra ``cluster`` is not installed.
    OSError
        No scheduler answers at the address.
    """
    if address is None:
        yield
        return
    from dask.distributed import Client
    from joblib import parallel_config

    with Client(address, timeout=10, set_as_default=True), parallel_config("dask"):
        yield


def run_tasks(
    tasks: Iterable[Task], *, journal: Path, jobs: int | None = 1, progress: Callable | None = None
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
        Called as ``progress(done, total)`` after each task that was run, and from another thread within a task that
        says by `report` how much of it is done.
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
        if not found:
            within(count[False])

    def within(done):
        if progress is not None:
            progress(done, len(calls) - count[True])

    results = run(calls, Journal(journal), jobs=jobs, progress=note, within=within)
    return [results[key] for key in keys]


class _Listener:
    """Hears on a local port what calls in other processes say of their progress, which may be lost."""

    def __init__(self, within: Callable[[float], None] | None):
        self.within, self.address = within, None
        self.parts: dict[int, float] = {}

    def hear(self, number: int, fraction: float) -> None:
        """Note how much of a call is done; messages may come late."""
        self.parts[number] = max(self.parts.get(number, 0.0), min(fraction, 1.0))

    def __enter__(self):
        if self.within is not None:
            with contextlib.suppress(OSError):  # no network at all: progress moves between calls only
                self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                self.socket.bind(("127.0.0.1", 0))
                self.address = self.socket.getsockname()
                self.thread = threading.Thread(target=self._listen, daemon=True)
                self.thread.start()
        return self

    def __exit__(self, *exception):
        if self.address is not None:
            address, self.address = self.address, None
            with contextlib.suppress(OSError):
                self.socket.sendto(b"", address)  # closed, a socket would not wake the thread that waits for it
            self.thread.join(timeout=1)
            self.socket.close()

    def _listen(self):
        while self.address is not None:
            with contextlib.suppress(OSError, ValueError, TypeError):  # closed meanwhile; no message of ours
                self.hear(*json.loads(self.socket.recv(100)))
                if self.address is not None:
                    self.within(sum(self.parts.values()))


_PRESENT = threading.local()


def _finished(calls, jobs, listener) -> Generator[tuple[Any, Any], None, None]:
    """(key, result) of each call as it is done."""
    from joblib import Parallel, delayed, effective_n_jobs  # slow to import, and `import dlrt` comes by here
    from joblib.parallel import LokyBackend, get_active_backend

    work = [delayed(_call)(key, call, _Teller(listener, number)) for number, (key, call) in enumerate(calls.items())]
    backend = get_active_backend()[0]
    start: dict[str, Any] = {}
    if type(backend) is LokyBackend and "initializer" not in backend.backend_kwargs:  # else the user's own
        start = {"initializer": _end_with, "initargs": (os.getpid(),)}
    if getattr(backend, "supports_return_generator", False):
        # one run a batch: each comes back when it ends, and the death of a worker costs one
        local = type(backend) is LokyBackend and effective_n_jobs(jobs) > 1
        with _deaf_to_interrupts() if local else contextlib.nullcontext():
            results = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1, **start)(work)
        yield from results
        return
    n = effective_n_jobs(jobs)  # backends made of process pools (ray) return lists only: do with short ones
    for first in range(0, len(work), n):
        yield from Parallel(n_jobs=jobs)(work[first : first + n])


class _Teller:
    """Tells a listener now and then how much of a call is done."""

    def __init__(self, listener: tuple[str, int] | None, number: int):
        self.listener, self.number, self.last = listener, number, 0.0

    def __call__(self, fraction: float) -> None:
        now = time.monotonic()
        if self.listener is not None and now > self.last + 0.2:
            self.last = now
            with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(json.dumps([self.number, fraction]).encode(), self.listener)


def _call(key, call, tell):
    from threadpoolctl import threadpool_limits

    _PRESENT.tell = tell
    try:
        with threadpool_limits(limits=1):
            return key, call()
    finally:
        _PRESENT.tell = None


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes that start meanwhile do not hear Ctrl-C, which the parent answers by ending them; it hears it after."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    for helper in ("multiprocessing", "joblib.externals.loky.backend"):  # let the signal through when they start
        with contextlib.suppress(ImportError):
            importlib.import_module(f"{helper}.resource_tracker").ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with(parent: int) -> None:
    """End this worker once its parent is gone: killed, a parent cannot tell its workers, which would work or wait on.

    It is called when a worker of joblib's own backend starts, before it waits for its first call.
    """

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
