"""The command line: ``dlrt list``, ``compare PROBLEM``, ``figure NAME``, ``table NAME``, ``verify``, ``train``."""

# What is slow to import (integrators, matplotlib, joblib) is imported inside the commands, so that --help is quick.
from __future__ import annotations

import importlib
import inspect
import logging
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..finetune.digits import app as train
from .verify import verify

app = typer.Typer(
    name="dlrt",
    help="Compare dynamical low-rank integrators on matrix problems, and redo the figures of the GeoLoRA paper.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
)
errors = Console(stderr=True, soft_wrap=True)
_METHODS, _PROBLEM = "What to run", "The problem"
_OPTIONS = "Options of the methods (each takes what concerns it)"


def _console():
    """Console for results; wide enough for a table where the output is a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 120))


def _refuse(error) -> NoReturn:
    """End with one line on what was wrong, and exit code 2."""
    logging.getLogger(__name__).debug("refused", exc_info=error)
    lines = str(error).splitlines() or [type(error).__name__]
    errors.print(f"dlrt: error: {lines[0]}", style="red", markup=False, highlight=False)
    raise typer.Exit(2)


def _version(wanted: bool):
    if wanted:
        from .. import __version__

        print(f"dlrt {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Compare dynamical low-rank integrators on matrix problems, and redo the figures of the GeoLoRA paper."""


@app.command("list")
def list_() -> None:
    """Show the integrators, problems, figures and tables known by name, one line each."""
    from ..registry import INTEGRATORS, PROBLEMS

    known = {
        "Integrators": {name: entry.description for name, entry in INTEGRATORS.items()},
        "Problems": {name: entry.description for name, entry in PROBLEMS.items()},
        "Figures": {name: description for name, (_, description) in _known("FIGURES").items()},
        "Tables": {name: description for name, (_, description) in _known("TABLES").items()},
    }
    console = _console()
    width = max(len(name) for entries in known.values() for name in entries)
    for title, entries in known.items():
        console.print(title, style="bold")
        for name, description in entries.items():
            console.print(f"  {name:<{width}}  {description}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def compare(
    problem: Annotated[str, typer.Argument(help="Name of a problem, see [bold]dlrt list[/bold].")],
    integrators: Annotated[
        str | None,
        typer.Option(
            help="Names with commas between, see [bold]dlrt list[/bold]. "
            "Default: lora,svd-lora,adalora,geolora for losses, else projector-splitting,"
            "projector-splitting-strang,bug,augmented-bug,parallel-bug.",
            rich_help_panel=_METHODS,
        ),
    ] = None,
    step_size: Annotated[
        list[float] | None,
        typer.Option(
            help="Step size (learning rate); give it several times to compare several. "
            "Default: 0.1 and 0.01 for losses, else a 50th, 100th and 200th of the time horizon.",
            rich_help_panel=_METHODS,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Number of steps. Default: 300 for losses; else as many as lead to the time horizon, "
            "with the step size adjusted so that they end there exactly.",
            rich_help_panel=_METHODS,
        ),
    ] = None,
    rank: Annotated[int, typer.Option(help="Rank at the start.", rich_help_panel=_METHODS)] = 8,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Number of seeds: random starts and mini-batches. Default: 3 for losses, else 1.",
            rich_help_panel=_METHODS,
        ),
    ] = None,
    tau: Annotated[
        float | None,
        typer.Option(
            help="Relative truncation tolerance: augmented-bug, parallel-bug, parallel-bug-rejection, geolora. "
            "Default: 0.1 for losses, else 1e-6.",
            rich_help_panel=_OPTIONS,
        ),
    ] = None,
    spare: Annotated[
        int,
        typer.Option(
            help="Directions kept beyond the tolerance, of the same methods; 0 is as published.",
            rich_help_panel=_OPTIONS,
        ),
    ] = 1,
    substep: Annotated[
        str | None,
        typer.Option(
            help="How K, L and S are advanced: euler, heun, rk4 or exact (where the problem knows the solution). "
            "Default: euler, heun for projector-splitting-strang. Not for lora, svd-lora, adalora, geolora.",
            rich_help_panel=_OPTIONS,
        ),
    ] = None,
    optimizer: Annotated[
        str, typer.Option(help="sgd, momentum or adam; all methods.", rich_help_panel=_OPTIONS)
    ] = "sgd",
    target: Annotated[
        str,
        typer.Option(
            help="[bold]synthetic[/bold], [bold]elevation[/bold] or a file (.npy, .npz, .csv, image): "
            "matrix-regression, matrix-completion, linear-least-squares.",
            rich_help_panel=_PROBLEM,
        ),
    ] = "synthetic",
    size: Annotated[
        int | None,
        typer.Option(
            help="Rows and columns; all problems unless a target is given. "
            "Default: 100, given-solution 30, manufactured 7.",
            rich_help_panel=_PROBLEM,
        ),
    ] = None,
    true_rank: Annotated[
        int | None,
        typer.Option(
            help="Rank of the synthetic target (5) or of the solution: rotating (full), given-solution (4), "
            "manufactured (2).",
            rich_help_panel=_PROBLEM,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Mini-batches of so many entries or samples: matrix-completion, linear-least-squares. "
            "Default: the full loss.",
            rich_help_panel=_PROBLEM,
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="float64 or float32 (complex problems: that precision).", rich_help_panel=_PROBLEM)
    ] = "float64",
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
    out = Path("dlrt-results", problem) if out is None else out
    try:
        from integrators.checks import check_integer

        from ..registry import ProblemOptions, build_problem

        for name, least in {
            "rank": 1,
            "steps": 1,
            "seeds": 1,
            "spare": 0,
            "size": 2,
            "true_rank": 1,
            "batch_size": 1,
        }.items():
            if settings[name] is not None:
                check_integer(name.replace("_", "-"), settings[name], least)
        options = ProblemOptions(size=size, true_rank=true_rank, target=target, batch_size=batch_size, dtype=dtype)
        cases = _cases(
            build_problem(problem, options),
            integrators=integrators,
            step_sizes=step_size,
            steps=steps,
            seeds=seeds,
            method={"rank": rank, "tau": tau, "spare": spare, "substep": substep, "optimizer": optimizer},
        )
        from ..plots import save_figures
        from ..results import write_results

        results = _sweep(cases, out, jobs)
        write_results(out, results, settings | {"out": str(out)})
        save_figures(results, out)
    except (ValueError, TypeError, NotImplementedError, OSError) as error:
        _refuse(error)
    console = _console()
    console.print(_table(results))
    found = sum(result.found for result in results)
    if found:
        console.print(f"{found} of {len(results)} runs were there already.", highlight=False)
    console.print(f"Wrote results.json, trajectories and plots to {out}", markup=False, highlight=False, soft_wrap=True)


