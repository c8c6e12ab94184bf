"""The command ``dlrt compare``: integrators on a problem, compared in a table, files and plots."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from integrators import INTEGRATORS, Tolerance
from integrators.checks import check_integer, check_positive, check_rank

from ..results import write_results
from ..sweep import Case, sweep
from .terminal import bar, console, interrupted, refuse, say

FOR_LOSSES = "lora,svd-lora,adalora,geolora"
FOR_EQUATIONS = "projector-splitting,projector-splitting-strang,bug,augmented-bug,parallel-bug"
LEAST = {"rank": 1, "steps": 1, "seeds": 1, "spare": 0, "size": 2, "true_rank": 1, "batch_size": 1}
TOLERANT = ", ".join(name for name, method in INTEGRATORS.items() if isinstance(method.truncation, Tolerance))
WITHOUT_SUBSTEP = ", ".join(name for name, method in INTEGRATORS.items() if not hasattr(method, "substep"))

_run, _method, _problem = (
    functools.partial(typer.Option, rich_help_panel=panel)
    for panel in ("What to run", "Options of the methods (each takes those that it has)", "The problem")
)


def compare(
    problem: Annotated[str, typer.Argument(help="Name of a problem, see [bold]dlrt list[/bold].")],
    integrators: Annotated[
        str | None,
        _run(
            help="Names with commas between, see [bold]dlrt list[/bold]. "
            f"Default: {FOR_LOSSES} for losses, else {FOR_EQUATIONS}."
        ),
    ] = None,
    step_size: Annotated[
        list[float] | None,
        _run(
            help="Step size (learning rate); give it several times to compare several. "
            "Default: 0.1 and 0.01 for losses, else a 50th, 100th and 200th of the time horizon."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        _run(
            help="Number of steps. Default: 300 for losses; else the number that leads to the time horizon, "
            "with the step size adjusted so that they end there exactly."
        ),
    ] = None,
    rank: Annotated[int, _run(help="Rank at the start.")] = 8,
    seeds: Annotated[
        int | None,
        _run(help="Number of seeds: random starts and mini-batches. Default: 3 for losses, else 1."),
    ] = None,
    tau: Annotated[
        float | None,
        _method(help=f"Relative truncation tolerance: {TOLERANT}. Default: 0.1 for losses, else 1e-6."),
    ] = None,
    spare: Annotated[
        int,
        _method(help="Directions kept beyond the tolerance, of the same methods; 0 is as published."),
    ] = 1,
    substep: Annotated[
        str | None,
        _method(
            help="How K, L and S are advanced: euler, heun, rk4 or exact (where the problem knows the solution). "
            f"Default: euler, heun for projector-splitting-strang. Not for {WITHOUT_SUBSTEP}."
        ),
    ] = None,
    optimizer: Annotated[str, _method(help="sgd, momentum or adam; all methods.")] = "sgd",
    target: Annotated[
        str,
        _problem(
            help="[bold]synthetic[/bold], [bold]elevation[/bold] or a file (.npy, .npz, .csv, image): "
            "matrix-regression, matrix-completion, linear-least-squares."
        ),
    ] = "synthetic",
    size: Annotated[
        int | None,
        _problem(
            help="Rows and columns; all problems unless a target is given. "
            "Default: 100, given-solution 30, manufactured 7."
        ),
    ] = None,
    true_rank: Annotated[
        int | None,
        _problem(
            help="Rank of the synthetic target (5) or of the solution: rotating (full), given-solution (4), "
            "manufactured (2)."
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        _problem(
            help="Number of entries or samples in a mini-batch: matrix-completion, linear-least-squares. "
            "Default: the full loss."
        ),
    ] = None,
    dtype: Annotated[str, _problem(help="float64 or float32 (complex problems: that precision).")] = "float64",
    jobs: Annotated[int, typer.Option(help="Runs at the same time; -1: one per processor.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for results.json, trajectories and plots. Default: dlrt-results/PROBLEM."),
    ] = None,
) -> None:
    """Run integrators on a problem and compare them: a table, results.json, trajectories and plots.

    Runs found in the output folder are not repeated: an interrupted comparison goes on where it stopped.
    """
    settings = dict(locals())
    from ..plots import save_figures  # slow to import, as is the registry's package `problems`; --help must be quick
    from ..registry import OPTIMIZERS, SUBSTEPS, build_problem, lookup, with_options

    out = Path("dlrt-results", problem) if out is None else out
    try:
        for name, least in LEAST.items():
            if settings[name] is not None:
                check_integer(name.replace("_", "-"), settings[name], least)
        given = {name: settings[name] for name in ("size", "true_rank", "batch_size", "target", "dtype")}
        usual = {"target": "synthetic", "dtype": "float64"}  # of every problem, also of one without the option
        built = build_problem(problem, {name: value for name, value in given.items() if value != usual.get(name)})
        is_loss = hasattr(built, "loss")
        names = (FOR_LOSSES if is_loss else FOR_EQUATIONS) if integrators is None else integrators
        methods = {
            name: with_options(
                lookup("integrator", name, INTEGRATORS),
                truncation=Tolerance(relative=(0.1 if is_loss else 1e-6) if tau is None else tau, spare=spare),
                substep=None if substep is None else lookup("substep", substep, SUBSTEPS)(),
                optimizer=lookup("optimizer", optimizer, OPTIMIZERS)(),
            )
            for name in map(str.strip, names.split(","))
        }
        results = _sweep(cases(built, methods, step_sizes=step_size, steps=steps, seeds=seeds, rank=rank), out, jobs)
        write_results(out, results, settings | {"out": str(out)})
        save_figures(results, out)
    except (ValueError, TypeError, NotImplementedError, OSError) as error:
        refuse(error)
    console().print(table(results))
    found = sum(result.found for result in results)
    if found:
        say(f"{found} of {len(results)} runs were there already.")
    say(f"Wrote results.json, trajectories and plots to {out}")


def cases(problem, methods, *, step_sizes=None, steps=None, seeds=None, rank):
    """One case for each step size, method and seed; what is None is chosen by the kind of problem.

    Raises TypeError or ValueError for what does not fit the problem.
    """
    is_loss = hasattr(problem, "loss")
    check_rank(rank, problem.shape)
    if step_sizes is None:
        step_sizes = [0.1, 0.01] if is_loss else [problem.t_end / n for n in (50, 100, 200)]
    found = []
    for h in step_sizes:
        h = check_positive("step size", h)
        n = steps
        if n is None:
            n = 300 if is_loss else max(1, round(problem.t_end / h))
            h = h if is_loss else problem.t_end / n
        found += [
            Case(
                label=name,
                integrator=method.for_run(n, rank),
                problem=problem,
                step_size=h,
                steps=n,
                rank=rank,
                seed=seed,
                every=max(1, n // (300 if is_loss else 50)),  # references may cost more than steps
            )
            for name, method in methods.items()
            for seed in range(seeds or (3 if is_loss else 1))
        ]
    return found


def table(results) -> Table:
    """One line for each integrator and step size: medians over the seeds."""
    groups: dict = {}
    for result in results:
        groups.setdefault((result.case.label, result.case.step_size), []).append(result.trajectory)
    measure = results[0].trajectory.measure
    many = max(len(runs) for runs in groups.values()) > 1
    made = Table(title=_title(results[0], many))
    made.add_column("integrator", no_wrap=True)
    for name in ("step size", *([measure] if measure else []), "rank", "evaluations", "time \\[s]"):
        made.add_column(name, justify="right")
    made.add_column("status")
    for (label, h), runs in groups.items():
        ended = [run for run in runs if not run.diverged]
        value = rank = "-"
        if ended:
            rank = _range(int(run.numerical_ranks[-1]) for run in ended)
        if ended and measure:
            final = np.array([run.values[-1] for run in ended])
            value = f"{np.median(final):.2e}" + (f" ({final.min():.0e} to {final.max():.0e})" if many else "")
        status = "finished"
        if len(ended) < len(runs):
            share = f"{len(runs) - len(ended)} of {len(runs)} " if ended else ""
            status = f"{share}diverged at step " + _range(int(run.status.split()[-1]) for run in runs if run.diverged)
        work = np.median([run.evaluations[-1] for run in runs])
        seconds = np.median([run.wall_times[-1] for run in runs])
        values = [value] if measure else []
        made.add_row(label, f"{h:.4g}", *values, rank, f"{work:.0f}", f"{seconds:.2f}", status)
    return made


def _title(result, many):
    """What the table shows, and what no matrix of the start's rank can do better than."""
    case, run, _ = result
    if run.measure is None:
        return "final rank; the problem has neither a loss nor a reference solution"
    title = f"final {run.measure}" + (", median over seeds (minimum to maximum)" if many else "")
    least = case.problem.minimum(case.rank) if hasattr(case.problem, "minimum") else 0.0
    if least > 1e-20 * run.values[0]:  # below, it is rounding of a target of lower rank
        title += f"; no matrix of rank {case.rank} has less than {least:.2e}"
    return title


def _range(numbers):
    numbers = sorted(numbers)
    return f"{numbers[0]}" if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"


def _sweep(cases, out, jobs):
    """The sweep with a progress bar; Ctrl-C ends the program with a hint how to go on."""
    done = 0
    with bar() as shown:
        task = shown.add_task("runs", total=len({case.file for case in cases}))

        def progress(result) -> None:
            nonlocal done
            done += 1
            shown.update(task, advance=1, description=result.case.label)

        try:
            return sweep(cases, out=out, jobs=jobs, progress=progress)
        except KeyboardInterrupt:
            shown.stop()
            interrupted(out, f"{done} runs are")
