"""The command ``dlrt verify``: theorem checks for the methods and problems known by name, and the matrix of the
README.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from pathlib import Path
from typing import Annotated, Any

import typer

BEGIN, END = "<!-- theorem matrix begin -->", "<!-- theorem matrix end -->"
SECTION = f"""
## Theorems

`dlrt verify` checks what theory promises, with explicit constants; `dlrt verify --write-matrix README.md` writes this
table. It has a row for every integrator in the registry.

{BEGIN}
{END}
"""


def verify(
    theorem: Annotated[
        str | None, typer.Argument(help="One theorem, by name; all of them without it.", show_default=False)
    ] = None,
    integrator: Annotated[
        str | None, typer.Option(help="One integrator; without it all that the theorem is promised for.")
    ] = None,
    problem: Annotated[str | None, typer.Option(help="A problem instead of the small cases of the theorem.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for certificates (JSON) and plots (PNG).")] = None,
    full: Annotated[bool, typer.Option("--full", help="The large sweep: minutes instead of seconds.")] = False,
    rank: Annotated[int | None, typer.Option(min=1, help="Rank of the start, with --problem.")] = None,
    size: Annotated[int | None, typer.Option(min=2, help="Rows and columns, with --problem.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of steps, with --problem.")] = None,
    step_size: Annotated[float | None, typer.Option(help="Step size, with --problem.")] = None,
    write_matrix: Annotated[
        Path | None, typer.Option(help="Write the table integrators x theorems into this file, between its markers.")
    ] = None,
) -> None:
    """Check theorems with explicit constants; exit code 1 if one is violated by a method for which it is promised."""
    from rich.console import Console

    console = Console()
    console = console if console.is_terminal else Console(width=max(console.width, 170))
    try:
        if write_matrix is not None:
            failed = _matrix(write_matrix, console, full)
        elif problem is not None:
            failed = _one(
                theorem, integrator, problem, out, console, rank=rank, size=size, steps=steps, step_size=step_size
            )
        else:
            for name, value in (("rank", rank), ("size", size), ("steps", steps), ("step-size", step_size)):
                if value is not None:
                    raise ValueError(f"--{name} needs --problem: the small cases have their own settings")
            failed = _all(theorem, integrator, out, console, full)
    except (ValueError, FileNotFoundError) as error:
        Console(stderr=True, soft_wrap=True).print(f"dlrt: error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(2) from None
    if failed:
        raise typer.Exit(1)


def methods() -> dict[str, Any]:
    """The integrators of the registry with the options that the small cases expect."""
    from ..registry import INTEGRATORS

    return {name: _configured(method, 4, 20) for name, method in INTEGRATORS.items()}


def _configured(method, rank, steps):
    from integrators import Tolerance

    from ..registry import with_options

    return with_options(method, truncation=Tolerance(relative=0.1, spare=1)).for_run(steps, rank)


def certificates(theorem: Any, integrator: Any, full: bool = False) -> list:
    """All certificates of a theorem's cases for one method."""
    return list(theorem.cases(integrator, full))


# -- one theorem on one problem --------------------------------------------------------------------------------------


def _one(theorem, integrator, problem, out, console, *, rank, size, steps, step_size) -> bool:
    from ..registry import INTEGRATORS, PROBLEMS, build_problem, lookup
    from ..theorems import THEOREMS

    if theorem is None or integrator is None:
        raise ValueError("--problem needs a theorem and --integrator, for example: error-bound --integrator bug")
    lookup("problem", problem, PROBLEMS)
    claim = lookup("theorem", theorem, THEOREMS)
    known = inspect.signature(claim.check).parameters
    if known["problem"].default is None:
        raise ValueError(f"{theorem} makes its own problems: leave out --problem")
    if rank is not None and hasattr(claim, "rank"):
        claim = dataclasses.replace(claim, rank=rank)
    method = claim.configured(_configured(lookup("integrator", integrator, INTEGRATORS), rank or 4, steps or 20))
    settings = {"rank": rank, "steps": steps, "step_size": step_size}
    given = {name: value for name, value in settings.items() if value is not None}
    for name in given:
        if name not in known:
            raise ValueError(f"--{name.replace('_', '-')} does not concern {theorem}, which takes {', '.join(known)}")
    certificate = claim.check(method, build_problem(problem, {"size": size}), **given)
    console.print(certificate)
    _save([certificate], out, console)
    return certificate.failed


# -- all theorems ----------------------------------------------------------------------------------------------------


