"""The command ``dlrt list``: what is known by name."""

from __future__ import annotations

from .figure import known
from .terminal import console


def list_() -> None:
    """Show the integrators, problems, figures and tables known by name, one line each."""
    from ..registry import INTEGRATORS, PROBLEMS, description  # slow to import

    sections = {
        "Integrators": {name: description(method) for name, method in INTEGRATORS.items()},
        "Problems": {name: description(problem) for name, problem in PROBLEMS.items()},
        "Figures": {name: item.description for name, item in known("FIGURES").items()},
        "Tables": {name: item.description for name, item in known("TABLES").items()},
    }
    terminal = console()
    width = max(len(name) for names in sections.values() for name in names)
    for title, names in sections.items():
        terminal.print(title, style="bold")
        for name, text in names.items():
            terminal.print(f"  {name:<{width}}  {text}", markup=False, highlight=False, soft_wrap=True)
