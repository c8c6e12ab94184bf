"""Many runs of integrators on problems: parallel, each saved as soon as it is done, none computed twice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from integrators.checks import check_integer, check_jobs

from .control import RTOL
from .runs import Folder, digest, identify, report, run
from .solve import solve
from .trajectory import SCHEMA_VERSION, Trajectory


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """One run of a sweep, with everything that determines its numbers.

    Parameters
    ----------
    integrator : integrators.Integrator
    problem : problems.Problem
    step_size : float or callable, optional
    steps : int, optional
    t_span : (float, float), optional
    rtol, atol : float, optional
        As in `solve`: a step size and a number of steps, or an interval and tolerances.
    rank : int
    seed : int
    every : int
    label : str
        Name in file names, tables and plots; the class name of the integrator by default.
    """

    integrator: Any
    problem: Any
    step_size: float | Callable[[int], float] | None = None
    steps: int | None = None
    t_span: tuple[float, float] | None = None
    rtol: float | None = None
    atol: float | None = None
    rank: int
    seed: int = 0
    every: int = 1
    label: str = ""
    identity: dict = field(init=False)
    """All settings as JSON values and a digest of the code, see `dlrt.runs.identity`."""
    file: str = field(init=False)
    """Name of the trajectory file: label, seed, a digest of all settings and that of the code."""

    def __post_init__(self):
        check_integer("seed", self.seed, 0)
        if not isinstance(self.label, str):
            raise TypeError(f"label must be a str, got {self.label!r}")
        if not self.label:
            object.__setattr__(self, "label", type(self.integrator).__name__)
        names = ("integrator", "problem", "step_size", "steps", "rank", "seed", "every")
        controlled = [name for name in ("t_span", "rtol", "atol") if getattr(self, name) is not None]
        made = identify(**{name: getattr(self, name) for name in (*names, *controlled)})
        object.__setattr__(self, "identity", made)
        settings = digest([made["settings"], SCHEMA_VERSION], size=8)
        slug = re.sub(r"[^\w.-]+", "-", self.label).strip("-")
        object.__setattr__(self, "file", f"{slug}-seed{self.seed}-{settings}-{made['code']}.npz")

    def solve(self):
        """Run the case: a `Trajectory`, whose ``meta["case"]`` is the identity of the case."""
        run = solve(
            self.integrator,
            self.problem,
            step_size=self.step_size,
            steps=self.steps,
            t_span=self.t_span,
            rtol=self.rtol,
            atol=self.atol,
            rank=self.rank,
            seed=self.seed,
            every=self.every,
            callback=self._report,
        )
        return replace(run, meta=run.meta | {"case": self.identity})

    def _report(self, record):
        if self.t_span is None:
            report(record.step / max(1, self.steps or 0))
        else:
            report((record.time - self.t_span[0]) / (self.t_span[1] - self.t_span[0]))

    @property
    def setting(self):
        """(name, value) of what says how exact the run is: its step size, or rtol where it is controlled."""
        return (
            ("step size", self.step_size) if self.t_span is None else ("rtol", RTOL if self.rtol is None else self.rtol)
        )

    def load(self, path):
        """The stored trajectory.

        Raises
        ------
        FileNotFoundError
            There is none, or one of a run that failed: what it failed for (memory, a file) may be there now.
        ValueError
            The file is damaged or holds another run, whatever its name.
        """
        run = Trajectory.load(path)
        if run.failed:
            raise FileNotFoundError(f"{path} is a run that failed")
        if run.meta.get("case") != self.identity:
            raise ValueError(f"{path} holds another run than its name says")
        return run


class Result(NamedTuple):
    """What a sweep returns for each case: the case, its trajectory, and whether it was there before."""

    case: Case
    trajectory: Trajectory
    found: bool


def sweep(cases, *, out, jobs=None, progress=None, within=None, fresh=False):
    """Run cases in parallel and save each as ``out/case.file`` as soon as it is done.

    A case whose file is already there is not run again, so an interrupted sweep goes on where it stopped. Files of the
    same settings made by other code (of the method, the problem, or the project) are set aside: neither shown nor
    touched; so is, under another name, a file that is damaged or holds another run. The logger ``dlrt.runs`` warns of
    each. The work goes through `joblib.Parallel`: inside ``with joblib.parallel_config(backend="dask")`` (or ray, or
    any other registered backend) a cluster does it. Every case runs with one thread for linear algebra.

    Parameters
    ----------
    cases : iterable of Case
    out : str or Path
        Folder for the trajectory files; made when missing.
    jobs : int, optional
        Number of cases at a time, negative as in joblib (-1: all processors). Without it joblib's default: 1, or what
        ``joblib.parallel_config`` says.
    progress : callable, optional
        Called with each `Result` as it comes: first those found, then the others in order of completion.
    within : callable, optional
        Called as ``within(done)`` from another thread while cases run: how many of those that were not found are done,
        with the fractions of those that run.
    fresh : bool
        Run all cases, and replace the files that are there.

    Returns
    -------
    list of Result
        In the order of `cases`.

    Raises
    ------
    TypeError, ValueError
        Bad arguments. Divergence and failure are results, not errors; a case that failed is run again next time.
    KeyboardInterrupt
        The sweep was interrupted; what is finished is saved.
    """
    cases = list(cases) if isinstance(cases, Iterable) else [cases]
    for case in cases:
        if not isinstance(case, Case):
            raise TypeError(f"cases must be dlrt.Case objects, got {case!r}")
    check_jobs(jobs)
    known = {case.file: case for case in cases}
    done: dict[str, Result] = {}

    def note(file, trajectory, found):
        done[file] = Result(known[file], trajectory, found)
        if progress is not None:
            progress(done[file])

    calls = {file: case.solve for file, case in known.items()}
    folder = Folder(Path(out), lambda path: known[path.name].load(path), Trajectory.save)
    run(calls, folder, jobs=jobs, progress=note, within=within, fresh=fresh)
    return [Result(case, *done[case.file][1:]) for case in cases]
