"""Checks of arguments: an error names the argument, what was expected and what came."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
from array_api_compat import array_namespace

__all__ = [
    "check_fraction",
    "check_integer",
    "check_jobs",
    "check_matrix",
    "check_number",
    "check_orthonormal",
    "check_positive",
    "check_rank",
    "check_rng",
    "check_singular_values",
    "described",
]


def described(x: Any) -> str:
    """Type and shape of an array, type and value of anything else, for messages."""
    return f"{type(x).__name__} of shape {tuple(x.shape)}" if hasattr(x, "shape") else f"{type(x).__name__} {x!r}"


def check_integer(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int; TypeError unless it is an integer, ValueError below `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {described(value)}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def check_rank(rank: Any, shape) -> int:
    """`rank` as an int; TypeError unless it is an integer, ValueError unless 1 <= rank <= min(m, n)."""
    rank, (m, n) = check_integer("rank", rank), shape[-2:]
    if rank > min(m, n):
        raise ValueError(f"rank {rank} exceeds min(m, n) = {min(m, n)}")
    return rank


def check_number(name: str, value: Any, least: float = -math.inf) -> float:
    """`value` as a Python float; TypeError unless it is a real number, ValueError unless finite and >= `least`.

    A Python float, because a ``numpy.float64`` step size would turn float32 arrays into float64.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {described(value)}")
    number = float(value)
    if not (math.isfinite(number) and number >= least):
        bound = "" if least == -math.inf else f" and >= {least:g}"
        raise ValueError(f"{name} must be finite{bound}, got {value}")
    return number


def check_positive(name: str, value: Any) -> float:
    """`value` as a Python float; TypeError unless it is a real number, ValueError unless positive and finite."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a positive number, got {described(value)}")
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be positive and finite, got {value}")
    return number


def check_fraction(name: str, value: Any) -> None:
    """ValueError unless 0 <= `value` < 1."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {value!r}")


def check_jobs(jobs: Any) -> int | None:
    """A number of runs at a time as in joblib, or None; ValueError unless it is an integer other than 0."""
    if jobs is None:
        return None
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs == 0:
        raise ValueError(f"jobs must be a positive or negative integer, got {jobs!r}")
    return jobs


def check_rng(rng: Any) -> None:
    """TypeError unless `rng` is a numpy Generator."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator, got {described(rng)}")


def check_matrix(name: str, X: Any) -> None:
    """Refuse what is not a finite two-dimensional array of floating-point numbers.

    Raises
    ------
    TypeError
        `X` is no array, or its entries are not real or complex floating-point numbers.
    ValueError
        `X` is not two-dimensional, is empty, or has NaN or infinite entries.
    """
    try:
        xp = array_namespace(X)
    except TypeError:
        raise TypeError(f"{name} must be a numpy array or torch tensor, got {type(X).__name__}") from None
    if X.ndim != 2:
        raise ValueError(f"{name} must be a matrix (2 dimensions), got {X.ndim} dimensions, shape {tuple(X.shape)}")
    if min(X.shape) == 0:
        raise ValueError(f"{name} must not be empty, got shape {tuple(X.shape)}")
    if not xp.isdtype(X.dtype, ("real floating", "complex floating")):
        raise TypeError(f"{name} must have a real or complex floating dtype, got {X.dtype}")
    if not bool(xp.all(xp.isfinite(X))):
        raise ValueError(f"{name} must be finite, got NaN or infinite entries")


def check_singular_values(d: Any, shape: tuple[int, int]) -> None:
    """ValueError unless `d` is a vector of 1 to min(m, n) positive, finite numbers."""
    if np.ndim(d) != 1 or not 1 <= len(d) <= min(shape):
        raise ValueError(f"singular_values must be 1 to min(m, n) = {min(shape)} numbers, got shape {np.shape(d)}")
    if not np.all(np.isfinite(d) & (np.asarray(d) > 0)):
        raise ValueError(f"singular_values must be positive and finite, got {d}")


def check_orthonormal(name: str, U: Any) -> None:
    """ValueError unless the columns of the numpy array `U` are orthonormal up to 10^4 rounding errors."""
    defect = float(np.abs(U.conj().T @ U - np.eye(U.shape[1])).max())
    if not defect <= 1e4 * np.finfo(U.dtype).eps:
        raise ValueError(f"{name} must have orthonormal columns, got ||{name}^H {name} - I|| = {defect:.1e}")