_OUT = typer.Option(help="Folder for pictures and numbers. Default: dlrt-figures/NAME or dlrt-tables/NAME.")
_QUICK = typer.Option("--quick", help="A smaller version, to see that it works.")
_JOBS = typer.Option(help="Runs at the same time; -1: one per processor.")
_MODEL = typer.Option(
    help="Your own pretrained network: a folder or a name for from_pretrained of transformers. "
    "Figures 2 to 4, Tables 2 and 3."
)
_DATA = typer.Option(
    help="Your own data. Pictures: a folder with the files of MNIST or of CIFAR's binary version, or with train/CLASS/ "
    "and test/CLASS/ (Figures 2 to 4, Table 3). Sentences: a folder with train.tsv and dev.tsv of GLUE (Table 2)."
)


@app.command()
def figure(
    name: Annotated[str, typer.Argument(help="Name of a figure, see [bold]dlrt list[/bold].")],
    out: Annotated[Path | None, _OUT] = None,
    quick: Annotated[bool, _QUICK] = False,
    jobs: Annotated[int, _JOBS] = 1,
    model: Annotated[str | None, _MODEL] = None,
    data: Annotated[str | None, _DATA] = None,
) -> None:
    """Redo a figure of the GeoLoRA paper (arXiv:2410.18720)."""
    _redo("figure", name, out, quick, jobs, {"model": model, "data": data})


@app.command("table")
def table_(
    name: Annotated[str, typer.Argument(help="Name of a table, see [bold]dlrt list[/bold].")],
    out: Annotated[Path | None, _OUT] = None,
    quick: Annotated[bool, _QUICK] = False,
    jobs: Annotated[int, _JOBS] = 1,
    model: Annotated[str | None, _MODEL] = None,
    data: Annotated[str | None, _DATA] = None,
) -> None:
    """Redo a table of the GeoLoRA paper (arXiv:2410.18720), and show it."""
    result = _redo("table", name, out, quick, jobs, {"model": model, "data": data})
    shown = Table(title=result.get("title", f"Table {name}"), title_justify="left")
    for heading in result["rows"][0]:
        shown.add_column(heading, justify="left" if heading == next(iter(result["rows"][0])) else "right")
    for row in result["rows"]:
        shown.add_row(*map(str, row.values()))
    _console().print(shown)


def _redo(kind: str, name: str, out: Path | None, quick: bool, jobs: int, options: dict) -> dict:
    """Run the script of a figure or table; what it returns. A second call goes on where the first one stopped."""
    from ..registry import lookup

    out = Path(f"dlrt-{kind}s", name) if out is None else out
    began = time.perf_counter()
    try:
        module, description = lookup(kind, name, _known(f"{kind.upper()}S"))
        run = importlib.import_module(module).run
        given = {option: value for option, value in options.items() if value is not None}
        for option in given:
            if option not in inspect.signature(run).parameters:
                raise ValueError(f"{kind} {name} takes no --{option}")
        with _bar() as bar:
            task = bar.add_task(name, total=None)

            def progress(done, total):
                bar.update(task, completed=done, total=total)

            result = run(out, quick=quick, jobs=jobs, progress=progress, **given)
    except ModuleNotFoundError as error:
        _refuse(f"{error}: pip install -c constraints.txt '.[finetuning]'")
    except (ValueError, OSError) as error:
        _refuse(error)
    except KeyboardInterrupt:
        errors.print(f"Interrupted; what is done is in {out}", markup=False, highlight=False)
        raise typer.Exit(130) from None
    seconds = time.perf_counter() - began
    _console().print(f"Wrote {description} to {out} ({seconds:.1f} s)", markup=False, highlight=False, soft_wrap=True)
    return result


