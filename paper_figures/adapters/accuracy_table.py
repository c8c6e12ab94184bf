"""Accuracy, parameters and time per step of all methods on one fine-tuning problem: Tables 2 and 3.

The counterpart of Table 2 is MiniLM on movie-review sentences, that of Table 3 a ViT-S/14 on a part of Fashion-MNIST.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dlrt.finetune.comparison import ENDS, FIRST, compare, times
from dlrt.finetune.data import IMAGES, SENTENCES, Setting
from dlrt.finetune.loop import fine_tune
from dlrt.finetune.methods import HEAD_LR, METHODS

from ..statements import statement
from .against_size import draw_against_size

PACKAGES = ("torch", "transformers", "peft")
SEEDS = 3
ROUNDS = 12
"""Timed steps of each method."""
SETTINGS = {"images": IMAGES, "sentences": SENTENCES}
NAMES = {"images": ("ViT-S/14", "Fashion-MNIST"), "sentences": ("MiniLM", "movie reviews")}


def compute(runs, quick: bool, task: str, model: str | None = None, data: str | None = None) -> dict:
    """Tune, run and time all methods.

    Quick: one rate, one seed, a few steps on a few examples of 28 pixels or 16 tokens.
    """
    setting = replace(SETTINGS[task], model=model, data=data)
    if quick:
        small = {"images": 28, "sentences": 16}[task]
        setting = replace(setting, train=32, validation=20, test=20, size=small, batch=8, steps=4)
    seeds, rounds = (1, 1) if quick else (SEEDS, ROUNDS)
    found = compare(
        fine_tune,
        METHODS,
        {"setting": setting.json()},
        seeds=seeds,
        journal=runs.journal,
        first=FIRST[1:2] if quick else FIRST,
        ends=(FIRST[1], FIRST[1]) if quick else ENDS,
        jobs=runs.jobs,
        progress=runs.progress,
    )
    seconds = times(setting, found, rounds=rounds, journal=runs.out / "times.jsonl")
    default = inspect.signature(fine_tune).parameters
    return {
        "title": title(setting),
        "settings": {
            "task": setting.json(),
            "seeds": seeds,
            "rank": default["rank"].default,
            "tau": default["tau"].default,
            "optimiser": f"Adam on the factors, AdamW at {HEAD_LR:g} for the head; linear warm-up and decay",
        },
        "methods": [summary(row) | {"seconds": seconds[row["method"]]} for row in found],
    }


def title(setting: Setting) -> str:
    """Network and data by name."""
    given = (setting.model, setting.data)
    return " on ".join(Path(own).name if own else name for own, name in zip(given, NAMES[setting.task], strict=True))


def summary(row: dict) -> dict:
    """A method with its runs trimmed: accuracy and adapter parameters (without the head), mean over finished runs."""
    runs = [
        {
            "seed": run["seed"],
            "status": run["status"],
            "validation": run.get("validation"),
            "test": run.get("test"),
            "parameters": adapter_parameters(run),
            "columns": sum(run["ranks"].values()) if run.get("ranks") else None,
        }
        for run in row["runs"]
    ]
    done = [run for run in runs if run["status"] == "finished"]
    accuracies = [run["test"] for run in done]
    return {
        "method": row["method"],
        "label": METHODS[row["method"]].label,
        "lr": row["lr"],
        "tried": row["tried"],
        "runs": runs,
        "diverged": len(runs) - len(done),
        "accuracy": float(np.mean(accuracies)) if done else None,
        "deviation": float(np.std(accuracies, ddof=1)) if len(done) > 1 else None,
        "parameters": float(np.mean([run["parameters"] for run in done])) if done else None,
    }


def adapter_parameters(run: dict) -> int | None:
    """Trained parameters beside the head; of full fine-tuning all."""
    return run["parameters"] - run["head"] if "parameters" in run else None


def rows(result: dict) -> list[dict]:
    """The table."""
    reference = next(m for m in result["methods"] if m["method"] == "peft-lora")["seconds"]["median"]
    table = []
    for m in result["methods"]:
        spread = "" if m["deviation"] is None else f" ± {m['deviation']:.3f}"
        table.append(
            {
                "method": m["label"],
                "rate": f"{m['lr']:g}",
                "test accuracy": "—" if m["accuracy"] is None else f"{m['accuracy']:.3f}{spread}",
                "adapter parameters": "—" if m["parameters"] is None else f"{m['parameters']:,.0f}",
                "ms per step": f"{1000 * m['seconds']['median']:.0f}",
                "time / LoRA (PEFT)": f"{m['seconds']['median'] / reference:.2f}",
                "diverged": str(m["diverged"]),
            }
        )
    return table


def tables(result: dict) -> dict[str, list[dict]]:
    """The table for the README."""
    return {"rows": rows(result)}


def statements(result: dict) -> list[dict]:
    """What is claimed, run by run (seed against seed), and whether it held."""
    by = {m["method"]: m for m in result["methods"]}

    def accuracies(method):
        return [-math.inf if run["test"] is None else run["test"] for run in by[method]["runs"]]

    def means(one, other):
        return " against ".join(
            "diverged" if by[m]["accuracy"] is None else f"{by[m]['accuracy']:.3f}" for m in (one, other)
        )

    def at_least(one, other, paper="—"):
        pairs = zip(accuracies(one), accuracies(other), strict=True)
        claim = f"{by[one]['label']}: at least as accurate as {by[other]['label']}, seed by seed"
        return statement(claim, means(one, other), [a >= b for a, b in pairs], paper)

    def no_larger(one, other, paper="—"):
        counts = [[run["parameters"] or math.inf for run in by[m]["runs"]] for m in (one, other)]
        found = " against ".join(
            "—" if by[m]["parameters"] is None else f"{by[m]['parameters']:,.0f}" for m in (one, other)
        )
        claim = f"{by[one]['label']}: no more adapter parameters than {by[other]['label']}"
        return statement(claim, found, [a <= b for a, b in zip(*counts, strict=True)], paper)

    def no_slower(one, other, factor, paper="—"):
        ratio = by[one]["seconds"]["median"] / by[other]["seconds"]["median"]
        claim = f"{by[one]['label']}: a step takes at most {factor:.1f} times that of {by[other]['label']}"
        return statement(claim, f"{ratio:.2f}", [ratio <= factor], paper)

    better, faster = "better than other low-rank adapters", "more efficient than other low-rank adapters"
    geolora = ("geolora", "geolora-budget")
    return [
        *(at_least(one, other, better) for one in geolora for other in ("lora", "adalora", "svd-lora")),
        *(at_least(one, "full") for one in geolora),
        *(at_least(one, "probe") for one in geolora),
        *(no_larger(one, "lora") for one in geolora),
        *(no_slower(one, "peft-lora", 1.1, faster) for one in geolora),
        *(no_slower(one, "peft-adalora", 1.0, faster) for one in geolora),
        at_least("lora", "peft-lora"),
        at_least("adalora", "peft-adalora"),
    ]


def draw(result: dict) -> Figure:
    """Accuracy against adapter parameters, mean and standard deviation over seeds; what has no adapters as lines."""
    tested, seeds = result["settings"]["task"]["test"], result["settings"]["seeds"]
    by = {m["method"]: m for m in result["methods"]}
    return draw_against_size(
        result["methods"],
        "accuracy",
        levels={m: by[m]["label"] for m in ("full", "probe")},
        ylabel="test accuracy",
        title=f"{result['title']}\n{tested} test examples, {seeds} seeds",
    )
