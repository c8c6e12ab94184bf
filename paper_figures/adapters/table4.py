"""Counterpart of Table 4: adapters on a diffusion model, here a small one that is pretrained first."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from dlrt.finetune.comparison import FIRST, compare
from dlrt.finetune.diffusion import CLASSES, COARSE, FULL, METHODS, QUICK, check, fine_tune, pretrain

from ..statements import statement
from .against_size import draw_against_size

PACKAGES = ("torch", "diffusers", "peft")
SEEDS = 3
ENDS = (-11, -1)
"""The smallest and the largest half decade ever tried."""


def compute(runs, quick: bool) -> dict:
    """Pretrain, check the adapters, tune and run all methods; quick: a smaller network, one rate and one seed."""
    setting, seeds = (QUICK, 1) if quick else (FULL, SEEDS)
    file, journal = runs.out / "pretrained.safetensors", "pretraining.jsonl"
    if not file.is_file():
        (runs.out / journal).unlink(missing_ok=True)  # what it tells of is gone
    given = {"setting": setting.json(), "file": str(file)}
    [before] = runs([(pretrain, given)], journal=journal)
    [checks] = runs([(check, given)], journal="checks.jsonl")

    found = compare(
        fine_tune,
        METHODS,
        given,
        seeds=seeds,
        journal=runs.journal,
        first=FIRST[1:2] if quick else FIRST,
        ends=(FIRST[1], FIRST[1]) if quick else ENDS,
        score=score,
        jobs=runs.jobs,
        progress=runs.progress,
    )
    return {
        "title": f"Small U-Net pretrained here (not Stable Diffusion), subject: {CLASSES[setting.subject]}",
        "settings": {
            "task": setting.json(),
            "seeds": seeds,
            "coarse": COARSE,
            "optimiser": "Adam on weights or factors; linear warm-up over a tenth of the steps and decay",
        },
        "pretrained": before,
        "checks": checks,
        "methods": [summary(row) for row in found],
    }


def score(record: dict) -> float:
    """The less validation loss, the better."""
    return -record["validation"]


def summary(row: dict) -> dict:
    """A method with its runs, and means over the finished ones."""
    method, runs = row["method"], row["runs"]
    done = [run for run in runs if run["status"] == "finished"]

    def mean(key):
        return float(np.mean([run[key] for run in done])) if done else None

    losses = [run["test"] for run in done]
    return {
        "method": method,
        "label": METHODS[method].label,
        "lr": row["lr"],
        "tried": [[lr, validation] for lr, validation, _ in row["tried"]],
        "runs": [
            {key: run.get(key) for key in ("seed", "status", "training", "validation", "test", "parameters")}
            | {"rank": float(np.mean(list(run["ranks"].values()))) if run.get("ranks") else None}
            for run in runs
        ],
        "diverged": len(runs) - len(done),
        "validation": mean("validation"),
        "test": mean("test"),
        "deviation": float(np.std(losses, ddof=1)) if len(done) > 1 else None,
        "parameters": mean("parameters"),
    }


def rows(result: dict) -> list[dict]:
    """The table."""
    before = result["pretrained"]

    def row(label, lr, validation, test, parameters, diverged):
        heads = ("method", "rate", "validation loss / 10⁻³", "test loss / 10⁻³", "trained parameters", "diverged")
        return dict(zip(heads, (label, lr, validation, test, parameters, diverged), strict=True))

    table = [row("before", "—", _milli(before["validation"]), _milli(before["test"]), "0", "—")]
    for m in result["methods"]:
        spread = "" if m["deviation"] is None else f" ± {1000 * m['deviation']:.2f}"
        parameters = "—" if m["parameters"] is None else f"{m['parameters']:,.0f}"
        test = _milli(m["test"]) + spread
        table.append(row(m["label"], f"{m['lr']:g}", _milli(m["validation"]), test, parameters, str(m["diverged"])))
    return table


def _milli(loss: float | None) -> str:
    return "—" if loss is None else f"{1000 * loss:.2f}"


def tables(result: dict) -> dict[str, list[dict]]:
    """The table for the README."""
    return {"rows": rows(result)}


def statements(result: dict) -> list[dict]:
    """What is claimed, of the adapters and of the methods (seed against seed), and whether it held."""
    by = {m["method"]: m for m in result["methods"]}
    checks = [result["checks"][precision] for precision in ("float32", "float64")]
    layers = result["checks"]["layers"]

    def values(method, key):
        return [math.inf if run[key] is None else run[key] for run in by[method]["runs"]]

    def pair(one, other, key):
        return zip(values(one, key), values(other, key), strict=True)

    def losses(one, other):
        return " against ".join(_milli(by[m]["test"]) for m in (one, other))

    def counts(one, other):
        return " against ".join(
            "—" if by[m]["parameters"] is None else f"{by[m]['parameters']:,.0f}" for m in (one, other)
        )

    def no_worse(one, other):
        claim = f"{by[one]['label']}: a test loss no higher than that of {by[other]['label']}, seed by seed"
        return statement(claim, losses(one, other), [a <= b for a, b in pair(one, other, "test")])

    def both(one, other):
        less = [a <= b for a, b in pair(one, other, "test")]
        fewer = [a < b for a, b in pair(one, other, "parameters")]
        claim = f"{by[one]['label']}: no higher than {by[other]['label']} with fewer parameters"
        found = f"{losses(one, other)}; {counts(one, other)} parameters"
        return statement(claim, found, [a and b for a, b in zip(less, fewer, strict=True)])

    def exact(claim, key):
        largest = max(c[key] for c in checks)
        return statement(f"{claim}, bit for bit", f"largest difference {largest:g}", [c[key] == 0 for c in checks])

    geoloras = ("geolora", "geolora-coarse")
    before = result["pretrained"]["test"]
    tuned = [test < before for m in by for test in values(m, "test")]
    ranks_found = " and ".join(f"{c['ranks'][0]} to {c['ranks'][-1]}" for c in checks)
    merged = " and ".join(f"{c['merged']:.0e} (bound {c['bound']:.0e})" for c in checks)
    return [
        statement(
            "every linear and convolution layer takes an adapter, but those with min(m, n) below its rank",
            f"{layers['Linear']} linear, {layers['Conv2d']} convolutions; refused: {', '.join(layers['refused'])}",
            ["min(m, n)" in reason for reason in layers["refused"].values()],
        ),
        exact("right after injection the output is what it was", "injected"),
        statement(
            "a small step of GeoLoRA lowers the loss by λ‖P(W)G‖², to 5 %",
            " and ".join(f"{c['step']:.3f} λ‖P(W)G‖²" for c in checks),
            [abs(c["step"] - 1) <= 0.05 for c in checks],
        ),
        statement(
            "three steps of GeoLoRA change the output and the ranks",
            f"by {min(c['moved'] for c in checks):.2f} of the largest; ranks {ranks_found}",
            [c["moved"] > 1e-3 and len(c["ranks"]) > 1 for c in checks],
        ),
        exact("saved after these, and loaded into adapters of rank 3: the same output", "saved"),
        statement(
            "merged: the same output to rounding, in single and double precision",
            merged,
            [c["merged"] <= c["bound"] for c in checks],
        ),
        statement("merged: all modules are those of the plain network", "—", [c["plain"] for c in checks]),
        exact("the merged U-Net after save_pretrained and from_pretrained: the same output", "reloaded"),
        statement("fine-tuning lowers the test loss, each method and seed", f"from {_milli(before)}", tuned),
        *(both(one, "lora") for one in geoloras),
        *(no_worse(one, other) for one in geoloras for other in ("lora", "lora-half", "svd-lora", "adalora", "full")),
        no_worse("lora", "peft-lora"),
    ]


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
