"""A page for each theorem: statement, docstring with proof, a certificate with its constants, and all methods."""

from __future__ import annotations

from dlrt.theorems import THEOREMS, Certificate, Theorem
from docs.methods import LEGEND, address, by_class, verdict
from docs.text import Pages, table
from integrators import INTEGRATORS, citation


def pages() -> Pages:
    """The pages, and their index."""
    found: Pages = {f"theorems/{name}.md": page(name, theorem) for name, theorem in THEOREMS.items()}
    return {"theorems/index.md": index()} | found


def index() -> str:
    """All theorems in one table, and the matrix of methods and theorems."""
    rows = [[f"[{name}]({name}.md)", f"`{theorem.statement}`", theorem.source] for name, theorem in THEOREMS.items()]
    header = ["", *(f"[{name}]({name}.md)" for name in THEOREMS)]
    linked = [
        [f"[{name}](../{address(method)})", *(verdict(name, theorem) for theorem in THEOREMS)]
        for group in by_class().values()
        for name, method in group.items()
    ]
    return "\n\n".join(
        [
            "# Theorems",
            "What theory promises, checked with explicit constants by `dlrt verify`.",
            table(["theorem", "statement", "source"], rows),
            "## Methods and theorems",
            table(header, linked),
            LEGEND,
        ]
    )


def page(name: str, theorem: Theorem) -> str:
    """The page of one theorem."""
    kind = type(theorem)
    parts = [
        f"# {name}",
        f"`{theorem.statement}`",
        f"```sh\ndlrt verify {name}\n```",
        f"::: {kind.__module__}.{kind.__name__}\n    options:\n      heading_level: 2\n      show_root_heading: true\n"
        "      members: false",
        "## A certificate",
        certificate_text(certificate(theorem)),
        "## Methods",
        methods(name, theorem),
        LEGEND,
    ]
    if papers := citation(theorem):
        parts += ["## To cite", f"```bibtex\n{papers}\n```"]
    return "\n\n".join(parts) + "\n"


def certificate(theorem: Theorem) -> Certificate:
    """Of the first small case: for GeoLoRA, else for the first low-rank method with the promise, if there is one."""
    promised = [name for name, method in INTEGRATORS.items() if theorem.promises(method)[0] and name != "full-rank"]
    method = INTEGRATORS["geolora" if "geolora" in promised or not promised else promised[0]]
    settings, problem = next(iter(theorem.settings(full=False)))
    return settings.check(settings.configured(method), problem)


def certificate_text(found: Certificate) -> str:
    """Hypotheses, inequalities where they are tightest, and constants."""
    hypotheses = [[h.name, "met" if h.met else "not met", h.detail] for h in found.hypotheses]
    series = [
        [s.name, f"{s.parameter} = {s.values[s.worst]:.4g}", f"{s.left[s.worst]:.4g} ({s.left_label})",
         f"{s.right[s.worst]:.4g} ({s.right_label})", f"{s.slack[s.worst]:.2g}"]
        for s in found.series if s.values
    ]  # fmt: skip
    constants = [[name, f"{constant.value:.4g}", constant.source] for name, constant in found.constants.items()]
    return "\n\n".join(
        [
            f"`{found.integrator}` on {found.problem}: **{found.verdict}**. Each inequality where it is nearest to its "
            "bound:",
            table(["inequality", "at", "left side", "right side", "slack for rounding"], series),
            *([table(["hypothesis", "", "how it is known"], hypotheses)] if hypotheses else []),
            *([table(["constant", "value", "where it comes from"], constants)] if constants else []),
        ]
    )


def methods(name: str, theorem: Theorem) -> str:
    """For each method what theory says, and what the certificates found."""
    rows = [
        [f"[{known}](../{address(method)})", verdict(known, name), theorem.promises(method)[1]]
        for group in by_class().values()
        for known, method in group.items()
    ]
    return table(["method", "verdict", "what is known"], rows)
