"""Run an integrator on a problem: `solve`, the one loop that figures, sweeps and the command line share."""

from __future__ import annotations

import contextlib
import importlib
import logging
import time as clock
from dataclasses import replace

import numpy as np
from array_api_compat import device
from array_api_compat import is_torch_array as is_torch

from integrators import LowRank
from integrators.checks import check_integer, check_number, check_rank
from integrators.linalg import array_namespace, to_numpy

from .runs import describe, identify, is_running
from .trajectory import Record, Trajectory, core_versions, without_state

logger = logging.getLogger(__name__)
_FAILURES = (FloatingPointError, OverflowError, np.linalg.LinAlgError)
_BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


def solve(
    integrator,
    problem,
    *,
    step_size,
    steps,
    start=None,
    rank=None,
    t0=None,
    restart=False,
    seed=None,
    every=1,
    coefficients=False,
    callback=None,
):
    """Take steps of an integrator on a problem and record what happens.

    However a run ends, everything so far is kept, and its status says why it ended. Numbers that are not finite are a
    result, ``diverged at step k``. So is Ctrl-C, ``interrupted``; it goes on to the caller only from a run of `sweep`
    or `dlrt.runs.run_tasks`, whose results are kept: half of one is none. Where the problem, the method or a schedule
    raises an exception the status is ``failed at step k: TYPE: TEXT``, a warning is logged, and the traceback at the
    level INFO.

    Parameters
    ----------
    integrator : integrators.Integrator
        The method with its hyper-parameters.
    problem : problems.Problem
        The field to follow. A problem with a loss is asked for one mini-batch per step, which all stages of
        the step share.
    step_size : float or callable
        Step size (learning rate), or a schedule ``k -> h`` of the number k = 0, 1, ... of steps taken before
        (continued runs go on counting). Every step size used is recorded. Negative step sizes go back in time, where
        the problem is an equation; a dissipative one may not allow it. A loss takes positive ones.
    steps : int
        Number of steps to take (more, when a trajectory is continued).
    start : integrators.LowRank or Trajectory, optional
        Start matrix, or a trajectory to continue: the numbers are then those of a run that never stopped, bit
        for bit. Without it the problem's own ``initial(rank, rng)`` is drawn. Of a start matrix only the matrix counts
        and not its factors, except for the methods that move factors (LoRA, SVD-LoRA, AdaLoRA).
    rank : int, optional
        Rank of the problem's own start; needed without `start`, refused with it.
    t0 : float, optional
        Time of the start, 0 by default; refused when a trajectory is continued. The problem's own start is taken as it
        is, and where a solution is known that is its value at time 0: for another time give a `start`, such as
        ``LowRank.from_dense(problem.reference(t0), rank=r)``.
    restart : bool
        Begin a new run where the trajectory `start` ended, with its last matrix at its last time. Method, problem and
        all options may be others. The new run has no memory of the old one: steps, evaluations and times of computing
        are counted from 0, moments and averages begin anew, and random numbers come from `seed`.
    seed : int or numpy.random.Generator, optional
        Randomness of the start and the mini-batches, 0 by default; refused when a trajectory is continued,
        since that goes on with the generator it carries.
    every : int
        Record the start, each step whose number is a multiple of this, and the last one. Recording evaluates the loss
        and the error, which can cost more than a step.
    coefficients : bool
        Record the entries of S too.
    callback : callable, optional
        Called with each new `Record`; a true answer stops the run.

    Returns
    -------
    Trajectory

    Raises
    ------
    TypeError, ValueError
        Bad arguments; a start where the loss or error is not finite; a trajectory of another integrator,
        problem or array library than given.
    """
    _check_methods("integrator", integrator, "integrators.Integrator", ("init", "step"))
    _check_methods("problem", problem, "problems.Problem", ("field", "initial"))
    if not callable(step_size):
        step_size = _step_size("step_size", step_size, problem)
    steps = check_integer("steps", steps, least=0)
    every = check_integer("every", every)
    if restart and not isinstance(start, Trajectory):
        raise ValueError(f"restart needs a trajectory as start, got {start!r}")
    if t0 is not None:
        t0 = check_number("t0", t0)

    if isinstance(start, Trajectory) and not restart:
        run = _Run.going_on(start, integrator, problem, rank, t0, seed, coefficients)
    else:
        if restart:
            t0 = float(start.times[-1]) if t0 is None else t0
            start = _restored_record(start).state.Y
        run = _Run.new(start, integrator, problem, rank, t0 or 0.0, seed, coefficients)
    run.meta |= {"step_size": describe(step_size), "every": every, "versions": core_versions()}
    return run.go(step_size, steps, every, callback)


