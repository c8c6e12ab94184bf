"""What Figures 2 to 4 share: the network and the pictures, and runs at a budget of columns for all layers together."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from dlrt.finetune.data import Setting, Task
from dlrt.finetune.loop import fine_tune
from dlrt.finetune.methods import BLOCKS, HEAD_LR
from dlrt.runs import Task as Run

PACKAGES = ("torch", "transformers")
SEEDS = (0, 1)
METHODS = {"GeoLoRA": "geolora-budget", "AdaLoRA": "adalora", "spectral": "geolora-spectral-budget"}
"""Those that keep to a budget, by their labels: the two of the paper, and GeoLoRA with spectral steps, whose budget is
one of parameters, no more than as many columns have on average."""
COLUMNS = "GeoLoRA", "AdaLoRA"
"""Those whose budget is one of columns."""


def setting_of(quick: bool, model: str | None = None, data: str | None = None) -> Setting:
    """What is fine-tuned."""
    small = {"train": 64, "validation": 40, "test": 40, "size": 28, "steps": 8} if quick else {}
    return Setting("images", model=model, data=data, **small)


def title(setting: Setting) -> str:
    """Network and data."""
    model = "ViT-S/14" if setting.model is None else Path(setting.model).name
    return f"{model}, {'Fashion-MNIST' if setting.data is None else Path(setting.data).name}"


def described(setting: Setting, **settings) -> dict:
    """What the JSON files of Figures 2 to 4 begin with."""
    optimiser = (
        f"Adam on the factors of every method but the spectral one, AdamW at {HEAD_LR:g} for the head; "
        "linear warm-up over a tenth of the steps, linear decay to zero"
    )
    return {"title": title(setting), "settings": {"task": setting.json(), "optimiser": optimiser} | settings}


def cell(setting: Setting, method: str, budget: int, lr: float, seed: int = 0) -> Run:
    """A run at a budget and a learning rate."""
    return fine_tune, {"setting": setting.json(), "method": method, "lr": lr, "seed": seed, "budget": budget}


def directions(network: torch.nn.Module) -> list[int]:
    """Parameters of one direction in each layer that gets an adapter."""
    layers = [m for n, m in network.named_modules() if isinstance(m, torch.nn.Linear) and BLOCKS.fullmatch(n)]
    return [sum(layer.weight.shape) for layer in layers]


def chance(task: Task) -> float:
    """Share of the largest class of the test data."""
    labels = task.splits["test"][1]
    return float(labels.bincount().max()) / len(labels)


def deviation(accuracy: float, examples: int) -> float:
    """Standard deviation of an accuracy that comes from the choice of examples."""
    return math.sqrt(accuracy * (1 - accuracy) / examples)


def above_chance(settings: dict) -> float:
    """Accuracies on the test data up to this one are not told from chance: three standard deviations above it."""
    return settings["chance"] + 3 * deviation(settings["chance"], settings["task"]["test"])
