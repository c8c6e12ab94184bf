"""What a run is: its settings as plain JSON, and a digest of the code that makes it.

Two runs are the same if both agree. The code of a run is

- the packages `integrators`, `problems` and `dlrt`, without what only shows results: all files, as syntax trees;
- every class and function met in the settings, with the bases of the classes and with what they use of their own
  package or of files that are not installed (a notebook's cells, a script, a module of the user's) or belong to a
  package of plug-ins (`dlrt.plugins`): as bytecode, which is there also where no file is, and which is what runs.

So neither comments nor layout nor docstrings count, while global data that a user's function reads do, with their
contents (a list that grows with each run makes each run another one; behind a function it does not). Two things are not
seen: code that is reached only through attributes of objects that no setting holds, and other libraries, whose versions
are recorded with the results instead.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import dis
import functools
import hashlib
import importlib.util
import inspect
import itertools
import json
import linecache
import math
import os
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
from array_api_compat import is_torch_array as is_torch

from integrators.linalg import to_numpy

from .. import plugins

PACKAGES = ("integrators", "problems", "dlrt")
"""Those whose files belong to every run."""
WITHOUT = ("cli", "plots.py", "work_precision.py", "movie.py", "testing.py", "bibliography.py")
"""What shows or tests results or says what to cite, and cannot change them."""


def describe(thing):
    """Description of `thing` by JSON values alone, equal for equal settings.

    Dataclasses are described by their fields, functions by module and name (those without a name of their own, such as
    a lambda, by their bytecode too), arrays (sparse ones too) by shape, dtype and a digest of their bytes, other
    objects by those constructor arguments they keep as attributes of the same name, or else by what `pickle` would
    keep of them. Numbers JSON has no word for (nan, infinities, complex) become strings.

    Parameters
    ----------
    thing : object
        An integrator, a problem, or anything they are made of.

    Returns
    -------
    dict, list, str, int, float, bool or None
        Survives ``json.dumps(..., allow_nan=False)`` and back unchanged. Cost: one pass over the arrays
        inside.

    Raises
    ------
    TypeError
        Something inside cannot be told from others of its type: an iterator, an open file.

    Examples
    --------
    >>> describe([1, 0.5, float("inf")])
    [1, 0.5, 'inf']
    """
    return _Description().of(thing)


def identify(**settings) -> dict[str, Any]:
    """What a run of these settings is: ``{"settings": descriptions by name, "code": digest}``.

    The first half of the digest is `package_code`, the second that of the classes and functions met in the settings.

    Parameters
    ----------
    settings : object
        Whatever determines the numbers of the run; see `describe`.

    Raises
    ------
    TypeError
        As of `describe`.
    """
    description = _Description()
    described = {name: description.of(value) for name, value in settings.items()}
    return {"settings": described, "code": package_code() + description.code()}


@functools.cache  # of the code that runs, also where its files are edited meanwhile; a quarter of a second
def package_code() -> str:
    """Digest of the code of :data:`PACKAGES`."""
    trees = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in map(Path, (spec and spec.submodule_search_locations) or []):
            files = (path.relative_to(folder) for path in folder.rglob("*.py"))
            kept = sorted(path for path in files if path.parts[0] not in WITHOUT)
            trees += [(package, path.as_posix(), _tree((folder / path).read_text("utf-8"))) for path in kept]
    return digest(trees)


def _tree(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            del node.body[0]
    return ast.dump(tree, annotate_fields=False)


def digest(thing, size: int = 4) -> str:
    """Digest of JSON values, in hexadecimal digits, two for each byte of `size`."""
    return hashlib.blake2b(json.dumps(thing, sort_keys=True).encode(), digest_size=size).hexdigest()


class _Description:
    """One pass over settings, which notes the classes and functions it meets."""

    def __init__(self) -> None:
        self.met: dict[Any, None] = {}
        self.above: list[Any] = []

    def code(self) -> str:
        """Digest of the classes and functions met, libraries apart."""
        anatomy = _Anatomy()
        ours = [kind.__module__ for kind in self.met if any(map(_of_packages, _modules(kind)))]  # derived from ours
        met = [x for x in self.met if not all(_is_library(_module(x), user) for user in (None, *ours))]
        return digest([anatomy.of(thing) for thing in met])

    def of_code(self, thing):
        """Of a class or function: its name, and of one without a name of its own the code."""
        self.met[thing] = None
        name = _full_name(thing)
        return name if "<" not in name else {"type": "function", "name": name, "code": digest(_Anatomy().of(thing))}

    def of_type(self, kind):
        """Of the class of an object."""
        self.met[kind] = None
        return _full_name(kind)

    def of(self, thing):
        if thing is None or isinstance(thing, (bool, str)):
            return thing
        if isinstance(thing, np.generic):
            thing = thing.item()
        if isinstance(thing, int):
            return int(thing)
        if isinstance(thing, float):
            return thing if math.isfinite(thing) else str(thing)
        if isinstance(thing, (complex, bytes, np.dtype, os.PathLike)):
            return str(thing)
        if any(thing is other for other in self.above):
            return "itself"
        self.above.append(thing)
        try:
            return self._composed(thing)
        finally:
            self.above.pop()

    def _composed(self, thing):
        if isinstance(thing, np.ndarray) or (is_torch(thing) and hasattr(thing, "detach")):
            return self._array(to_numpy(thing))
        if hasattr(thing, "tocsr"):
            rows = thing.tocsr()
            parts = {part: self._array(getattr(rows, part)) for part in ("data", "indices", "indptr")}
            return {"type": "sparse", "shape": list(rows.shape)} | parts
        if isinstance(thing, functools.partial):
            arguments = [self.of(list(thing.args)), self.of(thing.keywords)]
            return {"type": "functools.partial", "function": self.of(thing.func), "arguments": arguments}
        if isinstance(thing, Mapping):
            return {str(key): self.of(value) for key, value in thing.items()}
        if isinstance(thing, Set):
            return sorted((self.of(value) for value in thing), key=json.dumps)
        if isinstance(thing, (type, np.ufunc)) or inspect.isroutine(thing):
            return self._named(thing)
        if dataclasses.is_dataclass(thing):
            settings = {field.name: getattr(thing, field.name, None) for field in dataclasses.fields(thing)}
        elif isinstance(thing, Sequence):
            return [self.of(value) for value in thing]
        else:
            settings = _kept(thing)
        return {"type": self.of_type(type(thing))} | {name: self.of(value) for name, value in settings.items()}

    def _array(self, array):
        if array.dtype.hasobject:
            return {"type": "array", "shape": list(array.shape), "entries": self.of(array.tolist())}
        array = np.ascontiguousarray(array)
        content = hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest()
        return {"type": "array", "shape": list(array.shape), "dtype": str(array.dtype), "digest": content}

    def _named(self, thing):
        owner = getattr(thing, "__self__", None)
        if owner is not None and not isinstance(owner, types.ModuleType):  # a bound method
            return {"type": "method", "name": thing.__name__, "of": self.of(owner)}
        return self.of_code(thing)


def _kept(thing) -> dict[str, Any]:
    """The constructor arguments an object keeps, if it keeps them all, or (and of libraries) what pickle keeps."""
    kind, names = type(thing), []
    if _of_packages(kind.__module__) or not _is_library(kind.__module__, None):
        with contextlib.suppress(TypeError, ValueError):
            names = list(inspect.signature(kind).parameters)
    if names and all(hasattr(thing, name) for name in names):
        return {name: getattr(thing, name) for name in (*names, *(n for n in ("shape", "dtype") if hasattr(thing, n)))}
    try:
        state = thing.__reduce_ex__(4)
    except Exception as error:  # classes say in their own ways that they have no description
        raise TypeError(
            f"{thing!r} cannot be told from others of its type ({error}), so its runs could not be found again: "
            "use numbers, arrays, functions, or a frozen dataclass of these"
        ) from None
    return {"state": state if isinstance(state, str) else list(state[1:3])}


class _Anatomy:
    """Classes and functions as JSON values: what they do, not how they are written."""

    def __init__(self) -> None:
        self.seen: dict[int, Any] = {}

    def again(self, thing) -> bool:
        """Whether it was met before; what was met is held, so that no other thing gets its id."""
        if id(thing) in self.seen:
            return True
        self.seen[id(thing)] = thing
        return False

    def of(self, thing):
        """Of a class or function, with what it uses of its own package and of files that are not installed."""
        if self.again(thing):
            return _full_name(thing)
        return [_full_name(thing), self._class(thing) if isinstance(thing, type) else self._function(thing)]

    def _class(self, cls):
        data = _Data(self, cls.__module__)
        bases = [data.of(base) for base in cls.__bases__ if base is not object]
        own = {name: value for name, value in vars(cls).items() if not _is_of_python(name, value)}
        return bases, {name: self.of_class(value, data) for name, value in own.items()}

    def of_class(self, value, data):
        """Of an entry of a class: functions also where a library made them, as dataclasses does."""
        for attribute in ("__func__", "fget", "func"):  # static and class methods, properties
            inner = getattr(value, attribute, None)
            value = inner if callable(inner) and not isinstance(value, (type, functools.partial)) else value
        return self.of(value) if inspect.isroutine(value) and hasattr(value, "__code__") else data.of(value)

    def _function(self, function):
        function = inspect.unwrap(function)
        code = getattr(function, "__code__", None)
        if code is None:
            return None
        module, scope = function.__module__, function.__globals__
        data = _Data(self, module, _names(code))
        bound = [function.__defaults__, function.__kwdefaults__, *map(_content, function.__closure__ or ())]
        used = [] if _of_packages(module) else [name for name in data.names if name in scope]  # files are in the digest
        return _instructions(_laid_out_alike(code)), [data.of(x) for x in bound], {n: data.of(scope[n]) for n in used}


class _Data(_Description):
    """What the code of a module uses: data, and more code. What was met before is only named."""

    def __init__(self, anatomy: _Anatomy, module: str, names: Iterable[str] = ()) -> None:
        super().__init__()
        self.anatomy, self.module, self.names = anatomy, module, names

    def of_code(self, thing):
        if _is_library(_module(thing), self.module):
            return _full_name(thing)
        return self.anatomy.of(thing)

    of_type = of_code

    def _composed(self, thing):
        if isinstance(thing, types.ModuleType):
            if _is_library(thing.__name__, self.module):
                return thing.__name__
            return {name: self.of(getattr(thing, name)) for name in self.names if hasattr(thing, name)}
        if inspect.isdatadescriptor(thing) or thing is Ellipsis:
            return type(thing).__name__
        if hasattr(thing, "__wrapped__") and callable(thing):
            return self.of_code(thing)
        if not isinstance(thing, type) and not inspect.isroutine(thing) and self.anatomy.again(thing):
            return f"{_full_name(type(thing))}, again"
        try:
            return super()._composed(thing)
        except TypeError:  # nothing can be said of it: a generator, a lock, an open file
            return _full_name(type(thing))


def _full_name(thing) -> str:
    return f"{_module(thing)}.{getattr(thing, '__qualname__', thing)}"


_LAYOUT = {"NOP", "RESUME", "CACHE", "EXTENDED_ARG"}


@functools.cache  # as long as the code is loaded, also where its file is edited meanwhile
def _laid_out_alike(code):
    """The same code compiled as if it were written in one line, where its source is there and is really its own.

    The compiler's choice between equivalent instructions depends on where lines end.
    """
    linecache.checkcache(code.co_filename)
    return _one_line_each("".join(linecache.getlines(code.co_filename))).get(code, code)


@functools.lru_cache(maxsize=64)
def _one_line_each(source: str) -> dict[types.CodeType, types.CodeType]:
    """For the code objects of a source those with one line for each of them."""
    lines = itertools.count(2)

    def lay_out(node: Any, line: int) -> None:
        child: Any
        for child in ast.iter_child_nodes(node):
            below = next(lines) if isinstance(child, _SCOPES) else line
            if hasattr(child, "lineno"):
                child.lineno, child.end_lineno, child.col_offset, child.end_col_offset = below, below, 0, 0
            lay_out(child, below)

    try:
        tree = ast.parse(source)
        written = compile(tree, "", "exec", dont_inherit=True)
        lay_out(tree, 1)
        return dict(zip(_all_inside(written), _all_inside(compile(tree, "", "exec", dont_inherit=True)), strict=True))
    except (SyntaxError, ValueError):
        return {}


_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, *_COMPREHENSIONS)


def _all_inside(code) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _all_inside(constant)


@functools.cache
def _instructions(code) -> list:
    """The instructions of a code object, without what depends on lines, and those of the code objects inside."""
    kept = [i for i in dis.get_instructions(code) if i.opname not in _LAYOUT]
    docstring = code.co_consts[0] if code.co_consts and _has_docstring(code) else None
    targets = sorted({i.argval for i in kept if i.opcode in _JUMPS})

    def argument(i):
        if i.opcode in _JUMPS:
            return targets.index(i.argval)
        if i.opname == "LOAD_CONST" and docstring is not None and i.argval is docstring:
            return "docstring"
        return _constant(i.argval)

    body = [[i.opname, argument(i), i.offset in targets] for i in kept]
    arguments = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, list(code.co_varnames)]
    return [arguments, body]


_JUMPS = {*dis.hasjrel, *dis.hasjabs}


def _has_docstring(code) -> bool:
    if sys.version_info >= (3, 14):  # before, the first constant is the docstring or None
        return bool(code.co_flags & inspect.CO_HAS_DOCSTRING)  # type: ignore[attr-defined]
    return isinstance(code.co_consts[0], str) and not code.co_name.startswith("<")


def _constant(value):
    if isinstance(value, types.CodeType):
        return _instructions(value)
    if isinstance(value, (tuple, frozenset)):
        inner = [_constant(entry) for entry in value]
        return inner if isinstance(value, tuple) else sorted(inner, key=json.dumps)
    return repr(value)


@functools.cache
def _names(code) -> list[str]:
    """Names of globals and attributes that a code object and those inside use."""
    return sorted({name for inside in _all_inside(code) for name in inside.co_names})


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _is_of_python(name, value) -> bool:
    """Whether an entry of a class is kept there by Python: annotations, caches, fields of dataclasses."""
    special = name.startswith("__") and name.endswith("__")
    return name == "_abc_impl" or (special and not callable(getattr(value, "__func__", value)))


def _module(thing) -> str | None:
    return getattr(thing, "__module__", None)


def _modules(kind) -> list[str | None]:
    """Modules of a class and its bases."""
    return [_module(base) for base in getattr(kind, "__mro__", ())]


def _of_packages(module) -> bool:
    return (module or "").partition(".")[0] in PACKAGES


@functools.cache
def _is_library(module: str | None, user: str | None) -> bool:
    """Whether code of `module` is no part of what `user`, a module, is: installed, and of another package."""
    top, other = (module or "builtins").partition(".")[0], (user or "").partition(".")[0]
    if top == other:
        return False
    if top in PACKAGES or top in sys.stdlib_module_names:
        return True
    if top in plugins.packages():
        return False
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    return file is not None and any(Path(file).is_relative_to(folder) for folder in _INSTALLED)


_INSTALLED = {sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib")}