def _check_methods(name, thing, kind, methods):
    """TypeError unless it is an object with these methods, and not a class or a function in its place."""
    if isinstance(thing, type):
        raise TypeError(f"{name} must be an object, got the class {thing.__name__}: write {thing.__name__}(...)")
    for method in methods:
        if not callable(getattr(thing, method, None)):
            hint = ": see problems.from_function" if name == "problem" and callable(thing) else ""
            raise TypeError(f"{name} must have a method {method}, as {kind} does, got {thing!r}{hint}")


def _step_size(name, h, problem):
    """A step size as a Python float: not zero, and positive for a loss."""
    h, is_loss = check_number(name, h), hasattr(problem, "loss")
    if h > 0 or (h < 0 and not is_loss):
        return h
    reason = "be positive, since a step back would climb the loss" if is_loss else "not be zero"
    raise ValueError(f"{name} must {reason}, got {h:g}")


class _Run:
    """The state of a run between steps; `records` always ends with a complete, finite moment."""

    def __init__(self, integrator, problem, coefficients, rng, meta, t0):
        self.integrator = integrator
        self.problem = problem
        self.coefficients = coefficients
        self.rng = rng
        self.meta = meta
        self.has_loss = hasattr(problem, "loss")
        self.has_error = hasattr(problem, "error") and problem.reference(t0) is not None
        self.records, self.step_sizes, self.truncation_errors = [], [], []

    @classmethod
    def new(cls, start, integrator, problem, rank, t0, seed, coefficients):
        rng = _generator(seed)
        made = identify(integrator=integrator, problem=problem)
        meta = {
            **made["settings"],
            "code": made["code"],
            "seed": None if isinstance(seed, np.random.Generator) else int(seed or 0),
            "random_start": _random_state(rng),
            "start": "problem" if start is None else describe(start),
        }
        if start is None:
            if rank is None:
                raise ValueError("rank (or start) must be given for a new run")
            start = LowRank(*problem.initial(check_rank(rank, problem.shape), rng))
        elif rank is not None:
            raise ValueError(f"rank must not be given with start, which has one, got rank={rank}")
        elif not isinstance(start, LowRank):
            raise TypeError(f"start must be an integrators.LowRank or a dlrt.Trajectory, got {type(start).__name__}")
        elif tuple(start.shape) != tuple(problem.shape):
            raise ValueError(f"start has shape {tuple(start.shape)}, but the problem has {tuple(problem.shape)}")
        library = array_namespace(start.S).__name__.removeprefix("array_api_compat.").split(".")[0]
        meta |= {"array_library": library, "device": str(device(start.S))}
        run = cls(integrator, problem, coefficients, rng, meta, t0)
        with np.errstate(all="ignore"):
            try:
                run.record(0, t0, _contiguous(integrator.init(start)), 0, 0, 0.0, _random_state(rng))
            except _FAILURES as error:
                raise ValueError(f"start must have a finite loss and error: {error}") from error
        return run

    @classmethod
    def going_on(cls, trajectory, integrator, problem, rank, t0, seed, coefficients):
        for name, value in (("rank", rank), ("t0", t0), ("seed", seed)):
            if value is not None:
                raise ValueError(f"{name} must not be given when a trajectory is continued, got {name}={value!r}")
        made = identify(integrator=integrator, problem=problem)
        for name, given in made["settings"].items():
            if given != (recorded := trajectory.meta[name]):
                raise ValueError(f"the trajectory was made with another {name}: {recorded}, got {given}")
        if made["code"] != (recorded := trajectory.meta["code"]):
            raise ValueError(
                f"the trajectory was made by other code ({recorded}, now {made['code']}), so the numbers "
                "would not be those of a run that never stopped"
            )
        if coefficients != (trajectory.coefficients is not None):
            raise ValueError(f"the trajectory to continue has coefficients={not coefficients}, got {coefficients}")
        rng = _restored(trajectory.meta["random_state"])
        meta = {name: value for name, value in trajectory.meta.items() if name != "case"}  # it becomes another run
        run = cls(integrator, problem, coefficients, rng, meta, float(trajectory.times[0]))
        run.records = [*trajectory.records()[:-1], _restored_record(trajectory)]
        run.step_sizes = trajectory.step_sizes.tolist()
        run.truncation_errors = trajectory.truncation_errors.tolist()
        return run

    def record(self, k, t, state, evaluations, rejected, wall, random_state):
        """Append a complete record, or raise FloatingPointError where it is not finite."""
        Y = state.Y
        loss = float(self.problem.loss(Y)) if self.has_loss else None
        error = float(self.problem.error(t, Y)) if self.has_error else None
        singular_values = to_numpy(Y.singular_values())
        for name, value in (("loss", loss), ("error", error), ("singular value", singular_values)):
            if value is not None and not np.all(np.isfinite(value)):
                raise FloatingPointError(f"{name} is not finite")
        S = to_numpy(Y.S).copy() if self.coefficients else None
        moment = k, t, loss, error, int(Y.rank), singular_values, S
        record = Record(*moment, evaluations, rejected, wall, state, random_state)
        self.records.append(record)
        if len(self.records) > 1:
            self.records[-2] = without_state(self.records[-2])
        return record

    def go(self, step_size, steps, every, callback):
        start = self.records[-1]
        k, state, random_state = start.step, start.state, start.random_state
        totals = start.evaluations, start.rejected, start.wall_time
        t, compensation = _elapsed(self.records[0].time, self.step_sizes)
        end, status = k + steps, "finished"
        try:
            with np.errstate(all="ignore"):
                while k < end:
                    record = None
                    try:
                        h = step_size
                        if callable(step_size):
                            h = _step_size(f"step_size({k})", step_size(k), self.problem)
                        batch = self.problem.minibatch(self.rng) if self.has_loss else self.problem
                        tic = clock.perf_counter()
                        step = self.integrator.step(batch.field, t, state, h)
                        seconds = clock.perf_counter() - tic
                        after = _contiguous(step.state)
                        self.step_sizes[k:] = [h]
                        self.truncation_errors[k:] = [float(step.truncation_error)]
                        later = _add(t, compensation, h)
                        drawn = _random_state(self.rng)
                        sums = totals[0] + step.evaluations, totals[1] + step.rejected, totals[2] + seconds
                        if (k + 1) % every == 0 or k + 1 == end:
                            record = self.record(k + 1, later[0], after, *sums, drawn)
                    except _FAILURES as error:
                        status = f"diverged at step {k + 1}"
                        logger.info("%s: %s", status, error)
                        break
                    except Exception as error:
                        status = f"failed at step {k + 1}: {type(error).__name__}: {error}"
                        logger.warning("%s", status)
                        logger.info("raised at step %d", k + 1, exc_info=True)
                        break
                    k, state, totals, random_state, (t, compensation) = k + 1, after, sums, drawn, later
                    if record is not None and callback is not None and callback(record):
                        status = "stopped"
                        break
        except KeyboardInterrupt:
            if is_running():
                raise
            status = "interrupted"
        if self.records[-1].step < k and not status.startswith("diverged"):
            # a diverging run ends at the last complete record before: what lies between may be of no use
            with np.errstate(all="ignore"), contextlib.suppress(Exception):
                self.record(k, t, state, *totals, random_state)
        records = self.records
        if start.step % every and records[-1].step > start.step:  # it was recorded only because that run ended there
            records = [record for record in records if record.step != start.step]
        return Trajectory.from_records(records, self.step_sizes, self.truncation_errors, status, self.meta)


