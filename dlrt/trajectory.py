"""What a run leaves behind: recorded numbers, the final state, and how they came about, in one `.npz` file."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from integrators import LowRank, State
from integrators.linalg import to_numpy

from .runs import versions, write_atomically

SCHEMA_VERSION = 2
_RECORDED: tuple[str, ...] = ("steps", "times", "losses", "errors", "ranks", "singular_values", "coefficients")
_RECORDED += ("evaluations", "rejected", "wall_times")
_PER_STEP = ("step_sizes", "truncation_errors", "error_ratios")
_IN_META = ("status", "integrator", "problem", "code", "random_state", "step_size", "array_library", "device")
_OPTIONAL = ("losses", "errors", "coefficients", "error_ratios")


@dataclass(frozen=True, eq=False)
class Record:
    """One recorded moment of a run; the arguments of `solve`'s callback, and a row of a `Trajectory`.

    Attributes
    ----------
    step : int
        Number of steps taken so far.
    time : float
        Time reached.
    loss, error : float or None
        Loss of the full problem; Frobenius distance to the reference solution (of a loss: to the full gradient flow).
        None where the problem knows none.
    rank : int
        Rank carried by the state (columns, spare directions included).
    singular_values : ndarray (rank,)
        Singular values of the matrix, descending.
    coefficients : ndarray or None
        The entries of S, when asked for.
    evaluations, rejected : int
        Field evaluations and rejected steps so far.
    wall_time : float
        Seconds spent in steps so far; recording is not counted.
    state : integrators.State
        The state itself, with the matrix `state.Y`.
    random_state : dict or None
        State of the random generator after this step.
    """

    step: int
    time: float
    loss: float | None
    error: float | None
    rank: int
    singular_values: np.ndarray
    coefficients: np.ndarray | None
    evaluations: int
    rejected: int
    wall_time: float
    state: Any
    random_state: dict | None


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A run of an integrator on a problem: `R` recorded moments over `N` steps, of ranks up to `r`.

    Made by `solve`; saved by `save`, read by `load`, continued by passing it to `solve` as ``start``.

    Attributes
    ----------
    steps : ndarray of int (R,)
        Steps taken at each record: 0, every, 2 every, ..., and the last one.
    times : ndarray (R,)
        Time at each record, from that of the start, in the problem's unit. For losses it is the sum of the learning
        rates.
    losses : ndarray (R,) or None
        Loss of the full problem (not of a mini-batch); None for problems without a loss.
    errors : ndarray (R,) or None
        Frobenius distance to the reference solution (of a loss: to its full gradient flow); None where that is unknown.
    ranks : ndarray of int (R,)
        Rank carried (columns of the bases, spare directions included); see also `numerical_ranks`.
    singular_values : ndarray (R, r)
        Singular values of the matrix, descending, padded with nan.
    coefficients : ndarray (R, r, r) or None
        Entries of S, padded with nan; only on request, since S is large for full-rank methods.
    evaluations, rejected : ndarray of int (R,)
        Field evaluations (gradient tapes) and rejected steps up to each record, cumulative.
    wall_times : ndarray (R,)
        Seconds spent in steps up to each record, cumulative, without the time for recording.
    step_sizes : ndarray (N,)
        Step size of every step, as used, whether it was given as a number or as a schedule.
    truncation_errors : ndarray (N,)
        Frobenius norm of what truncation cut off, for every step.
    state : integrators.State
        State at the last record: the matrix (U, S, V) and the integrator's memory.
    status : str
        ``finished``, or ``finished with a warning at step k: TEXT``, where the method says that the k-th step is of no
        use; ``stopped`` by the callback, an event, or the number of steps allowed; ``interrupted`` from the keyboard;
        ``diverged at step k`` where the k-th step led to numbers that are not finite, the trajectory then ends at the
        last record before it (with step-size control after step k - 1); or ``failed at step k: TYPE: TEXT`` where the
        k-th step raised an exception, it then ends after step k - 1.
    meta : dict
        JSON values: ``integrator`` and ``problem`` (settings, see `describe`), ``code`` (digest of what made them,
        see `dlrt.runs.identity`), ``case`` (of a sweep: the identity of its case), ``seed``, ``random_start`` and
        ``random_state`` (the generator at start and end), ``start``, ``step_size``, ``every``,
        ``array_library``, ``device``, ``versions``; with step-size control ``control``: tolerances, interval, and what
        the controller remembers; with events ``events``: their times; ``warning``: the first that the method gave.
    error_ratios : ndarray (N,) or None
        Estimated error of every step over what the tolerances allow, at most 1; nan for steps of given size, None where
        all are.
    rejected_steps : ndarray (Q, 3)
        Attempts that step-size control rejected: number of the step from 1, size, and estimated error over what is
        allowed (infinite where numbers were not finite). Their evaluations count, and `rejected` counts them too.
    sample_times : ndarray (s,)
        The times of `solve`'s ``t_eval`` that were reached.
    samples : tuple of s integrators.LowRank
        The matrices there.
    """

    steps: np.ndarray
    times: np.ndarray
    losses: np.ndarray | None
    errors: np.ndarray | None
    ranks: np.ndarray
    singular_values: np.ndarray
    coefficients: np.ndarray | None
    evaluations: np.ndarray
    rejected: np.ndarray
    wall_times: np.ndarray
    step_sizes: np.ndarray
    truncation_errors: np.ndarray
    state: Any
    status: str
    meta: dict
    error_ratios: np.ndarray | None = None
    rejected_steps: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))
    sample_times: np.ndarray = field(default_factory=lambda: np.empty(0))
    samples: tuple[LowRank, ...] = ()

    @classmethod
    def from_records(
        cls, records, step_sizes, truncation_errors, status, meta, error_ratios=(), rejected_steps=(), samples=()
    ):
        """Stack a list of `Record` into a trajectory; steps beyond the last record are cut off.

        `samples` are pairs (time, matrix), and `rejected_steps` rows, none of them beyond it.
        """
        last = records[-1]

        def column(name, dtype):
            values = [getattr(record, name) for record in records]
            return None if values[0] is None else np.array(values, dtype=dtype)

        ratios = np.array([*error_ratios, *[np.nan] * len(step_sizes)][: last.step], dtype=np.float64)
        coefficients = None
        if last.coefficients is not None:
            coefficients = _pad([record.coefficients for record in records])
        return cls(
            steps=column("step", np.int64),
            times=column("time", np.float64),
            losses=column("loss", np.float64),
            errors=column("error", np.float64),
            ranks=column("rank", np.int64),
            singular_values=_pad([record.singular_values for record in records]),
            coefficients=coefficients,
            evaluations=column("evaluations", np.int64),
            rejected=column("rejected", np.int64),
            wall_times=column("wall_time", np.float64),
            step_sizes=np.array(step_sizes[: last.step], dtype=np.float64),
            truncation_errors=np.array(truncation_errors[: last.step], dtype=np.float64),
            state=last.state,
            status=status,
            meta=meta | {"random_state": last.random_state},
            error_ratios=None if np.all(np.isnan(ratios)) else ratios,
            rejected_steps=np.array(rejected_steps, dtype=np.float64).reshape(-1, 3),
            sample_times=np.array([t for t, _ in samples], dtype=np.float64),
            samples=tuple(Y for _, Y in samples),
        )

    def records(self):
        """The rows as a list of `Record`; only the last one has its state."""

        def entry(name, i):
            values = getattr(self, name)
            return None if values is None else values[i]

        def block(i):  # entries of S that are nan in both parts are padding
            S = entry("coefficients", i)
            present = ~np.isnan(S)
            return S[: present.any(axis=1).sum(), : present.any(axis=0).sum()]

        last = len(self.steps) - 1
        return [
            Record(
                step=int(self.steps[i]),
                time=float(self.times[i]),
                loss=entry("losses", i),
                error=entry("errors", i),
                rank=int(self.ranks[i]),
                singular_values=self.singular_values[i][~np.isnan(self.singular_values[i])],
                coefficients=None if self.coefficients is None else block(i),
                evaluations=int(self.evaluations[i]),
                rejected=int(self.rejected[i]),
                wall_time=float(self.wall_times[i]),
                state=self.state if i == last else None,
                random_state=self.meta["random_state"] if i == last else None,
            )
            for i in range(last + 1)
        ]

    @property
    def Y(self):
        """The final matrix, an `integrators.LowRank`."""
        return self.state.Y

    @property
    def t_events(self):
        """List of ndarray: the times of each event, in the order in which `solve` was given them."""
        return [np.array(times, dtype=np.float64) for times in self.meta.get("events", [])]

    @property
    def measure(self):
        """Name of `values`: ``"loss"`` where the problem has a loss, else ``"error"``; None where neither is known."""
        return "loss" if self.losses is not None else "error" if self.errors is not None else None

    @property
    def values(self):
        """ndarray (R,) or None: losses where the problem has a loss, else errors."""
        return self.losses if self.losses is not None else self.errors

    @property
    def numerical_ranks(self):
        """ndarray of int (R,): singular values above max(m, n) eps times the largest (eps of the dtype).

        Unlike `ranks` it leaves out AdaLoRA's masked triplets, empty spare directions and a zero start.
        """
        U, V = to_numpy(self.Y.U), self.Y.V
        noise = max(U.shape[-2], V.shape[-2]) * np.finfo(U.dtype).eps
        return np.sum(self.singular_values > noise * self.singular_values[:, :1], axis=1)

    @property
    def diverged(self):
        """Whether the run met numbers that are not finite."""
        return self.status.startswith("diverged")

    @property
    def failed(self):
        """Whether the run ended by an exception, whose type and text are in `status`."""
        return self.status.startswith("failed")

    @property
    def warning(self):
        """The first step of which the method says that it is of no use, and why; None if there is none."""
        return self.meta.get("warning")

    def checked(self):
        """This trajectory, for those who need the whole run.

        RuntimeError with the status where it failed, KeyboardInterrupt where it was interrupted.
        """
        if self.failed:
            raise RuntimeError(f"the run {self.status}")
        if self.status == "interrupted":
            raise KeyboardInterrupt
        return self

    def __repr__(self):
        value = "" if self.values is None else f", {self.measure} {self.values[-1]:.3e}"
        reached = f"{self.steps[-1]} steps to t = {self.times[-1]:.6g}, rank {self.ranks[-1]}"
        return f"<Trajectory: {reached}{value}, {self.status}>"

    def save(self, path):
        """Write everything to one `.npz` file, atomically, without pickle.

        Parameters
        ----------
        path : str or Path
            File to write, ending in ``.npz``; missing folders are made.

        Returns
        -------
        Path

        Raises
        ------
        ValueError
            `path` has another ending.
        """
        path = _npz(path)
        arrays = {name: getattr(self, name) for name in _RECORDED + _PER_STEP if getattr(self, name) is not None}
        arrays |= {_in_file(name): to_numpy(X) for name, X in self.state.arrays().items()}
        if self.error_ratios is not None:
            arrays["rejected_steps"] = self.rejected_steps
        if self.samples:
            factors = {f"sample.{i}.{name}": X for i, Y in enumerate(self.samples) for name, X in zip("USV", Y)}
            arrays |= {"sample_times": self.sample_times} | {name: to_numpy(X) for name, X in factors.items()}
        meta = {"schema_version": SCHEMA_VERSION, "status": self.status} | self.meta
        text = json.dumps(meta, allow_nan=False)
        return write_atomically(path, lambda file: np.savez(file, meta=np.array(text), **arrays))

    @classmethod
    def load(cls, path):
        """Read a file written by `save`; arrays come back as numpy arrays, bit for bit.

        Parameters
        ----------
        path : str or Path

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ValueError
            The file is damaged, is no trajectory, or has another schema version.
        """
        path = _npz(path)
        if not path.is_file():
            raise FileNotFoundError(f"no trajectory file {path}")
        try:
            # opened here, because np.load leaves a damaged file open
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = dict(file)
            meta = json.loads(str(arrays.pop("meta")))
            version = meta.pop("schema_version")
        except Exception as error:  # of many kinds, according to what is damaged
            raise ValueError(f"{path} is damaged or no trajectory file: {error}") from error
        if version != SCHEMA_VERSION:
            raise ValueError(f"{path} has schema version {version}, this program reads version {SCHEMA_VERSION}")
        needed = [name for name in _RECORDED + _PER_STEP if name not in _OPTIONAL] + [f"state.{name}" for name in "USV"]
        missing = [name for name in needed if name not in arrays]
        missing += [name for name in _IN_META if name not in meta]
        if missing:
            raise ValueError(f"{path} is no complete trajectory file: {', '.join(missing)} missing")
        try:
            _check_shapes(arrays)
            state = State.of({name.removeprefix("state."): X for name, X in arrays.items()})
            count = len(arrays.get("sample_times", ()))
            samples = tuple(LowRank(*(arrays[f"sample.{i}.{name}"] for name in "USV")) for i in range(count))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        recorded: dict[str, Any] = {name: arrays.get(name) for name in _RECORDED + _PER_STEP}
        recorded |= {name: arrays[name] for name in ("rejected_steps", "sample_times") if name in arrays}
        return cls(**recorded, state=state, status=meta.pop("status"), meta=meta, samples=samples)


