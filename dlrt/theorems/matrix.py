"""The table integrators x theorems of the README."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from integrators import INTEGRATORS, Integrator, Tolerance

from ..registry import with_options
from .certificate import NOT_APPLICABLE, VIOLATED, Certificate, worst_of
from .table import THEOREMS, verify

BEGIN, END = "<!-- theorem matrix begin -->", "<!-- theorem matrix end -->"
SECTION = f"""
## Theorems

`dlrt verify` checks what theory promises, with explicit constants; `dlrt verify --write-matrix README.md` writes this
table. It has a row for every integrator in the registry.

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