def _add(t, compensation, h):
    """One step of a compensated (Kahan) sum, so that 1/h steps of h end at 1 and not some roundings away."""
    h = h - compensation
    total = t + h
    return total, (total - t) - h


def _elapsed(t0, step_sizes):
    t, compensation = t0, 0.0
    for h in step_sizes:
        t, compensation = _add(t, compensation, h)
    return t, compensation


def _contiguous(state):
    """The state with arrays in row-major order, the order in which a loaded one has them.

    BLAS may round differently for other orders; runs continued from a file must not differ from unbroken ones.
    """

    def row_major(X):
        if is_torch(X):
            return X.contiguous()
        return np.ascontiguousarray(X) if isinstance(X, np.ndarray) else X

    return state.map(row_major)


def _restored_record(trajectory):
    """The last record, in arrays of the library in which it was made: from a file they come as numpy arrays."""
    record, library = trajectory.records()[-1], trajectory.meta["array_library"]
    if library == "numpy" or not isinstance(trajectory.Y.S, np.ndarray):
        return record
    if library == "torch":
        import torch

        where = trajectory.meta["device"]
        return replace(record, state=record.state.map(lambda X: torch.from_numpy(np.array(X)).to(where)))
    xp = importlib.import_module("jax.numpy" if library == "jax" else library)
    return replace(record, state=record.state.map(xp.asarray))


def _generator(seed):
    if isinstance(seed, np.random.Generator):
        if type(seed.bit_generator).__name__ not in _BIT_GENERATORS:
            raise ValueError(f"seed must use a bit generator of numpy, got {type(seed.bit_generator).__name__}")
        return seed
    return np.random.default_rng(check_integer("seed", 0 if seed is None else seed, 0))


def _random_state(rng):
    """State of a generator as JSON values."""

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value

    return plain(rng.bit_generator.state)


def _restored(random_state):
    """A generator in the state that `_random_state` wrote."""
    name = random_state["bit_generator"]
    if name not in _BIT_GENERATORS:
        raise ValueError(f"the trajectory's random state must be one of {', '.join(_BIT_GENERATORS)}, got {name!r}")
    bits = getattr(np.random, name)()

    def typed(pattern, value):
        if isinstance(pattern, dict):
            return {key: typed(pattern[key], value[key]) for key in pattern}
        return np.array(value, dtype=pattern.dtype) if isinstance(pattern, np.ndarray) else value

    bits.state = typed(bits.state, random_state)
    return np.random.Generator(bits)
