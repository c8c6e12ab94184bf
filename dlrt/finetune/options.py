"""What ``dlrt finetune`` trains, on what, and how: options, and the network and the examples that they name."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from integrators.checks import check_integer, check_positive

from ..runs import rate
from . import files
from .data import Task, model_folder, padded, pretrained
from .loop import held_out
from .methods import METHODS, Method

__all__ = ["OFFERED", "TASKS", "Options", "Work", "work"]

TASKS = ("text", "image", "causal-lm")
OFFERED = tuple(
    name for name, method in METHODS.items() if method.integrator is not None and method.start is Method.start
)
"""Methods whose adapters belong to the network as it is: another start changes its frozen weights."""
LR = rate(-7)
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


@dataclass(frozen=True)
class Options:
    """What is fine-tuned on what, and how.

    Parameters
    ----------
    model : str
        Folder or name for ``from_pretrained`` of transformers.
    task : "text", "image" or "causal-lm"
        Classes of texts or of pairs of texts, classes of pictures, or the next token.
    data : sequence of path
        Texts: see :func:`dlrt.finetune.files.labelled_texts`; pictures: :func:`dlrt.finetune.files.pictures`; for the
        next token :func:`dlrt.finetune.files.documents`.
    validation : sequence of path
        Likewise; without it a tenth of the examples is not trained on, drawn at random (for the next token: the last
        tenth of the text).
    method : str
        One of :data:`OFFERED`.
    rank : int
        At the start, of each adapter.
    tau, budget : float, int, optional
        Relative tolerance of a truncation, and total rank of all layers, for methods that have one: by default .3 and
        the total rank at the start.
    lr : float or "search"
        Largest learning rate of the adapters, after a warm-up over a tenth of the steps and before a linear decay to
        zero. The search tries half decades and keeps the one with the least loss on the validation data.
    epochs, batch, seed : int
    length : int, optional
        Largest number of tokens of a text, or number of tokens of a block: by default 128 or what the network can do.
    text, label : sequence of str, str
        Columns of a table.
    """

    model: str
    task: str
    data: Sequence[str | Path]
    validation: Sequence[str | Path] = ()
    method: str = "geolora-spectral-budget"
    rank: int = 8
    tau: float | None = None
    budget: int | None = None
    lr: float | str = LR
    epochs: int = 3
    batch: int = 16
    seed: int = 0
    length: int | None = None
    text: Sequence[str] = ("text",)
    label: str = "label"

    def __post_init__(self):
        for name, known in (("task", TASKS), ("method", OFFERED)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name, least in (("rank", 1), ("epochs", 1), ("batch", 1), ("seed", 0)):
            check_integer(name, getattr(self, name), least)
        for name, least in (("budget", 1), ("length", 2)):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), least)
        if self.tau is not None:
            check_positive("tau", self.tau)
        if isinstance(self.lr, str):
            if self.lr != "search":
                raise ValueError(f"lr must be a number or 'search', got {self.lr!r}")
        else:
            check_positive("lr", self.lr)
        if not self.data:
            raise ValueError("data must name at least one file")
        for name in ("data", "validation"):
            for path in map(Path, getattr(self, name)):
                if not path.exists():
                    raise FileNotFoundError(f"{name} must name files that exist, got {path}")

    @property
    def paths(self) -> tuple[list[Path], list[Path]]:
        """Files for training, and for validation."""
        return [*map(Path, self.data)], [*map(Path, self.validation)]

    def json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {name: [*map(str, getattr(self, name))] for name in ("data", "validation", "text")}


@dataclass
class Work:
    """A task, names of the classes (None for the next token), and what is said of the network on validation data.

    ``heads`` are the modules trained beside the adapters, as in :func:`dlrt.finetune.methods.prepare`; ``notes`` count
    examples.
    """

    task: Task
    classes: list[str] | None
    heads: Sequence[str] | None
    measure: Callable[[torch.nn.Module], dict[str, float]]
    notes: dict[str, int]


def work(options: Options) -> Work:
    """Read the data; ValueError, with file and line, where they are of no use."""
    return {"text": _texts, "image": _pictures, "causal-lm": _tokens}[options.task](
        options, model_folder(options.model)
    )


# -- classes -----------------------------------------------------------------------------------------------------------


def _texts(options: Options, folder: str) -> Work:
    from transformers import AutoModelForSequenceClassification

    read = functools.partial(files.labelled_texts, text=options.text, label=options.label)
    tokenizer = _tokenizer(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    length, cut = _length(options, folder, tokenizer), 0

    def tokens(examples):
        nonlocal cut
        texts = [list(column) for column in zip(*(example.content for example in examples), strict=True)]
        cut += sum(len(row) > length for row in tokenizer(*texts, verbose=False)["input_ids"])
        return tokenizer(*texts, truncation=True, max_length=length)

    kind, settings = AutoModelForSequenceClassification, {"pad_token_id": tokenizer.pad_token_id}
    found = _classes(options, read, tokens, padded(tokenizer), kind, folder, settings)
    found.notes["cut to length"] = cut
    return found


def _pictures(options: Options, folder: str) -> Work:
    from transformers import AutoConfig, AutoModelForImageClassification
    from transformers.image_processing_base import ImageProcessingMixin

    config = AutoConfig.from_pretrained(folder)
    side, channels = getattr(config, "image_size", 224), getattr(config, "num_channels", 3)
    side = side if isinstance(side, int) else max(side)
    try:
        known = ImageProcessingMixin.get_image_processor_dict(folder)[0]
    except OSError:
        known = {}
    mean, deviation = (torch.tensor(known.get(x) or IMAGENET[x])[:channels].view(-1, 1, 1) for x in IMAGENET)

    def contents(examples):
        return [example.content for example in examples]

    def batch(sources, indices):
        x = torch.stack([files.picture(sources[i], side, channels) for i in indices.tolist()])
        return {"pixel_values": (x.float() / 255 - mean) / deviation}

    return _classes(options, files.pictures, contents, batch, AutoModelForImageClassification, folder, {})


def _classes(options, read, contents, batch, kind, folder, settings) -> Work:
    """A classifier of examples, from what makes inputs of them and batches of those."""
    train, validation = (read(paths) if paths else [] for paths in options.paths)
    names = files.classes(train)
    if not validation:
        order = np.random.default_rng(0).permutation(len(train))  # the same for all seeds
        held = _tenth(len(train))
        train, validation = [train[i] for i in order[held:]], [train[i] for i in order[:held]]
    parts = {"train": train, "validation": validation}
    splits = {name: (contents(part), files.labels(part, names).to(_device())) for name, part in parts.items()}

    def build():
        model: Any = pretrained(kind, folder, num_labels=len(names), dtype=torch.float32)
        model.config.problem_type = "single_label_classification"  # whatever it says of other data
        for name, value in settings.items():
            setattr(model.config, name, value)
        return model.to(_device())

    task = Task(splits, lambda inputs, indices: _placed(batch(inputs, indices)), build)

    def measure(model):
        right, loss = held_out(model, task, "validation")
        return {"validation_loss": loss, "accuracy": int(right.sum()) / len(right)}

    return Work(task, names, None, measure, {name: len(part) for name, part in parts.items()})


# -- the next token ----------------------------------------------------------------------------------------------------


def _tokens(options: Options, folder: str) -> Work:
    """Blocks of equal length from the texts one after another, each with a token for its end; no head is new."""
    from transformers import AutoModelForCausalLM

    if len(options.text) != 1:
        raise ValueError(f"text must be one column for causal-lm, got {', '.join(options.text)}")
    tokenizer = _tokenizer(folder)
    length = _length(options, folder, tokenizer)

    def blocks(paths):
        row: list[int] = []
        for text in files.documents(paths, options.text[0]):
            row += tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            row += [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        if len(row) < length:
            raise ValueError(f"length must be at most {len(row)}, the number of tokens in {paths[0]}, got {length}")
        return torch.tensor(row[: len(row) // length * length]).reshape(-1, length)

    parts = {name: blocks(paths) for name, paths in zip(("train", "validation"), options.paths, strict=True) if paths}
    if "validation" not in parts:
        held = _tenth(len(parts["train"]))
        parts = {"train": parts["train"][:-held], "validation": parts["train"][-held:]}

    def batch(x, indices):
        return _placed({"input_ids": x[indices], "attention_mask": torch.ones_like(x[indices])})

    splits = {name: (part, part.to(_device())) for name, part in parts.items()}

    def build():
        model: Any = pretrained(AutoModelForCausalLM, folder, new_head=False, dtype=torch.float32)
        _check_causal(model.eval(), parts["validation"][:1])
        return model.to(_device())

    task = Task(splits, batch, build)

    @torch.no_grad()
    def measure(model):
        model.eval()
        x, labels = splits["validation"]
        total = 0.0
        for chosen in torch.arange(len(x)).split(options.batch):
            total += float(model(**task.batch(x, chosen), labels=labels[chosen]).loss) * len(chosen)
        loss = total / len(x)
        return {"validation_loss": loss, "perplexity": math.exp(min(loss, 700.0))}

    return Work(task, None, (), measure, {name: len(part) for name, part in parts.items()})


@torch.no_grad()
def _check_causal(model, block: torch.Tensor) -> None:
    """Whether what is predicted depends on earlier tokens alone."""
    other = block.clone()
    other[:, -1] = (other[:, -1] + 1) % model.config.vocab_size
    before, after = (model(input_ids=x).logits[:, :-1] for x in (block, other))
    if (before - after).abs().max() > 1e-5 * before.abs().max():
        raise ValueError(
            f"model must predict each token from those before it, {type(model).__name__} of {model.name_or_path} sees "
            "later ones too"
        )


# -- what they share ---------------------------------------------------------------------------------------------------


def _tenth(number: int) -> int:
    """Examples for validation."""
    if number < 2:
        raise ValueError(f"data must hold an example to train on and one for validation at least, got {number}")
    return max(1, number // 10)


def _tokenizer(folder: str):
    from transformers import AutoTokenizer

    reason: object = "it has no words"  # what transformers makes where there is none
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if set(tokenizer.get_vocab()) > set(tokenizer.all_special_tokens):
            return tokenizer
    except (OSError, ValueError) as error:
        reason = error
    raise ValueError(f"model must have a tokenizer that transformers can load, got {folder}: {reason}")


def _length(options: Options, folder: str, tokenizer) -> int:
    from transformers import AutoConfig

    positions = getattr(AutoConfig.from_pretrained(folder), "max_position_embeddings", None)
    limit = min(tokenizer.model_max_length, positions or tokenizer.model_max_length)
    if options.length is not None and options.length > limit:
        raise ValueError(f"length must be at most {limit} for {folder}, got {options.length}")
    return options.length or min(128, limit)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _placed(batch: dict) -> dict:
    return {name: X.to(_device()) for name, X in batch.items()}
