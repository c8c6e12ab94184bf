"""Counterpart of Figure 2: the start rank does not matter; accuracy over budget and learning rate.

The paper fine-tunes a ViT-B on CIFAR; here it is a ViT-S/14 on a part of Fashion-MNIST unless others are given.

- (a, b) GeoLoRA with a local tolerance from start ranks 2 to 64: trainable parameters and validation accuracy.
- (c, d) GeoLoRA with a global budget and AdaLoRA: accuracy over the budget (columns of all layers together) and the
  learning rate, ``nan`` where training diverged. These are test data: nothing is chosen by them. (e) GeoLoRA with
  spectral steps at no more parameters.

Parameters are those of the adapters, U, S and V; the head, which is the same for all, is left out.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dlrt.finetune.data import Setting, load
from dlrt.finetune.loop import fine_tune
from dlrt.plots import WIDTH, number_map
from dlrt.runs import Task, late_loss

from ..pictures import band, shades
from ..statements import finding, where
from .images import METHODS, PACKAGES, SEEDS, above_chance, cell, chance, described, deviation, directions, setting_of

__all__ = ["PACKAGES", "compute", "draw", "statements"]

LR = 1e-3
"""Learning rate of (a, b)."""
TAU = 0.3
RANKS = (2, 4, 8, 16, 32, 64)
LOOKS = 12
BUDGETS = (150, 300, 450)
RATES = (1e-1, 1e-2, 1e-3, 1e-4)


def starts(quick: bool) -> list[tuple[int, int]]:
    """Start rank and seed of each run of (a, b)."""
    return [(rank, SEEDS[0]) for rank in ((2, 8) if quick else RANKS)]


def cells(quick: bool) -> list[tuple[str, int, float]]:
    """Method, budget and learning rate of each run of (c, d, e)."""
    budgets, rates = (BUDGETS[::2], RATES[::2]) if quick else (BUDGETS, RATES)
    return [(method, budget, lr) for method in METHODS.values() for budget in budgets for lr in rates]


def tasks(setting: Setting, quick: bool) -> list[Task]:
    """The runs of (a, b), then those of (c, d, e)."""
    shared = {"setting": setting.json(), "method": "geolora", "lr": LR, "tau": TAU, "looks": 4 if quick else LOOKS}
    return [
        *((fine_tune, {**shared, "rank": rank, "seed": seed}) for rank, seed in starts(quick)),
        *(cell(setting, *of) for of in cells(quick)),
    ]


# -- what the records say ----------------------------------------------------------------------------------------------


def trimmed(record: dict) -> dict:
    """A record without losses step by step and ranks layer by layer."""
    kept = {key: record[key] for key in ("method", "lr", "seed", "status", "validation", "test") if key in record}
    looks = [{key: look[key] for key in ("step", "validation")} | _sizes(look) for look in record["looks"]]
    return kept | {"loss": late_loss(record) if record["losses"] else None, "looks": looks}


def _sizes(look: dict) -> dict:
    return {"parameters": look["parameters"] - look["head"], "columns": sum(look["ranks"].values())}


def start_parameters(model: torch.nn.Module, rank: int) -> int:
    """Parameters of the adapters before the first step."""
    return sum(rank * direction + rank**2 for direction in directions(model))


# -- the figure --------------------------------------------------------------------------------------------------------


def compute(runs, quick: bool, model: str | None = None, data: str | None = None) -> dict:
    """Fine-tune; quick: 2 start ranks and 2 x 2 cells, 8 steps on 64 pictures of 28 pixels."""
    setting = setting_of(quick, model, data)
    records = runs(tasks(setting, quick))
    task = load(setting)
    network = task.build()
    first, second = starts(quick), cells(quick)
    return described(
        setting,
        start_ranks=sorted({rank for rank, _ in first}),
        seeds=sorted({seed for _, seed in first}),
        lr=LR,
        tau=TAU,
        budgets=sorted({budget for _, budget, _ in second}),
        rates=sorted({lr for _, _, lr in second}),
        seed_of_cells=0,
        chance=chance(task),
    ) | {
        "ranks": [
            {"rank": rank, "start": start_parameters(network, rank), **trimmed(record)}
            for (rank, _), record in zip(first, records, strict=False)
        ],
        "cells": [
            {"budget": budget, **trimmed(record)}
            for (_, budget, _), record in zip(second, records[len(first) :], strict=True)
        ],
    }


def accuracies(data: dict, method: str) -> np.ndarray:
    """Test accuracy by budget and learning rate, both rising; nan where training diverged."""
    settings = data["settings"]
    table = np.full((len(settings["budgets"]), len(settings["rates"])), np.nan)
    for c in data["cells"]:
        if c["method"] == method and c["status"] == "finished":
            table[settings["budgets"].index(c["budget"]), settings["rates"].index(c["lr"])] = c["test"]
    return table


def statements(data: dict) -> dict[str, dict]:
    """What is claimed of start ranks, budgets and rates."""
    settings, untrained = data["settings"], above_chance(data["settings"])
    tables = {label: accuracies(data, method) for label, method in METHODS.items()}
    geolora, adalora, spectral = tables.values()
    best = np.nanmax(list(tables.values()))
    good = {label: int(np.sum(table >= best - 0.02)) for label, table in tables.items()}
    return {
        **_meeting(data),
        **{
            f"(c, d, e) {label}: training stays finite": finding(
                f"{np.isnan(table).sum()} nan; {np.sum(table <= untrained)} at chance (accuracy up to {untrained:.3f})",
                np.isfinite(table).ravel(),
                paper="nan where it diverged",
            )
            for label, table in tables.items()
        },
        **{
            f"(c, d, e) {label} is within 0.02 of the best cell of all in more cells than AdaLoRA": finding(
                f"{good[label]} against {good['AdaLoRA']} of {geolora.size}; best {np.nanmax(tables[label]):.3f} "
                f"against {np.nanmax(adalora):.3f}",
                [good[label] > good["AdaLoRA"]],
            )
            for label in ("GeoLoRA", "spectral")
        },
        **{
            f"(c, d) at rate {lr:g}: GeoLoRA more accurate than AdaLoRA, budget by budget": finding(
                f"{_span(ours)} against {_span(theirs)}",
                np.nan_to_num(ours) > np.nan_to_num(theirs),  # a diverged run counts as accuracy 0
            )
            for lr, ours, theirs in zip(settings["rates"], geolora.T, adalora.T, strict=True)
        },
        "(c, e) spectral steps: the best rate for each budget at least as accurate as with Adam": finding(
            f"{_span(np.nanmax(spectral, axis=1))} against {_span(np.nanmax(geolora, axis=1))}",
            np.nanmax(spectral, axis=1) >= np.nanmax(geolora, axis=1),
        ),
    }


def _span(values: np.ndarray) -> str:
    found = values[np.isfinite(values)]
    if not len(found):
        return "nan"
    return f"{found.min():.3f} to {found.max():.3f}" + (" and nan" if len(found) < len(values) else "")


def _meeting(data: dict) -> dict[str, dict]:
    """Parameters and accuracy of (a, b) at the end, seed by seed."""
    settings, ranks = data["settings"], data["settings"]["start_ranks"]
    ratios, spreads, noises = [], [], []
    for seed in settings["seeds"]:
        ends = [r["looks"][-1] for r in where(data["ranks"], seed=seed, status="finished")]
        meet = len(ends) == len(ranks)  # a start rank that diverged meets none
        sizes, last = (np.array([end[key] for end in ends]) for key in ("parameters", "validation"))
        ratios.append(sizes.max() / sizes.min() if meet else math.inf)
        spreads.append(np.ptp(last) if meet else math.inf)
        noises.append(2.5 * deviation(float(last.mean()), settings["task"]["validation"]) if meet else 0.0)
    starts = [r["start"] for r in data["ranks"]]
    return {
        f"(a) from start ranks {ranks[0]} to {ranks[-1]} GeoLoRA ends at the same number of parameters, "
        "largest over smallest at most 1.25": finding(
            f"{_list(ratios, '.2f')}; {max(starts) / min(starts):.1f} at the start",
            [ratio <= 1.25 for ratio in ratios],
            paper="they meet at a similar number",
        ),
        "(b) validation accuracies at the end differ by no more than those of equally good networks "
        "(2.5 standard deviations of one)": finding(
            f"{_list(spreads, '.3f')}, bound {_list(noises, '.3f')}",
            [spread <= noise for spread, noise in zip(spreads, noises, strict=True)],
        ),
    }


def _list(values: list[float], form: str) -> str:
    return " and ".join(format(value, form) for value in values)


def draw(data: dict) -> Figure:
    """Parameters and accuracy over the steps, and the heat maps."""
    figure = Figure(figsize=(WIDTH, 6.4), layout="constrained")
    grid = figure.add_gridspec(3, 1, height_ratios=[1, 1, 1.15])
    upper = figure.add_subplot(grid[0])
    _draw_start_ranks(data, upper, figure.add_subplot(grid[1], sharex=upper))
    _draw_maps(data, figure, grid[2].subgridspec(1, 3).subplots(sharey=True))
    figure.suptitle(data["title"], fontsize=8)
    return figure


def _draw_start_ranks(data, upper, lower):
    """Means over the seeds, with bands from the smallest to the largest."""
    start_ranks = data["settings"]["start_ranks"]
    for rank, style in zip(start_ranks, shades(len(start_ranks)), strict=True):
        runs = where(data["ranks"], rank=rank)
        whole = min(len(r["looks"]) for r in runs)
        steps = [0, *(look["step"] for look in runs[0]["looks"][:whole])]
        sizes = np.array([[r["start"], *(look["parameters"] for look in r["looks"][:whole])] for r in runs])
        right = np.array([[look["validation"] for look in r["looks"][:whole]] for r in runs])
        for axes, x, values in ((upper, steps, sizes), (lower, steps[1:], right)):
            band(axes, x, values.min(axis=0), values.mean(axis=0), values.max(axis=0), label=f"{rank}", **style)
    upper.set(yscale="log", ylabel="adapter parameters")
    upper.set_title("(a) trainable parameters, GeoLoRA by start rank")
    upper.tick_params(labelbottom=False)
    lower.set(xlabel="step", ylabel="validation accuracy")
    lower.set_title("(b) validation accuracy")
    lower.legend(title="start rank", ncols=2, loc="lower right", frameon=False, title_fontsize=7, handlelength=3)


def _draw_maps(data, figure, panels):
    settings, untrained = data["settings"], above_chance(data["settings"])
    for axes, letter, (label, method) in zip(panels, "cde", METHODS.items(), strict=True):
        table = accuracies(data, method)
        texts = [["nan" if np.isnan(x) else f"{x:.3f}"[1:] if x < 1 else "1" for x in row] for row in table]
        image = number_map(axes, table, texts, table < 0.55, 4.5, cmap="cividis", vmax=1, origin="lower")
        axes.set_title(f"({letter}) {label}")
        axes.set_xticks(range(table.shape[1]), [f"{math.log10(lr):.0f}" for lr in settings["rates"]])
        axes.set_yticks(range(table.shape[0]), settings["budgets"])
        axes.set_facecolor("white")
        for i, j in np.argwhere(table <= untrained):
            looks: dict = {"fill": False, "color": "white", "linestyle": ":", "linewidth": 0.8}
            axes.add_patch(Rectangle((j - 0.46, i - 0.42), 0.92, 0.84, **looks))
    panels[0].set_ylabel("budget (columns)")
    panels[1].set_xlabel(r"$\log_{10}$ of the learning rate")
    bar = figure.colorbar(image, ax=list(panels), orientation="horizontal", aspect=40)
    bar.set_label("test accuracy (line and dotted frames: chance)")
    bar.ax.axvline(settings["chance"], color="white", linewidth=1.2)
