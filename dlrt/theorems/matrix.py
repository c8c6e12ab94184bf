"""The tables of the README: the integrators, and integrators x theorems."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping

from integrators import INTEGRATORS, Integrator, Tolerance, count_evaluations

from ..registry import description, with_options
from .certificate import NOT_APPLICABLE, VIOLATED, Certificate, worst_of
from .table import THEOREMS, verify
from .theorem import label

BEGIN, END = "<!-- theorem matrix begin -->", "<!-- theorem matrix end -->"
SECTION = f"""
## Theorems

`dlrt verify` checks what theory promises, with explicit constants; `dlrt verify --write-matrix README.md` writes this
table and that of the integrators. It has a row for every integrator known by name.

{BEGIN}
{END}
"""
LEGEND = """\
**holds**: promised by theory and certified; holds: on the cases that were run, not promised; violated: not promised,
with the measured figure (left side of the inequality over its right side, both sides where the right one is not
positive, or the deviation from an equality); –: a hypothesis is not met. Small cases of `dlrt verify`; the statements:
`dlrt verify THEOREM`. What theory predicts for `lora` and `svd-lora` instead: `dlrt verify factor-methods`."""

Certificates = dict[str, dict[str, list[Certificate]]]
"""Integrator, theorem, certificates."""


def methods(steps: int = 20, rank: int = 4) -> dict[str, Integrator]:
    """The integrators known by name, with the tolerance that the checks expect, for a run of that length and rank."""
    rule = Tolerance(relative=0.1, spare=1)
    return {name: with_options(m, truncation=rule).for_run(steps, rank) for name, m in INTEGRATORS.items()}


def certificates(
    methods: Mapping[str, Integrator],
    theorems: Iterable[str] = THEOREMS,
    full: bool = False,
    progress: Callable[[str], object] = lambda text: None,
) -> Certificates:
    """The certificates of all methods and theorems; ``progress`` is told of each pair before its turn."""
    found: Certificates = {}
    for name, method in methods.items():
        found[name] = {}
        for theorem in theorems:
            progress(f"{name}: {theorem}")
            found[name][theorem] = verify(method, [theorem], full)
    return found


def cell(found: list[Certificate]) -> str:
    """One cell: the worst verdict, with the measured figure where violated.

    ``holds`` is printed in bold where theory promises it; a violated promise in capitals.
    """
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


def matrix_text(found: Certificates) -> str:
    """The matrix as Markdown, with its legend."""
    columns = list(next(iter(found.values()), {}))
    lines = [["", *columns], ["---"] * (1 + len(columns))]
    lines += [[name, *map(cell, row.values())] for name, row in found.items()]
    header, rule, *rows = ("| " + " | ".join(line) + " |" for line in lines)
    return "\n".join([header.replace("|  |", "| |", 1), rule.replace(" ", ""), *rows, "", LEGEND])


def reference(integrator: Integrator) -> str:
    """Authors, year and link of the first reference in the docstring of a method's class, else what the method is."""
    text = " ".join((inspect.getdoc(type(integrator)) or "").partition("References\n----------\n")[2].split())
    found = re.match(r"(.+?) \((\d{4})\).*?(?:doi:(\S+?)|arXiv:(\S+?))[.,;]?(?: |$)", text)
    if found is None:
        return description(integrator)
    authors, year, doi, arxiv = found.groups()
    link = f"[doi](https://doi.org/{doi})" if doi else f"[arXiv:{arxiv}](https://arxiv.org/abs/{arxiv})"
    first, *others = authors.split(", ")
    return f"{authors if len(others) < 3 else first + ' et al.'} {year}, {link}"


def integrators_text(methods: Mapping[str, Integrator] = INTEGRATORS) -> str:
    """The methods as Markdown: how to call them, order, robustness, tapes as counted, reference."""
    lines = ["| name | class | order | robust | tapes per step | reference |", "|---|---|---|---|---|---|"]
    for name, m in methods.items():
        order, robust = "–" if m.order is None else m.order, "yes" if m.robust else "no"
        call = label(m).removesuffix("()")
        lines.append(f"| {name} | `{call}` | {order} | {robust} | {count_evaluations(m)} | {reference(m)} |")
    return "\n".join(lines)


def with_matrix(text: str, table: str) -> str:
    """The text with the matrix between its markers; a section with both is added at the end where they are missing.

    Raises ValueError if only one of the markers is there, or they are in the wrong order.
    """
    if BEGIN not in text and END not in text:
        text = text.rstrip("\n") + "\n" + SECTION
    return _between(text, BEGIN, END, table)


def with_integrators(text: str) -> str:
    """The text with the table of integrators, where it has markers for it; errors as of :func:`with_matrix`."""
    begin, end = "<!-- integrators begin -->", "<!-- integrators end -->"
    return _between(text, begin, end, integrators_text()) if begin in text or end in text else text


def _between(text: str, begin: str, end: str, table: str) -> str:
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"expected {begin} and then {end} once each")
    head, rest = text.split(begin)
    return f"{head}{begin}\n{table}\n{end}{rest.split(end)[1]}"
