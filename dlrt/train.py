"""Train a small network on scikit-learn's handwritten digits by every method: the comparison ``dlrt train digits``."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from ._util import check_integer, write_atomically

__all__ = ["METHODS", "NETWORKS", "Run", "train_digits"]

BATCH = 64


@dataclass(frozen=True)
class Method:
    """An integrator for a run of so many steps with a total rank at the start, its learning rate, and a line on it."""

    integrator: Callable[[int, int], Any]
    lr: float
    description: str


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
        "full-rank": Method(fixed(FullRank()), 0.5, "gradient descent on the dense matrices"),
        "full-rank-adam": Method(fixed(FullRank(optimizer=Adam())), 1e-3, "Adam on the dense matrices"),
        "lora": Method(fixed(LoRA()), 0.05, "descent on two factors"),
        "lora-adam": Method(fixed(LoRA(optimizer=Adam())), 1e-2, "Adam on two factors"),
        "svd-lora": Method(fixed(SVDLoRA()), 0.05, "descent on U, S and V"),
        "adalora": Method(adalora, 0.05, "descent on P, lambda and Q with a budget"),
        "projector-splitting": Method(fixed(ProjectorSplitting()), 0.5, "K, S, L one after the other"),
        "projector-splitting-strang": Method(fixed(ProjectorSplitting(order=2)), 0.5, "K, S, L, S, K"),
        "bug": Method(fixed(BUG()), 0.5, "K and L, then S"),
        "augmented-bug": Method(fixed(AugmentedBUG(truncation=tau)), 0.5, "K and L, then S in both bases"),
        "parallel-bug": Method(fixed(ParallelBUG(truncation=tau)), 0.5, "K, L and S at once"),
        "geolora": Method(fixed(GeoLoRA(truncation=tau)), 0.5, "one gradient, one spare direction"),
        "geolora-published": Method(fixed(GeoLoRA(truncation=Tolerance(relative=0.1))), 0.5, "without spare direction"),
        "geolora-momentum": Method(fixed(GeoLoRA(truncation=tau, optimizer=Momentum(0.9))), 0.5, "heavy ball"),
        "geolora-adam": Method(fixed(GeoLoRA(truncation=tau, optimizer=Adam())), 1e-2, "Adam on K, L and S"),
    }


METHODS = (
    "full-rank", "full-rank-adam", "lora", "lora-adam", "svd-lora", "adalora", "projector-splitting",
    "projector-splitting-strang", "bug", "augmented-bug", "parallel-bug", "geolora", "geolora-published",
    "geolora-momentum", "geolora-adam",
)  # fmt: skip
DEFAULT = tuple(m for m in METHODS if m not in ("projector-splitting-strang", "geolora-published"))
NETWORKS = ("dense", "conv")


def _network(kind: str, rank: int):
    """The network, its last layer dense; all others of low rank, trained from scratch."""
    import torch
    from torch import nn

    from .nn import LowRankConv2d, LowRankLayer, LowRankLinear

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
    """Images (N, 1, 8, 8) in [0, 1] and labels, split into 1,347 for training and 450 for the test."""
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
    return (images[:1347], labels[:1347]), (images[1347:], labels[1347:])


@dataclass
class Run:
    """What one training run leaves: ``losses`` by step, the lists of the rest by epoch."""

    method: str
    seed: int
    network: str
    lr: float
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
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
        Of the start and of the order of the images; the split is the same for all.
    network : "dense" or "conv"
        64-256-256-10, or three convolutions and a linear layer. All but the last layer are of low rank.
    epochs : int
        Passes of 21 batches of 64 images.
    rank : int
        At the start, and throughout for methods of fixed rank.
    lr : float, optional
        Of the low-rank layers; by default the one tuned for the method. It falls to zero like a cosine, as does that of
        the biases and the last layer, 2e-3 with AdamW.

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

    from .nn import low_rank_layers, parameter_report, ranks
    from .optim import LowRankOptimizer

    _check_name("method", method, METHODS)
    _check_name("network", network, NETWORKS)
    epochs, rank = check_integer("epochs", epochs, 1), check_integer("rank", rank, 1)
    (x, y), test = _digits()
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
                run.status = f"diverged at step {len(run.losses) + 1}"
                return run
            schedule.step()
            run.seconds += time.perf_counter() - began
            run.losses.append(loss)
        with torch.no_grad():
            right = model(test[0]).argmax(1) == test[1]
        run.accuracies.append(float(right.float().mean()))
        run.parameters.append(parameter_report(model).trained)
        for name, r in ranks(model).items():
            run.ranks[name].append(r)
    return run


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


def write(runs: Sequence[Run], out: str | Path) -> None:
    """All that was recorded as ``runs.json``, ``summary.json``, and the pictures ``loss``, ``accuracy``, ``ranks``."""
    from .plots import save_figure

    out = Path(out)
    for name, content in (("runs", [asdict(run) for run in runs]), ("summary", summary(runs))):
        text = json.dumps(content, indent=1, allow_nan=False)
        write_atomically(out / f"{name}.json", lambda file, text=text: file.write(text.encode()))
    for name, figure in _figures(runs).items():
        save_figure(figure, out / name)


def _figures(runs):
    """Training loss, test accuracy, and ranks of the layers against the epoch: means, and bands over the seeds."""
    import numpy as np
    from matplotlib import rc_context

    from .plots import STYLE, LineStyle, column_figure, shared_legend

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
                if len(group) > 1:
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
    out: Annotated[Path | None, typer.Option(help="Folder for runs, summary and pictures.")] = None,
    network: Annotated[str, typer.Option(help="dense or conv.")] = "dense",
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 30,
    rank: Annotated[int, typer.Option(help="Rank at the start.")] = 12,
    lr: Annotated[float | None, typer.Option(help="Learning rate of all; default: the one tuned for each.")] = None,
) -> None:
    """Train a network on scikit-learn's handwritten digits by several methods: accuracy, parameters, time, tapes.

    All methods share network, start, batches, steps and the optimiser of the biases and the last layer. A tape is one
    backward pass. The parameters are those at the end.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table

    names = [name.strip() for name in methods.split(",") if name.strip()]
    try:
        if not names:
            raise ValueError("methods must name at least one")
        for name in names:
            _check_name("methods", name, METHODS)
        _check_name("network", network, NETWORKS)
        for argument, value in (("seeds", seeds), ("epochs", epochs), ("rank", rank)):
            check_integer(argument, value, 1)
        _digits()
    except (ValueError, ModuleNotFoundError) as error:
        Console(stderr=True, soft_wrap=True).print(f"dlrt: error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(2) from None
    runs: list[Run] = []
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("training", total=len(names) * seeds)
        try:
            for seed in range(seeds):
                for name in names:
                    progress.update(task, description=f"{name}, seed {seed}")
                    runs.append(train_digits(name, seed, network=network, epochs=epochs, rank=rank, lr=lr))
                    progress.advance(task)
        except KeyboardInterrupt:
            progress.console.print("stopped: what is finished is shown")
    if not runs:
        raise typer.Exit(130)
    table = Table(title=f"digits, {network} network, {epochs} epochs, {seeds} seeds", title_justify="left")
    for heading in ("method", "lr", "test accuracy", "parameters", "seconds", "tapes", "diverged"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for row in summary(runs):
        done = "accuracy" in row
        table.add_row(
            row["method"],
            f"{row['lr']:g}",
            f"{row['accuracy']:.4f} ± {row['std']:.4f}" if done else "",
            f"{row['parameters']:,.0f}" if done else "",
            f"{row['seconds']:.1f}" if done else "",
            f"{row['tapes']:,.0f}" if done else "",
            str(row["diverged"]),
        )
    console = Console()
    (console if console.is_terminal else Console(width=max(console.width, 120))).print(table)
    if out is not None:
        write(runs, out)
        console.print(f"written to {out}", markup=False, highlight=False, soft_wrap=True)
