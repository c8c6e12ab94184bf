"""Data and pretrained transformers to train on: those that public packages carry, or the user's own."""

from __future__ import annotations

import copy
import csv
import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from integrators.checks import check_integer

from . import assets, small_vit

TEXTS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("#1 String", "#2 String"),
    ("premise", "hypothesis"),
    ("sentence",),
)
LABELS = ("gold_label", "label", "is_duplicate", "Quality")
"""Names of the columns in the files of GLUE."""

TASKS = ("images", "sentences", *small_vit.CHANGES)


@dataclass(frozen=True)
class Setting:
    """What is fine-tuned on what, and for how long.

    Parameters
    ----------
    task : "images", "sentences", "turned" or "shuffled"
        Fashion-MNIST with a ViT-S/14, or movie reviews with MiniLM, unless others are given; or changed pictures of
        Fashion-MNIST with a small vision transformer that knows them upright, see :mod:`dlrt.finetune.small_vit`.
    model : str, optional
        Folder or name for ``from_pretrained`` of transformers.
    data : str, optional
        Images: a folder with the files of MNIST, the binary files of CIFAR, or ``train`` and ``test`` with a folder
        of pictures for each class. Sentences: a folder with ``train.tsv`` and ``dev.tsv`` as of GLUE. The changed
        pictures have none.
    train, validation, test : int
        Numbers of examples, drawn once for all. Those for validation come from the training data.
    size : int
        Side of the pictures in pixels, or the largest number of tokens.
    batch, steps : int
        Examples per step, and steps: linear warm-up over a tenth of them, then linear decay to zero.
    """

    task: str
    model: str | None = None
    data: str | None = None
    train: int = 2000
    validation: int = 500
    test: int = 1000
    size: int = 56
    batch: int = 16
    steps: int = 100

    def __post_init__(self):
        if self.task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {self.task!r}")
        for name in ("train", "validation", "test", "size", "batch", "steps"):
            check_integer(name, getattr(self, name))

    def json(self) -> dict:
        """As an argument of a task."""
        return asdict(self)


IMAGES = Setting("images")
SENTENCES = Setting("sentences", train=4000, validation=1000, test=1500, size=40)
CHANGED = {
    name: Setting(name, train=3000, validation=2000, test=10_000, size=28, batch=32, steps=300)
    for name in small_vit.CHANGES
}


@dataclass
class Task:
    """Examples by split, how to make a batch of them for the network, and how to load the network."""

    splits: dict[str, tuple[Any, torch.Tensor]]
    batch: Callable[[Any, torch.Tensor], dict]
    build: Callable[[], torch.nn.Module]


def load(setting: Setting) -> Task:
    """The data and the network of a setting; kept for the next run."""
    return _load(replace(setting, batch=1, steps=1))


@functools.lru_cache(maxsize=2)
def _load(setting: Setting) -> Task:
    return {"images": _images, "sentences": _sentences}.get(setting.task, _changed)(setting)


def split(setting: Setting, train, test) -> dict[str, np.ndarray]:
    """Indices of the examples of each split, from the numbers there are; the draw is the same for all runs."""
    rng = np.random.default_rng(0)
    for name, wanted, there in (("train + validation", setting.train + setting.validation, train),
                                ("test", setting.test, test)):  # fmt: skip
        if wanted > there:
            raise ValueError(f"{name} must be at most {there} for these data, got {wanted}")
    order, tested = rng.permutation(train), rng.permutation(test)[: setting.test]
    return {
        "train": order[: setting.train],
        "validation": order[setting.train : setting.train + setting.validation],
        "test": tested,
    }


