"""``dlrt train digits``: networks trained by the methods and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..runs import check_folder, cluster, set_aside
from .terminal import FRESH, JOBS, SCHEDULER, bar, interrupted, say, show

app = typer.Typer(help="Train networks by the methods and compare them.", no_args_is_help=True)


@app.callback()
def train() -> None:
    """Train networks by the methods and compare them."""


@app.command()
def digits(
    methods: Annotated[
        str | None,
        typer.Option(
            help="Names with commas between: those of [bold]dlrt list[/bold], and full-rank-adam, lora-adam, "
            "geolora-published, geolora-momentum, geolora-adam. Default: all but projector-splitting-strang, "
            "parallel-bug-rejection, geolora-published."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for runs, summary and pictures.")] = Path("dlrt-train/digits"),
    network: Annotated[str, typer.Option(help="dense or conv.")] = "dense",
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 30,
    rank: Annotated[int, typer.Option(help="Rank at the start.")] = 12,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of all. Default: tuned for each on validation images.")
    ] = None,
    jobs: Annotated[int, JOBS] = 1,
    scheduler: Annotated[str | None, SCHEDULER] = None,
    fresh: Annotated[bool, FRESH] = False,
) -> None:
    """Train a network on scikit-learn's handwritten digits by several methods: accuracy, parameters, time, tapes.

    All methods share network, start, batches, steps and the optimiser of the biases and the last layer. The learning
    rate of each is chosen on 250 validation images, the accuracy is that on 450 others. A tape is one backward pass.
    The parameters are those at the end. Runs found in the output folder are not repeated.
    """
    from ..finetune.digits import STANDARD, compare_digits, summary, write  # torch takes seconds

    named = ",".join(STANDARD) if methods is None else methods
    journal = out / "journal.jsonl"
    names = list(dict.fromkeys(name.strip() for name in named.split(",") if name.strip()))
    settings: dict[str, Any] = {"network": network, "epochs": epochs, "rank": rank, "lr": lr, "seeds": seeds}
    try:
        check_folder(out)
        if fresh and journal.exists():
            set_aside(journal)
        with cluster(scheduler), bar() as shown:
            task = shown.add_task("training", total=None)
            found = compare_digits(
                names,
                **settings,
                journal=journal,
                jobs=jobs if scheduler is None else None,
                progress=lambda done, total: shown.update(task, completed=done, total=total),
            )
        write(found, settings, out)
    except KeyboardInterrupt:
        interrupted(out)
    title = f"digits, {network} network, {epochs} epochs, seeds: {seeds}"
    show([_row(row, seeds) for row in summary(found)], title)
    say(f"Wrote summary.json, runs.json and pictures to {out}")


def _row(row: dict[str, Any], seeds: int) -> dict[str, str]:
    """A row of the summary as it is shown; the numbers are those of the runs that did not diverge."""
    shown = {"method": row["method"], "lr": f"{row['lr']:g}"}
    if "accuracy" in row:
        spread = f" ± {row['std']:.3f}" if seeds > 1 else ""
        shown |= {
            "test accuracy": f"{row['accuracy']:.3f}{spread}",
            "parameters": f"{row['parameters']:,.0f}",
            "tapes": f"{row['tapes']:,.0f}",
            "time [s]": f"{row['seconds']:.1f}",
        }
    if row["diverged"]:
        shown["diverged"] = f"{row['diverged']} of {row['runs']}"
    return shown