def _check_shapes(arrays):
    """ValueError unless the arrays of a file fit each other."""
    records, steps = np.size(arrays["steps"]), np.size(arrays["step_sizes"])
    for name, X in arrays.items():
        axes = {"singular_values": 2, "coefficients": 3}.get(name, 1)
        length = records if name in _RECORDED else steps if name in _PER_STEP else None
        if X.dtype.kind not in "biufc" or (length is not None and (X.ndim != axes or len(X) != length)):
            raise ValueError(
                f"{name} of shape {X.shape} and dtype {X.dtype} does not fit {records} records, {steps} steps"
            )
    if records == 0 or arrays["steps"][-1] != steps:
        raise ValueError(f"its {records} records do not end after {steps} steps")


def core_versions():
    """Versions of what the numbers of a run depend on."""
    found = versions()
    return {name: found[name] for name in ("python", "dlrt", "numpy", "scipy")}


def without_state(record):
    """The record with its state dropped, so that a long run keeps one state and not thousands."""
    return dataclasses.replace(record, state=None, random_state=None)


def _in_file(name):
    """Name in the file of an entry of ``State.arrays()``: U, S and V get a prefix."""
    return name if name.startswith("memory.") else f"state.{name}"


def _npz(path):
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"path must end in .npz, got {path}")
    return path


def _pad(arrays):
    """Stack arrays of different shapes into one, padded with nan at the ends."""
    shape = np.max([array.shape for array in arrays], axis=0)
    stacked = np.full((len(arrays), *shape), np.nan, dtype=np.result_type(arrays[0].dtype, np.float32))
    for row, array in zip(stacked, arrays, strict=True):
        row[tuple(slice(n) for n in array.shape)] = array
    return stacked
