"""Many runs at once: parallel through joblib, each saved when it is done, none computed twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from integrators.checks import check_integer, check_jobs

from .runs.identity import describe
from .solve import solve
from .trajectory import SCHEMA_VERSION, Trajectory


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """One run of a sweep, with everything that determines its numbers.

    Parameters
    ----------
    integrator : integrators.Integrator
    problem : problems.Problem
    step_size : float or callable
        As in `solve`; a callable must be one a name can be given to (a function of a module, a dataclass with
        ``__call__``), since cases are told apart by their settings.
    steps : int
    rank : int
    seed : int
    every : int
    label : str
        Name in file names, tables and plots; the class name of the integrator by default.
    """

    integrator: Any
    problem: Any
    step_size: float | Callable[[int], float]
    steps: int
    rank: int
    seed: int = 0
    every: int = 1
    label: str = ""
    file: str = field(init=False)
    """Name of the trajectory file: label, seed and a digest of all settings and of the version of this package."""

    def __post_init__(self):
        from . import __version__

        check_integer("seed", self.seed, 0)
        if not self.label:
            object.__setattr__(self, "label", type(self.integrator).__name__)
        names = ("integrator", "problem", "step_size", "steps", "rank", "seed", "every")
        settings = {name: describe(getattr(self, name)) for name in names}
        if re.search("<lambda>|<locals>", str(settings["step_size"])):
            raise ValueError(f"step_size must be a number or a function of a module, got {self.step_size!r}")
        text = json.dumps([settings, __version__, SCHEMA_VERSION], sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        slug = re.sub(r"[^\w.-]+", "-", self.label).strip("-")
        object.__setattr__(self, "file", f"{slug}-seed{self.seed}-{digest}.npz")

    def solve(self):
        """Run the case: a `Trajectory`."""
        return solve(
            self.integrator,
            self.problem,
            step_size=self.step_size,
            steps=self.steps,
            rank=self.rank,
            seed=self.seed,
            every=self.every,
        )


class Result(NamedTuple):
    """What a sweep returns for each case: the case, its trajectory, and whether it was there before."""

    case: Case
    trajectory: Trajectory
    found: bool


def sweep(cases, *, out, jobs=None, progress=None):
    """Run cases in parallel and save each as ``out/case.file`` as soon as it is done.

    A case whose file is already there is not run again, so an interrupted sweep goes on where it stopped; a damaged
    file is replaced. The work goes through `joblib.Parallel`: inside ``with joblib.parallel_config(backend="dask")``
    (or ray, or any other registered backend) a cluster does it. Every case runs with one thread for linear algebra.

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

    Returns
    -------
    list of Result
        In the order of `cases`.

    Raises
    ------
    TypeError, ValueError
        Bad arguments, or what a case raises. Divergence is a result, not an error.
    KeyboardInterrupt
        The sweep was interrupted; what is finished is saved.
    """
    cases = list(cases) if isinstance(cases, Iterable) else [cases]
    for case in cases:
        if not isinstance(case, Case):
            raise TypeError(f"cases must be dlrt.Case objects, got {case!r}")
    if jobs is not None:
        check_jobs(jobs)
    out = Path(out)
    done: dict[str, Result] = {}
    missing: dict[str, Case] = {}

    def note(case, trajectory, found):
        done[case.file] = Result(case, trajectory, found)
        if progress is not None:
            progress(done[case.file])

    for case in {case.file: case for case in cases}.values():
        try:
            note(case, Trajectory.load(out / case.file), True)
        except (FileNotFoundError, ValueError):
            missing[case.file] = case
    with contextlib.closing(_runs(list(missing.values()), jobs)) as runs:
        for file, trajectory in runs:
            if trajectory.status == "stopped":  # Ctrl-C reached the worker: half a case is not to be found next time
                raise KeyboardInterrupt
            trajectory.save(out / file)
            note(missing[file], trajectory, False)
    return [Result(case, *done[case.file][1:]) for case in cases]


def _runs(cases, jobs):
    """Yield (file, trajectory) of each case as it is done."""
    from joblib import Parallel, delayed, effective_n_jobs
    from joblib.parallel import get_active_backend

    if getattr(get_active_backend()[0], "supports_return_generator", False):
        yield from Parallel(n_jobs=jobs, return_as="generator_unordered")(delayed(_run)(case) for case in cases)
        return
    n = effective_n_jobs(jobs)  # backends made of process pools (ray) return lists only: do with short ones
    for first in range(0, len(cases), n):
        yield from Parallel(n_jobs=jobs)(delayed(_run)(case) for case in cases[first : first + n])


def _run(case):
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        return case.file, case.solve()
