"""Recorded figures: blocks of ``benchmarks/README.md`` that a command writes."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).with_name("README.md")


def write(name: str, lines: str) -> None:
    """Put lines between ``<!-- name -->`` and the next ``<!-- end -->`` of the README."""
    block = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    text, count = block.subn(lambda m: f"{m[1]}{lines}\n{m[2]}", README.read_text(encoding="utf-8"))
    if count != 1:
        raise ValueError(f"{README} must have one block {name!r}, found {count}")
    README.write_text(text, encoding="utf-8")
