"""The command ``dlrt list``: what is known by name."""

from __future__ import annotations

import textwrap

from .figure import known
from .terminal import say, width


def list_() -> None:
    """Show the integrators, problems, figures and tables known by name."""
    from ..registry import INTEGRATORS, ORIGINS, PROBLEMS, description  # slow to import

    def described(table, kind):
        origins = {name: f" (from {origin})" for name, origin in ORIGINS[kind].items()}
        return {name: description(thing) + origins.get(name, "") for name, thing in table.items()}

    sections = {
        "Integrators": described(INTEGRATORS, "integrator"),
        "Problems": described(PROBLEMS, "problem"),
        "Figures": {name: item.description for name, item in known("FIGURES").items()},
        "Tables": {name: item.description for name, item in known("TABLES").items()},
    }
    indent = max(len(name) for names in sections.values() for name in names) + 4
    for title, names in sections.items():
        say(title)
        for name, text in names.items():
            lines = textwrap.wrap(text, width() - indent, break_long_words=False, break_on_hyphens=False)
            say(f"  {name:<{indent - 2}}" + f"\n{' ' * indent}".join(lines))
