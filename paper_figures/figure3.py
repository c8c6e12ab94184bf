"""Figure 3 of the GeoLoRA paper in kind: the rank of each layer after training by GeoLoRA and by AdaLoRA.

Both have the same budget of columns for all layers together, which they spread over the layers in their own way:
GeoLoRA by singular values, AdaLoRA by the importance of triplets. The picture shows the first seed; the second tells
what of an allocation is chance.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from dlrt.finetune.data import Setting, load

from .figure2 import METHODS, SEEDS, cell, common, deviation, setting_of
from .tasks import Task, markdown, run_tasks, statement, write_json

logger = logging.getLogger(__name__)

LR = 1e-3
BUDGET = 450
LABELS = {"GeoLoRA": METHODS[0], "AdaLoRA": METHODS[1]}
POSITIONS = {
    "attention.q_proj": "query",
    "attention.k_proj": "key",
    "attention.v_proj": "value",
    "attention.o_proj": "output",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}


def tasks(setting: Setting, quick: bool, lr: float = LR) -> list[Task]:
    """Two runs of each method; those of the first seed are runs of Figure 2 too."""
    return [cell(setting, method, 300 if quick else BUDGET, lr, seed) for method in METHODS for seed in SEEDS]


def run(
    out: Path, quick: bool = False, jobs: int = 1, progress=None, model: str | None = None, data: str | None = None
) -> dict:
    """Fine-tune, and draw the figure.

    Parameters
    ----------
    out : Path
        Folder for ``figure3.json``, ``figure3.png``, ``figure3.pdf`` and the journal of finished runs.
    quick : bool
        8 steps on 64 pictures of 28 pixels.
    jobs : int
        Runs at the same time.
    progress : callable, optional
        Called as ``progress(done, total)``.
    model, data : str, optional
        As of :class:`Setting`.

    Returns
    -------
    dict
        What is in ``figure3.json``.
    """
    return make("3", LR, out, quick, jobs, progress, model, data)


def make(name: str, lr: float, out: Path, quick: bool, jobs: int, progress, model, data) -> dict:
    """The figure of one learning rate."""
    out = Path(out)
    setting = setting_of(quick, model, data)
    wanted = tasks(setting, quick, lr)
    records = run_tasks(wanted, journal=out / "journal.jsonl", jobs=jobs, progress=progress)
    labels = load(setting).splits["test"][1]
    names = next((list(record["ranks"]) for record in records if "ranks" in record), [])
    result = common(setting, quick) | {"figure": name}
    result["settings"] |= {
        "budget": wanted[0][1]["budget"],
        "lr": lr,
        "seeds": list(SEEDS),
        "chance": float(labels.bincount().max()) / len(labels),
    }
    result["layers"] = names
    result["runs"] = [
        {key: record.get(key) for key in ("method", "seed", "status", "test")}
        | {"ranks": [record["ranks"][layer] for layer in names] if "ranks" in record else None}
        for record in records
    ]
    result["statements"] = _statements(result)
    write_json(out / f"figure{name}.json", result)

    from dlrt.plots import save_figure

    save_figure(draw(result), out / f"figure{name}")
    for line in markdown(result["statements"]):
        logger.info("%s", line)
    return result


def place(layer: str) -> tuple[int, str]:
    """Number of the block and position in it."""
    block, position = re.split(r"\.(\d+)\.", layer, maxsplit=1)[1:]
    return int(block), POSITIONS.get(position, position)


def allocations(data: dict, method: str) -> list[np.ndarray]:
    """Ranks of the layers, seed by seed; nan where training diverged."""
    return [
        np.full(len(data["layers"]), np.nan) if r["ranks"] is None else np.array(r["ranks"], dtype=float)
        for r in data["runs"]
        if r["method"] == method
    ]


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation over the layers; nan where one is constant or not there."""
    if np.ptp(one) > 0 and np.ptp(other) > 0:
        return float(spearmanr(one, other).statistic)
    return float("nan")


