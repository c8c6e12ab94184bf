"""Accuracy, parameters and time per step of all methods on one fine-tuning problem: Tables 2 and 3.

The counterpart of Table 2 is MiniLM on movie-review sentences, that of Table 3 a ViT-S/14 on a part of Fashion-MNIST.
"""

from __future__ import annotations

import inspect
import math
import operator
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from dlrt.finetune.comparison import times
from dlrt.finetune.data import IMAGES, SENTENCES, Setting
from dlrt.finetune.loop import fine_tune
from dlrt.finetune.methods import HEAD_LR, METHODS

from ..statements import finding
from .compared import SEEDS, against, compared, draw_against_size, mean_text, seed_by_seed, summary, text

PACKAGES = ("torch", "transformers", "peft")
ROUNDS = 12
"""Timed steps of each method."""
ADAPTERS = ("lora", "svd-lora", "adalora", "geolora", "geolora-budget", "peft-lora", "peft-adalora")
COMPARED = {name: METHODS[name] for name in ("full", "probe", *ADAPTERS)}
"""The methods of the paper's tables, and those of PEFT."""
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
    found = compared(fine_tune, COMPARED, {"setting": setting.json()}, runs, quick)
    seconds = times(setting, found, rounds=1 if quick else ROUNDS, journal=runs.out / "times.jsonl")
    default = inspect.signature(fine_tune).parameters
    return {
        "title": title(setting),
        "settings": {
            "task": setting.json(),
            "seeds": 1 if quick else SEEDS,
            "rank": default["rank"].default,
            "tau": default["tau"].default,
            "optimiser": f"Adam on the factors, AdamW at {HEAD_LR:g} for the head; linear warm-up and decay",
        },
        "methods": [
            summary(row, COMPARED, list(map(trimmed, row["runs"])), accuracy="test", parameters="parameters")
            | {"seconds": seconds[row["method"]]}
            for row in found
        ],
    }


def title(setting: Setting) -> str:
    """Network and data by name."""
    given = (setting.model, setting.data)
    return " on ".join(Path(own).name if own else name for own, name in zip(given, NAMES[setting.task], strict=True))


def trimmed(run: dict) -> dict:
    """A run without what the table does not show; its parameters are those of the adapters, without the head."""
    kept = {key: run.get(key) for key in ("seed", "status", "validation", "test")}
    return kept | {
        "parameters": run["parameters"] - run["head"] if "parameters" in run else None,
        "columns": sum(run["ranks"].values()) if run.get("ranks") else None,
    }


def tables(result: dict) -> dict[str, list[dict]]:
    """The table for the README."""
    seconds = {m["method"]: m["seconds"]["median"] for m in result["methods"]}
    rows = [
        {
            "method": m["label"],
            "rate": f"{m['lr']:g}",
            "test accuracy": mean_text(m, "accuracy", ".3f"),
            "adapter parameters": text(m["parameters"], ",.0f"),
            "ms per step": f"{1000 * seconds[m['method']]:.0f}",
            "time / LoRA (PEFT)": f"{seconds[m['method']] / seconds['peft-lora']:.2f}",
            "diverged": str(m["diverged"]),
        }
        for m in result["methods"]
    ]
    return {"rows": rows}


def statements(result: dict) -> dict[str, dict]:
    """What is claimed, run by run (seed against seed), and whether it held."""
    by = {m["method"]: m for m in result["methods"]}

    def at_least(one, other, paper="—"):
        pair = by[one], by[other]
        return f"{pair[0]['label']}: at least as accurate as {pair[1]['label']}, seed by seed", finding(
            against(pair, "accuracy", ".3f", none="diverged"),
            seed_by_seed(pair, "test", -math.inf, operator.ge),
            paper,
        )

    def no_larger(one, other):
        pair = by[one], by[other]
        return f"{pair[0]['label']}: no more adapter parameters than {pair[1]['label']}", finding(
            against(pair, "parameters", ",.0f"), seed_by_seed(pair, "parameters", math.inf, operator.le)
        )

    def no_slower(one, other, factor):
        ratio = by[one]["seconds"]["median"] / by[other]["seconds"]["median"]
        claim = f"{by[one]['label']}: a step takes at most {factor:.1f} times that of {by[other]['label']}"
        return claim, finding(f"{ratio:.2f}", [ratio <= factor], "more efficient than other low-rank adapters")

    better, geolora = "better than other low-rank adapters", ("geolora", "geolora-budget")
    return dict(
        [
            *(at_least(one, other, better) for one in geolora for other in ("lora", "adalora", "svd-lora")),
            *(at_least(one, other) for other in ("full", "probe") for one in geolora),
            *(no_larger(one, "lora") for one in geolora),
            *(no_slower(one, *bound) for bound in (("peft-lora", 1.1), ("peft-adalora", 1.0)) for one in geolora),
            *(at_least(one, f"peft-{one}") for one in ("lora", "adalora")),
        ]
    )


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
