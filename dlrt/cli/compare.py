"""The command ``dlrt compare``: integrators on a problem, compared in a table, files and plots."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from integrators import INTEGRATORS, Exact, FullRank
from integrators.checks import check_positive, check_rank

from ..accuracy import ended, lost, solutions
from ..results import write_results
from ..runs import check_folder, cluster, versions, write_atomically, write_json
from ..sweep import Case, sweep
from . import options
from .options import (
    check_least,
    check_substep,
    given_of,
    is_stiff,
    knows_flows,
    methods_of,
    problem_of,
    running,
    usual_of,
    usual_substep,
)
from .terminal import FRESH, JOBS, SCHEDULER, bar, interrupted, option, say, say_origins, show, width

FOR_LOSSES = "lora,svd-lora,adalora,geolora"
FOR_EQUATIONS = "projector-splitting,projector-splitting-strang,bug,augmented-bug,parallel-bug"
FOR_STIFF = "bug,augmented-bug,parallel-bug"
"""The equations' methods without backward S-steps, which no step size saves on a stiff dissipative field."""
SMALL = 16
"""Rows and columns with --quick."""


def compare(
    problem: Annotated[
        list[str], typer.Argument(help="Name of a problem, or several names, see [bold]dlrt list[/bold].")
    ],
    integrators: Annotated[
        str | None,
        running(
            help="Names with commas between, see [bold]dlrt list[/bold]. "
            f"Default: {FOR_LOSSES} for losses, {FOR_STIFF} for stiff equations, else {FOR_EQUATIONS}; "
            "with --work-precision all low-rank methods with an order."
        ),
    ] = None,
    work_precision: Annotated[
        bool,
        running(
            "--work-precision",
            help="Errors of all methods against field evaluations and time, over step sizes and tolerances: a picture "
            "of each equation, and which method to choose.",
        ),
    ] = False,
    quick: Annotated[
        bool, running("--quick", help=f"With --work-precision: {SMALL} rows and columns, fewer steps.")
    ] = False,
    step_size: Annotated[
        list[float] | None,
        running(
            help="Step size (learning rate); give it several times to compare several. "
            "Default: 0.1 and 0.01 for losses, else a 50th, 100th and 200th of the time horizon "
            "(--work-precision: a 10th to a 160th)."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        running(
            help="Number of steps. Default: 300 for losses; else the number that leads to the time horizon, "
            "with the step size adjusted so that they end there exactly."
        ),
    ] = None,
    rtol: Annotated[
        list[float] | None,
        running(
            help="Instead of step sizes: relative tolerance for the error of a step, which then chooses its size; give "
            "it several times to compare several. For differential equations and methods with an order. "
            "(--work-precision: beside step sizes; 0.1 to 1e-3.)"
        ),
    ] = None,
    atol: options.Atol = None,
    rank: Annotated[
        int | None,
        running(
            help="Rank at the start. Default: 8, but at most half of the rows or columns; with --work-precision the "
            "least that allows a relative error of 1e-4.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        running(help="Number of seeds: random starts and mini-batches. Default: 3 for losses, else 1."),
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
    jobs: Annotated[int, JOBS] = 1,
    scheduler: Annotated[str | None, SCHEDULER] = None,
    fresh: Annotated[bool, FRESH] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for results.json, trajectories and plots. Default: dlrt-results/PROBLEM, or "
            "dlrt-results/work-precision; of several problems each has a folder in it."
        ),
    ] = None,
) -> None:
    """Run integrators on a problem and compare them: a table, results.json, trajectories and plots.

    Runs found in the output folder are not repeated: an interrupted comparison goes on where it stopped.
    """
    settings = dict(locals())
    check_least(settings)
    if work_precision:
        _compare_work(settings)
        return
    if quick:
        raise ValueError("--quick is for --work-precision")
    for name in dict.fromkeys(problem):
        folder = Path("dlrt-results", name) if out is None else out / name if len(problem) > 1 else out
        _compare(settings | {"problem": name}, folder)


def _compare(settings, out):
    """The comparison on one problem."""
    from ..plots import save_figures  # slow to import, as is the registry's package `problems`; --help must be quick

    problem, step_size, rtol = settings["problem"], settings["step_size"], settings["rtol"]
    built = problem_of(problem, settings)
    check_substep(problem, built, settings["substep"])
    is_loss, stiff = hasattr(built, "loss"), is_stiff(built, step_size)
    if rtol or settings["atol"] is not None:
        _check_controlled(is_loss, rtol, **{name: settings[name] for name in ("step_size", "steps", "seeds", "tau")})
    names = settings["integrators"]
    if names is None:
        names = FOR_LOSSES if is_loss else FOR_STIFF if stiff else FOR_EQUATIONS
    methods = methods_of(names, usual_of(built, step_size), **given_of(settings))
    if rtol:
        made = controlled_cases(built, methods, rtol, settings["atol"], rank=settings["rank"])
    else:
        given = {name: settings[name] for name in ("steps", "seeds", "rank")}
        made = cases(built, methods, step_sizes=step_size, **given)
    check_folder(out)
    with cluster(settings["scheduler"]):
        results = _sweep(made, out, settings)
    if all(result.trajectory.failed for result in results):
        raise ValueError(results[0].trajectory.status)
    rows, title = table(results)
    show(rows, f"{problem}, {title}")
    if stiff and settings["substep"] is None:
        say("Explicit substeps would be unstable here, so they are exact where a method has them.")
    for note in notes(results):
        say("\n".join(textwrap.wrap(note, width(), subsequent_indent="  ", break_long_words=False)))
    _say_found(results)
    origins = say_origins(problem=[problem], integrator=methods)
    write_results(out, results, settings | {"out": str(out), "origins": origins})
    save_figures(results, out)
    say(f"Wrote results.json, trajectories and plots to {out}")


def _compare_work(settings):
    """Work against precision on one equation or several: runs, pictures, numbers, and the page."""
    from .. import work_precision  # slow to import
    from ..plots import save_figure

    for name in ("steps", "seeds"):
        if settings[name]:
            raise ValueError(f"{option(name)} is not for --work-precision: give --step-size and --rtol")
    out = settings["out"] or Path("dlrt-results", "work-precision")
    names = settings["integrators"] or ",".join(_with_order())
    built = {name: _equation(name, settings) for name in dict.fromkeys(settings["problem"])}
    made = {}
    for name, problem in built.items():
        rank = settings["rank"] or work_precision.sufficient_rank(problem)
        usual = {"tau": 1e-8, "substep": usual_substep(problem, settings["step_size"] or [problem.t_end / 10])}
        methods = methods_of(names, usual, max_rank=rank, **given_of(settings))
        given = {name: settings[name] for name in ("rtol", "atol", "quick")}
        made[name] = work_precision.cases(problem, methods, step_sizes=settings["step_size"], rank=rank, **given)
    check_folder(out)
    equations = []
    for name, runs in made.items():
        with cluster(settings["scheduler"]):
            results = _sweep(runs, out / name, settings)
        equations.append(work_precision.summary(name, results))
        m, n = equations[-1]["shape"]
        show(
            work_precision.choice(equations[-1]),
            f"{name}, {m} x {n}, rank {equations[-1]['rank']}: least work for an error",
        )
        _say_found(results)
        origins = say_origins(problem=[name], integrator=equations[-1]["methods"])
        kept = settings | {"problem": name, "out": str(out / name), "origins": origins}
        write_results(out / name, results, kept)
        save_figure(work_precision.picture(equations[-1]), out / name)
    data = {"schema_version": 1, "command": _command(settings), "versions": versions(), "equations": equations}
    write_json(out / "work-precision.json", data)
    page = work_precision.page(data).encode()
    write_atomically(out / "how-to-choose.md", lambda file: file.write(page))
    say(f"Wrote pictures, work-precision.json and how-to-choose.md to {out}")


def _command(settings):
    """The command that makes the numbers."""
    parts = ["dlrt compare", *settings["problem"]]
    for name, value in settings.items():
        if name in ("problem", "out", "jobs", "scheduler", "fresh") or value in (None, False):
            continue
        parts += [option(name) if value is True else f"{option(name)} {each}" for each in np.atleast_1d(value)]
    return " ".join(parts)


def _equation(name, settings):
    """The equation, small with --quick."""
    from ..registry import PROBLEMS, lookup, uses

    if settings["quick"] and settings["size"] is None and "size" in uses(lookup("problem", name, PROBLEMS)):
        settings = settings | {"size": SMALL}
    problem = problem_of(name, settings)
    if hasattr(problem, "loss"):
        raise ValueError(f"--work-precision is for differential equations, and {name} is a loss")
    check_substep(name, problem, settings["substep"])
    return problem


def _with_order():
    """Names of the low-rank methods that follow the field."""
    return [name for name, method in INTEGRATORS.items() if method.order and not isinstance(method, FullRank)]


def _say_found(results):
    found = sum(result.found for result in results)
    if found:
        say(f"{found} of {len(results)} runs were there already.")


def cases(problem, methods, *, step_sizes=None, steps=None, seeds=None, rank=None):
    """One case for each step size, method and seed; what is None is chosen by the kind of problem.

    Raises TypeError or ValueError for what does not fit the problem.
    """
    is_loss = hasattr(problem, "loss")
    rank = options.usual_rank(problem) if rank is None else check_rank(rank, problem.shape)
    if step_sizes is None:
        step_sizes = [0.1, 0.01] if is_loss else [problem.t_end / n for n in (50, 100, 200)]
    found = []
    for h in dict.fromkeys(step_sizes):
        h = check_positive("step size", h)
        n = steps
        if n is None:
            n = 300 if is_loss else options.steps_to_end(problem, h)
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


def _check_controlled(is_loss, rtol, **others):
    """ValueError for options that do not go with step-size control."""
    if is_loss:
        raise ValueError("--rtol and --atol are for differential equations, not for losses: give --step-size")
    if not rtol:
        raise ValueError("--atol needs --rtol")
    for name, value in others.items():
        if value:
            raise ValueError(f"{option(name)} is for steps of given size, not for --rtol")


def controlled_cases(problem, methods, rtol, atol, *, rank=None):
    """One case for each relative tolerance and method, over the time horizon of the problem."""
    for name, method in methods.items():
        if method.order is None:
            raise ValueError(f"--rtol needs methods with an order, and {name} has none")
    rank = options.usual_rank(problem) if rank is None else check_rank(rank, problem.shape)
    return [
        Case(
            label=name,
            integrator=method,
            problem=problem,
            t_span=(0.0, float(problem.t_end)),
            rtol=tolerance,
            atol=atol,
            rank=rank,
            every=10,  # references may cost more than steps
        )
        for tolerance in dict.fromkeys(check_positive("rtol", tolerance) for tolerance in rtol)
        for name, method in methods.items()
    ]


def table(results):
    """Rows and title of the table: for each method a row for each step size or rtol, with medians over the seeds."""
    measure = results[0].trajectory.measure
    exact = solutions(results) if measure == "error" else {}
    groups = _groups(results)
    many = max(len(runs) for runs in groups.values()) > 1
    heading = {"loss": "loss", "error": "relative error", None: "status"}[measure]
    heading += " (min to max)" if many and measure else ""
    best = {key: _best(exact, runs) for key, runs in groups.items()}
    rows: list = []
    for (label, h), runs in groups.items():
        if label not in rows:
            rows.append(label)
        done = [run for run in runs if ended(run)]
        shown = ([_value(exact, done, many)] if done else []) + _failures(runs)
        row = {results[0].case.setting[0]: f"  {h:.4g}", heading: shown[0]}
        if any(value is not None for value in best.values()):
            row["best"] = "" if best[label, h] is None else f"{best[label, h]:.1e}" if best[label, h] > 1e-15 else "0"
        row["rank"] = _range(int(run.numerical_ranks[-1]) for run in done) if done else ""
        if results[0].case.t_span is not None:
            row["steps"] = f"{np.median([run.steps[-1] for run in runs]):.0f}"
        row["evaluations"] = f"{np.median([run.evaluations[-1] for run in runs]):.0f}"
        row["time [s]"] = f"{np.median([run.wall_times[-1] for run in runs]):.2f}"
        rows += [row, *({heading: failure} for failure in shown[1:])]
    return rows, _title(results, many, any(value is not None for value in best.values()))


def notes(results):
    """What to try where runs are unstable, and why others failed."""
    problem, lines = results[0].case.problem, []
    exact = solutions(results) if results[0].trajectory.measure == "error" else {}
    unstable = [
        case
        for case, run, _ in results
        if run.diverged or (exact and ended(run) and exact[run.times[-1]].relative(run.errors[-1]) > 10)
    ]
    if unstable:
        explicit = any(not isinstance(getattr(case.integrator, "substep", Exact()), Exact) for case in unstable)
        flows = "--substep exact, or " if explicit and not hasattr(problem, "loss") and knows_flows(problem) else ""
        names, least = dict.fromkeys(case.label for case in unstable), min(case.setting[1] for case in unstable)
        name = option(unstable[0].setting[0].replace(" ", "_"))
        lines.append(f"Unstable: {', '.join(names)}. Try {flows}a {name} below {least:.4g}.")
    for case, run, _ in results:
        if run.failed or run.warning:
            lines.append(f"{case.label}, {case.setting[0]} {case.setting[1]:.4g}, seed {case.seed}: {run.status}")
    return lines


def _groups(results):
    """The runs by label and step size, all step sizes of a label together."""
    groups: dict = {}
    for label in dict.fromkeys(result.case.label for result in results):
        for case, run, _ in results:
            if case.label == label:
                groups.setdefault((label, case.setting[1]), []).append(run)
    return groups


def _best(exact, runs):
    """Median over the runs of the least relative error that their ranks allow; None where it is not known."""
    found = [exact[run.times[-1]].best(run.numerical_ranks[-1]) for run in runs if exact and ended(run)]
    return float(np.median(found)) if found and found[0] is not None else None


def _value(exact, runs, many):
    """Loss or relative error at the end: the median, with the range where there are several seeds."""
    if runs[0].measure is None:
        return runs[0].status
    final = np.array([exact[run.times[-1]].relative(run.errors[-1]) if exact else run.losses[-1] for run in runs])
    return f"{np.median(final):.2e}" + (f" ({final.min():.0e} to {final.max():.0e})" if many else "")


def _failures(runs):
    """One text for the runs that diverged and one for those that failed, short enough for a cell."""
    texts = []
    for kind, steps in lost(runs).items():
        share = f"{len(steps)} of {len(runs)} " if len(steps) < len(runs) else ""
        texts.append(f"{share}{kind} at step {_range(steps)}")
    return texts


def _title(results, many, has_best):
    """What the table shows, and what no matrix of the start's rank can do better than."""
    case, run, _ = results[0]
    m, n = case.problem.shape
    title = f"{m} x {n}, start rank {case.rank}: "
    if run.measure is None:
        return title + "the problem has neither a loss nor a reference solution"
    if run.measure == "error":
        title += "error at the end, relative to the solution"
        title += "; best: that of the best approximation of the same rank" if has_best else ""
    else:
        title += "loss at the end"
    title += f", median over {len({result.case.seed for result in results})} seeds" if many else ""
    least = case.problem.minimum(case.rank) if hasattr(case.problem, "minimum") else 0.0
    if least > 1e-20 * run.values[0]:  # below, it is rounding of a target of lower rank
        title += f"; no matrix of rank {case.rank} has less than {least:.2e}"
    return title


def _range(numbers):
    numbers = sorted(numbers)
    return f"{numbers[0]}" if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"


def _sweep(cases, out, settings):
    """The sweep with a progress bar; Ctrl-C ends the program with a hint how to go on."""
    jobs = settings["jobs"] if settings["scheduler"] is None else None
    done = found = 0
    with bar() as shown:
        task = shown.add_task("runs", total=len({case.file for case in cases}))

        def progress(result) -> None:
            nonlocal done, found
            done += 1
            found += result.found
            shown.update(task, completed=done, description=result.case.label)

        def within(fraction) -> None:
            shown.update(task, completed=max(done, found + fraction))

        try:
            return sweep(cases, out=out, jobs=jobs, progress=progress, within=within, fresh=settings["fresh"])
        except KeyboardInterrupt:
            shown.stop()
            interrupted(out, f"{done} runs are")
