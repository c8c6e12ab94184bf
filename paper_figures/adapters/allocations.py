"""Counterparts of Figures 3 and 4: the rank of each layer after training by GeoLoRA and by AdaLoRA, at two rates.

Both have the same budget of columns for all layers together, which they spread over the layers in their own way:
GeoLoRA by singular values, AdaLoRA by the importance of triplets; GeoLoRA with spectral steps, at no more parameters,
by singular values weighed by gradients. The picture shows the first seed; the second tells what of an allocation is
chance.
"""

from __future__ import annotations

import re

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from dlrt.finetune.data import Setting, load
from dlrt.plots import WIDTH, number_map
from dlrt.runs import Task

from ..statements import finding, where
from .compared import text
from .images import COLUMNS, METHODS, PACKAGES, SEEDS, above_chance, cell, chance, described, directions, setting_of

__all__ = ["PACKAGES", "compute", "draw", "statements"]

BUDGET = 450
POSITIONS = {
    "attention.q_proj": "query",
    "attention.k_proj": "key",
    "attention.v_proj": "value",
    "attention.o_proj": "output",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}


def tasks(setting: Setting, quick: bool, lr: float) -> list[Task]:
    """Two runs of each method; those of the first seed are runs of Figure 2 too."""
    budget = 300 if quick else BUDGET
    return [cell(setting, method, budget, lr, seed) for method in METHODS.values() for seed in SEEDS]


def compute(runs, quick: bool, lr: float, model: str | None = None, data: str | None = None) -> dict:
    """Fine-tune; quick: 8 steps on 64 pictures of 28 pixels."""
    setting = setting_of(quick, model, data)
    wanted = tasks(setting, quick, lr)
    records = runs(wanted)
    names = next((list(record["ranks"]) for record in records if "ranks" in record), [])
    task, budget = load(setting), wanted[0][1]["budget"]
    given = {
        "budget": budget,
        "parameters": budget * float(np.mean(directions(task.build()))),  # of so many columns on average, by LoRA
        "lr": lr,
        "seeds": list(SEEDS),
        "chance": chance(task),
    }
    return described(setting, **given) | {
        "layers": names,
        "runs": [
            {key: record.get(key) for key in ("method", "seed", "status", "test")}
            | {
                "ranks": [record["ranks"][layer] for layer in names] if "ranks" in record else None,
                "parameters": record["parameters"] - record["head"] if "ranks" in record else None,
            }
            for record in records
        ],
    }


def place(layer: str) -> tuple[int, str]:
    """Number of the block and position in it."""
    block, position = re.split(r"\.(\d+)\.", layer, maxsplit=1)[1:]
    return int(block), POSITIONS.get(position, position)


def allocations(data: dict, method: str) -> list[np.ndarray]:
    """Ranks of the layers, seed by seed; nan where training diverged."""
    missing = [np.nan] * len(data["layers"])
    return [np.array(r["ranks"] or missing, dtype=float) for r in where(data["runs"], method=method)]


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation over the layers; nan where one is constant or not there."""
    if np.ptp(one) > 0 and np.ptp(other) > 0:
        return float(spearmanr(one, other).statistic)
    return float("nan")


def statements(data: dict) -> dict[str, dict]:
    """What is claimed of the accuracies and of how the budget is spread."""
    settings, bound = data["settings"], above_chance(data["settings"])
    found = {label: allocations(data, method) for label, method in METHODS.items()}
    mlp = np.array([".mlp." in f".{layer}" for layer in data["layers"]], dtype=bool)

    def exceed(values, limit, form=".2f"):
        numbers = [np.nan if x is None else x for x in values]
        return finding(" and ".join(format(x, form) for x in numbers), [x > limit for x in numbers])

    claims = {
        f"{label} at rate {settings['lr']:g}: accuracy on the test data above chance (more than {bound:.3f})": exceed(
            [r["test"] for r in where(data["runs"], method=method)], bound, ".3f"
        )
        for label, method in METHODS.items()
    }
    for label, seeds in found.items():
        words = "; ".join(f"{ranks.sum():.0f}, by layer {ranks.min():.0f} to {ranks.max():.0f}" for ranks in seeds)
        if label in COLUMNS:
            claims[f"{label}: the ranks of all layers together are the budget of {settings['budget']}"] = finding(
                words, [ranks.sum() == settings["budget"] for ranks in seeds]
            )
        else:
            sizes = [r["parameters"] for r in where(data["runs"], method=METHODS[label])]
            claims[f"{label}: no more parameters than {settings['parameters']:,.0f}, LoRA's of so many columns"] = (
                finding(
                    f"{' and '.join(text(size, ',.0f') for size in sizes)}; columns {words}",
                    [size is not None and size <= settings["parameters"] for size in sizes],
                )
            )
    for label, seeds in found.items():
        claim = f"{label}: two seeds spread the budget alike (rank correlation over the layers above 0.5)"
        claims[claim] = exceed([alike(*seeds)], 0.5)
    for label in ("AdaLoRA", "spectral"):
        between = [alike(*pair) for pair in zip(found["GeoLoRA"], found[label], strict=True)]
        claims[f"GeoLoRA and {label} spread it alike (rank correlation above 0.5)"] = exceed(between, 0.5)
    for label, seeds in found.items():
        if mlp.any():
            claims[f"{label} gives the MLP more than its share of the layers ({mlp.mean():.2f})"] = exceed(
                [ranks[mlp].sum() / ranks.sum() for ranks in seeds], mlp.mean()
            )
    return claims


def draw(data: dict) -> Figure:
    """Rank by block and position, one map for each method, the colours of both on one scale."""
    places = [place(layer) for layer in data["layers"]]
    blocks = sorted({block for block, _ in places})
    positions = list(dict.fromkeys(position for _, position in places))
    ranks = {label: allocations(data, method)[0] for label, method in METHODS.items()}
    top = max([1.0, *(r.max() for r in ranks.values() if np.isfinite(r).all())])
    figure = Figure(figsize=(WIDTH, 1.3 + 0.17 * len(blocks)), layout="constrained")
    panels = figure.subplots(1, len(ranks), sharey=True)
    for axes, (label, values) in zip(panels, ranks.items(), strict=True):
        table = np.full((len(blocks), len(positions)), np.nan)
        for (block, position), rank in zip(places, values, strict=True):
            table[blocks.index(block), positions.index(position)] = rank
        texts = [[f"{rank:.0f}" if np.isfinite(rank) else "" for rank in row] for row in table]
        image = number_map(axes, table, texts, table < 0.55 * top, 4.5, cmap="cividis", vmax=top, origin="lower")
        axes.set(yticks=range(len(blocks)), xticks=range(len(positions)), title=label)
        axes.set_yticklabels([block + 1 for block in blocks])
        axes.set_xticklabels(positions, rotation=90)
        axes.tick_params(length=0)
        if not np.isfinite(table).any():
            axes.text(0.5, 0.5, "diverged", ha="center", va="center", transform=axes.transAxes)
    panels[0].set_ylabel("block")
    figure.colorbar(image, ax=list(panels), label="rank", aspect=35, pad=0.02)
    settings = data["settings"]
    figure.suptitle(f"{data['title']}: rate {settings['lr']:g}, budget {settings['budget']}", fontsize=8)
    return figure
