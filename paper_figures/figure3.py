"""Figure 3 of the GeoLoRA paper in kind: the rank of each layer after training by GeoLoRA and by AdaLoRA."""

from __future__ import annotations

from pathlib import Path

from .examples import Setting
from .figure2 import METHODS, cell, setting_of
from .tasks import Task, run_tasks

LR = 1e-3
BUDGET = 450


def tasks(setting: Setting, quick: bool, lr: float = LR) -> list[Task]:
    """One run of each method; at the full setting they are runs of Figure 2 too."""
    return [cell(setting, method, 300 if quick else BUDGET, lr) for method in METHODS]


def run(
    out: Path, quick: bool = False, jobs: int = 1, progress=None, model: str | None = None, data: str | None = None
) -> dict:
    """Fine-tune, and draw the figure."""
    return make("3", LR, out, quick, jobs, progress, model, data)


def make(name: str, lr: float, out: Path, quick: bool, jobs: int, progress, model, data) -> dict:
    """The figure of one learning rate."""
    out = Path(out)
    setting = setting_of(quick, model, data)
    records = run_tasks(tasks(setting, quick, lr), journal=out / "journal.jsonl", jobs=jobs, progress=progress)
    return {"records": records}
