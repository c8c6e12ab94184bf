"""Checks of arguments: an error names the argument, what was expected and what came."""

from __future__ import annotations

import contextlib
import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np
from array_api_compat import array_namespace

__all__ = [
    "check_array",
    "check_fraction",
    "check_instance",
    "check_integer",
    "check_jobs",
    "check_matrix",
    "check_not_negative",
    "check_number",
    "check_orthonormal",
    "check_positive",
    "check_precision",
    "check_rank",
    "check_rng",
    "check_shape",
    "check_singular_values",
    "described",
]


def described(x: Any) -> str:
    """Type and shape of an array, type and value of anything else, for messages."""
    return f"{type(x).__name__} of shape {tuple(x.shape)}" if hasattr(x, "shape") else f"{type(x).__name__} {x!r}"


def check_instance(name: str, value: Any, kind: type, example: str = "") -> None:
    """TypeError unless `value` is an instance of the class `kind`; a class in its place gets the hint to call it."""
    if isinstance(value, kind):
        return
    came = f"the class {value.__name__}: write {value.__name__}()" if isinstance(value, type) else described(value)
    expected = f"{kind.__module__.split('.')[0]}.{kind.__name__}" + (f" such as {example}" if example else "")
    article = "an" if expected[0] in "aeiou" else "a"
    raise TypeError(f"{name} must be {article} {expected}, got {came}")


def check_integer(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int; TypeError unless it is an integer, ValueError below `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {described(value)}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def check_order(order: Any, known: Iterable[int] = (1, 2)) -> None:
    """Raise ValueError unless the order is one of those that are known, at least two."""
    *first, last = map(str, known)
    if not isinstance(order, int) or isinstance(order, bool) or str(order) not in (*first, last):
        raise ValueError(f"order must be {', '.join(first)} or {last}, got {order!r}")


def check_rank(rank: Any, shape) -> int:
    """`rank` as an int; TypeError unless it is an integer, ValueError unless 1 <= rank <= min(m, n)."""
    rank, (m, n) = check_integer("rank", rank), shape[-2:]
    if rank > min(m, n):
        raise ValueError(f"rank {rank} exceeds min(m, n) = {min(m, n)}")
    return rank


def check_shape(shape: Any) -> tuple[int, int]:
    """`shape` as a pair of ints; TypeError unless it is a pair of integers, ValueError unless both are positive."""
    if not isinstance(shape, (tuple, list)) or len(shape) != 2:
        raise TypeError(f"shape must be a pair of integers (m, n), got {described(shape)}")
    m, n = (check_integer("m and n of shape", size) for size in shape)
    return m, n


def check_number(name: str, value: Any, least: float = -math.inf) -> float:
    """`value` as a Python float; TypeError unless it is a real number, ValueError unless finite and >= `least`.

    A Python float, because a ``numpy.float64`` step size would turn float32 arrays into float64.
    """
    number = _real(name, value, "a real")
    if not (math.isfinite(number) and number >= least):
        bound = "" if least == -math.inf else f" and >= {least:g}"
        raise ValueError(f"{name} must be finite{bound}, got {value}")
    return number


def check_not_negative(name: str, value: Any) -> float:
    """`value` as a Python float; TypeError unless it is a real number, ValueError unless it is >= 0."""
    number = _real(name, value, "a real")
    if not number >= 0:
        raise ValueError(f"{name} must be >= 0, got {value!r}")
    return number


def check_positive(name: str, value: Any) -> float:
    """`value` as a Python float; TypeError unless it is a real number, ValueError unless positive and finite."""
    number = _real(name, value, "a positive")
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be positive and finite, got {value}")
    return number


def check_fraction(name: str, value: Any) -> float:
    """`value` as a Python float; TypeError unless it is a real number, ValueError unless 0 <= `value` < 1."""
    number = _real(name, value, "a real")
    if not 0 <= number < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {value!r}")
    return number


def _real(name: str, value: Any, kind: str) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {kind} number, got {described(value)}")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{name} must be a floating-point number: {error}") from error


def check_jobs(jobs: Any) -> int | None:
    """A number of runs at a time as in joblib, or None; ValueError unless it is an integer other than 0."""
    if jobs is None:
        return None
    if isinstance(jobs, bool) or not isinstance(jobs, int) or not 0 < abs(jobs) < 2**31:
        raise ValueError(f"jobs must be a positive or negative integer, got {jobs!r}")
    return jobs


def check_rng(rng: Any) -> None:
    """TypeError unless `rng` is a numpy Generator."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator, got {described(rng)}")


def check_array(name: str, X: Any) -> Any:
    """The library of an array, in the form of the array API standard.

    Raises TypeError for anything else, and for arrays that mean more than their entries say (sparse ones, masked ones),
    with the remedy.
    """
    kind = type(X).__name__
    remedy = ""
    if isinstance(X, np.ma.MaskedArray):
        missing = int(np.sum(np.ma.getmaskarray(X)))
        remedy = f" with {missing} masked entries: fill them with .filled(value), or use problems.MatrixCompletion"
    elif isinstance(X, np.matrix):
        remedy = ": use numpy.asarray(X)"
    elif hasattr(X, "toarray"):
        remedy = ": make it dense with .toarray(); problems.Sylvester and MatrixCompletion work on sparse data as it is"
    elif getattr(X, "is_sparse", False) or "sparse" in str(getattr(X, "layout", "")):
        remedy = " in a sparse layout: make it dense with .to_dense()"
    elif hasattr(X, "to_numpy"):
        remedy = ": use .to_numpy()"
    elif isinstance(X, (list, tuple)):
        remedy = ": use numpy.array(...)"
    else:
        with contextlib.suppress(TypeError):
            return array_namespace(X)
    raise TypeError(f"{name} must be a numpy array or torch tensor, got {kind}{remedy}")


def check_precision(name: str, X: Any) -> None:
    """TypeError unless the entries of the array `X` are in single or double precision, real or complex.

    Factorisations are LAPACK's, which has neither 16-bit nor extended precision.
    """
    dtype = str(X.dtype).split(".")[-1]
    if dtype in ("float32", "float64", "complex64", "complex128"):
        return
    if "float" in dtype or "complex" in dtype:
        other = "complex64 or complex128" if "complex" in dtype else "float32 or float64"
        raise TypeError(f"{name} must be in single or double precision, got {dtype}: convert it to {other}")
    raise TypeError(f"{name} must have a real or complex floating dtype, got {dtype}: convert it, usually to float64")


def check_matrix(name: str, X: Any) -> None:
    """Refuse what is not a finite two-dimensional array of floating-point numbers.

    Raises
    ------
    TypeError
        `X` is no array, or its entries are not real or complex floating-point numbers of single or double precision.
    ValueError
        `X` is not two-dimensional, is empty, or has NaN or infinite entries.
    """
    xp = check_array(name, X)
    if X.ndim != 2:
        raise ValueError(f"{name} must be a matrix (2 dimensions), got {X.ndim} dimensions, shape {tuple(X.shape)}")
    if min(X.shape) == 0:
        raise ValueError(f"{name} must not be empty, got shape {tuple(X.shape)}")
    check_precision(name, X)
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