def _statements(data: dict) -> list[dict]:
    settings = data["settings"]
    chance, examples = settings["chance"], settings["task"]["test"]
    bound = chance + 3 * deviation(chance, examples)
    found = {label: allocations(data, method) for label, method in LABELS.items()}
    tests = {label: [r["test"] for r in data["runs"] if r["method"] == method] for label, method in LABELS.items()}
    between = [alike(*pair) for pair in zip(*found.values(), strict=True)]
    mlp = np.array([".mlp." in f".{layer}" for layer in data["layers"]], dtype=bool)
    result = [
        statement(
            f"{label} at rate {settings['lr']:g}: accuracy on the test data above chance (more than {bound:.3f})",
            " and ".join("nan" if x is None else f"{x:.3f}" for x in tests[label]),
            [x is not None and x > bound for x in tests[label]],
        )
        for label in LABELS
    ]
    for label, seeds in found.items():
        result.append(
            statement(
                f"{label}: the ranks of all layers together are the budget of {settings['budget']}",
                "; ".join(f"{ranks.sum():.0f}, by layer {ranks.min():.0f} to {ranks.max():.0f}" for ranks in seeds),
                [ranks.sum() == settings["budget"] for ranks in seeds],
            )
        )
    for label, seeds in found.items():
        within = alike(*seeds)
        result.append(
            statement(
                f"{label}: two seeds spread the budget alike (rank correlation over the layers above 0.5)",
                f"{within:.2f}",
                [within > 0.5],
            )
        )
    result.append(
        statement(
            "GeoLoRA and AdaLoRA spread it alike (rank correlation above 0.5)",
            " and ".join(f"{x:.2f}" for x in between),
            [x > 0.5 for x in between],
        )
    )
    for label, seeds in found.items():
        if mlp.any():
            shares = [ranks[mlp].sum() / ranks.sum() for ranks in seeds]
            result.append(
                statement(
                    f"{label} gives the MLP more than its share of the layers ({mlp.mean():.2f})",
                    " and ".join(f"{x:.2f}" for x in shares),
                    [x > mlp.mean() for x in shares],
                )
            )
    return result


def draw(data: dict):
    """Rank by block and position, one map for each method, the colours of both on one scale."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from dlrt.plots import STYLE, WIDTH

    places = [place(layer) for layer in data["layers"]]
    blocks = sorted({block for block, _ in places})
    positions = list(dict.fromkeys(position for _, position in places))
    ranks = {label: allocations(data, method)[0] for label, method in LABELS.items()}
    top = max([1.0, *(r.max() for r in ranks.values() if np.isfinite(r).all())])
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.3 + 0.17 * len(blocks)), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (label, values) in zip(panels, ranks.items(), strict=True):
            table = np.full((len(blocks), len(positions)), np.nan)
            for (block, position), rank in zip(places, values, strict=True):
                table[blocks.index(block), positions.index(position)] = rank
            image = axes.imshow(table, cmap="cividis", vmin=0, vmax=top, aspect="auto", origin="lower")
            axes.set(yticks=range(len(blocks)), xticks=range(len(positions)), title=label)
            axes.set_yticklabels([block + 1 for block in blocks])
            axes.set_xticklabels(positions, rotation=90)
            axes.tick_params(length=0)
            axes.grid(False)
            for (i, j), rank in np.ndenumerate(table):
                if np.isfinite(rank):
                    colour = "white" if rank < 0.55 * top else "black"
                    axes.text(j, i, f"{rank:.0f}", ha="center", va="center", fontsize=5.5, color=colour)
            if not np.isfinite(table).any():
                axes.text(0.5, 0.5, "diverged", ha="center", va="center", transform=axes.transAxes)
        panels[0].set_ylabel("block")
        figure.colorbar(image, ax=list(panels), label="rank", aspect=35, pad=0.02)
        figure.suptitle(
            f"{data['title']}: rate {data['settings']['lr']:g}, budget {data['settings']['budget']}", fontsize=8
        )
    return figure
