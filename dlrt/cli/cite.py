"""The command ``dlrt cite``: what to cite for a method, problem or theorem, as BibTeX."""

from __future__ import annotations

from typing import Annotated

import typer

from integrators import citation

from .terminal import errors, say


def cite(
    names: Annotated[
        list[str],
        typer.Argument(metavar="METHOD...", help="Integrators, optimisers, problems or theorems by name."),
    ],
) -> None:
    """Show the papers on which methods rest, as BibTeX: [bold]dlrt cite geolora adam > references.bib[/bold]."""
    from ..registry import INTEGRATORS, OPTIMIZERS, PROBLEMS, build_problem, lookup
    from ..theorems import THEOREMS

    known = {name: build_problem for name in PROBLEMS} | THEOREMS | OPTIMIZERS | INTEGRATORS
    things = []
    for name in dict.fromkeys(names):
        thing = lookup("name", name, known)
        things.append(build_problem(name) if thing is build_problem else thing)
        if not citation(things[-1]):
            errors.print(f"{name}: its documentation names no paper", highlight=False, markup=False)
    say(citation(*things))
