"""Run an integrator on a problem: `solve`, the one loop that figures, sweeps and the command line share."""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import time as clock
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import device
from array_api_compat import is_torch_array as is_torch

from integrators import LowRank
from integrators.checks import check_integer, check_number, check_positive, check_rank, described
from integrators.linalg import array_namespace, to_numpy

from .control import (
    NOT_FINITE,
    Controller,
    Interpolant,
    StartField,
    Tolerances,
    accepted,
    changes,
    check_follows,
    first_step,
    located,
    value_of,
)
from .runs import describe, identify, is_running
from .trajectory import Record, Trajectory, core_versions, without_state

logger = logging.getLogger(__name__)
_BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


def solve(
    integrator,
    problem,
    *,
    step_size=None,
    steps=None,
    t_span=None,
    rtol=None,
    atol=None,
    first_step=None,
    t_eval=None,
    events=None,
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

    Steps are either of given size (`step_size` and `steps`) or chosen to meet tolerances (`t_span`, `rtol`, `atol`; the
    names are those of ``scipy.integrate.solve_ivp``), see `dlrt.control`.

    However a run ends, everything so far is kept, and its status says why it ended. Numbers that are not finite are a
    result, ``diverged at step k``. So is Ctrl-C, ``interrupted``; it goes on to the caller only from a run of `sweep`
    or `dlrt.runs.run_tasks`, whose results are kept: half of one is none. Where the problem, the method or a schedule
    raises an exception the status is ``failed at step k: TYPE: TEXT``, a warning is logged, and the traceback at the
    level INFO. A method may say that a step is of no use though its numbers are finite, see
    `integrators.ProjectorSplitting`: the run then is ``finished with a warning at step k: TEXT``.

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
        Number of steps to take (more, when a trajectory is continued). With `t_span` the most to take, rejected ones
        apart, after which the run is ``stopped``; any number without it.
    t_span : (float, float)
        Instead of `step_size`: start and end of the interval, the step sizes being chosen by step doubling and a PI
        controller. The end may lie before the start, for an equation. Where a trajectory is continued it is the
        interval of the whole run. The method needs an order and the problem no mini-batches.
    rtol, atol : float, optional
        The error of a step may be ``atol + rtol ||Y||`` in the Frobenius norm, the one at the end is then of this size
        times what the equation makes of errors; 1e-3 and 1e-6 by default. They bound the error in time of a method at
        its rank: what a fixed rank cannot hold is not in it. A `Tolerance` of a rank-adaptive method is
        replaced by one that follows them, and keeps its bounds of the rank.
    first_step : float, optional
        Size of the first step to try, positive; without it one that moves Y by a hundredth.
    t_eval : sequence of float, optional
        Times, in the order of the run, at which to keep the matrix: `Trajectory.samples`. Between steps it is
        interpolated with order 4, see `dlrt.control.Interpolant`, for two fields more in such a step; the steps are
        the same with and without.
    events : callable or list of callables, optional
        Functions ``event(t, Y)`` of the time and a `LowRank`. Where one changes its sign the run ends, ``stopped``,
        at that point, found by bisection of the interpolated matrix. As in scipy an attribute ``direction`` says
        which changes count, and with ``event.terminal = False`` the run goes on; `Trajectory.t_events` has the times.
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
    if t_span is None:
        for name, value in (("rtol", rtol), ("atol", atol), ("first_step", first_step)):
            if value is not None:
                raise ValueError(f"{name} is for runs with t_span, got {name}={value!r} without one")
        if step_size is None or steps is None:
            raise ValueError("step_size and steps, or t_span, must be given")
        if not callable(step_size):
            step_size = _step_size("step_size", step_size, problem)
    else:
        for name, value in (("step_size", step_size), ("t0", t0)):
            if value is not None:
                raise ValueError(f"{name} must not be given with t_span, got {name}={value!r}")
        t_span = _span(t_span, problem)
        check_follows(integrator, problem, "step-size control")
    steps = math.inf if steps is None else check_integer("steps", steps, least=0)
    every = check_integer("every", every)
    if restart and not isinstance(start, Trajectory):
        raise ValueError(f"restart needs a trajectory as start, got {start!r}")
    if t0 is not None:
        t0 = check_number("t0", t0)
    if t_eval is not None or events is not None:
        check_follows(integrator, problem, "t_eval" if events is None else "events")

    if isinstance(start, Trajectory) and not restart:
        run = _Run.going_on(start, integrator, problem, rank, t0, seed, coefficients)
    else:
        if restart:
            t0 = float(start.times[-1]) if t0 is None else t0
            start = _restored_record(start).state.Y
        t0 = (t0 or 0.0) if t_span is None else t_span[0]
        run = _Run.new(start, integrator, problem, rank, t0, seed, coefficients)
    run.meta |= {"step_size": describe(step_size), "every": every, "versions": core_versions()}
    if t_span is None:
        run.meta.pop("control", None)
        stepper: Any = _Given(integrator, problem, run.rng, step_size)
    else:
        stepper = _Controlled(integrator, problem, run, t_span, rtol, atol, first_step)
    output = _Output(integrator, run, _times(t_eval, stepper.ahead, t_span), stepper.ahead, events)
    return run.go(stepper, output, steps, every, callback)


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


def _span(t_span, problem):
    """(t0, t1) as Python floats; for a loss t1 > t0."""
    if not isinstance(t_span, (tuple, list, np.ndarray)) or len(t_span) != 2:
        raise TypeError(f"t_span must be a pair of times, got {described(t_span)}")
    t0, t1 = (check_number("each of t_span", t) for t in t_span)
    if t0 == t1 or (t1 < t0 and hasattr(problem, "loss")):
        after = "must end after it begins" if hasattr(problem, "loss") else "must have two different times"
        raise ValueError(f"t_span {after}, got ({t0:g}, {t1:g})")
    return t0, t1


def _times(t_eval, ahead, span):
    """Times of `t_eval` as a list of Python floats, in the direction `ahead` of the run (0 where it is not known)."""
    if t_eval is None:
        return []
    times = [check_number("each of t_eval", t) for t in np.ravel(t_eval).tolist()]
    differences = np.diff(times)
    if not (np.all(differences * ahead > 0) if ahead else np.all(differences > 0) or np.all(differences < 0)):
        raise ValueError(f"t_eval must be times in the order of the run, each once, got {times}")
    if span is not None and times and (span[1] - times[-1]) * ahead < 0:
        raise ValueError(f"t_eval must end within t_span ({span[0]:g}, {span[1]:g}), got {times[-1]:g}")
    return times


class _Taken(NamedTuple):
    """A step that was taken."""

    h: float
    state: Any
    truncation_error: float
    evaluations: int
    rejected: int
    seconds: float
    ratio: float = math.nan
    tried: tuple = ()
    warning: str | None = None


class _Given:
    """Steps of given size: a number, or a schedule."""

    def __init__(self, integrator, problem, rng, step_size):
        self.integrator, self.problem, self.rng, self.step_size = integrator, problem, rng, step_size
        self.has_loss = hasattr(problem, "loss")
        self.ahead = 0.0 if callable(step_size) else math.copysign(1.0, step_size)
        self.field = StartField(problem.field)

    def ended(self, t):
        return False

    controlled = False

    def note(self):
        pass

    def take(self, k, t, compensation, state):
        h = self.step_size
        if callable(h):
            h = _step_size(f"step_size({k})", h(k), self.problem)
        batch = self.problem.minibatch(self.rng) if self.has_loss else self.problem
        tic = clock.perf_counter()
        step = self.integrator.step(batch.field, t, state, h)
        seconds = clock.perf_counter() - tic
        return _Taken(
            h, step.state, float(step.truncation_error), step.evaluations, step.rejected, seconds, warning=step.warning
        )


class _Controlled:
    """Steps that meet tolerances, up to the end of an interval."""

    controlled = True

    def __init__(self, integrator, problem, run, span, rtol, atol, first):
        self.integrator, self.span, self.run = integrator, span, run
        self.field = StartField(problem.field)
        state, t, before = run.records[-1].state, run.records[-1].time, run.meta.get("control")
        self.ahead = math.copysign(1.0, span[1] - span[0])
        if run.records[0].time != span[0] or (span[1] - t) * self.ahead < 0:
            raise ValueError(
                f"t_span must begin where the run began, at {run.records[0].time:g}, and end no earlier than its last "
                f"time {t:g}, got ({span[0]:g}, {span[1]:g})"
            )
        self.tolerances = Tolerances.of(rtol, atol, state.Y)
        if first is not None:
            first = check_positive("first_step", first) * self.ahead
        if before is not None and first is None and before["next"] * self.ahead > 0:
            self.controller = Controller(integrator.order, before["next"], before["previous"])
        else:
            if first is None:
                with np.errstate(all="ignore"):
                    first = first_step(self.field, self.tolerances, t, state.Y, abs(span[1] - span[0])) * self.ahead
            self.controller = Controller(integrator.order, first)
        self.note()

    def note(self):
        """What a run that goes on from here has to know."""
        self.run.meta["control"] = {
            "t_span": list(self.span),
            "rtol": self.tolerances.rtol,
            "atol": self.tolerances.atol,
            "next": self.controller.next,
            "previous": self.controller.previous,
        }

    def ended(self, t):
        return (self.span[1] - t) * self.ahead <= 0

    def take(self, k, t, compensation, state):
        self.field.count, tic = 0, clock.perf_counter()
        self.field.begin(t, state.Y)
        remaining = _towards(t, compensation, self.span[1])
        arguments = self.integrator, self.tolerances, self.span, self.controller, self.field, t, state, remaining
        h, made, tried = accepted(*arguments)
        seconds, rejected = clock.perf_counter() - tic, made.rejected + len(tried)
        return _Taken(
            h, made.state, made.truncation_error, self.field.count, rejected, seconds, made.ratio,
            tuple((float(k + 1), *pair) for pair in tried), made.warning,
        )  # fmt: skip


class _Output:
    """What is wanted between the ends of steps: matrices at given times, and events."""

    def __init__(self, integrator, run, times, ahead, events):
        self.integrator = integrator
        self.events = [] if events is None else [events] if callable(events) else list(events)
        for event in self.events:
            if not callable(event):
                raise TypeError(f"events must be functions of t and Y, got {described(event)}")
        recorded = run.meta.get("events", [[] for _ in self.events])
        if len(recorded) != len(self.events):
            raise ValueError(f"the trajectory to continue has {len(recorded)} events, got {len(self.events)}")
        if self.events:
            run.meta["events"] = recorded
        t, Y, seen = run.records[-1].time, run.records[-1].state.Y, {t for t, _ in run.samples}
        self.values = [value_of(event, t, Y) for event in self.events]
        self.times = [s for s in times if s not in seen]
        if any((s - t) * ahead < 0 for s in self.times):
            raise ValueError(f"t_eval must not lie before the start of the run at t = {t:g}, got {self.times[0]:g}")
        if self.times and self.times[0] == t:
            run.samples.append((self.times.pop(0), Y.orthonormalised()))

    def within(self, field, t, state, h, t1, after):
        """What there is in a step from t to t1: the fraction of it to keep, the state there, and a `_Found`.

        The step ends at the first event that is terminal.
        """
        wanted = [s for s in self.times if (s - t) * h > 0 and (t1 - s) * h >= 0]
        values = [value_of(event, t1, after.Y) for event in self.events]
        changed = [i for i, pair in enumerate(zip(self.values, values)) if changes(self.events[i], *pair)]
        if not wanted and not changed:
            return 1.0, after, _Found(values)
        between = Interpolant.between(field, t, state.Y, t1, after.Y)
        at = {i: located(self.events[i], between, self.values[i]) for i in changed}
        ends = {i: theta for i, theta in at.items() if getattr(self.events[i], "terminal", True)}
        theta = min([1.0, *ends.values()])
        if theta < 1.0:
            t1, after = t + theta * (t1 - t), after.at(self.integrator.start(between(theta)))
            values = [value_of(event, t1, after.Y) for event in self.events]
        samples = [(s, between(min(1.0, (s - t) / between.h))) for s in wanted if (t1 - s) * h >= 0]
        times = {i: t + x * between.h for i, x in at.items() if x <= theta}
        return theta, after, _Found(values, samples, times, bool(ends))

    def keep(self, run, found):
        """After the step was taken."""
        self.values = found.values
        run.samples += found.samples
        self.times = self.times[len(found.samples) :]
        for i, t in found.times.items():
            run.meta["events"][i].append(t)


class _Found(NamedTuple):
    """What was found in a step: the events' functions at its end, pairs (time, matrix), times of events by number."""

    values: list
    samples: list = []
    times: dict = {}
    terminal: bool = False


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
        self.error_ratios, self.rejected_steps, self.samples = [], [], []

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
            except NOT_FINITE as error:
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
        ratios = trajectory.error_ratios
        run.error_ratios = [math.nan] * len(run.step_sizes) if ratios is None else ratios.tolist()
        run.rejected_steps = trajectory.rejected_steps.tolist()
        run.samples = list(zip(trajectory.sample_times.tolist(), trajectory.samples))
        run.meta |= {"events": [list(times) for times in meta["events"]]} if "events" in meta else {}
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

    def go(self, stepper, output, steps, every, callback):
        start = self.records[-1]
        k, state, random_state = start.step, start.state, start.random_state
        totals = start.evaluations, start.rejected, start.wall_time
        t, compensation = _elapsed(self.records[0].time, self.step_sizes)
        end, status = k + steps, "finished"
        try:
            with np.errstate(all="ignore"):
                while k < end and not stepper.ended(t):
                    record = None
                    try:
                        taken = stepper.take(k, t, compensation, state)
                        h, later = taken.h, _add(t, compensation, taken.h)
                        stepper.field.count = 0
                        theta, after, found = output.within(stepper.field, t, state, h, later[0], taken.state)
                        if theta < 1:
                            h = _towards(t, compensation, t + theta * (later[0] - t))
                            later = _add(t, compensation, h)
                        after = _contiguous(after)
                        self.step_sizes[k:] = [h]
                        self.truncation_errors[k:] = [taken.truncation_error]
                        self.error_ratios[k:] = [taken.ratio]
                        drawn = _random_state(self.rng)
                        counts = taken.evaluations + stepper.field.count, taken.rejected, taken.seconds
                        sums = totals[0] + counts[0], totals[1] + counts[1], totals[2] + counts[2]
                        last = k + 1 == end or stepper.ended(later[0]) or found.terminal
                        if (k + 1) % every == 0 or last:
                            record = self.record(k + 1, later[0], after, *sums, drawn)
                    except NOT_FINITE as error:
                        status = f"diverged at step {k + 1}"
                        logger.info("%s: %s", status, error)
                        break
                    except Exception as error:
                        status = f"failed at step {k + 1}: {type(error).__name__}: {error}"
                        logger.warning("%s", status)
                        logger.info("raised at step %d", k + 1, exc_info=True)
                        break
                    k, state, totals, random_state, (t, compensation) = k + 1, after, sums, drawn, later
                    if taken.warning and "warning" not in self.meta:
                        self.meta["warning"] = f"at step {k}: {taken.warning}"
                        logger.warning("%s", self.meta["warning"])
                    self.rejected_steps += taken.tried
                    output.keep(self, found)
                    stepper.note()
                    if found.terminal or (record is not None and callback is not None and callback(record)):
                        status = "stopped"
                        break
        except KeyboardInterrupt:
            if is_running():
                raise
            status = "interrupted"
        if status == "finished" and stepper.controlled and not stepper.ended(t):
            status = "stopped"
        if self.records[-1].step < k and (stepper.controlled or not status.startswith("diverged")):
            # a diverging run of given steps ends at the last record before: what lies between may be of no use
            with np.errstate(all="ignore"), contextlib.suppress(Exception):
                self.record(k, t, state, *totals, random_state)
        if status == "finished" and "warning" in self.meta:
            status += f" with a warning {self.meta['warning']}"
        records = self.records
        if start.step % every and records[-1].step > start.step:  # it was recorded only because that run ended there
            records = [record for record in records if record.step != start.step]
        return self.trajectory(records, status)

    def trajectory(self, records, status):
        """The trajectory up to the last record."""
        last, first = records[-1], records[0].time
        length = abs(last.time - first)
        inside = [(t, Y) for t, Y in self.samples if abs(t - first) <= length]
        for times in self.meta.get("events", []):
            times[:] = [t for t in times if abs(t - first) <= length]
        tried = [row for row in self.rejected_steps if row[0] <= last.step]
        arrays = self.step_sizes, self.truncation_errors, status, self.meta, self.error_ratios
        return Trajectory.from_records(records, *arrays, tried, inside)


def _add(t, compensation, h):
    """One step of a compensated (Kahan) sum, so that 1/h steps of h end at 1 and not some roundings away."""
    h = h - compensation
    total = t + h
    return total, (total - t) - h


def _towards(t, compensation, end):
    """The step size with which `_add` ends at a given time, exactly if there is one."""
    h = (end - t) + compensation
    near = h, np.nextafter(h, np.inf), np.nextafter(h, -np.inf)
    return float(next((x for x in near if _add(t, compensation, x)[0] == end), h))


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
