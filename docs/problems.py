"""A page for each module of problems: how each problem is called, its options, numbers, and the docstrings."""

from __future__ import annotations

import inspect
import math
import re

from dlrt.registry import ORIGINS, PROBLEMS, build_problem, description
from docs.text import Pages, table
from integrators import citation
from problems import LossProblem, Problem


def pages() -> Pages:
    """The pages, and their index."""
    built = {name: build_problem(name) for name in PROBLEMS if name not in ORIGINS["problem"]}
    modules: dict[str, dict[str, Problem]] = {}
    for name, problem in built.items():
        modules.setdefault(type(problem).__module__, {})[name] = problem
    found: Pages = {
        address(problem): page(module, group) for module, group in modules.items() for problem in group.values()
    }
    return {"problems/index.md": index(built)} | found


def address(problem: Problem) -> str:
    """Where the page of a problem is."""
    return f"problems/{type(problem).__module__.rpartition('.')[2]}.md"


def index(built: dict[str, Problem]) -> str:
    """All problems in one table."""
    rows = [
        [f"[{name}](../{address(problem)}#{name})", description(PROBLEMS[name]), kind(problem), shape(problem)]
        for name, problem in built.items()
    ]
    return "# Problems\n\nThe problems known by name, at their usual size.\n\n" + table(
        ["name", "what it is", "kind", "shape"], rows
    )


def page(module: str, group: dict[str, Problem]) -> str:
    """The page of one module; ``group`` are its problems that have a name."""
    docstring = (inspect.getdoc(inspect.getmodule(type(next(iter(group.values()))))) or "").split("\n\n")[0]
    parts = [f"# {re.split('[:,.]', ' '.join(docstring.split()))[0]}"]
    for name, problem in group.items():
        parts += [f"## {name}", f"{description(PROBLEMS[name])}.", table(["property", "value"], facts(name, problem))]
        parts.append(f"```sh\ndlrt compare {name}\n```")
    parts += ["## In Python", f"::: {module}\n    options:\n      heading_level: 3"]
    if papers := citation(*group.values()):
        parts += ["## To cite", f"```bibtex\n{papers}\n```"]
    return "\n\n".join(parts) + "\n"


def kind(problem: Problem) -> str:
    """Loss or equation."""
    return "loss" if isinstance(problem, LossProblem) else "equation"


def shape(problem: Problem) -> str:
    """Size and number type."""
    return f"{' × '.join(map(str, problem.shape))}, {problem.dtype}"


def facts(name: str, problem: Problem) -> list[list[str]]:
    """What is known of a problem at its usual size."""
    options = inspect.signature(PROBLEMS[name]).parameters.values()
    rows = [["class", f'<autoref optional identifier="{type(problem).__module__}.{type(problem).__name__}">'
             f"<code>{type(problem).__name__}</code></autoref>"],
            ["kind, usual size", f"{kind(problem)}, {shape(problem)}"],
            ["options", ", ".join(f"`{option.name}={option.default!r}`" for option in options)]]  # fmt: skip
    if isinstance(problem, LossProblem):
        minimum = problem.minimum()
        rows += [["Lipschitz constant of the gradient", number(problem.lipschitz)]]
        rows += [["convex", "yes" if problem.convex else "no"]]
        rows += [["minimum", number(minimum)]]
    else:
        rows += [["horizon", number(problem.t_end)]]
        rows += [["Lipschitz constant L", number(problem.lipschitz)]]
        rows += [["one-sided Lipschitz constant", number(problem.one_sided_lipschitz)]]
        rows += [["solution", "not known" if type(problem).reference is Problem.reference else "known"]]
    return rows


def number(value: float) -> str:
    """Four digits; infinite is what no bound is known for."""
    return "none is known" if not math.isfinite(value) else f"{value:.4g}"
