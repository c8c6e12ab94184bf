"""Settings of integrators and problems as plain JSON: what a run is recorded, compared and found again by."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
from array_api_compat import is_torch_array as is_torch

from integrators.linalg import to_numpy


def describe(thing):
    """Description of `thing` by JSON values alone, equal for equal settings.

    Dataclasses are described by their fields, functions by module and name, arrays (sparse ones too) by
    shape, dtype and a digest of their bytes, other objects by those constructor arguments they keep as
    attributes of the same name. Numbers JSON has no word for (nan, infinities, complex) become strings.

    Parameters
    ----------
    thing : object
        An integrator, a problem, or anything they are made of.

    Returns
    -------
    dict, list, str, int, float, bool or None
        Survives ``json.dumps(..., allow_nan=False)`` and back unchanged. Cost: one pass over the arrays
        inside.

    Examples
    --------
    >>> describe([1, 0.5, float("inf")])
    [1, 0.5, 'inf']
    """
    if thing is None or isinstance(thing, (bool, str)):
        return thing
    if isinstance(thing, np.generic):
        thing = thing.item()
    if isinstance(thing, int):
        return int(thing)
    if isinstance(thing, float):
        return thing if math.isfinite(thing) else str(thing)
    if isinstance(thing, (complex, np.dtype, os.PathLike)):
        return str(thing)
    if isinstance(thing, np.ndarray) or (is_torch(thing) and hasattr(thing, "detach")):
        return _describe_array(to_numpy(thing))
    if hasattr(thing, "tocsr"):
        rows = thing.tocsr()
        return {"type": "sparse", "shape": list(rows.shape)} | {
            part: _describe_array(getattr(rows, part)) for part in ("data", "indices", "indptr")
        }
    if isinstance(thing, functools.partial):
        return {
            "type": "functools.partial",
            "function": describe(thing.func),
            "arguments": [describe(list(thing.args)), describe(thing.keywords)],
        }
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        settings = {field.name: getattr(thing, field.name, None) for field in dataclasses.fields(thing)}
    elif isinstance(thing, Mapping):
        return {str(key): describe(value) for key, value in thing.items()}
    elif isinstance(thing, (Sequence, set, frozenset)):
        return [describe(value) for value in thing]
    elif isinstance(thing, type) or inspect.isroutine(thing):
        return f"{getattr(thing, '__module__', None)}.{getattr(thing, '__qualname__', thing)}"
    else:
        settings = {
            name: getattr(thing, name)
            for name in (*_parameters(type(thing)), "name", "shape", "dtype")
            if hasattr(thing, name)
        }
    return {"type": f"{type(thing).__module__}.{type(thing).__qualname__}"} | {
        name: describe(value) for name, value in settings.items()
    }


def _describe_array(array):
    array = np.ascontiguousarray(array)
    digest = hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest()
    return {"type": "array", "shape": list(array.shape), "dtype": str(array.dtype), "digest": digest}


def _parameters(cls):
    try:
        return list(inspect.signature(cls).parameters)
    except (TypeError, ValueError):
        return []