def _all(theorem, integrator, out, console, full) -> bool:
    from rich.markup import escape
    from rich.table import Table

    from ..registry import INTEGRATORS, lookup
    from ..theorems import THEOREMS, worst_of

    claims = THEOREMS if theorem is None else {theorem: lookup("theorem", theorem, THEOREMS)}
    known = methods()
    if integrator is not None:
        lookup("integrator", integrator, INTEGRATORS)
        known = {integrator: known[integrator]}
    table = Table(show_edge=False, box=None, pad_edge=False, expand=True)
    for name in ("theorem", "verdict", "measured", "bound", "ratio"):
        table.add_column(name, no_wrap=True, justify="left" if name in ("theorem", "verdict") else "right")
    table.add_column("statement", no_wrap=True, overflow="ellipsis", ratio=3)
    table.add_column("nearest to its bound", no_wrap=True, overflow="ellipsis", ratio=2)
    saved, failed = [], False
    for name, claim in claims.items():
        found = []
        for method in known.values():
            if integrator is None and not claim.promises(claim.configured(method))[0]:
                continue
            with console.status(f"{name}: {type(method).__name__}"):
                found += certificates(claim, method, full)
            if name == "symbolic":
                break
        saved += found
        failed = failed or any(c.failed for c in found)
        worst = worst_of(found)
        if worst is None:
            table.add_row(name, "not applicable", "", "", "", escape(claim.statement), "")
            continue
        s, i = worst.worst
        bound = f"0 ± {s.slack[i]:.1e}" if s.equality else f"{s.right[i]:.4g}"
        verdict = "[red]violated[/red]" if worst.failed else worst.verdict
        case = f"{worst.integrator}, {worst.problem}: {s.name}"
        row = (f"{s.left[i]:.4g}", bound, f"{s.ratio[i]:.3g}", escape(claim.statement), escape(case))
        table.add_row(name, verdict, *row)
    console.print(table)
    count = sum(c.verdict != "not applicable" for c in saved)
    console.print(f"{count} certificates, {sum(c.failed for c in saved)} violated of those that are promised")
    for c in saved:
        if c.failed:
            console.print(
                f"violated: {c.integrator} on {c.problem}: {c.theorem}: {c.reason}", markup=False, style="red"
            )
    _save(saved, out, console)
    return failed


def _save(found, out, console) -> None:
    """Certificates as JSON and plots of their main inequality."""
    if out is None:
        return
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    used: dict[str, int] = {}
    for c in found:
        stem = re.sub(r"[^a-z0-9]+", "-", f"{c.theorem} {c.integrator.split('(')[0]} {c.problem}".lower()).strip("-")
        used[stem] = used.get(stem, 0) + 1
        stem = stem if used[stem] == 1 else f"{stem}-{used[stem]}"
        c.save(out / f"{stem}.json")
        if c.series and c.series[0].values:
            ax = c.plot()
            ax.figure.savefig(out / f"{stem}.png", dpi=130)
            plt.close(ax.figure)
    console.print(f"{len(found)} certificates written to {out}")


# -- the matrix ------------------------------------------------------------------------------------------------------


def matrix(full: bool = False, progress=None) -> tuple[list[str], dict[str, list[str]], bool]:
    """Verdicts of all registered integrators (rows) on all theorems (columns).

    Parameters
    ----------
    full : bool
        The large sweep.
    progress : callable, optional
        Called with a line of text before each cell.

    Returns
    -------
    columns : list of str
        Names of the theorems; the symbolic proofs concern no method and are left out.
    rows : dict from integrator name to the cells
    failed : bool
        Whether something promised is violated.
    """
    from ..theorems import THEOREMS

    columns = [name for name in THEOREMS if name != "symbolic"]
    rows: dict[str, list[str]] = {}
    failed = False
    for name, method in methods().items():
        rows[name] = []
        for column in columns:
            if progress:
                progress(f"{name}: {column}")
            found = certificates(THEOREMS[column], method, full)
            failed = failed or any(c.failed for c in found)
            rows[name].append(cell(found))
    return columns, rows, failed


def cell(found: list) -> str:
    """One cell: the worst verdict, with the measured figure where violated.

    ``holds`` is printed in bold where theory promises it; a violated promise in capitals.
    """
    from ..theorems import NOT_APPLICABLE, VIOLATED, worst_of

    worst = worst_of(found)
    if worst is None:
        return "–"
    if worst.verdict == VIOLATED:
        word = "**VIOLATED**" if worst.failed else "violated"
        s, i = worst.worst
        if not math.isfinite(s.left[i]):
            return f"{word} (diverged)"
        if s.equality:
            return f"{word} (off by {s.left[i]:.2g})"
        if s.right[i] > 0:
            return f"{word} ({s.excess[i]:.3g}×)"
        return f"{word} ({s.left[i]:.2g} > {s.right[i]:.2g})"
    promised = any(c.promised for c in found if c.verdict != NOT_APPLICABLE)
    return "**holds**" if promised else "holds"


def matrix_text(columns: list[str], rows: dict[str, list[str]]) -> str:
    """The matrix as Markdown, with its legend."""
    lines = [
        "| | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
        *("| " + " | ".join([name, *cells]) + " |" for name, cells in rows.items()),
        "",
        "**holds**: promised by theory and certified; holds: on the cases that were run, not promised; violated: not",
        "promised, with the measured figure (left side of the inequality over its right side, both sides where the "
        "right",
        "one is not positive, or the deviation from an equality); –: a hypothesis is not met. Small cases of",
        "`dlrt verify`; the statements: `dlrt verify THEOREM`.",
    ]
    return "\n".join(lines)


def _matrix(path: Path, console, full: bool) -> bool:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with console.status("theorems") as status:
        columns, rows, failed = matrix(full, status.update)
    text = path.read_text(encoding="utf-8")
    path.write_text(with_matrix(text, matrix_text(columns, rows)), encoding="utf-8")
    console.print(f"{len(rows)} integrators x {len(columns)} theorems written to {path}")
    return failed


def with_matrix(text: str, table: str) -> str:
    """The text with the table between the markers; a section with both is added at the end where they are missing.

    Raises ValueError if only one of the markers is there, or they are in the wrong order.
    """
    if BEGIN not in text and END not in text:
        text = text.rstrip("\n") + "\n" + SECTION
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"expected {BEGIN} and then {END} once each")
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"
