"""The command ``dlrt verify``: theorem checks for methods and problems known by name, and the tables of the README."""

from __future__ import annotations

import dataclasses
import functools
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from integrators.checks import check_positive

from ..runs import check_folder, write_atomically
from .terminal import errors, option, say, say_origins, show, width


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
        Path | None, typer.Option(help="Write the tables of integrators and theorems between the markers of this file.")
    ] = None,
) -> None:
    """Check theorems with explicit constants; exit code 1 if one is violated by a method for which it is promised."""
    settings = {"rank": rank, "steps": steps, "step_size": step_size}
    given = {name: value for name, value in settings.items() if value is not None}
    if step_size is not None:
        check_positive(option("step_size"), step_size)
    if out is not None:
        check_folder(out)
    if write_matrix is not None:
        found = _matrix(write_matrix, full)
    elif problem is not None:
        found = _one(theorem, integrator, problem, size, given)
    elif size is not None or given:
        name = "size" if size is not None else next(iter(given))
        raise ValueError(f"{option(name)} needs --problem: the small cases have their own settings")
    else:
        found = _all(theorem, integrator, full)
    if out is not None and write_matrix is None:
        _save(found, out)
    say_origins(problem=[problem or ""], integrator=[integrator or ""])
    if any(c.failed for c in found):
        raise typer.Exit(1)


def _one(theorem, integrator, problem, size, given) -> list:
    """One theorem for one method on one problem."""
    from ..registry import PROBLEMS, build_problem, lookup
    from ..theorems import THEOREMS
    from ..theorems.matrix import methods

    if theorem is None or integrator is None:
        raise ValueError("--problem needs a theorem and --integrator, for example: error-bound --integrator bug")
    lookup("problem", problem, PROBLEMS)
    claim = lookup("theorem", theorem, THEOREMS)
    if claim.own_problem:
        raise ValueError(f"{theorem} makes its own problems: leave out --problem")
    known = [f.name for f in dataclasses.fields(claim)]
    for name in given:
        if name not in known:
            raise ValueError(f"{option(name)} does not apply to {theorem}, which has {', '.join(known)}")
    claim = dataclasses.replace(claim, **given)
    method = lookup("integrator", integrator, methods(given.get("steps", 20), given.get("rank", 4)))
    certificate = claim.check(claim.configured(method), build_problem(problem, {"size": size}))
    say(certificate.text(width=width()))
    return [certificate]


def _all(theorem, integrator, full) -> list:
    """The small cases, or the large sweep, of one or all theorems, predictions and proofs."""
    from ..registry import lookup
    from ..theorems import THEOREMS, factor_methods, one_frame, prove, worst_of
    from ..theorems import verify as certificates
    from ..theorems.matrix import methods
    from ..theorems.stiffness import ALL_SIGMAS, Stiffness

    known = methods()
    if integrator is not None:
        known = {integrator: lookup("integrator", integrator, known)}
    sigmas = ALL_SIGMAS if full else Stiffness.sigmas
    checks: dict[str, Callable] = {name: lambda m, name=name: certificates(m, [name], full) for name in THEOREMS}
    checks["factor-methods"] = lambda method: [factor_methods(method, sigmas)]
    of_no_method: dict[str, Callable] = {"one-frame": one_frame, "symbolic": prove}
    checks |= {name: lambda method, claim=claim: [claim()] for name, claim in of_no_method.items()}
    if theorem is not None:
        checks = {theorem: lookup("theorem", theorem, checks)}
    rows, details, saved = [], [], []
    for name, check in checks.items():
        found = []
        for method in known.values():
            if integrator is None and name in THEOREMS:
                claim = THEOREMS[name]
                if not claim.promises(claim.configured(method))[0]:
                    continue
            with errors.status(f"{name}: {type(method).__name__}", spinner="line"):
                found += [c for c in check(method) if integrator is not None or c.promised]
            if name in of_no_method:
                break
        saved += found
        rows.append({"theorem": name, **_measured(worst_of(found))})
        details += _details(name, found[0].statement if found else "", worst_of(found))
    show(rows)
    say()
    for line in details:
        say(line)
    count = sum(c.verdict != "not applicable" for c in saved)
    say(f"{count} certificates, {sum(c.failed for c in saved)} violated of those that are promised")
    for c in saved:
        if c.failed:
            say(f"violated: {c.integrator} on {c.problem}: {c.theorem}: {c.reason}")
    return saved


def _measured(worst) -> dict[str, str]:
    """The cells of a row: verdict and both sides of the inequality that is nearest to its bound."""
    if worst is None:
        return {"verdict": "not applicable", "measured": "", "bound": "", "ratio": ""}
    s, i = worst.worst
    return {
        "verdict": worst.verdict,
        "measured": f"{s.left[i]:.4g}",
        "bound": f"0 ± {s.slack[i]:.1e}" if s.equality else f"{s.right[i]:.4g}",
        "ratio": f"{s.ratio[i]:.3g}",
    }


def _details(name, statement, worst) -> list[str]:
    """What a theorem says and for which case it is nearest to its bound, as indented lines."""
    texts = [f"{name}: {statement}"]
    if worst is not None:
        texts.append(f"nearest to its bound: {worst.integrator}, {worst.problem}: {worst.worst[0].name}")
    wrapper = textwrap.TextWrapper(width(), initial_indent="  ", subsequent_indent="      ", break_long_words=False)
    return [line for text in texts for line in wrapper.wrap(text)]


def _save(found, out) -> None:
    """Certificates as JSON and plots of their main inequality."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    used: dict[str, int] = {}
    for c in found:
        stem = re.sub(r"[^a-z0-9]+", "-", f"{c.theorem} {c.integrator.split('(')[0]} {c.problem}".lower()).strip("-")
        used[stem] = used.get(stem, 0) + 1
        stem = stem if used[stem] == 1 else f"{stem}-{used[stem]}"
        c.save(out / f"{stem}.json")
        if c.series and c.series[0].values:
            ax = c.plot()
            write_atomically(out / f"{stem}.png", functools.partial(ax.figure.savefig, format="png", dpi=130))
            plt.close(ax.figure)
    say(f"{len(found)} certificates written to {out}")


def _matrix(path: Path, full: bool) -> list:
    """Write the tables between the markers of a file."""
    from ..theorems import matrix

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with errors.status("theorems", spinner="line") as status:
        found = matrix.certificates(matrix.methods(), full=full, progress=status.update)
    text = path.read_text(encoding="utf-8")
    text = matrix.with_integrators(matrix.with_matrix(text, matrix.matrix_text(found)))
    write_atomically(path.resolve(), lambda file: file.write(text.encode()))
    rows = list(found.values())
    say(f"{len(rows)} integrators x {len(rows[0])} theorems written to {path}")
    return [c for row in rows for cells in row.values() for c in cells]