app.command()(verify)
app.add_typer(train, name="train")


def _known(kind: str) -> dict[str, tuple[str, str]]:
    """FIGURES or TABLES of the package `paper_figures`, which this package must not need."""
    try:
        return dict(getattr(importlib.import_module("paper_figures"), kind))
    except (ImportError, AttributeError):
        return {}


def _cases(problem, *, integrators, step_sizes, steps, seeds, method):
    """One case for each integrator, step size and seed; ValueError for what does not fit the problem."""
    from integrators.checks import check_positive

    from ..registry import MethodOptions, build_integrator
    from ..sweep import Case

    is_loss = hasattr(problem, "loss")
    if integrators is None:
        integrators = "lora,svd-lora,adalora,geolora"
        if not is_loss:
            integrators = "projector-splitting,projector-splitting-strang,bug,augmented-bug,parallel-bug"
    names = list(dict.fromkeys(name.strip() for name in integrators.split(",")))
    if step_sizes is None:
        step_sizes = [0.1, 0.01] if is_loss else [problem.t_end / n for n in (50, 100, 200)]
    if method["rank"] > min(problem.shape):
        raise ValueError(f"rank {method['rank']} exceeds min(m, n) = {min(problem.shape)}")
    if method["tau"] is None:
        method["tau"] = 0.1 if is_loss else 1e-6
    cases = []
    for h in step_sizes:
        h = check_positive("step size", h)
        n = steps
        if n is None:
            n = 300 if is_loss else max(1, round(problem.t_end / h))
            h = h if is_loss else problem.t_end / n
        for name in names:
            integrator = build_integrator(name, MethodOptions(steps=n, **method))
            cases += [
                Case(
                    label=name,
                    integrator=integrator,
                    problem=problem,
                    step_size=h,
                    steps=n,
                    rank=method["rank"],
                    seed=seed,
                    every=max(1, n // (300 if is_loss else 50)),  # references may cost more than steps
                )
                for seed in range(seeds or (3 if is_loss else 1))
            ]
    return cases


def _bar() -> Progress:
    """A progress bar on the error stream that vanishes at the end."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=errors, transient=True)


def _sweep(cases, out, jobs):
    """The sweep with a progress bar on the error stream; Ctrl-C ends the program with a hint how to go on."""
    from ..sweep import sweep

    done = 0
    with _bar() as bar:
        task = bar.add_task("runs", total=len({case.file for case in cases}))

        def progress(result) -> None:
            nonlocal done
            done += 1
            bar.update(task, advance=1, description=result.case.label)

        try:
            return sweep(cases, out=out, jobs=jobs, progress=progress)
        except KeyboardInterrupt:
            bar.stop()
            errors.print(
                f"Interrupted. {done} runs are saved in {out}; the same command goes on from there.", markup=False
            )
            raise typer.Exit(130) from None


def _table(results) -> Table:
    """One line for each integrator and step size: medians over the seeds."""
    import numpy as np

    groups: dict = {}
    for result in results:
        groups.setdefault((result.case.label, result.case.step_size), []).append(result.trajectory)
    measure = results[0].trajectory.measure
    many = max(len(runs) for runs in groups.values()) > 1
    title = f"final {measure}" + (", median over seeds (minimum to maximum)" if many else "")
    case = results[0].case
    least = case.problem.minimum(case.rank) if hasattr(case.problem, "minimum") else 0.0
    if least > 1e-20 * results[0].trajectory.values[0]:  # below, it is rounding of a target of lower rank
        title += f"; no matrix of rank {case.rank} has less than {least:.2e}"
    table = Table(title=title)
    table.add_column("integrator", no_wrap=True)
    for name in ("step size", measure, "rank", "evaluations", "time [s]"):
        table.add_column(name, justify="right")
    table.add_column("status")
    for (label, h), runs in groups.items():
        ended = [run for run in runs if not run.diverged]
        value = rank = "-"
        if ended:
            final = np.array([run.values[-1] for run in ended])
            value = f"{np.median(final):.2e}" + (f" ({final.min():.0e} to {final.max():.0e})" if many else "")
            rank = _range(int(run.numerical_ranks[-1]) for run in ended)
        status = "finished"
        if len(ended) < len(runs):
            share = f"{len(runs) - len(ended)} of {len(runs)} " if ended else ""
            status = f"{share}diverged at step " + _range(int(run.status.split()[-1]) for run in runs if run.diverged)
        work = np.median([run.evaluations[-1] for run in runs])
        seconds = np.median([run.wall_times[-1] for run in runs])
        table.add_row(label, f"{h:.4g}", value, rank, f"{work:.0f}", f"{seconds:.2f}", status)
    return table


def _range(numbers):
    numbers = sorted(numbers)
    return f"{numbers[0]}" if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"