def _images(setting: Setting) -> Task:
    """Pictures as bytes (N, channels, height, width), resized and normalised batch by batch."""
    data = assets.fashion_mnist() if setting.data is None else read_images(Path(setting.data))
    chosen = split(setting, len(data["train"][1]), len(data["test"][1]))
    splits = {}
    for name, indices in chosen.items():
        images, labels = data["test" if name == "test" else "train"]
        images = np.asarray(images[indices])
        images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        splits[name] = torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels[indices])
    mean, deviation = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    folder = _folder(setting.model, assets.vit_s)
    classes = 1 + int(max(data["train"][1].max(), data["test"][1].max()))

    def batch(images, indices):
        x = images[indices].float() / 255
        size = (setting.size, setting.size)
        x = torch.nn.functional.interpolate(x, size, mode="bilinear", antialias=True).expand(-1, 3, -1, -1)
        return {"pixel_values": (x - mean) / deviation} | interpolated

    def build():
        from transformers import AutoModelForImageClassification

        return pretrained(AutoModelForImageClassification, folder, num_labels=classes)

    probe = build()
    # ViT wants to be told to interpolate its position embedding, DINOv2 does it anyway
    told = "interpolate_pos_encoding" in probe.forward.__code__.co_varnames and probe.config.image_size != setting.size
    interpolated = {"interpolate_pos_encoding": True} if told else {}
    return Task(splits, batch, build)


