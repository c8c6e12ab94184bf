"""Names of integrators and problems, what they are in one line, and how to build them from a few common options.

For the command line and for loops over methods; whoever needs more than the common options calls the classes in
`integrators` and `problems` themselves. A new method or problem becomes known to the command line by an entry here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import numpy as np

import integrators as methods
import problems

Options = TypeVar("Options")


@dataclass(frozen=True)
class MethodOptions:
    """Common options of integrators; each method takes what concerns it.

    Parameters
    ----------
    rank : int
        Rank at the start; AdaLoRA ends at two thirds of it, rounded up.
    steps : int
        Number of steps of the run, for AdaLoRA's budget.
    tau : float
        Relative truncation tolerance of the rank-adaptive methods.
    spare : int
        Directions kept beyond the tolerance by the rank-adaptive methods.
    substep : str or None
        A name in `SUBSTEPS`; by default the explicit one of the method's order: ``heun`` for Strang splitting, else
        ``euler``.
    optimizer : str
        A name in `OPTIMIZERS`.
    """

    rank: int
    steps: int
    tau: float = 0.1
    spare: int = 1
    substep: str | None = None
    optimizer: str = "sgd"

    def _truncation(self):
        return methods.Tolerance(relative=self.tau, spare=self.spare)

    def _optimizer(self):
        return lookup("optimizer", self.optimizer, OPTIMIZERS)()

    def _substep(self, default="euler"):
        return lookup("substep", self.substep or default, SUBSTEPS)()

    def _budget(self):
        return methods.ImportanceBudget(
            initial=self.rank,
            final=-(-2 * self.rank // 3),
            total_steps=self.steps,
            warmup=self.steps // 10,
            cooldown=self.steps // 3,
            interval=max(1, self.steps // 100),
        )


@dataclass(frozen=True)
class ProblemOptions:
    """Common options of problems; each problem takes what concerns it, the random data are drawn with seed 0.

    Parameters
    ----------
    size : int or None
        Rows and columns of synthetic data; by default the usual size of the problem.
    true_rank : int or None
        Rank of a synthetic target or of a given solution; by default the usual one.
    target : str
        ``synthetic``, or a name or file for `problems.load_target`.
    batch_size : int or None
        Entries or samples in a mini-batch; by default the full loss.
    dtype : str
        ``float64`` or ``float32`` (complex problems: the complex type of that precision).
    """

    size: int | None = None
    true_rank: int | None = None
    target: str = "synthetic"
    batch_size: int | None = None
    dtype: str = "float64"

    def _rng(self):
        return np.random.default_rng(0)

    def _size(self, usual=100):
        return usual if self.size is None else self.size

    def _dtype(self):
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be float32 or float64, got {self.dtype!r}")
        return np.dtype(self.dtype)

    def _target(self):
        """The target named, or singular values falling linearly from 20 (not one is small, so none may be lost)."""
        if self.target != "synthetic":
            if self.size is not None or self.true_rank is not None:
                raise ValueError(f"size and true_rank are for synthetic targets, got target {self.target!r}")
            return problems.load_target(self.target, dtype=self._dtype())
        n, r = self._size(), 5 if self.true_rank is None else self.true_rank
        if not 1 <= r <= n:
            raise ValueError(f"true_rank must lie between 1 and the size {n}, got {r}")
        values = [20 * (1 - i / r) for i in range(r)]
        return problems.synthetic((n, n), values, self._rng(), self._dtype())


@dataclass(frozen=True)
class Entry(Generic[Options]):
    """A name's meaning.

    Parameters
    ----------
    description : str
        One line.
    build : callable
        Makes the object from the options.
    uses : tuple of str
        The options it takes; others that are set are refused.
    """

    description: str
    build: Callable[[Options], Any]
    uses: tuple[str, ...] = ()


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": methods.SGD,
    "momentum": methods.Momentum,
    "adam": methods.Adam,
}
SUBSTEPS: dict[str, Callable[[], Any]] = {
    "euler": methods.Euler,
    "heun": methods.Heun,
    "rk4": methods.RK4,
    "exact": methods.Exact,
}
_ADAPTIVE = ("tau", "spare", "optimizer")

INTEGRATORS: dict[str, Entry[MethodOptions]] = {
    "full-rank": Entry(
        "the matrix itself, without any low-rank constraint",
        lambda o: methods.FullRank(substep=o._substep(), optimizer=o._optimizer()),
        ("substep", "optimizer"),
    ),
    "lora": Entry(
        "simultaneous descent on the two factors of W = B A",
        lambda o: methods.LoRA(optimizer=o._optimizer()),
        ("optimizer",),
    ),
    "svd-lora": Entry(
        "simultaneous descent on U, S and V",
        lambda o: methods.SVDLoRA(optimizer=o._optimizer()),
        ("optimizer",),
    ),
    "adalora": Entry(
        "descent on U, diag(s) and V with a budget of triplets, from the rank down to two thirds",
        lambda o: methods.AdaLoRA(truncation=o._budget(), optimizer=o._optimizer()),
        ("optimizer",),
    ),
    "projector-splitting": Entry(
        "projector splitting, Lie (order 1), fixed rank",
        lambda o: methods.ProjectorSplitting(substep=o._substep(), optimizer=o._optimizer()),
        ("substep", "optimizer"),
    ),
    "projector-splitting-strang": Entry(
        "projector splitting, Strang (order 2), fixed rank",
        lambda o: methods.ProjectorSplitting(order=2, substep=o._substep("heun"), optimizer=o._optimizer()),
        ("substep", "optimizer"),
    ),
    "bug": Entry(
        "basis update & Galerkin, fixed rank",
        lambda o: methods.BUG(substep=o._substep(), optimizer=o._optimizer()),
        ("substep", "optimizer"),
    ),
    "augmented-bug": Entry(
        "basis update & Galerkin in augmented bases, rank-adaptive",
        lambda o: methods.AugmentedBUG(truncation=o._truncation(), substep=o._substep(), optimizer=o._optimizer()),
        ("substep", *_ADAPTIVE),
    ),
    "parallel-bug": Entry(
        "K, L and S at the same time from the old bases, rank-adaptive",
        lambda o: methods.ParallelBUG(truncation=o._truncation(), substep=o._substep(), optimizer=o._optimizer()),
        ("substep", *_ADAPTIVE),
    ),
    "parallel-bug-rejection": Entry(
        "the same; a step is repeated in larger bases where truncation would keep all of them",
        lambda o: methods.ParallelBUG(
            truncation=o._truncation(), substep=o._substep(), optimizer=o._optimizer(), rejection=10.0
        ),
        ("substep", *_ADAPTIVE),
    ),
    "geolora": Entry(
        "one gradient, one optimiser step on K, L and S, augmentation, truncation; rank-adaptive",
        lambda o: methods.GeoLoRA(truncation=o._truncation(), optimizer=o._optimizer()),
        _ADAPTIVE,
    ),
}


def _least_squares(o):
    """Gaussian inputs, four for each column, outputs of the target matrix with noise of size 0.1."""
    matrix, rng = o._target(), np.random.default_rng(1)
    m, n = matrix.shape
    inputs = rng.standard_normal((4 * n, n)).astype(o._dtype())
    noise = 0.1 * rng.standard_normal((4 * n, m)).astype(o._dtype())
    return problems.LinearLeastSquares(inputs, inputs @ matrix.T + noise, o.batch_size)


def _schroedinger(o):
    precision = np.result_type(o._dtype(), np.complex64)
    return problems.schroedinger(o._rng(), o._size(), precision)


def _lyapunov(o, **kind):
    return problems.lyapunov(o._size(), o._rng(), dtype=o._dtype(), **kind)


_TARGET = ("target", "size", "true_rank", "dtype")

PROBLEMS: dict[str, Entry[ProblemOptions]] = {
    "matrix-regression": Entry(
        "loss: half the squared distance to a given matrix", lambda o: problems.MatrixRegression(o._target()), _TARGET
    ),
    "matrix-completion": Entry(
        "loss: distance to a given matrix at half of its entries",
        lambda o: problems.completion(np.random.default_rng(1), o._target(), 0.5, o.batch_size),
        (*_TARGET, "batch_size"),
    ),
    "linear-least-squares": Entry(
        "loss: a linear layer with Gaussian inputs and noisy outputs", _least_squares, (*_TARGET, "batch_size")
    ),
    "rotating": Entry(
        "Y' = A'(t), singular values falling like 2^-j, in rotating bases",
        lambda o: problems.rotating(o._rng(), (o._size(), o._size()), o.true_rank, dtype=o._dtype()),
        ("size", "true_rank", "dtype"),
    ),
    "given-solution": Entry(
        "nonlinear equation made to have a given solution of exact rank, to see orders of convergence",
        lambda o: problems.given_solution(
            o._rng(), (o._size(30), o._size(30)), 4 if o.true_rank is None else o.true_rank, dtype=o._dtype()
        ),
        ("size", "true_rank", "dtype"),
    ),
    "manufactured": Entry(
        "equation derived by sympy from a given symbolic solution of low rank",
        lambda o: problems.manufactured((o._size(7), o._size(7)), 2 if o.true_rank is None else o.true_rank),
        ("size", "true_rank"),
    ),
    "lyapunov": Entry("X' = A X + X A^T + C with the heat operator", _lyapunov, ("size", "dtype")),
    "lyapunov-nonsymmetric": Entry(
        "the same with convection: A is not symmetric", lambda o: _lyapunov(o, symmetric=False), ("size", "dtype")
    ),
    "lyapunov-stiff": Entry(
        "the same on the unit interval: explicit steps must be tiny",
        lambda o: _lyapunov(o, stiff=True),
        ("size", "dtype"),
    ),
    "schroedinger": Entry(
        "discrete Schroedinger equation, complex, norm and energy are conserved", _schroedinger, ("size", "dtype")
    ),
}


def lookup(kind, name, table):
    """``table[name]``, or a ValueError that answers an unknown name with the nearest known one.

    Parameters
    ----------
    kind : str
        What the names stand for, for the message.
    name : str
    table : mapping from str

    Examples
    --------
    >>> lookup("substep", "eular", SUBSTEPS)
    Traceback (most recent call last):
    ...
    ValueError: unknown substep 'eular', did you mean 'euler'? Known: euler, heun, rk4, exact
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(str(name).lower(), table, n=1, cutoff=0.4)
    hint = f", did you mean {near[0]!r}?" if near else "."
    raise ValueError(f"unknown {kind} {name!r}{hint} Known: {', '.join(table) or 'none'}")


def build_integrator(name, options):
    """The integrator of this name.

    Parameters
    ----------
    name : str
        A name in `INTEGRATORS`.
    options : MethodOptions
        What does not concern the method is ignored: options are shared by all methods of a comparison.

    Raises
    ------
    ValueError
        Unknown names, or bad values of options.
    """
    return lookup("integrator", name, INTEGRATORS).build(options)


def build_problem(name, options):
    """The problem of this name.

    Parameters
    ----------
    name : str
        A name in `PROBLEMS`.
    options : ProblemOptions

    Raises
    ------
    FileNotFoundError, ValueError
        Unknown names, a missing target, bad values, or options set that do not concern the problem.
    """
    entry = lookup("problem", name, PROBLEMS)
    for option in fields(options):
        value = getattr(options, option.name)
        if option.name not in entry.uses and value != option.default:
            takes = ", ".join(entry.uses)
            raise ValueError(f"{option.name} {value!r} does not concern {name}, which takes {takes}")
    return entry.build(options)
