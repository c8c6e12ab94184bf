"""The command ``dlrt finetune``: a pretrained network and files, made into an adapter."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from ..runs import check_folder
from .terminal import FRESH, bar, errors, interrupted, say, show, writable


def finetune(
    model: Annotated[str, typer.Option(help="Folder or name of a network for transformers' from_pretrained.")],
    task: Annotated[str, typer.Option(help="text or image (classes of them), or causal-lm (the next token).")],
    data: Annotated[
        list[str],
        typer.Option(
            help="Texts: .csv, .tsv or .jsonl with columns text and label. Pictures: a folder with a folder for each "
            "class, or two files of MNIST's format. Next token: .txt, or .jsonl with text. Several: the option again."
        ),
    ],
    validation: Annotated[
        list[str] | None, typer.Option(help="The same for validation. Default: a tenth of the data.")
    ] = None,
    text: Annotated[str, typer.Option(help="Column of the text; two with a comma for pairs.")] = "text",
    label: Annotated[str, typer.Option(help="Column of the class.")] = "label",
    method: Annotated[
        str, typer.Option(help="Of the adapters, such as geolora, geolora-budget, lora, adalora.")
    ] = "geolora-spectral-budget",
    rank: Annotated[int, typer.Option(help="Rank of each layer at the start.")] = 8,
    tau: Annotated[float | None, typer.Option(help="Tolerance of geolora's truncation. Default: 0.3.")] = None,
    budget: Annotated[int | None, typer.Option(help="Total rank of all layers. Default: that at the start.")] = None,
    lr: Annotated[
        str, typer.Option(help="Learning rate of the adapters, or search: the best on validation.")
    ] = "0.000316",
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 3,
    batch: Annotated[int, typer.Option(help="Examples per step.")] = 16,
    length: Annotated[
        int | None, typer.Option(help="Tokens of a text at most, or of a block. Default: 128, or what the network has.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of new weights, dropout, and the order of the examples.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for adapter, LoRA, metrics and pictures.")] = Path("dlrt-finetune"),
    fresh: Annotated[bool, FRESH] = False,
) -> None:
    """Fine-tune a pretrained network on your data with adapters of low rank, and export them as LoRA too.

    Writes adapter.safetensors, lora (for PEFT), metrics.json, and pictures of learning and ranks. Whatever stops it,
    the same command goes on from there, to the same numbers. The head of new classes is trained beside the adapters.
    """
    from ..finetune.command import finetune  # torch takes seconds
    from ..finetune.options import Options

    check_folder(out)
    options = Options(
        model, task, data, validation or (), method, rank, tau, budget, _rate(lr), epochs, batch, seed, length,
        [column.strip() for column in text.split(",")], label,
    )  # fmt: skip
    try:
        with bar() as shown:
            watch = _Watch(shown, shown.add_task("reading", total=None))
            found = finetune(options, out, fresh=fresh, progress=watch)
    except KeyboardInterrupt:
        interrupted(out, "the last checkpoint is")
    show([_row(look) for look in found["looks"]], f"{options.method} at rate {found['lr']:g}")
    if found["tried"]:
        rates = (f"{lr:g}: {'diverged' if loss is None else f'{loss:.4g}'}" for lr, loss in found["tried"])
        say(f"Validation loss by learning rate: {', '.join(rates)}")
    if found["notes"].get("cut to length"):
        say(f"{found['notes']['cut to length']} texts were longer than --length and have been cut")
    if found["status"] != "finished":
        say(f"Training {found['status']}, so there is no adapter: try a smaller --lr, or --lr search")
        raise typer.Exit(1)
    say(f"Wrote adapter.safetensors, lora, metrics.json and pictures to {out}")


def _rate(lr: str) -> float | str:
    with contextlib.suppress(ValueError):
        return float(lr)
    return lr


class _Watch:
    """The bar, and a line for each epoch where it is over."""

    def __init__(self, shown, task):
        self.shown, self.task, self.seen = shown, task, (0.0, -1)

    def __call__(self, lr: float, record: dict[str, Any], steps: int) -> None:
        done, looks = len(record["losses"]), record["looks"]
        if self.seen[0] != lr:
            self.seen = lr, len(looks)
            self._line(f"rate {lr:g}" + (f": goes on after step {done} of {steps}" if done else ""))
        for look in looks[self.seen[1] :]:
            self._line(", ".join(f"{name} {value}" for name, value in _row(look).items()))
            self.seen = lr, len(looks)
        loss = f", loss {record['losses'][-1]:.4g}" if done else ""
        self.shown.update(self.task, completed=done, total=steps, description=f"rate {lr:g}{loss}")

    def _line(self, text: str) -> None:
        errors.print(writable(text, errors.encoding), markup=False, highlight=False)


def _row(look: dict[str, Any]) -> dict[str, str]:
    measure = "accuracy" if "accuracy" in look else "perplexity"
    return {
        "epoch": f"{look['epoch']}",
        "loss": f"{look['loss']:.4g}",
        "validation loss": f"{look['validation_loss']:.4g}",
        measure: f"{look[measure]:.4g}",
        "total rank": f"{look['total_rank']}",
        "parameters": f"{look['parameters']:,}",
    }
