"""Counterpart of Table 4: adapters on a diffusion model, here a small one that is pretrained first."""

from __future__ import annotations

import math
import operator

import numpy as np
from matplotlib.figure import Figure

from dlrt.finetune.diffusion import CLASSES, COARSE, FULL, METHODS, QUICK, check, fine_tune, pretrain

from ..statements import each, finding
from .compared import SEEDS, against, compared, draw_against_size, mean_text, seed_by_seed, summary, text

PACKAGES = ("torch", "diffusers", "peft")
ENDS = (-11, -1)
"""The smallest and the largest half decade ever tried."""
MEANS = ("validation", "test", "parameters")


def compute(runs, quick: bool) -> dict:
    """Pretrain, check the adapters, tune and run all methods; quick: a smaller network, one rate and one seed."""
    setting = QUICK if quick else FULL
    file, journal = runs.out / "pretrained.safetensors", "pretraining.jsonl"
    if not file.is_file():
        (runs.out / journal).unlink(missing_ok=True)  # what it tells of is gone
    given = {"setting": setting.json(), "file": str(file)}
    [before] = runs([(pretrain, given)], journal=journal)
    [checks] = runs([(check, given)], journal="checks.jsonl")
    found = compared(fine_tune, METHODS, given, runs, quick, ENDS, score=score)
    return {
        "title": f"Small U-Net pretrained here (not Stable Diffusion), subject: {CLASSES[setting.subject]}",
        "settings": {
            "task": setting.json(),
            "seeds": 1 if quick else SEEDS,
            "coarse": COARSE,
            "optimiser": "Adam on weights or factors; linear warm-up over a tenth of the steps and decay",
        },
        "pretrained": before,
        "checks": checks,
        "methods": [
            summary(row, METHODS, list(map(trimmed, row["runs"])), **{key: key for key in MEANS})
            | {"tried": [[lr, validation] for lr, validation, _ in row["tried"]]}
            for row in found
        ],
    }


def score(record: dict) -> float:
    """The less validation loss, the better."""
    return -record["validation"]


def trimmed(run: dict) -> dict:
    """A run with the mean of its ranks."""
    kept = {key: run.get(key) for key in ("seed", "status", "training", "validation", "test", "parameters")}
    return kept | {"rank": float(np.mean(list(run["ranks"].values()))) if run.get("ranks") else None}


def tables(result: dict) -> dict[str, list[dict]]:
    """The table for the README."""
    validation, test, parameters = "validation loss / 10⁻³", "test loss / 10⁻³", "trained parameters"
    before = {key: text(result["pretrained"][key], ".2f", 1e-3) for key in ("validation", "test")}
    rows = [
        {
            "method": m["label"],
            "rate": f"{m['lr']:g}",
            validation: text(m["validation"], ".2f", 1e-3),
            test: mean_text(m, "test", ".2f", 1e-3),
            parameters: text(m["parameters"], ",.0f"),
            "diverged": str(m["diverged"]),
        }
        for m in result["methods"]
    ]
    first = {"method": "before", "rate": "—", validation: before["validation"], test: before["test"]}
    return {"rows": [first | {parameters: "0", "diverged": "—"}, *rows]}


def statements(result: dict) -> dict[str, dict]:
    """What is claimed, of the adapters and of the methods (seed against seed), and whether it held."""
    by = {m["method"]: m for m in result["methods"]}
    checks = [result["checks"][precision] for precision in ("float32", "float64")]
    layers, before = result["checks"]["layers"], result["pretrained"]["test"]

    def no_worse(one, other):
        pair = by[one], by[other]
        return f"{pair[0]['label']}: a test loss no higher than that of {pair[1]['label']}, seed by seed", finding(
            against(pair, "test", ".2f", 1e-3), seed_by_seed(pair, "test", math.inf, operator.le)
        )

    def both(one, other):
        pair = by[one], by[other]
        less = seed_by_seed(pair, "test", math.inf, operator.le)
        fewer = seed_by_seed(pair, "parameters", math.inf, operator.lt)
        return f"{pair[0]['label']}: no higher than {pair[1]['label']} with fewer parameters", finding(
            f"{against(pair, 'test', '.2f', 1e-3)}; {against(pair, 'parameters', ',.0f')} parameters",
            [a and b for a, b in zip(less, fewer, strict=True)],
        )

    def exact(key):
        return finding(f"largest difference {max(c[key] for c in checks):g}", [c[key] == 0 for c in checks])

    def all_checks(form):
        return " and ".join(form.format(**c, least=c["ranks"][0], most=c["ranks"][-1]) for c in checks)

    geoloras, others = ("geolora", "geolora-coarse"), ("lora", "lora-half", "svd-lora", "adalora", "full")
    return {
        "every linear and convolution layer takes an adapter, but those with min(m, n) below its rank": finding(
            f"{layers['Linear']} linear, {layers['Conv2d']} convolutions; refused: {', '.join(layers['refused'])}",
            ["min(m, n)" in reason for reason in layers["refused"].values()],
        ),
        "right after injection the output is what it was, bit for bit": exact("injected"),
        "a small step of GeoLoRA lowers the loss by λ‖P(W)G‖², to 5 %": finding(
            all_checks("{step:.3f} λ‖P(W)G‖²"), [abs(c["step"] - 1) <= 0.05 for c in checks]
        ),
        "three steps of GeoLoRA change the output and the ranks": finding(
            f"by {min(c['moved'] for c in checks):.2f} of the largest; ranks {all_checks('{least} to {most}')}",
            [c["moved"] > 1e-3 and len(c["ranks"]) > 1 for c in checks],
        ),
        "saved after these, and loaded into adapters of rank 3: the same output, bit for bit": exact("saved"),
        "merged: the same output to rounding, in single and double precision": finding(
            all_checks("{merged:.0e} (bound {bound:.0e})"), [c["merged"] <= c["bound"] for c in checks]
        ),
        "merged: all modules are those of the plain network": each(checks, "—", lambda c: c["plain"]),
        "the merged U-Net after save_pretrained and from_pretrained: the same output, bit for bit": exact("reloaded"),
        "fine-tuning lowers the test loss, each method and seed": finding(
            f"from {text(before, '.2f', 1e-3)}",
            [run["test"] is not None and run["test"] < before for m in result["methods"] for run in m["runs"]],
        ),
        **dict(both(one, "lora") for one in geoloras),
        **dict(no_worse(one, other) for one in geoloras for other in others),
        **dict([no_worse("lora", "peft-lora")]),
    }


def draw(result: dict) -> Figure:
    """Test loss against trained parameters of the adapters, mean and standard deviation over seeds."""
    settings = result["settings"]
    subject, number = CLASSES[settings["task"]["subject"]], settings["task"]["test"]
    [full] = [m for m in result["methods"] if m["method"] == "full"]
    return draw_against_size(
        result["methods"],
        "test",
        levels={"full": f"{full['label']} ({full['parameters'] or 0:,.0f})"},
        ylabel="test loss / $10^{-3}$",
        title=f"Small U-Net pretrained here, subject: {subject}\n{number} test pictures, seeds: {settings['seeds']}",
        unit=1e-3,
    )