def read_images(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Files of MNIST, binary files of CIFAR, or pictures in folders by class: (N, H, W) or (N, H, W, 3), and labels."""
    if (folder / "train-images-idx3-ubyte.gz").is_file():
        return assets.fashion_mnist(folder)
    for parts, labels in (
        ({"train": sorted(folder.glob("data_batch_*.bin")), "test": [folder / "test_batch.bin"]}, 1),
        ({"train": [folder / "train.bin"], "test": [folder / "test.bin"]}, 2),
    ):
        if parts["train"] and all(file.is_file() for files in parts.values() for file in files):
            found = {}
            for name, files in parts.items():
                rows = np.concatenate([np.fromfile(file, np.uint8).reshape(-1, labels + 3072) for file in files])
                images = rows[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
                found[name] = images, rows[:, labels - 1].astype(np.int64)  # of CIFAR-100: the fine label
            return found
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        return _read_pictures(folder)
    raise ValueError(
        f"data must be a folder with the files of MNIST or CIFAR, or with train/CLASS/ and test/CLASS/, got {folder}"
    )


def _read_pictures(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    from PIL import Image

    classes = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
    found = {}
    for part in ("train", "test"):
        images, labels = [], []
        for label, name in enumerate(classes):
            for file in sorted((folder / part / name).rglob("*")):
                if file.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp", ".webp"):
                    with Image.open(file) as image:
                        images.append(np.asarray(image.convert("RGB")))
                    labels.append(label)
        shapes = {image.shape for image in images}
        if len(shapes) != 1:
            raise ValueError(f"data: the pictures in {folder / part} must have one size, got {sorted(shapes)[:3]}")
        found[part] = np.stack(images), np.array(labels, dtype=np.int64)
    return found


def _changed(setting: Setting) -> Task:
    """Pictures as bytes (N, 1, 28, 28), already changed; the network keeps its head, since the classes are the same."""
    from transformers import AutoModelForImageClassification

    if setting.size != small_vit.SIDE:
        raise ValueError(f"size must be {small_vit.SIDE} for {setting.task} pictures, got {setting.size}")
    if setting.data is not None:
        raise ValueError(f"data must be None for {setting.task} pictures, got {setting.data!r}")
    data = small_vit.pictures()
    chosen = split(setting, len(data["train"][1]), len(data["test"][1]))
    splits = {}
    for name, indices in chosen.items():
        images, labels = data["test" if name == "test" else "train"]
        splits[name] = small_vit.CHANGES[setting.task](images[indices]), labels[indices]
    folder = _folder(setting.model, small_vit.Pretraining().folder)
    network = pretrained(AutoModelForImageClassification, folder, num_labels=10)

    def batch(images, indices):
        return {"pixel_values": small_vit.scaled(images[indices])}

    return Task(splits, batch, functools.partial(copy.deepcopy, network))


def model_folder(model: str) -> str:
    """Where transformers finds a network; ValueError where it does not."""
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model must be a folder or a name for from_pretrained of transformers, got {model!r}: {error}"
        ) from error
    return model


def _folder(model: str | None, default: Callable[[], Path]) -> str:
    return str(default()) if model is None else model_folder(model)


def _sentences(setting: Setting) -> Task:
    """Tokens of each sentence, padded batch by batch."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = _folder(setting.model, assets.minilm)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if setting.data is None:
        reviews, positive = assets.movie_reviews()
        order = np.random.default_rng(0).permutation(len(reviews))
        half = len(order) - setting.test  # no split is official
        if half <= 0:
            raise ValueError(f"test must be less than the {len(order)} sentences there are, got {setting.test}")
        data: dict = {"train": ([(reviews[i],) for i in order[:half]], positive[order[:half]]),
                "test": ([(reviews[i],) for i in order[half:]], positive[order[half:]])}  # fmt: skip
    else:
        data = read_sentences(Path(setting.data))
    chosen = split(setting, len(data["train"][1]), len(data["test"][1]))
    splits = {}
    for name, indices in chosen.items():
        texts, labels = data["test" if name == "test" else "train"]
        parts = zip(*(texts[i] for i in indices), strict=True)
        tokens = tokenizer(*(list(part) for part in parts), truncation=True, max_length=setting.size)
        splits[name] = tokens, torch.from_numpy(labels[indices])
    classes = 1 + int(max(data[part][1].max() for part in data))

    return Task(
        splits, padded(tokenizer), lambda: pretrained(AutoModelForSequenceClassification, folder, num_labels=classes)
    )


def padded(tokenizer) -> Callable[[Any, torch.Tensor], dict]:
    """Batches of tokens for the network, each padded to its longest row."""

    def batch(tokens, indices):
        rows = {key: [values[i] for i in indices.tolist()] for key, values in tokens.items()}
        return dict(tokenizer.pad(rows, return_tensors="pt"))

    return batch


def read_sentences(folder: Path) -> dict[str, tuple[list[tuple[str, ...]], np.ndarray]]:
    """GLUE's ``train.tsv`` and ``dev.tsv``: one or two sentences, and a label, named in the first line."""
    found: dict = {}
    names: dict[str, int] = {}
    for part, file in (("train", folder / "train.tsv"), ("test", folder / "dev.tsv")):
        if not file.is_file():
            raise FileNotFoundError(f"data must have a file {file}")
        with file.open(encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
        columns = rows[0].keys() if rows else []
        texts = next((pair for pair in TEXTS if all(name in columns for name in pair)), None)
        label = next((c for c in LABELS if c in columns), None)
        if texts is None or label is None:
            raise ValueError(
                f"data: {file} must name a label and one or two sentences in its first line, got {[*columns]}"
            )
        if part == "train":
            names = {name: i for i, name in enumerate(sorted({row[label] for row in rows}))}
        labels = np.array([names[row[label]] for row in rows], dtype=np.int64)
        found[part] = [tuple(row[name] for name in texts) for row in rows], labels
    return found


@functools.cache
def digits() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Images (N, 1, 8, 8) in [0, 1] and labels of scikit-learn's handwritten digits.

    1,097 are for ``train``, 250 for ``validation``, and 450 for ``test``.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = torch.tensor(data.images[order] / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(data.target[order])
    parts = {"train": slice(1097), "validation": slice(1097, 1347), "test": slice(1347, None)}
    return {name: (images[part], labels[part]) for name, part in parts.items()}


def pretrained(kind, folder: str, *, new_head: bool = True, **options: Any) -> torch.nn.Module:
    """A network by ``from_pretrained``, without its talk, with a new head where there is none that fits.

    Raises
    ------
    ValueError
        Weights are missing, or of another shape, so that they would be random: those of the body, and without
        ``new_head`` all others.
    """
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, found = kind.from_pretrained(folder, ignore_mismatched_sizes=True, output_loading_info=True, **options)
    finally:
        logging.set_verbosity(level)
    random = {*found["missing_keys"], *(key[0] for key in found["mismatched_keys"])}
    if new_head:
        random = {key for key in random if key.startswith(f"{model.base_model_prefix}.") and ".pooler." not in key}
    if random:
        names = ", ".join(sorted(random)[:3])
        raise ValueError(
            f"model must have all weights of {type(model).__name__}, {folder} lacks {len(random)}: {names}"
        )
    return model
