"""The command ``dlrt compare``: integrators on a problem, compared in a table, files and plots."""

from __future__ import annotations

import functools
import math
import textwrap
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from integrators import INTEGRATORS, Exact, LowRank, Tolerance
from integrators.checks import check_integer, check_positive, check_rank

from ..accuracy import ended, lost, solutions
from ..results import write_results
from ..runs import check_folder, cluster
from ..sweep import Case, sweep
from .terminal import FRESH, JOBS, SCHEDULER, bar, interrupted, option, say, say_origins, show, width

FOR_LOSSES = "lora,svd-lora,adalora,geolora"
FOR_EQUATIONS = "projector-splitting,projector-splitting-strang,bug,augmented-bug,parallel-bug"
FOR_STIFF = "bug,augmented-bug,parallel-bug"
"""The equations' methods without backward S-steps, which no step size saves on a stiff dissipative field."""
LEAST = {"rank": 1, "steps": 1, "seeds": 1, "spare": 0, "size": 2, "true_rank": 1, "batch_size": 1}
MOST = 10**9
"""Steps to the time horizon that are taken for a mistake: days of work."""
OF_PROBLEMS = ("size", "true_rank", "batch_size", "target", "dtype")
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
            f"Default: {FOR_LOSSES} for losses, {FOR_STIFF} for stiff equations, else {FOR_EQUATIONS}."
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
    rtol: Annotated[
        list[float] | None,
        _run(
            help="Instead of step sizes: relative tolerance for the error of a step, which then chooses its size; give "
            "it several times to compare several. For differential equations and methods with an order."
        ),
    ] = None,
    atol: Annotated[
        float | None, _run(help="Absolute tolerance beside --rtol, in the Frobenius norm. Default: 1e-6.")
    ] = None,
    rank: Annotated[
        int | None,
        _run(help="Rank at the start. Default: 8, but at most half of the rows or columns.", show_default=False),
    ] = None,
    seeds: Annotated[
        int | None,
        _run(help="Number of seeds: random starts and mini-batches. Default: 3 for losses, else 1."),
    ] = None,
    tau: Annotated[
        float | None,
        _method(help="Relative truncation tolerance of methods whose rank adapts. Default: 0.1 for losses, else 1e-6."),
    ] = None,
    spare: Annotated[
        int | None,
        _method(help="Directions kept beyond the tolerance, of the same methods; 0 is as published. Default: 1."),
    ] = None,
    substep: Annotated[
        str | None,
        _method(
            help="How K, L and S are advanced: euler, heun, rk4 or exact (where the problem knows the solution). "
            "Default: exact for stiff equations and those with cross terms, rk4 for nonlinear-schroedinger, "
            "landau-damping, two-stream, plane-source and stochastic-burgers, else euler, or heun for methods of "
            "order 2. For methods that split a step into those of K, L and S."
        ),
    ] = None,
    optimizer: Annotated[str | None, _method(help="sgd, momentum or adam; all methods. Default: their own.")] = None,
    target: Annotated[
        str | None,
        _problem(
            help="[bold]synthetic[/bold], [bold]elevation[/bold] or a file (.npy, .npz, .mtx, .csv, image): "
            "matrix-regression, matrix-completion, linear-least-squares. Default: synthetic."
        ),
    ] = None,
    size: Annotated[
        int | None,
        _problem(
            help="Rows and columns; all problems unless a target is given. "
            "Default: 100, but allen-cahn, anisotropic-diffusion, solid-body-rotation and stochastic-burgers 64, "
            "toggle-switch 51, given-solution 30, landau-damping and two-stream 16, manufactured 7."
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
    dtype: Annotated[
        str | None,
        _problem(help="float64 or float32 (complex problems: that precision); not for manufactured. Default: float64."),
    ] = None,
    jobs: Annotated[int, JOBS] = 1,
    scheduler: Annotated[str | None, SCHEDULER] = None,
    fresh: Annotated[bool, FRESH] = False,
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

    out = Path("dlrt-results", problem) if out is None else out
    for name, least in LEAST.items():
        if settings[name] is not None:
            check_integer(option(name), settings[name], least)
    built = _problem_of(problem, {name: settings[name] for name in OF_PROBLEMS if settings[name] is not None})
    if substep == "exact" and not _knows_flows(built):
        raise ValueError(f"--substep exact is not for {problem}, which has no exact sub-flows; euler, heun, rk4 are")
    is_loss, stiff = hasattr(built, "loss"), _is_stiff(built, step_size)
    if rtol or atol is not None:
        _check_controlled(is_loss, rtol, step_size=step_size, steps=steps, seeds=seeds, tau=tau)
    if integrators is None:
        integrators = FOR_LOSSES if is_loss else FOR_STIFF if stiff else FOR_EQUATIONS
    usual = "exact" if stiff else getattr(built, "usual_substep", None)
    methods = _methods(integrators, is_loss, usual, tau=tau, spare=spare, substep=substep, optimizer=optimizer)
    if rtol:
        made = controlled_cases(built, methods, rtol, atol, rank=rank)
    else:
        made = cases(built, methods, step_sizes=step_size, steps=steps, seeds=seeds, rank=rank)
    check_folder(out)
    with cluster(scheduler):
        results = _sweep(made, out, jobs if scheduler is None else None, fresh)
    if all(result.trajectory.failed for result in results):
        raise ValueError(results[0].trajectory.status)
    rows, title = table(results)
    show(rows, f"{problem}, {title}")
    if stiff and substep is None:
        say("Explicit substeps would be unstable here, so they are exact where a method has them.")
    for note in notes(results):
        say("\n".join(textwrap.wrap(note, width(), subsequent_indent="  ", break_long_words=False)))
    found = sum(result.found for result in results)
    if found:
        say(f"{found} of {len(results)} runs were there already.")
    origins = say_origins(problem=[problem], integrator=methods)
    write_results(out, results, settings | {"out": str(out), "origins": origins})
    save_figures(results, out)
    say(f"Wrote results.json, trajectories and plots to {out}")


def _problem_of(name, given):
    """The problem with the options given, which must all apply to it."""
    from ..references import kept
    from ..registry import PROBLEMS, build_problem, lookup, uses

    known = uses(lookup("problem", name, PROBLEMS))
    for unused in given.keys() - set(known):
        raise ValueError(f"{name} takes no {option(unused)}; it takes {', '.join(map(option, known))}")
    return kept(build_problem(name, given))


def _methods(names, is_loss, usual_substep, **given):
    """The methods with the options given, each of which must apply to one of them, and the usual values of others."""
    from ..registry import OPTIMIZERS, SUBSTEPS, lookup, takes, with_options

    chosen = {name: lookup("integrator", name, INTEGRATORS) for name in map(str.strip, names.split(","))}
    usual: dict[str, Any] = {
        "tau": 0.1 if is_loss else 1e-6,
        "spare": 1,
        "substep": usual_substep,
        "optimizer": None,
    }
    tau, spare, substep, optimizer = (usual[name] if value is None else value for name, value in given.items())
    parts = {
        "truncation": Tolerance(relative=tau, spare=spare),
        "substep": None if substep is None else lookup("substep", substep, SUBSTEPS)(),
        "optimizer": None if optimizer is None else lookup("optimizer", optimizer, OPTIMIZERS)(),
    }
    for name, part in (("tau", "truncation"), ("spare", "truncation"), ("substep", "substep")):
        if given[name] is not None and not any(part in takes(method) for method in chosen.values()):
            able = ", ".join(label for label, method in INTEGRATORS.items() if part in takes(method))
            raise ValueError(f"{option(name)} applies to none of {', '.join(chosen)}, but to {able}")
    return {name: with_options(method, **parts) for name, method in chosen.items()}


def _is_stiff(problem, step_sizes):
    """Whether explicit steps of these sizes are unstable, ``h L > 2``, and the problem knows its exact sub-flows."""
    if hasattr(problem, "loss"):
        return False
    largest = max(step_sizes) if step_sizes else problem.t_end / 50
    return math.isfinite(problem.lipschitz) and largest * problem.lipschitz > 2 and _knows_flows(problem)


def _knows_flows(problem):
    Y = LowRank(*problem.initial(1, np.random.default_rng(0)))
    try:
        problem.field(0.0, Y).flow_S(1e-3 * problem.t_end)
    except (NotImplementedError, AttributeError):
        return False
    return True


def cases(problem, methods, *, step_sizes=None, steps=None, seeds=None, rank=None):
    """One case for each step size, method and seed; what is None is chosen by the kind of problem.

    Raises TypeError or ValueError for what does not fit the problem.
    """
    is_loss = hasattr(problem, "loss")
    rank = _usual_rank(problem) if rank is None else check_rank(rank, problem.shape)
    if step_sizes is None:
        step_sizes = [0.1, 0.01] if is_loss else [problem.t_end / n for n in (50, 100, 200)]
    found = []
    for h in dict.fromkeys(step_sizes):
        h = check_positive("step size", h)
        n = steps
        if n is None:
            n = 300 if is_loss else max(1, round(min(problem.t_end / h, MOST)))
            if n == MOST:
                raise ValueError(f"step size {h:g} would take {MOST} steps or more to t = {problem.t_end:g}")
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
    rank = _usual_rank(problem) if rank is None else check_rank(rank, problem.shape)
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


def _usual_rank(problem):
    return min(8, max(1, min(problem.shape) // 2))


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
        flows = "--substep exact, or " if explicit and not hasattr(problem, "loss") and _knows_flows(problem) else ""
        names, least = dict.fromkeys(case.label for case in unstable), min(case.setting[1] for case in unstable)
        name = option(unstable[0].setting[0].replace(" ", "_"))
        lines.append(f"Unstable: {', '.join(names)}. Try {flows}a {name} below {least:.4g}.")
    for case, run, _ in results:
        if run.failed:
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


def _sweep(cases, out, jobs, fresh):
    """The sweep with a progress bar; Ctrl-C ends the program with a hint how to go on."""
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
            return sweep(cases, out=out, jobs=jobs, progress=progress, within=within, fresh=fresh)
        except KeyboardInterrupt:
            shown.stop()
            interrupted(out, f"{done} runs are")
