"""The command ``dlrt list``: what is known by name."""

from __future__ import annotations

import textwrap

from .figure import known
from .terminal import say, width


def list_() -> None:
    """Show the integrators, problems, figures and tables known by name."""
    from ..registry import INTEGRATORS, PROBLEMS, description  # slow to import

    sections = {
        "Integrators": {name: description(method) for name, method in INTEGRATORS.items()},
        "Problems": {name: description(problem) for name, problem in PROBLEMS.items()},
        "Figures": {name: item.description for name, item in known("FIGURES").items()},
        "Tables": {name: item.description for name, item in known("TABLES").items()},
    }
    indent = max(len(name) for names in sections.values() for name in names) + 4
    for title, names in sections.items():
        say(title)
        for name, text in names.items():
            lines = textwrap.wrap(text, width() - indent, break_long_words=False, break_on_hyphens=False)
            say(f"  {name:<{indent - 2}}" + f"\n{' ' * indent}".join(lines))
