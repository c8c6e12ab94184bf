"""Train a small network on scikit-learn's handwritten digits by every method: the comparison ``dlrt train digits``."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from integrators.checks import check_integer, check_jobs, check_positive

from ..runs import best, late_loss, rate, tune

__all__ = ["METHODS", "NETWORKS", "Run", "compare_digits", "train_digits"]

BATCH = 64
FIRST = (-4, -3, -2, -1)
"""Half decades tried first for the learning rate: 0.01 to 0.32."""
ENDS = (-8, 2)


@dataclass(frozen=True)
class Method:
    """An integrator for a run of so many steps with a total rank at the start, and its learning rate."""

    integrator: Callable[[int, int], Any]
    lr: float


def _methods() -> dict[str, Method]:
    from integrators import (
        BUG,
        AdaLoRA,
        Adam,
        AugmentedBUG,
        FullRank,
        GeoLoRA,
        ImportanceBudget,
        LoRA,
        Momentum,
        ParallelBUG,
        ProjectorSplitting,
        SVDLoRA,
        Tolerance,
    )

    tau = Tolerance(relative=0.1, spare=1)

    def adalora(steps, rank):
        return AdaLoRA(truncation=ImportanceBudget(rank, (2 * rank + 2) // 3, steps, steps // 10, steps // 3, 10))

    def fixed(integrator):
        return lambda steps, rank: integrator

    return {
        "full-rank": Method(fixed(FullRank()), 3.16),
        "full-rank-adam": Method(fixed(FullRank(optimizer=Adam())), 0.0316),
        "lora": Method(fixed(LoRA()), 0.1),
        "lora-adam": Method(fixed(LoRA(optimizer=Adam())), 0.01),
        "svd-lora": Method(fixed(SVDLoRA()), 0.0316),
        "adalora": Method(adalora, 0.0316),
        "projector-splitting": Method(fixed(ProjectorSplitting()), 3.16),
        "projector-splitting-strang": Method(fixed(ProjectorSplitting(order=2)), 3.16),
        "bug": Method(fixed(BUG()), 3.16),
        "augmented-bug": Method(fixed(AugmentedBUG(truncation=tau)), 3.16),
        "parallel-bug": Method(fixed(ParallelBUG(truncation=tau)), 3.16),
        "parallel-bug-rejection": Method(fixed(ParallelBUG(truncation=tau, rejection=10.0)), 3.16),
        "geolora": Method(fixed(GeoLoRA(truncation=tau)), 3.16),
        "geolora-published": Method(fixed(GeoLoRA(truncation=Tolerance(relative=0.1))), 3.16),
        "geolora-momentum": Method(fixed(GeoLoRA(truncation=tau, optimizer=Momentum(0.9))), 1),
        "geolora-adam": Method(fixed(GeoLoRA(truncation=tau, optimizer=Adam())), 0.1),
    }


METHODS = (
    "full-rank", "full-rank-adam", "lora", "lora-adam", "svd-lora", "adalora", "projector-splitting",
    "projector-splitting-strang", "bug", "augmented-bug", "parallel-bug", "parallel-bug-rejection", "geolora",
    "geolora-published", "geolora-momentum", "geolora-adam",
)  # fmt: skip
DEFAULT = tuple(
    m for m in METHODS if m not in ("projector-splitting-strang", "parallel-bug-rejection", "geolora-published")
)
NETWORKS = ("dense", "conv")


def _network(kind: str, rank: int):
    """The network, its last layer dense; all others of low rank, trained from scratch."""
    import torch
    from torch import nn

    from ..nn import LowRankConv2d, LowRankLayer, LowRankLinear

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


@functools.cache
def _digits():
    """Images (N, 1, 8, 8) in [0, 1] and labels: 1,097 for training, 250 for validation, 450 for the test."""
    import numpy as np
    import torch

    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ModuleNotFoundError("the digits come with scikit-learn: pip install scikit-learn") from error
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = torch.tensor(data.images[order] / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(data.target[order])
    parts = {"train": slice(1097), "validation": slice(1097, 1347), "test": slice(1347, None)}
    return {name: (images[part], labels[part]) for name, part in parts.items()}


@dataclass
class Run:
    """What one training run leaves: ``losses`` by step, the lists of the rest by epoch.

    ``accuracies`` are those on the test images, ``validation`` is that on the validation images at the end, ``seconds``
    are those of the training steps.
    """

    method: str
    seed: int
    network: str
    lr: float
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    validation: float | None = None
    parameters: list[int] = field(default_factory=list)
    ranks: dict[str, list[int]] = field(default_factory=dict)
    tapes: int = 0
    seconds: float = 0.0
    status: str = "finished"


def train_digits(
    method: str, seed: int = 0, *, network: str = "dense", epochs: int = 30, rank: int = 12, lr: float | None = None
) -> Run:
    """Train one network by one method.

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
        Of the low-rank layers; by default the one that :func:`compare_digits` found for the method and the dense
        network at the default setting. It falls to zero like a cosine, as does that of the biases and the last layer,
        2e-3 with AdamW.

    Returns
    -------
    Run
        With the status ``diverged at step k`` where numbers ceased to be finite.

    Raises
    ------
    ValueError
        Unknown method or network.
    """
    import torch

    from ..nn import low_rank_layers, parameter_report, ranks
    from ..nn.optimizer import LowRankOptimizer

    _check_name("method", method, METHODS)
    _check_name("network", network, NETWORKS)
    epochs, rank = check_integer("epochs", epochs, 1), check_integer("rank", rank, 1)
    data = _digits()
    x, y = data["train"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _network(network, rank)
    generator = torch.Generator().manual_seed(seed)
    per_epoch = len(x) // BATCH
    chosen = _methods()[method]
    lr = chosen.lr if lr is None else lr
    total_rank = sum(layer.rank for layer in low_rank_layers(model).values())
    optimizer = LowRankOptimizer(
        model,
        chosen.integrator(epochs * per_epoch, total_rank),
        lr,
        rest=functools.partial(torch.optim.AdamW, lr=2e-3),
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * per_epoch)
    run = Run(method, seed, network, lr, ranks={name: [r] for name, r in ranks(model).items()})

    def closure():
        run.tapes += 1
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        return loss.detach()

    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=generator)[: per_epoch * BATCH].split(BATCH):
            images, labels = x[batch], y[batch]
            began = time.perf_counter()
            try:
                loss = float(optimizer.step(closure))
            except FloatingPointError:
                loss = math.nan
            if not math.isfinite(loss):
                run.status = f"diverged at step {len(run.losses) + 1}"
                return run
            schedule.step()
            run.seconds += time.perf_counter() - began
            run.losses.append(loss)
        run.accuracies.append(_accuracy(model, *data["test"]))
        run.parameters.append(parameter_report(model).trained)
        for name, r in ranks(model).items():
            run.ranks[name].append(r)
    run.validation = _accuracy(model, *data["validation"])
    return run


def _accuracy(model, images, labels) -> float:
    import torch

    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


def run_digits(**arguments) -> dict:
    """:func:`train_digits` as a task: JSON values in and out."""
    return asdict(train_digits(**arguments))


def compare_digits(
    methods: Iterable[str],
    *,
    seeds: int,
    journal: Path,
    network: str = "dense",
    epochs: int = 30,
    rank: int = 12,
    lr: float | None = None,
    jobs: int = 1,
    progress: Callable | None = None,
) -> tuple[list[Run], dict[str, list]]:
    """Train by each method with several seeds, at the learning rate that is best on the validation images.

    Four half decades, 0.01 to 0.32, are tried with all seeds; while the best one is the smallest or the largest tried,
    the next one is tried too. Best is the highest mean accuracy on the validation images, then the lowest training loss
    over the last tenth of the steps; a rate at which a seed diverges is not chosen while there is another.

    Parameters
    ----------
    methods : iterable of str
        Of ``METHODS``.
    seeds : int
        Runs of each method and rate.
    journal : Path
        File of the runs that are done; the same call goes on from there.
    network, epochs, rank
        As in :func:`train_digits`.
    lr : float, optional
        Learning rate of all methods; nothing is tuned then.
    jobs : int
        Runs at a time, each with one thread.
    progress : callable, optional
        Called as ``progress(done, total)`` after each run of a round.

    Returns
    -------
    runs : list of Run
        By method, then seed.
    tried : dict
        For each method, ``[rate, mean validation accuracy or None, mean late training loss or None]`` of each rate.
    """
    from ..runs import run_tasks

    methods = list(methods)
    shared = {"network": network, "epochs": epochs, "rank": rank}

    def train(wanted: Iterable[tuple[str, float]]) -> list[list[dict]]:
        """All seeds of each method and rate."""
        tasks = [
            (run_digits, {"method": m, "lr": value, "seed": seed, **shared})
            for m, value in wanted
            for seed in range(seeds)
        ]
        records = iter(run_tasks(tasks, journal=journal, jobs=jobs, progress=progress))
        return [[next(records) for _ in range(seeds)] for _ in range(len(tasks) // seeds)]

    if lr is not None:
        return [Run(**record) for group in train((m, lr) for m in methods) for record in group], {}
    tried = tune(
        methods,
        lambda wanted: [_mean(group) for group in train((m, rate(k)) for m, k in wanted)],
        first=FIRST,
        ends=ENDS,
    )
    chosen = [(m, rate(best(tried[m]))) for m in methods]
    table = {
        m: [
            [rate(k), mean["validation"], late_loss(mean) if mean["losses"] else None]
            for k, mean in sorted(found.items())
        ]
        for m, found in tried.items()
    }
    return [Run(**record) for group in train(chosen) for record in group], table


def _mean(records: Sequence[dict]) -> dict:
    """Validation accuracy and losses, averaged over the seeds where all have finished."""
    unfinished = [record["status"] for record in records if record["status"] != "finished"]
    if unfinished:
        return {"status": unfinished[0], "validation": None, "losses": []}
    losses = [sum(step) / len(records) for step in zip(*(record["losses"] for record in records), strict=True)]
    validation = sum(record["validation"] for record in records) / len(records)
    return {"status": "finished", "validation": round(validation, 5), "losses": losses}


def summary(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """A row for each method: mean and standard deviation over seeds of the accuracy after the last epoch, and so on."""
    import numpy as np

    rows = []
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.method, []).append(run)
    for method, group in groups.items():
        done = [run for run in group if run.status == "finished"]
        row: dict[str, Any] = {
            "method": method,
            "lr": group[0].lr,
            "runs": len(group),
            "diverged": len(group) - len(done),
        }
        if done:
            accuracies = [run.accuracies[-1] for run in done]
            row |= {
                "accuracy": float(np.mean(accuracies)),
                "std": float(np.std(accuracies, ddof=1)) if len(done) > 1 else 0.0,
                "parameters": float(np.mean([run.parameters[-1] for run in done])),
                "seconds": float(np.mean([run.seconds for run in done])),
                "tapes": float(np.mean([run.tapes for run in done])),
            }
        rows.append(row)
    return rows


def write(runs: Sequence[Run], tried: dict[str, list], settings: dict, out: str | Path) -> None:
    """Write ``summary.json``, all records as ``runs.json``, and the pictures ``loss``, ``accuracy``, ``ranks``."""
    from ..plots import save_figure
    from ..runs import versions, write_json

    out = Path(out)
    rows = [row | {"tried": tried.get(row["method"], [])} for row in summary(runs)]
    about = {"settings": settings, "versions": versions() | {"torch": metadata.version("torch")}}
    write_json(out / "summary.json", about | {"methods": rows})
    write_json(out / "runs.json", about | {"runs": [asdict(run) for run in runs]})
    for name, figure in _figures(runs).items():
        save_figure(figure, out / name)


def _figures(runs):
    """Training loss, test accuracy, and ranks of the layers against the epoch: means over the seeds.

    Bands from the least to the largest value are drawn where the curves are few enough to tell them apart.
    """
    import numpy as np
    from matplotlib import rc_context

    from ..plots import STYLE, LineStyle, column_figure, shared_legend

    methods = list(dict.fromkeys(run.method for run in runs))
    done = {m: [r for r in runs if r.method == m and r.status == "finished"] for m in methods}

    def curves(axes, values, wanted, start=1):
        """``values(run)`` has an entry for each epoch; the first one belongs to epoch ``start``."""
        for i, (method, group) in enumerate(done.items()):
            if group and wanted(method):
                table = np.array([values(run) for run in group])
                epochs = np.arange(start, start + table.shape[1])
                every = max(1, table.shape[1] // 6)
                style = LineStyle(i).keywords() | {"markevery": (i % every, every), "label": method}
                axes.plot(epochs, table.mean(0), **style)
                if len(group) > 1 and len(methods) <= 5:
                    axes.fill_between(epochs, table.min(0), table.max(0), color=style["color"], alpha=0.15, linewidth=0)

    def loss(run):  # the mean over an epoch
        return np.reshape(run.losses, (len(run.accuracies), -1)).mean(1)

    figures = {}
    with rc_context(STYLE):
        for name, values, settings in (
            ("loss", loss, {"ylabel": "training loss", "yscale": "log"}),
            ("accuracy", lambda run: run.accuracies, {"ylabel": "test accuracy", "ylim": (0.8, 1.0)}),
        ):
            figure, (axes,) = column_figure(1)
            curves(axes, values, lambda method: True)
            axes.set(xlabel="epoch", **settings)
            figures[name] = shared_legend(figure, [axes])
        layers = list(runs[0].ranks)
        figure, panels = column_figure(len(layers))
        for axes, layer in zip(panels, layers, strict=True):
            curves(axes, lambda run, layer=layer: run.ranks[layer], lambda m: not m.startswith("full-rank"), start=0)
            axes.set(title=f"layer {layer}", ylabel="rank")
            axes.yaxis.get_major_locator().set_params(integer=True)
        panels[-1].set_xlabel("epoch")
        figures["ranks"] = shared_legend(figure, panels)
    return figures


def _check_name(argument, value, known):
    if value not in known:
        raise ValueError(f"{argument} must be one of {', '.join(known)}, got {value!r}")


# -- command line ------------------------------------------------------------------------------------------------------

app = typer.Typer(help="Train networks by the methods and compare them.", no_args_is_help=True)


@app.callback()
def _train() -> None:
    """Train networks by the methods and compare them."""


@app.command()
def digits(
    methods: Annotated[str, typer.Option(help=f"Names with commas between: {', '.join(METHODS)}.")] = ",".join(DEFAULT),
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for runs, summary and pictures.")] = Path("dlrt-train/digits"),
    network: Annotated[str, typer.Option(help="dense or conv.")] = "dense",
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 30,
    rank: Annotated[int, typer.Option(help="Rank at the start.")] = 12,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of all. Default: tuned for each on validation images.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Runs at the same time; -1: one per processor.")] = 1,
) -> None:
    """Train a network on scikit-learn's handwritten digits by several methods: accuracy, parameters, time, tapes.

    All methods share network, start, batches, steps and the optimiser of the biases and the last layer. The learning
    rate of each is chosen on 250 validation images, the accuracy is that on 450 others. A tape is one backward pass.
    The parameters are those at the end. Runs found in the output folder are not repeated.
    """
    from rich.table import Table

    from ..cli.terminal import bar as _bar
    from ..cli.terminal import console as _console
    from ..cli.terminal import errors
    from ..cli.terminal import refuse as _refuse

    names = list(dict.fromkeys(name.strip() for name in methods.split(",") if name.strip()))
    settings: dict[str, Any] = {"network": network, "epochs": epochs, "rank": rank, "lr": lr, "seeds": seeds}
    try:
        if not names:
            raise ValueError("methods must name at least one")
        for name in names:
            _check_name("methods", name, METHODS)
        _check_name("network", network, NETWORKS)
        for argument, value in (("seeds", seeds), ("epochs", epochs), ("rank", rank)):
            check_integer(argument, value, 1)
        if lr is not None:
            check_positive("lr", lr)
        check_jobs(jobs)
        _digits()
        out.mkdir(parents=True, exist_ok=True)
    except (ValueError, ModuleNotFoundError, OSError) as error:
        _refuse(error)
    try:
        with _bar() as bar:
            task = bar.add_task("training", total=None)
            runs, tried = compare_digits(
                names,
                **settings,
                journal=out / "journal.jsonl",
                jobs=jobs,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    except KeyboardInterrupt:
        errors.print(f"Interrupted; what is done is in {out}, the same command goes on from there.", markup=False)
        raise typer.Exit(130) from None
    table = Table(title=f"digits, {network} network, {epochs} epochs, seeds: {seeds}", title_justify="left")
    for heading in ("method", "lr", "test accuracy", "parameters", "seconds", "tapes", "diverged"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for row in summary(runs):
        done = "accuracy" in row
        table.add_row(
            row["method"],
            f"{row['lr']:g}",
            f"{row['accuracy']:.4f}" + (f" ± {row['std']:.4f}" if seeds > 1 else "") if done else "",
            f"{row['parameters']:,.0f}" if done else "",
            f"{row['seconds']:.1f}" if done else "",
            f"{row['tapes']:,.0f}" if done else "",
            str(row["diverged"]),
        )
    console = _console()
    console.print(table)
    write(runs, tried, settings, out)
    console.print(f"Wrote summary.json, runs.json and pictures to {out}", markup=False, highlight=False, soft_wrap=True)
