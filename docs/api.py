"""The reference: a page for each module that has no page of its own as a method, problem or theorem."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from docs.text import ROOT, Pages, table

PACKAGES = {
    "integrators": "Methods and what they are made of",
    "problems": "Matrix fields and losses",
    "dlrt": "Runs, comparisons, pictures",
    "dlrt.runs": "Many runs, none lost",
    "dlrt.nn": "Low-rank layers and their optimiser in torch",
    "dlrt.theorems": "Certificates",
    "dlrt.finetune": "Data, methods and loops for networks",
}
"""The packages in the order of the reference."""


def pages(elsewhere: dict[str, str]) -> Pages:
    """The pages, and an index of all that the packages export.

    Parameters
    ----------
    elsewhere : dict of str
        Module to the address of its page, for those that have one.
    """
    found: Pages = {}
    parts = ["# Reference", "What each package exports, and the modules it has."]
    for package, title in PACKAGES.items():
        rows = []
        for file in sorted((ROOT / package.replace(".", "/")).glob("*.py")):
            module = f"{package}.{file.stem}"
            if file.stem.startswith("__"):
                continue
            address = elsewhere.get(module, f"reference/{module}.md")
            if module not in elsewhere:
                found[address] = f"# {module}\n\n::: {module}\n"
            rows.append([f"[{file.stem}](../{address})", summary(file)])
        links = ", ".join(link(package, name) for name in exported(ROOT / package.replace(".", "/") / "__init__.py"))
        parts += [f"## {package}", f"{title}. It exports {links}.", table(["module", "what it has"], rows)]
    return {"reference/index.md": "\n\n".join(parts) + "\n"} | found


def by_package(addresses: list[str]) -> list:
    """The pages of the reference for the navigation, those of a package together."""
    found: list = [address for address in addresses if address.endswith("/index.md")]
    for package in PACKAGES:
        inside = [a for a in addresses if re.fullmatch(rf"reference/{re.escape(package)}\.\w+\.md", a)]
        found.append({package: inside})
    return found


def link(package: str, name: str) -> str:
    """A link to where a name is documented, which need not be."""
    return f'<autoref optional identifier="{package}.{name}"><code>{name}</code></autoref>'


def summary(file: Path) -> str:
    """The first sentence of the docstring of a module."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split()).partition(". ")[0].rstrip(".:").replace("``", "`")


def exported(file: Path) -> list[str]:
    """The names in ``__all__`` of a package, with those it takes from ``table.__all__``."""
    names: list[str] = []
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign | ast.AugAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id == "__all__":
                if isinstance(node.value, ast.List):
                    names += ast.literal_eval(node.value)
                else:
                    names += exported(file.with_name("table.py"))
    return sorted((name for name in names if not name.startswith("__")), key=str.lower)
