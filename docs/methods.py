"""A page for each method: facts, docstring, what is promised, what was measured, pictures, code, and what to cite."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from dlrt.plots import class_name
from dlrt.registry import ORIGINS
from dlrt.theorems import THEOREMS
from dlrt.theorems.matrix import BEGIN, END, integrators_text
from docs import gallery, pictures
from docs.text import Pages, read, table, tables
from integrators import INTEGRATORS, Integrator, citation

MEASURED = "paper_figures/README.md"
MARKS = """\
*Robust*: the error bound does not depend on singular values. *Tapes*: evaluations of the field in a step, with the
explicit Euler substep (methods of order 2: Heun); for a network, backward passes. Methods that follow another flow than
the field's have no order.
"""
LEGEND = """\
**holds**: promised by theory and certified; holds: in the cases that were run, not promised; violated: not promised,
with the measured figure; –: a hypothesis is not met.
"""


def pages() -> Pages:
    """The pages, and their index."""
    found: Pages = {"methods/index.md": index()}
    for methods in by_class().values():
        where = address(next(iter(methods.values())))
        png, words, caption = pictures.picture(methods)
        found[where] = page(methods, f"![{words}]({stem(where)}.png){{ .column }}\n\n*{caption.strip()}*")
        found[where.replace(".md", ".png")] = png
    return found


def by_class() -> dict[type, dict[str, Integrator]]:
    """The methods of the project by name, those of one class together (plug-ins are left to their packages)."""
    found: dict[type, dict[str, Integrator]] = {}
    for name, method in INTEGRATORS.items():
        if name not in ORIGINS["integrator"]:
            found.setdefault(type(method), {})[name] = method
    return found


def address(method: Integrator) -> str:
    """Where the page of a method is."""
    return f"methods/{type(method).__module__.rpartition('.')[2]}.md"


def stem(address: str) -> str:
    """Of a page, without folder and suffix."""
    return address.rpartition("/")[2].removesuffix(".md")


def index() -> str:
    """All methods in one table."""
    methods = {name: method for group in by_class().values() for name, method in group.items()}
    ((header, *rows),) = tables(integrators_text(methods))
    linked = [[f"[{row[0]}](../{address(methods[row[0]])})", *row[1:]] for row in rows]
    return f"# Methods\n\nThe methods known by name.\n\n{table(header, linked)}\n{MARKS}"


def page(methods: dict[str, Integrator], picture: str) -> str:
    """The page of one class; ``methods`` are its members that have a name."""
    first = next(iter(methods.values()))
    kind = type(first)
    name = next(iter(methods))
    parts = [
        f"# {kind.__name__}",
        integrators_text(methods),
        picture,
        f"::: {kind.__module__}.{kind.__name__}\n    options:\n      heading_level: 2\n      show_root_heading: true",
        "## In use",
        f"```python\n{example(first)}```",
        f"```sh\ndlrt compare {'given-solution' if first.order else 'matrix-regression'} --integrators {name}\n```",
        "## What is promised, and what holds",
        promises(methods),
    ]
    measured = list(measurements(kind.__name__))
    if measured:
        parts += ["## What was measured", *(f"{title}\n\n{rows}" for title, rows in measured)]
        parts += ["### Pictures", gallery.grid(gallery.of_method(kind.__name__), "methods")]
    if papers := citation(*methods.values()):
        parts += ["## To cite", f"```bibtex\n{papers}\n```"]
    return "\n\n".join(parts) + "\n"


def example(method: Integrator) -> str:
    """A run in Python; the tests run it."""
    problem, step = ("given-solution", 0.01) if method.order else ("matrix-regression", 0.001)
    (name,) = (name for name, known in INTEGRATORS.items() if known is method)
    return (
        "from dlrt import solve\n"
        "from dlrt.registry import INTEGRATORS, build_problem\n\n"
        f'run = solve(INTEGRATORS["{name}"], build_problem("{problem}"), step_size={step}, steps=20, rank=4)\n'
        f"print(run.status, run.{'errors' if method.order else 'losses'}[-1])\n"
    )


def promises(methods: dict[str, Integrator]) -> str:
    """For each theorem what theory says of the methods, and what the certificates found (from the README)."""
    rows = []
    for name, theorem in THEOREMS.items():
        why = dict.fromkeys(theorem.promises(method)[1] for method in methods.values())
        rows.append([f"[{name}](../theorems/{name}.md)", *(verdict(m, name) for m in methods), "; ".join(why)])
    return table(["theorem", *methods, "what is known"], rows) + "\n" + LEGEND


@functools.cache
def verdicts() -> dict[str, dict[str, str]]:
    """The matrix of methods and theorems in the README."""
    (matrix,) = tables(read("README.md").partition(BEGIN)[2].partition(END)[0])
    return {row[0]: dict(zip(matrix[0], row)) for row in matrix[1:]}


def verdict(method: str, theorem: str) -> str:
    """What the certificates found for a method; those of a new one may not have been run."""
    return verdicts().get(method, {}).get(theorem, "not run")


def measurements(class_name_: str) -> Iterator[tuple[str, str]]:
    """The rows about a method in the tables of figures of the paper, each with a link to the section."""
    text = read(MEASURED)
    for picture_or_table in gallery.sections(text):
        for rows in tables(picture_or_table.text):
            chosen = [row for row in rows[1:] if rows[0][0] == "method" and class_name(row[0]) == class_name_]
            if chosen:
                title = f"[{picture_or_table.heading.replace('`', '')}](../{MEASURED}#{picture_or_table.anchor})"
                yield title, table(rows[0], chosen)
