"""The command ``dlrt run``: one method on one equation, its trajectory, singular values, and a movie."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from integrators.checks import check_positive, check_rank

from ..accuracy import Solution
from ..runs import check_folder
from ..solve import solve
from . import options
from .options import (
    check_least,
    check_substep,
    given_of,
    methods_of,
    problem_of,
    running,
    steps_to_end,
    usual_of,
    usual_rank,
)
from .terminal import bar, option, say, say_origins


def run(
    problem: Annotated[str, typer.Argument(help="Name of an equation, see [bold]dlrt list[/bold].")],
    method: Annotated[str, running(help="Name of a method with an order, see [bold]dlrt list[/bold].")],
    movie: Annotated[
        bool, running("--movie", help="Write movie.gif: the solution and its singular values over time.")
    ] = False,
    step_size: Annotated[float | None, running(help="Step size. Default: a 100th of the time horizon.")] = None,
    steps: Annotated[
        int | None,
        running(help="Number of steps. Default: to the time horizon, with the step size adjusted to end there."),
    ] = None,
    rtol: Annotated[
        float | None, running(help="Instead of a step size: relative tolerance for the error of a step.")
    ] = None,
    atol: options.Atol = None,
    rank: Annotated[
        int | None,
        running(help="Rank at the start. Default: 8, but at most half of the rows or columns.", show_default=False),
    ] = None,
    tau: options.Tau = None,
    spare: options.Spare = None,
    substep: options.Substep = None,
    optimizer: options.Optimizer = None,
    target: options.Target = None,
    size: options.Size = None,
    true_rank: options.TrueRank = None,
    batch_size: options.BatchSize = None,
    dtype: options.Dtype = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for what is written. Default: dlrt-results/PROBLEM-METHOD."),
    ] = None,
) -> None:
    """Run one method on one equation: trajectory.npz, a picture of the singular values over time, and a movie."""
    settings = dict(locals())
    from .. import movie as pictures  # slow to import
    from ..plots import save_figure

    check_least(settings)
    built = problem_of(problem, settings)
    check_substep(problem, built, substep)
    usual = usual_of(built, [step_size or built.t_end / 100])
    if "," in method:
        raise ValueError(f"--method must be one name, got {method!r}")
    [integrator] = methods_of(method, usual, **given_of(settings)).values()
    rank = usual_rank(built) if rank is None else check_rank(rank, built.shape)
    stepping, t_end = _steps(built, settings)
    out = Path("dlrt-results", f"{problem}-{method}") if out is None else out
    check_folder(out)
    with bar() as shown:
        task = shown.add_task(method, total=pictures.FRAMES)

        def progress(record):
            shown.update(task, completed=pictures.FRAMES * record.time / t_end)

        times = np.linspace(0.0, t_end, pictures.FRAMES + 1) if movie else None
        done = solve(integrator, built, rank=rank, t_eval=times, callback=progress, **stepping)
    if done.failed:
        raise ValueError(done.status)
    done.save(out / "trajectory.npz")
    done.checked()  # Ctrl-C ends the command, with what there is saved
    say(f"{problem}, {method}: {_told(done, built)}")
    say_origins(problem=[problem], integrator=[method])
    save_figure(pictures.singular_values_figure(done, f"{problem}, {method}"), out / "singular-values")
    if movie and done.samples:
        pictures.save_movie(done, out / "movie.gif", problem)
    written = "trajectory.npz, singular-values" + (" and movie.gif" if movie and done.samples else "")
    say(f"Wrote {written} to {out}")


def _steps(problem, settings):
    """How `solve` is to choose its steps, and the time at the end."""
    t_end, h, n = float(problem.t_end), settings["step_size"], settings["steps"]
    if settings["rtol"] is not None:
        if h is not None:
            raise ValueError(f"{option('step_size')} is for steps of given size, not for --rtol")
        return {"t_span": (0.0, t_end), "rtol": settings["rtol"], "atol": settings["atol"], "steps": n}, t_end
    if settings["atol"] is not None:
        raise ValueError("--atol needs --rtol")
    h = t_end / 100 if h is None else check_positive("step size", h)
    if n is None:
        n = steps_to_end(problem, h)
        h = t_end / n
    return {"step_size": h, "steps": n}, n * h


def _told(done, problem):
    """What became of the run, in a line."""
    error = ""
    if done.errors is not None and done.status == "finished":
        error = f", relative error {Solution.at(problem, done.times[-1]).relative(done.errors[-1]):.1e}"
    return f"{done.status}, {done.steps[-1]} steps to t = {done.times[-1]:g}, rank {done.ranks[-1]}{error}"
