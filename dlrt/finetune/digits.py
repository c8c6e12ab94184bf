"""Train a small network on scikit-learn's handwritten digits by every method: the comparison ``dlrt train digits``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from torch import nn

from integrators import INTEGRATORS, Adam, Euler, ImportanceBudget, Integrator, Momentum, Tolerance
from integrators.checks import check_integer, check_jobs, check_positive

from ..nn import LowRankConv2d, LowRankLayer, LowRankLinear, LowRankOptimizer, parameter_report, ranks
from ..plots import STYLE, column_figure, save_figure, shared_legend, style
from ..runs import report, versions, write_json
from . import data
from .comparison import compare
from .loop import accuracy, blank, random_batches, steps

__all__ = ["METHODS", "NETWORKS", "STANDARD", "compare_digits", "summary", "train_digits", "write"]

BATCH = 64
FIRST = (-4, -3, -2, -1)
"""Half decades tried first for the learning rate: 0.01 to 0.32."""
ENDS = (-8, 2)
TAU = Tolerance(relative=0.1, spare=1)


def _entry(lr: float, name: str, **changes) -> tuple[Integrator, float]:
    return replace(INTEGRATORS[name], **changes), lr


METHODS = {
    "full-rank": _entry(3.16, "full-rank"),
    "full-rank-adam": _entry(0.0316, "full-rank", optimizer=Adam()),
    "lora": _entry(0.1, "lora"),
    "lora-adam": _entry(0.01, "lora", optimizer=Adam()),
    "svd-lora": _entry(0.0316, "svd-lora"),
    "adalora": _entry(0.0316, "adalora"),
    "projector-splitting": _entry(3.16, "projector-splitting"),
    "projector-splitting-strang": _entry(3.16, "projector-splitting-strang", substep=Euler()),
    "bug": _entry(3.16, "bug"),
    "augmented-bug": _entry(3.16, "augmented-bug", truncation=TAU),
    "parallel-bug": _entry(3.16, "parallel-bug", truncation=TAU),
    "parallel-bug-rejection": _entry(3.16, "parallel-bug-rejection", truncation=TAU),
    "geolora": _entry(3.16, "geolora", truncation=TAU),
    "geolora-published": _entry(3.16, "geolora", truncation=replace(TAU, spare=0)),
    "geolora-momentum": _entry(1, "geolora", truncation=TAU, optimizer=Momentum(0.9)),
    "geolora-adam": _entry(0.1, "geolora", truncation=TAU, optimizer=Adam()),
}
"""Methods and their learning rates: those that :func:`compare_digits` found for the dense network at the default
setting."""
STANDARD = tuple(
    m for m in METHODS if m not in ("projector-splitting-strang", "parallel-bug-rejection", "geolora-published")
)
NETWORKS = ("dense", "conv")


def _network(kind: str, rank: int):
    """The network, its last layer dense; all others of low rank, trained from scratch."""
    if kind == "dense":
        layers = [
            nn.Flatten(),
            LowRankLinear(64, 256, rank=rank),
            nn.ReLU(),
            LowRankLinear(256, 256, rank=rank),
            nn.ReLU(),
            nn.Linear(256, 10),
        ]
    else:
        layers = [
            LowRankConv2d(1, 32, 3, padding=1, rank=min(rank, 9)),
            nn.ReLU(),
            LowRankConv2d(32, 64, 3, padding=1, rank=rank),
            nn.ReLU(),
            nn.MaxPool2d(2),
            LowRankConv2d(64, 64, 3, padding=1, rank=rank),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(256, 10),
        ]
    with torch.no_grad():  # torch's start shrinks the signal by sqrt(6) in each layer with ReLU: He's does not
        for layer in layers:
            if isinstance(layer, LowRankLayer):
                layer.S.mul_(6**0.5)
    return nn.Sequential(*layers)


def train_digits(
    method: str, seed: int = 0, *, network: str = "dense", epochs: int = 30, rank: int = 12, lr: float | None = None
) -> dict[str, Any]:
    """Train one network by one method: JSON values in and out.

    Parameters
    ----------
    method : str
        One of ``METHODS``.
    seed : int
        Of the start and of the order of the training images; the split is the same for all.
    network : "dense" or "conv"
        64-256-256-10, or three convolutions and a linear layer. All but the last layer are of low rank.
    epochs : int
        Passes of 17 batches of 64 images.
    rank : int
        At the start, and throughout for methods of fixed rank.
    lr : float, optional
        Of the low-rank layers; by default that of ``METHODS``. It falls to zero like a cosine, as does that of the
        biases and the last layer, 2e-3 with AdamW.

    Returns
    -------
    dict
        ``status`` (``diverged at step k`` where numbers ceased to be finite), ``losses`` by step, ``tapes`` (backward
        passes), ``seconds`` of the training steps; by epoch ``accuracies`` on the test images, ``parameters`` trained,
        and ``ranks`` by layer, these from the start; ``validation``, the accuracy on the validation images at the end.

    Raises
    ------
    ValueError
        Unknown method or network.
    """
    _check_name("method", method, METHODS)
    _check_setting(network, epochs=epochs, rank=rank)
    integrator, usual = METHODS[method]
    lr = usual if lr is None else lr
    digits = data.digits()
    x, y = digits["train"]
    per_epoch = len(y) // BATCH
    number = epochs * per_epoch
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _network(network, rank)
    integrator = _for_run(integrator, number, sum(ranks(model).values()))
    optimizer = LowRankOptimizer(model, integrator, lr, rest=functools.partial(torch.optim.AdamW, lr=2e-3))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, number)

    def losses():
        for chosen in islice(random_batches(len(y), BATCH, seed), number):
            yield lambda chosen=chosen: nn.functional.cross_entropy(model(x[chosen]), y[chosen])

    def right(part):
        images, labels = digits[part]
        return accuracy(lambda chosen: model(images[chosen]), labels)

    record = blank(method=method, seed=seed, network=network, lr=lr) | {
        "accuracies": [], "validation": None, "parameters": [], "ranks": {n: [r] for n, r in ranks(model).items()},
        "seconds": 0.0,
    }  # fmt: skip
    for step, seconds in enumerate(steps(optimizer, losses(), record, schedule), 1):
        record["seconds"] += seconds
        report(step / number)
        if step % per_epoch == 0:
            record["accuracies"].append(right("test"))
            record["parameters"].append(parameter_report(model).trained)
            for name, r in ranks(model).items():
                record["ranks"][name].append(r)
    if record["status"] == "finished":
        record["validation"] = right("validation")
    return record


def _for_run(integrator: Integrator, number: int, rank: int) -> Integrator:
    """The method for a run; AdaLoRA masks every ten steps."""
    chosen = integrator.for_run(number, rank)
    if not isinstance(chosen.truncation, ImportanceBudget):
        return chosen
    changes: dict[str, Any] = {"truncation": replace(chosen.truncation, interval=10)}
    return replace(chosen, **changes)


def compare_digits(
    methods: Iterable[str],
    *,
    seeds: int,
    journal: Path,
    network: str = "dense",
    epochs: int = 30,
    rank: int = 12,
    lr: float | None = None,
    jobs: int | None = 1,
    progress: Callable | None = None,
) -> list[dict[str, Any]]:
    """Train by each method with several seeds, at the learning rate that is best on the validation images.

    Four half decades, 0.01 to 0.32, are tried first, all with all seeds: see :func:`compare`.

    Parameters
    ----------
    methods : iterable of str
        Of ``METHODS``.
    seeds : int
        Runs of each method and rate.
    network, epochs, rank
        As in :func:`train_digits`.
    journal, lr, jobs, progress
        As in :func:`compare`.

    Returns
    -------
    list of dict
        For each method ``method``, ``lr``, ``tried``, and the records of its ``runs``.

    Raises
    ------
    ValueError, TypeError
        Bad arguments.
    """
    methods = list(methods)
    if not methods:
        raise ValueError("methods must name at least one")
    for method in methods:
        _check_name("methods", method, METHODS)
    _check_setting(network, seeds=seeds, epochs=epochs, rank=rank)
    if lr is not None:
        check_positive("lr", lr)
    return compare(
        train_digits,
        methods,
        {"network": network, "epochs": epochs, "rank": rank},
        seeds=seeds,
        journal=journal,
        first=FIRST,
        ends=ENDS,
        lr=lr,
        tuning_seeds=seeds,
        jobs=check_jobs(jobs),
        progress=progress,
    )


def _check_name(argument: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise ValueError(f"{argument} must be one of {', '.join(known)}, got {value!r}")


def _check_setting(network: str, **counts: int) -> None:
    _check_name("network", network, NETWORKS)
    for argument, count in counts.items():
        check_integer(argument, count)


# -- what came out -----------------------------------------------------------------------------------------------------


def summary(found: Iterable[dict]) -> list[dict[str, Any]]:
    """A row for each method: mean and standard deviation over seeds of the accuracy after the last epoch, and so on."""
    rows = []
    for method in found:
        runs = method["runs"]
        done = [run for run in runs if run["status"] == "finished"]
        row = {"method": method["method"], "lr": method["lr"], "runs": len(runs), "diverged": len(runs) - len(done)}
        if done:
            accuracies = [run["accuracies"][-1] for run in done]
            row |= {
                "accuracy": float(np.mean(accuracies)),
                "std": float(np.std(accuracies, ddof=1)) if len(done) > 1 else 0.0,
                "parameters": float(np.mean([run["parameters"][-1] for run in done])),
                "seconds": float(np.mean([run["seconds"] for run in done])),
                "tapes": float(np.mean([run["tapes"] for run in done])),
            }
        rows.append(row | {"tried": method["tried"]})
    return rows


def write(found: Sequence[dict], settings: dict, out: str | Path) -> None:
    """Write ``summary.json``, all records as ``runs.json``, and the pictures ``loss``, ``accuracy``, ``ranks``."""
    out = Path(out)
    about = {"settings": settings, "versions": versions("torch")}
    write_json(out / "summary.json", about | {"methods": summary(found)})
    write_json(out / "runs.json", about | {"runs": [run for method in found for run in method["runs"]]})
    for name, figure in _figures(found).items():
        save_figure(figure, out / name)


def _figures(found: Sequence[dict]):
    """Training loss, test accuracy, and ranks of the layers against the epoch: means over the seeds.

    Bands from the least to the largest value are drawn where the curves are few enough to tell them apart.
    """

    kinds = [type(METHODS[method["method"]][0]).__name__ for method in found]

    def curves(axes, values, wanted=lambda method: True, start=1):
        """``values(run)`` has an entry for each epoch; the first one belongs to epoch ``start``."""
        for i, method in enumerate(found):
            table = np.array([values(run) for run in method["runs"] if run["status"] == "finished"])
            if not len(table) or not wanted(method["method"]):
                continue
            epochs = np.arange(start, start + table.shape[1])
            every = max(1, table.shape[1] // 6)
            look = style(kinds[i], kinds[:i].count(kinds[i]))
            axes.plot(epochs, table.mean(0), markevery=(i % every, every), label=method["method"], **look)
            if len(table) > 1 and len(found) <= 5:
                axes.fill_between(epochs, table.min(0), table.max(0), color=look["color"], alpha=0.15, linewidth=0)

    def loss(run):  # the mean over an epoch
        return np.reshape(run["losses"], (len(run["accuracies"]), -1)).mean(1)

    figures = {}
    with rc_context(STYLE):
        for name, values, settings in (
            ("loss", loss, {"ylabel": "training loss", "yscale": "log"}),
            ("accuracy", lambda run: run["accuracies"], {"ylabel": "test accuracy", "ylim": (0.8, 1.0)}),
        ):
            figure, (axes,) = column_figure(1)
            curves(axes, values)
            axes.set(xlabel="epoch", **settings)
            figures[name] = shared_legend(figure, [axes])
        layers = list(found[0]["runs"][0]["ranks"])
        figure, panels = column_figure(len(layers))
        for axes, layer in zip(panels, layers, strict=True):
            curves(axes, lambda run, layer=layer: run["ranks"][layer], lambda m: not m.startswith("full-rank"), start=0)
            axes.set(title=f"layer {layer}", ylabel="rank")
            axes.yaxis.get_major_locator().set_params(integer=True)
        panels[-1].set_xlabel("epoch")
        figures["ranks"] = shared_legend(figure, panels)
    return figures
