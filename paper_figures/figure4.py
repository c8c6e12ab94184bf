"""Figure 4 of the GeoLoRA paper in kind: as Figure 3, at ten times its learning rate."""

from __future__ import annotations

from pathlib import Path

from . import figure3

LR = 10 * figure3.LR


def run(
    out: Path, quick: bool = False, jobs: int = 1, progress=None, model: str | None = None, data: str | None = None
) -> dict:
    """Fine-tune, and draw the figure."""
    return figure3.make("4", LR, out, quick, jobs, progress, model, data)
