"""Small helpers shared by the modules of this folder: argument checks, atomic files, conversion to numpy."""

from __future__ import annotations

import math
import numbers
import os
import platform
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np


def check_integer(name, value, minimum):
    """Return `value` as an int of at least `minimum`, or raise naming the argument."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return int(value)


def check_jobs(jobs):
    """Return `jobs`, a number of runs at a time as in joblib, or raise ValueError."""
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs == 0:
        raise ValueError(f"jobs must be a positive or negative integer, got {jobs!r}")
    return jobs


def check_positive(name, value):
    """Return `value` as a finite Python float above zero, or raise naming the argument.

    A Python float, because a ``numpy.float64`` step size would turn float32 arrays into float64.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a positive number, got {value!r}")
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be positive and finite, got {value}")
    return number


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


def is_torch(array):
    """Whether `array` is a torch tensor, found out without importing torch."""
    return type(array).__module__.partition(".")[0] == "torch"


def to_numpy(array):
    """A numpy or torch array as a numpy array, a view where possible; bfloat16 becomes float32."""
    if is_torch(array):
        array = array.detach().resolve_conj().resolve_neg().cpu()
        if str(array.dtype) == "torch.bfloat16":
            array = array.float()
        return array.numpy()
    return np.asarray(array)


def versions():
    """Versions of what the numbers depend on, as a dict of strings."""
    from . import __version__

    found = {"python": platform.python_version(), "dlrt": __version__, "numpy": np.__version__}
    return found | {"scipy": metadata.version("scipy")}
