"""Figure 2 of the GeoLoRA paper in kind: the start rank does not matter, and accuracy over budget and learning rate.

The paper fine-tunes a ViT-B on CIFAR; here it is a ViT-S/14 on a part of Fashion-MNIST unless others are given.

- (a, b) GeoLoRA with a local tolerance from start ranks 2 to 64: trainable parameters and validation accuracy.
- (c, d) GeoLoRA with a global budget and AdaLoRA: accuracy over the budget (columns of all layers together) and the
  learning rate, ``nan`` where training diverged.
"""

from __future__ import annotations

from pathlib import Path

from .examples import Setting
from .finetuning import fine_tune
from .tasks import Task, run_tasks

LR = 1e-3
"""Learning rate of (a, b)."""
TAU = 0.3
RANKS = (2, 4, 8, 16, 32, 64)
SEEDS = (0, 1)
LOOKS = 12
METHODS = ("geolora-budget", "adalora")
BUDGETS = (150, 300, 450, 600)
RATES = (1e-1, 1e-2, 1e-3, 1e-4)


def setting_of(quick: bool, model: str | None = None, data: str | None = None) -> Setting:
    """What is fine-tuned."""
    small = {"train": 64, "validation": 40, "test": 40, "size": 28, "steps": 8} if quick else {}
    return Setting("images", model=model, data=data, **small)


def starts(quick: bool) -> list[tuple[int, int]]:
    """Start rank and seed of each run of (a, b)."""
    return [(rank, seed) for rank in ((2, 8) if quick else RANKS) for seed in SEEDS[: 1 if quick else None]]


def cells(quick: bool) -> list[tuple[str, int, float]]:
    """Method, budget and learning rate of each run of (c, d)."""
    budgets, rates = (BUDGETS[::2], RATES[::2]) if quick else (BUDGETS, RATES)
    return [(method, budget, lr) for method in METHODS for budget in budgets for lr in rates]


def cell(setting: Setting, method: str, budget: int, lr: float) -> Task:
    """A run of (c, d)."""
    return fine_tune, {"setting": setting.json(), "method": method, "lr": lr, "seed": 0, "budget": budget}


def tasks(setting: Setting, quick: bool) -> list[Task]:
    """The runs of (a, b), then those of (c, d)."""
    shared = {"setting": setting.json(), "method": "geolora", "lr": LR, "tau": TAU, "looks": 4 if quick else LOOKS}
    return [
        *((fine_tune, {**shared, "rank": rank, "seed": seed}) for rank, seed in starts(quick)),
        *(cell(setting, *of) for of in cells(quick)),
    ]


def run(
    out: Path, quick: bool = False, jobs: int = 1, progress=None, model: str | None = None, data: str | None = None
) -> dict:
    """Fine-tune, and draw the figure."""
    out = Path(out)
    setting = setting_of(quick, model, data)
    records = run_tasks(tasks(setting, quick), journal=out / "journal.jsonl", jobs=jobs, progress=progress)
    return {"records": records}
