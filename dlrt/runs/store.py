"""Many runs with a journal: parallel, each saved as soon as it is done, none computed twice."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits

Task = tuple[Callable[..., dict], dict]


def run_tasks(tasks: Iterable[Task], *, journal: Path, jobs: int = 1, progress: Callable | None = None) -> list[dict]:
    """Call ``function(**arguments)`` for each task and return the results in order.

    Each result is appended to the `journal` (one JSON object a line) as soon as it is there, so that an interrupted
    call goes on where it stopped. A journal of other source code of the functions, or of other versions, is not used.

    Parameters
    ----------
    tasks : iterable of (function, arguments)
        Functions of a module; arguments and results are JSON values.
    journal : Path
        File, made when missing.
    jobs : int
        Tasks at a time, as in joblib; each has one thread for linear algebra.
    progress : callable, optional
        Called as ``progress(done, total)`` after each task that was run.
    """
    tasks = list(tasks)
    keys = [_key(*task) for task in tasks]
    header = json.dumps({"made_by": _digest(frozenset(task[0] for task in tasks))})
    results = _read(journal, header)
    if not results:
        write_atomically(journal, lambda file: file.write(f"{header}\n".encode()))
    missing = {key: task for key, task in zip(keys, tasks, strict=True) if key not in results}
    with (
        journal.open("a") as file,
        contextlib.closing(
            Parallel(n_jobs=jobs, return_as="generator_unordered")(
                delayed(_run)(key, *task) for key, task in missing.items()
            )
        ) as finished,
    ):
        for done, (key, result) in enumerate(finished, 1):
            results[key] = result
            file.write(json.dumps([key, result], allow_nan=False) + "\n")
            file.flush()
            if progress is not None:
                progress(done, len(missing))
    return [results[key] for key in keys]


def write_json(path: Path, data: dict) -> Path:
    """Write strict JSON (no NaN) atomically."""
    text = json.dumps(data, indent=1, allow_nan=False) + "\n"
    return write_atomically(path, lambda file: file.write(text.encode()))


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return core_versions() | {"joblib": metadata.version("joblib"), "matplotlib": metadata.version("matplotlib")}


def write_atomically(path, write):
    """Call ``write(file)`` on a temporary binary file beside `path`, then move it there in one step.

    A reader sees the old file or the whole new one, whenever the writer is stopped. The folder is made when
    missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp gives 0600: others may want to read the results
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def core_versions():
    """Versions of what the numbers depend on, as a dict of strings."""
    from .. import __version__

    found = {"python": platform.python_version(), "dlrt": __version__, "numpy": np.__version__}
    return found | {"scipy": metadata.version("scipy")}


def _run(key, function, arguments):
    with threadpool_limits(limits=1):
        return key, function(**arguments)


def _key(function, arguments):
    return f"{function.__name__} {json.dumps(arguments, sort_keys=True)}"


@functools.cache  # of the code that runs, also where its file is edited meanwhile
def _digest(functions):
    sources = sorted({inspect.getsource(inspect.getmodule(function)) for function in functions})  # type: ignore[arg-type]
    return hashlib.blake2b(json.dumps([*sources, versions()]).encode(), digest_size=8).hexdigest()


def _read(journal, header):
    """Results in the journal; none where it was made by something else. A half-written last line is left out."""
    if not journal.is_file():
        return {}
    lines = journal.read_text().splitlines(keepends=True)
    if not lines or lines[0].rstrip("\n") != header:
        return {}
    whole = [line for line in lines[1:] if line.endswith("\n")]
    if len(whole) < len(lines) - 1:
        write_atomically(journal, lambda file: file.write("".join([lines[0], *whole]).encode()))
    return dict(json.loads(line) for line in whole)
