"""Functions, constructors and commands are called with random arguments, good and bad.

Whatever comes, a call returns or raises one of :data:`DOCUMENTED`, within :data:`LIMIT` seconds; a command ends with
one of the documented exit codes and shows no traceback. The number of a call and the seed determine its arguments.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import json
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

import dlrt
import dlrt.nn
import integrators
import problems
from dlrt import registry, runs, theorems
from dlrt.cli import app
from integrators import INTEGRATORS, LowRank

from .kills import ROOT

LIMIT = 60
"""Seconds; a good call takes less than one, on a busy machine ten."""
DOCUMENTED = (TypeError, ValueError, OSError, FloatingPointError, NotImplementedError)
"""OSError includes FileNotFoundError; NotImplementedError is what a problem says that has no exact sub-flows."""
SUBPROCESSES = 0.02
"""Share of the commands that run in a process of their own, a second or two each."""

Call = tuple[str, Callable[[], Any]]


class TooLong(BaseException):
    """A call did not end."""


@dataclass(frozen=True)
class Outcome:
    """How a call ended: ``returned`` or the name of an exception, and what is wrong with that."""

    number: int
    kind: str
    text: str
    ended: str
    fault: str = ""


# -- arguments ---------------------------------------------------------------------------------------------------------

ODD: tuple[Callable[[np.random.Generator], Any], ...] = (
    lambda rng: None,
    lambda rng: bool(rng.integers(2)),
    lambda rng: int(rng.integers(-3, 40)),
    lambda rng: (10**30, 2**63, -(2**70), 10**400)[rng.integers(4)],
    lambda rng: float(rng.standard_normal()),
    lambda rng: (0.0, -0.0, 1e-320, 1e300, np.inf, -np.inf, np.nan)[rng.integers(7)],
    lambda rng: complex(1, 2),
    lambda rng: ("", " ", "abc", "lora", "float16", "nan", "é\0", "../x", "1e400")[rng.integers(9)],
    lambda rng: b"bytes",
    lambda rng: ([], (), {}, set(), [1, 2], [[1.0, 2.0], [3.0]], {"a": 1}, (3, 4), (0, 5), (-1, 2))[rng.integers(10)],
    lambda rng: (object(), int, len, dlrt, GEN, NotImplemented, Ellipsis)[rng.integers(7)],
    lambda rng: (np.float32(0.5), np.int64(3), np.bool_(True), np.str_("x"), np.complex64(1))[rng.integers(5)],
    lambda rng: Fraction(1, 3),
    lambda rng: array(rng),
    lambda rng: torch.as_tensor(rng.standard_normal((3, 2))),
    lambda rng: low_rank(rng),
    lambda rng: method(rng),
    lambda rng: type(method(rng)),
    lambda rng: (integrators.Heun, integrators.Euler(), integrators.SGD(), integrators.FixedRank(2))[rng.integers(4)],
    lambda rng: rng,
    lambda rng: problem(rng),
)
GEN = (number for number in range(3))


def odd(rng: np.random.Generator) -> Any:
    """Whatever somebody may give by mistake."""
    return ODD[rng.integers(len(ODD))](rng)


def array(rng: np.random.Generator) -> Any:
    """An array of small shape, of any type; now and then with entries or in a form that are of no use."""
    shape = tuple(int(n) for n in rng.integers(0, 7, rng.choice([0, 1, 2, 2, 2, 2, 3])))
    X: Any = rng.standard_normal(shape)
    kind = rng.integers(12)
    if kind == 0 and np.size(X):
        X = np.array(X)
        X.flat[0] = (np.nan, np.inf, -np.inf, 1e308)[rng.integers(4)]
    elif kind == 1:
        X = np.asarray(X).astype(("int64", "bool", "U3", "object", "float16", "longdouble", "M8[s]")[rng.integers(7)])
    elif kind == 2 and np.ndim(X) == 2:
        X = (np.ma.masked_less(X, 0), scipy.sparse.csr_array(X), np.asmatrix(X), torch.as_tensor(X))[rng.integers(4)]
    elif kind == 3:
        X = np.asarray(X) + 1j
    elif kind == 4:
        X = np.asarray(X).astype(np.float32)
    return X


def low_rank(rng: np.random.Generator, shape: tuple[int, int] | None = None) -> LowRank:
    """A point in numpy or torch, real or complex, some singular or not orthonormal."""
    m, n = shape or (int(rng.integers(2, 9)), int(rng.integers(2, 9)))
    r = int(rng.integers(1, min(m, n) + 1))
    Y = LowRank.random((m, n), r, rng)
    U, S, V = Y.U, Y.S * (1.0, 0.0, 1e-200, 1e200)[rng.choice(4, p=[0.85, 0.05, 0.05, 0.05])], Y.V
    if rng.random() < 0.1:
        U = U @ rng.standard_normal((r, r))
    if rng.random() < 0.15:
        return LowRank(*map(torch.as_tensor, (U, S, V)))
    dtype = (np.float64, np.float32, np.complex128)[rng.choice(3, p=[0.8, 0.1, 0.1])]
    return LowRank(*(X.astype(dtype) for X in (U, S, V)))


def method(rng: np.random.Generator) -> integrators.Integrator:
    """A method of the table, some with options of their own."""
    chosen = list(INTEGRATORS.values())[rng.integers(len(INTEGRATORS))].for_run(5, 3)
    if rng.random() < 0.5:
        return chosen
    parts = {
        "truncation": (integrators.FixedRank(2), integrators.Tolerance(relative=0.1, spare=1)),
        "substep": tuple(make() for make in registry.SUBSTEPS.values()),
        "optimizer": tuple(make() for make in registry.OPTIMIZERS.values()),
    }
    with contextlib.suppress(TypeError, ValueError):  # a rejection needs a tolerance
        chosen = registry.with_options(chosen, **{name: some[rng.integers(len(some))] for name, some in parts.items()})
    return chosen


@functools.cache
def _small_problems() -> tuple[problems.Problem, ...]:
    rng, build = np.random.default_rng(0), registry.build_problem
    small = [build(name, {"size": 6}) for name in registry.PROBLEMS]
    return (*small, problems.from_function((6, 5), lambda t, Y: -Y.full(), initial=rng.standard_normal((6, 5))))


def problem(rng: np.random.Generator) -> problems.Problem:
    """A small one."""
    return _small_problems()[rng.integers(len(_small_problems()))]


def _shape(rng):
    return int(rng.integers(1, 9)), int(rng.integers(1, 9))


def _pick(*values):
    return lambda rng: values[rng.integers(len(values))]


def _matrix(rng):
    return rng.standard_normal(_shape(rng))


GOOD: dict[str, Callable[[np.random.Generator], Any]] = {
    "rank": lambda rng: int(rng.integers(1, 6)),
    "rng": lambda rng: np.random.default_rng(1),
    "shape": _shape,
    "size": lambda rng: int(rng.integers(2, 9)),
    "n": lambda rng: int(rng.integers(2, 9)),
    "steps": lambda rng: int(rng.integers(0, 5)),
    "step_size": _pick(0.1, 0.01, -0.1, 1.0, lambda k: 0.1 / (k + 1)),
    "seed": lambda rng: int(rng.integers(0, 5)),
    "every": _pick(1, 2),
    "integrator": method,
    "problem": problem,
    "start": low_rank,
    "target": _matrix,
    "substep": _pick(*(make() for make in registry.SUBSTEPS.values())),
    "optimizer": _pick(*(make() for make in registry.OPTIMIZERS.values())),
    "truncation": _pick(
        integrators.FixedRank(2), integrators.Tolerance(relative=0.1), integrators.GlobalBudget(columns=20)
    ),
    "dtype": _pick(np.float64, np.float32, "float32", np.complex128, "float64"),
    "precision": _pick(np.complex64, np.complex128),
    "fraction": _pick(0.5, 0.1, 0.9),
    "f": _pick(lambda t, Y: -Y.full(), lambda t, Y: Y, lambda t, Y: None, lambda t: 0.0, lambda t, Y: np.ones(3)),
    "singular_values": _pick((2.0, 1.0), (1.0,), np.array([3.0, 2.0, 1.0])),
    "U": _matrix,
    "S": lambda rng: rng.standard_normal((2, 2)),
    "V": _matrix,
    "A": lambda rng: rng.standard_normal((4, 4)),
    "B": lambda rng: rng.standard_normal((4, 4)),
    "C": lambda rng: (rng.standard_normal((4, 1)), rng.standard_normal((4, 1))),
    "cases": lambda rng: [],
    "in_features": lambda rng: int(rng.integers(1, 9)),
    "out_features": lambda rng: int(rng.integers(1, 9)),
    "in_channels": _pick(1, 2, 4),
    "out_channels": _pick(1, 2, 4),
    "kernel_size": _pick(1, 3, (3, 2)),
    "num_embeddings": _pick(3, 8),
    "embedding_dim": _pick(2, 5),
    "generator": lambda rng: torch.Generator().manual_seed(0),
    "like": _pick(nn.Linear(4, 3), nn.Conv2d(1, 2, 3), nn.Embedding(5, 4)),
    "base": _pick(nn.Linear(4, 3), nn.Conv2d(1, 2, 3), nn.Embedding(5, 4)),
    "model": lambda rng: network(rng),
    "targets": _pick("0", "*", ["0", "2"], nn.Linear, "nothing", ()),
    "kind": _pick("adapter", "train"),
    "lr": _pick(0.1, 0.01),
    "theorems": _pick(["structure"], ["exactness"], ["conservation"]),
    "name": _pick(*registry.PROBLEMS),
    "options": _pick({}, {"size": 6}, {"size": 6, "dtype": "float32"}, {"true_rank": 2}, {"target": "x.npy"}),
}
"""Good values by the names of arguments; those of others are odd, or left at their defaults."""


def arguments(function: Callable, rng: np.random.Generator, oddity: float = 0.15, without=()) -> dict[str, Any]:
    """Arguments for a function: all that it needs and some others, most of them good. Flags are never arrays."""
    given = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or name in without:
            continue
        if isinstance(parameter.default, bool):
            if rng.random() < 0.3:
                given[name] = (True, False, 1, None, "yes")[rng.integers(5)]
            continue
        is_good = name in GOOD and rng.random() > oddity
        if parameter.default is parameter.empty or rng.random() < (0.4 if is_good else oddity):
            value = GOOD[name](rng) if is_good else odd(rng)
            if name == "steps" and isinstance(value, int) and value > 1000:
                value = -value  # it would only take long
            given[name] = value
    return given


def _call(function: Callable, rng: np.random.Generator, after: Callable | None = None, **options) -> Call:
    given = arguments(function, rng, **options)
    name = getattr(function, "__qualname__", repr(function))

    def call():
        made = function(**given)
        return made if after is None else after(made)

    return f"{name}({', '.join(f'{key}={_short(value)}' for key, value in given.items())})", call


def _short(value: Any) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 120 else f"{text[:117]}..."


# -- what is called ----------------------------------------------------------------------------------------------------


def _classes(module) -> list[type]:
    return [thing for thing in vars(module).values() if inspect.isclass(thing) and is_dataclass(thing)]


def of_integrators(rng: np.random.Generator, folder: Path) -> Call:
    """Constructors of methods and their parts, and a few steps of what was made."""
    names = [name for name in integrators.__all__ if inspect.isclass(getattr(integrators, name))]
    made = getattr(integrators, names[rng.integers(len(names))])
    at, h, place = low_rank(rng, (6, 6)), float(rng.choice([0.1, 1e-3, 10.0, 1e200])), problem(rng)

    def steps(thing):
        if isinstance(thing, integrators.Integrator) and type(thing) is not integrators.Integrator:
            state = thing.init(at)
            for t in range(3):
                state = thing.step(place.field, float(t), state, h).state

    return _call(made, rng, steps)


def of_matrices(rng: np.random.Generator, folder: Path) -> Call:
    """`LowRank` and what it can do."""
    Y = low_rank(rng)
    functions = [LowRank, LowRank.from_dense, LowRank.random, LowRank.zeros, Y.replace, Y.project, Y.embed]
    functions += [integrators.combine, integrators.stack, integrators.tangent, integrators.count_evaluations]
    chosen = functions[rng.integers(len(functions))]
    given = {"A": _matrix(rng)} if chosen == LowRank.from_dense and rng.random() < 0.7 else {}
    if given:
        return _call(functools.partial(chosen, **given), rng, without=("A",))
    return _call(chosen, rng, lambda made: made.full() if isinstance(made, LowRank) else made)


def of_problems(rng: np.random.Generator, folder: Path) -> Call:
    """Problems, and their field, start, reference and loss."""
    names = [name for name in problems.__all__ if name not in ("load_target", "FiniteSum", "LossProblem", "Problem")]
    functions = [getattr(problems, name) for name in names] + [registry.build_problem, registry.with_options]
    chosen = functions[rng.integers(len(functions))]

    def use(made):
        if isinstance(made, problems.Problem):
            Y = LowRank(*made.initial(1, np.random.default_rng(0)))
            f = made.field(0.0, Y)
            made.reference(0.5)
            return f.K, f.L, f.S, made.loss(Y) if hasattr(made, "loss") else None
        return made

    return _call(chosen, rng, use)


def of_runs(rng: np.random.Generator, folder: Path) -> Call:
    """`solve`, `convergence`, `sweep` and `Case`, and the identity of anything."""
    choice = rng.integers(10)
    if choice < 4:
        return _call(dlrt.solve, rng, lambda run: run.records())
    if choice < 6:
        return _call(dlrt.Case, rng, lambda case: dlrt.sweep([case], out=folder / "sweep", fresh=True))
    if choice == 6:
        return _call(functools.partial(dlrt.sweep, out=folder / "sweep"), rng, without=("out",))
    if choice == 7:
        return _call(dlrt.convergence, rng)
    function = (runs.describe, runs.identify)[rng.integers(2)]
    value = odd(rng)
    return f"{function.__name__}({_short(value)})", lambda: json.dumps(
        function(value) if function is runs.describe else function(value=value), allow_nan=False
    )


def of_theorems(rng: np.random.Generator, folder: Path) -> Call:
    """Theorems, some of them checked."""
    names = ("Conservation", "Decay", "Descent", "ErrorBound", "Exactness", "RiemannianStep", "Stationary", "Structure")
    chosen = getattr(theorems, names[rng.integers(len(names))])
    of, at = method(rng), problem(rng)
    return _call(chosen, rng, lambda claim: claim.check(of, at))


_OF_TORCH = ("device", "dtype", "kernel_size", "padding_idx", "stride", "padding", "dilation", "groups", "padding_mode")
"""Arguments that go to torch as they are, with errors of its own."""


def network(rng: np.random.Generator) -> nn.Module:
    """A small one, some with layers of low rank already."""
    made = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    if rng.random() < 0.6:
        dlrt.nn.adapt(made, nn.Linear, int(rng.integers(1, 4)), ("adapter", "train")[rng.integers(2)])
    return made


def of_networks(rng: np.random.Generator, folder: Path) -> Call:
    """Layers, adapters, `adapt` and steps of `LowRankOptimizer`."""
    names = ("LowRankLinear", "LowRankConv2d", "LowRankEmbedding", "LinearAdapter", "Conv2dAdapter", "EmbeddingAdapter")
    names += ("adapt", "merge", "ranks", "to_lora", "parameter_report", "low_rank_state_dict", "load_low_rank")
    names += ("LowRankOptimizer",) * 8 + ("adapt",) * 3
    chosen = getattr(dlrt.nn, names[rng.integers(len(names))])

    def use(made):
        if isinstance(made, dlrt.nn.LowRankOptimizer):
            model = next(value for value in given.values() if isinstance(value, nn.Module))
            x = torch.ones(3, 6)

            def closure():
                made.zero_grad()
                loss = model(x).square().mean()
                loss.backward()
                return loss

            made.step(closure)
            return made.load_state_dict(made.state_dict())
        if isinstance(made, (dlrt.nn.LowRankLinear, dlrt.nn.LinearAdapter)):
            return made(torch.ones(2, made.shape[1], dtype=made.S.dtype))
        return made

    given: dict[str, Any] = arguments(chosen, rng, without=_OF_TORCH)
    if chosen is dlrt.nn.LowRankConv2d:
        given["kernel_size"] = GOOD["kernel_size"](rng)
    text = ", ".join(f"{key}={_short(value)}" for key, value in given.items())
    return f"{chosen.__name__}({text})", lambda: use(chosen(**given))


# -- files -------------------------------------------------------------------------------------------------------------


@functools.cache
def _trajectory() -> dlrt.Trajectory:
    return dlrt.solve(integrators.GeoLoRA(), _small_problems()[0], step_size=0.1, steps=3, rank=2)


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut off, changed in places, written over, or something else altogether; now and then as it was."""
    at, length = (int(k) for k in rng.integers(0, len(content) + 1, 2))
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        changed[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    other = rng.bytes(50), b"", b"\n\n", b"null", b"[]", b"{}", b"1,2\n3,4\n", b"\xef\xbb\xbf1;2", b"\0" * 100
    kinds = (
        content[:at],
        bytes(changed),
        bytes(changed),
        content[:at] + rng.bytes(length) + content[at + length :],
        content + content,
        content[at:],
        other[rng.integers(len(other))],
        content,
    )
    return kinds[rng.integers(len(kinds))]


def _changed_arrays(arrays: dict, rng: np.random.Generator) -> dict:
    """One array in another form, under a good checksum."""
    name = list(arrays)[rng.integers(len(arrays))]
    forms: tuple[Callable, ...] = (
        lambda X: X.ravel()[:0],
        lambda X: np.array("x"),
        lambda X: X[None],
        lambda X: X.astype("U4"),
        lambda X: np.concatenate([X.ravel(), X.ravel()]),
        lambda X: np.array(json.dumps({"schema_version": 2, "status": 3})),
        lambda X: np.full_like(X, np.nan) if X.dtype.kind == "f" else X * 0,
    )
    X = arrays.pop(name)
    with contextlib.suppress(TypeError, ValueError):
        arrays[name] = forms[rng.integers(len(forms))](X) if rng.random() < 0.8 else X
    return arrays


def of_files(rng: np.random.Generator, folder: Path) -> Call:
    """Readers of damaged files: trajectories, journals, results, targets, networks, certificates."""
    names = ("trajectory", "trajectory, an array", "journal", "results", "target", "network", "certificate")
    kind = names[rng.integers(len(names))]
    return f"damaged {kind}", functools.partial(_READERS[kind], rng, folder)


def _read_trajectory(rng, folder):
    path = _trajectory().save(folder / "t.npz")
    path.write_bytes(damaged(path.read_bytes(), rng))
    return dlrt.Trajectory.load(path)


def _read_changed_trajectory(rng, folder):
    path = _trajectory().save(folder / "t.npz")
    with np.load(path) as file:
        arrays = _changed_arrays(dict(file), rng)
    np.savez(path, **arrays)
    run = dlrt.Trajectory.load(path)
    repr(run), run.records(), run.numerical_ranks
    return dlrt.solve(integrators.GeoLoRA(), _small_problems()[0], step_size=0.1, steps=1, start=run)


def _read_journal(rng, folder):
    path = folder / "j.jsonl"
    path.unlink(missing_ok=True)
    journal, keys = runs.Journal(path), [(str(k), "code") for k in range(4)]
    for key in keys:
        journal.add(key, {"value": [0.1, None]})
    path.write_bytes(damaged(path.read_bytes(), rng))
    journal.add(keys[0], 3)
    found = dict(journal.find(keys))
    if found.get(keys[0]) != 3:
        raise AssertionError("a whole line was lost")
    _command(["runs", str(folder)])


def _read_results(rng, folder):
    path = folder / "results.json"
    path.write_bytes(damaged(json.dumps({"schema_version": 1, "cases": []}).encode(), rng))
    return dlrt.read_results(folder)


def _read_target(rng, folder):
    A, suffix = np.arange(12.0).reshape(3, 4), ("npy", "npz", "mtx", "csv", "png", "txt", "jpg")[rng.integers(7)]
    file = io.BytesIO()
    if suffix == "npy":
        np.save(file, A)
    elif suffix == "npz" and rng.random() < 0.5:
        np.savez(file, A=A)
    elif suffix == "npz":
        scipy.sparse.save_npz(file, scipy.sparse.csr_array(A))
    elif suffix == "mtx":
        scipy.io.mmwrite(file, A if rng.random() < 0.5 else scipy.sparse.coo_array(A))
    elif suffix in ("png", "jpg"):
        Image.fromarray(A.astype(np.uint8)).save(file, {"png": "png", "jpg": "jpeg"}[suffix])
    else:
        np.savetxt(file, A, delimiter=",")
    path = folder / f"target.{suffix}"
    path.write_bytes(damaged(file.getvalue(), rng))
    return problems.load_target(path, **({"key": "A"} if rng.random() < 0.2 else {}))


def _read_network(rng, folder):
    model, path = nn.Sequential(nn.Linear(4, 3)), folder / "model.safetensors"
    dlrt.nn.adapt(model, "0", 2)
    dlrt.nn.save_low_rank(model, path)
    path.write_bytes(damaged(path.read_bytes(), rng))
    dlrt.nn.load_low_rank(model, path)


@functools.cache
def _certificate() -> theorems.Certificate:
    return theorems.Structure(steps=2).check(integrators.GeoLoRA(), _small_problems()[0])


def _read_certificate(rng, folder):
    path = _certificate().save(folder / "c.json")
    content = damaged(path.read_bytes(), rng)
    if rng.random() < 0.5:
        data = json.loads(path.read_bytes())
        data[list(data)[rng.integers(len(data))]] = (None, [], {}, "x", 3, [{}])[rng.integers(6)]
        content = json.dumps(data).encode()
    path.write_bytes(content)
    return theorems.Certificate.load(path)


_READERS = {
    "trajectory": _read_trajectory,
    "trajectory, an array": _read_changed_trajectory,
    "journal": _read_journal,
    "results": _read_results,
    "target": _read_target,
    "network": _read_network,
    "certificate": _read_certificate,
}


# -- the command line --------------------------------------------------------------------------------------------------

WORDS = ("", " ", "abc", "-1", "0", "1", "2", "3", "7", "nan", "inf", "1e400", "1e-3", "0.1", "99999999999999999999")
WORDS += ("é", "lora,,geolora", "lora,lora", "../x", "--", "-", "None", "[]", "[bold]", "a=b", "/dev/null", "0x10")
VALUES = {
    "--integrators": (
        "lora",
        "geolora,bug",
        "adalora",
        "full-rank,parallel-bug",
        "augmented-bug",
        "projector-splitting",
    ),
    "--methods": ("lora", "geolora,bug", "adalora", "geolora-adam"),
    "--integrator": tuple(INTEGRATORS),
    "--method": tuple(INTEGRATORS),
    "--step-size": ("0.1", "0.01", "1"),
    "--steps": ("1", "2", "5"),
    "--rank": ("1", "2", "4"),
    "--seeds": ("1", "2"),
    "--tau": ("0.1", "0", "1e-6"),
    "--spare": ("0", "1"),
    "--substep": tuple(registry.SUBSTEPS),
    "--optimizer": tuple(registry.OPTIMIZERS),
    "--target": ("synthetic", "missing.npy"),
    "--size": ("6", "9"),
    "--true-rank": ("1", "2"),
    "--batch-size": ("2", "4"),
    "--dtype": ("float32", "float64"),
    "--jobs": ("1",),
    "--network": ("dense", "conv"),
    "--epochs": ("1",),
    "--lr": ("0.1",),
    "--problem": tuple(registry.PROBLEMS),
    "--model": ("missing",),
    "--data": ("missing",),
}
NEEDED = {
    "compare": ("--size", "--steps"),
    "run": ("--method", "--size", "--steps"),
    "train": ("--epochs", "--seeds", "--lr"),
    "verify": ("--integrator", "--problem", "--size", "--steps"),
}
"""Options that are always given, as without them a command works for long."""
OPTIONS = {
    "compare": ("--integrators", "--step-size", "--steps", "--rank", "--seeds", "--tau", "--spare", "--substep")
    + ("--optimizer", "--target", "--size", "--true-rank", "--batch-size", "--dtype", "--jobs", "--fresh"),
    "run": ("--method", "--step-size", "--steps", "--rank", "--tau", "--spare", "--substep", "--optimizer")
    + ("--target", "--size", "--true-rank", "--batch-size", "--dtype"),
    "train": ("--methods", "--seeds", "--network", "--epochs", "--rank", "--lr", "--jobs", "--fresh"),
    "figure": ("--quick", "--jobs", "--fresh", "--model", "--data"),
    "table": ("--quick", "--jobs", "--fresh", "--model", "--data"),
    "verify": ("--integrator", "--problem", "--rank", "--size", "--steps", "--step-size"),
    "list": (),
    "runs": (),
}
"""All options but --out, --scheduler, where a cluster is waited for, and those of verify that work for minutes."""


def command_line(rng: np.random.Generator, folder: Path) -> list[str]:
    """A command with options, most of them good."""
    oddity = (0.0, 0.15, 0.5)[rng.choice(3, p=[0.1, 0.6, 0.3])]

    def value(option: str) -> str:
        is_good = option in VALUES and rng.random() > oddity
        some = VALUES[option] if is_good else WORDS
        return some[rng.integers(len(some))]

    name = list(OPTIONS)[rng.choice(len(OPTIONS), p=[0.3, 0.1, 0.15, 0.1, 0.1, 0.15, 0.05, 0.05])]
    words = [name]
    if rng.random() < oddity / 3:
        return [str(rng.choice([*WORDS, name.upper(), "--version", "--help"]))]
    if name == "train":
        words.append("digits" if rng.random() > oddity / 3 else value(""))
    elif name in ("compare", "run", "verify"):
        known = tuple(registry.PROBLEMS) if name != "verify" else ("structure", "exactness", "descent", "conservation")
        words += [str(rng.choice(known if rng.random() > oddity / 2 else WORDS))] if rng.random() > 0.05 else []
    elif name in ("figure", "table"):  # good ones work for seconds: they are among the kills
        words.append(str(rng.choice([*WORDS[:4], "6", "figure1", "losses"])))
        words += ["--data", "missing"] if words[1] == "losses" else []
    elif name == "runs":
        words.append(str(rng.choice([str(folder), "missing", str(folder / "journal.jsonl"), ""])))
    options = OPTIONS[name]
    chosen = [option for option in options if option in NEEDED.get(name, ()) or rng.random() < 0.2]
    for option in chosen:
        words += [option] if option in ("--fresh", "--quick") else [option, value(option)]
    if rng.random() < oddity / 3:
        words.append(str(rng.choice(["--nonsense", "--help", *WORDS])))
    if "--out" not in words and name not in ("list", "runs"):
        out = (folder / "out", folder / f"out{rng.integers(20)}", "/dev/null", "/proc/x", "")[
            rng.choice(5, p=[0.4, 0.5, 0.04, 0.04, 0.02])
        ]
        words += ["--out", str(out)]
    return words


def _command(words: list[str]) -> str:
    """Run a command in this process; the exit code, or what is wrong as an AssertionError."""
    result = CliRunner().invoke(_app(), words, prog_name="dlrt")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return _judged(result.exit_code, result.output + (result.stderr if result.stderr_bytes else ""), words)


def _judged(code: int, text: str, words: list[str]) -> str:
    allowed = (0, 1, 2) if words[:1] == ["verify"] else (0, 2)
    if code not in allowed:
        raise AssertionError(f"exit code {code}: {text[-500:]}")
    if "Traceback" in text or "DLRT_DEBUG" in text:
        raise AssertionError(f"an exception that was not expected: {text[-500:]}")
    return f"exit code {code}"


@functools.cache
def _app():
    import typer

    return typer.main.get_command(app)


def of_commands(rng: np.random.Generator, folder: Path) -> Call:
    """The command line: in this process, or in one of its own."""
    words = command_line(rng, folder)
    text = " ".join(["dlrt", *(word if word.isprintable() and word.strip() else repr(word) for word in words)])
    if rng.random() > SUBPROCESSES:
        return text, lambda: _command(words)

    def run():
        done = subprocess.run(
            [sys.executable, "-m", "dlrt_command", *words],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
        return _judged(done.returncode, (done.stdout + done.stderr).decode(errors="replace"), words)

    return f"{text} (a process)", run


KINDS: dict[str, tuple[float, Callable[[np.random.Generator, Path], Call]]] = {
    "methods and steps": (0.2, of_integrators),
    "matrices": (0.15, of_matrices),
    "problems": (0.15, of_problems),
    "runs": (0.12, of_runs),
    "theorems": (0.05, of_theorems),
    "networks": (0.1, of_networks),
    "damaged files": (0.13, of_files),
    "commands": (0.1, of_commands),
}
"""What is called, with its share of the calls."""


# -- calls -------------------------------------------------------------------------------------------------------------


def outcomes(first: int, count: int, folder: Path, seed: int) -> Iterator[Outcome]:
    """Make the calls one by one."""
    logging.disable(logging.CRITICAL)
    place = folder / "calls"
    here = pathlib.Path.cwd()
    for number in range(first, first + count):
        if number % 200 == 0:
            shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True, exist_ok=True)
        os.chdir(place)
        try:
            yield outcome(number, place, seed)
        finally:
            os.chdir(here)


def outcome(number: int, folder: Path, seed: int) -> Outcome:
    """Make one call."""
    rng = np.random.default_rng([seed, number])
    kind = list(KINDS)[rng.choice(len(KINDS), p=[share for share, _ in KINDS.values()])]
    text, call = KINDS[kind][1](rng, folder)
    try:
        with _time_limit(), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            returned = call()
    except DOCUMENTED as error:
        named = next(kind for kind in DOCUMENTED if isinstance(error, kind))
        return Outcome(number, kind, text, named.__name__)
    except TooLong:
        return Outcome(number, kind, text, "no end", f"no end within {LIMIT} s")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        where = "".join(traceback.format_tb(error.__traceback__)[-3:])
        return Outcome(number, kind, text, "another", f"{type(error).__name__}: {error}\n{where}")
    ended = returned if kind == "commands" else "returned"
    return Outcome(number, kind, text, ended)


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_):
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
