"""The training loop, and the fine-tuning of pretrained transformers by it: Figures 2 to 4, Tables 2 and 3.

All methods see the same split, batches, number of steps, schedule, dropout, start of the head, and optimiser of the
head (AdamW). Adapters go to all linear layers in the repeated blocks of the network; the classifier (and pooler, where
there is one) is trained beside them.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch

from ..runs import report
from .data import Setting, Task, load
from .methods import Prepared, prepare, size

__all__ = [
    "accuracy", "blank", "examples", "fine_tune", "held_out", "losses_of", "one_thread", "random_batches", "steps",
    "time_steps", "training", "warm_up_and_decay",
]  # fmt: skip


# -- the loop ----------------------------------------------------------------------------------------------------------


def blank(**about) -> dict[str, Any]:
    """A record for :func:`steps` to fill: what it is about, status, losses by step, and number of backward passes."""
    return {**about, "status": "finished", "losses": [], "tapes": 0}


def steps(
    optimizer: torch.optim.Optimizer,
    losses: Iterable[Callable[[], torch.Tensor]],
    record: dict[str, Any],
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    after: Callable[[int], object] = lambda step: None,
) -> Iterator[float]:
    """Train, and yield the seconds of each step.

    Parameters
    ----------
    optimizer : Optimizer
    losses : iterable of callable
        The loss on the batch of each step, as a function without arguments: a method may ask for it several times.
    record : dict
        Of :func:`blank`, or of a run that goes on: steps are counted from those it has. Training ends where numbers
        cease to be finite, with the status ``diverged at step k``.
    schedule : optional
        Of the learning rates.
    after : callable, optional
        Called as ``after(step)``, from 1, before the schedule.
    """
    for step, loss in enumerate(losses, len(record["losses"]) + 1):
        began = time.perf_counter()

        def closure(loss=loss):
            record["tapes"] += 1
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value.detach()

        try:
            value = float(optimizer.step(closure))
            after(step)
        except FloatingPointError:
            value = math.nan
        if not math.isfinite(value):
            record["status"] = f"diverged at step {step}"
            return
        if schedule is not None:
            schedule.step()
        record["losses"].append(value)
        yield time.perf_counter() - began


def random_batches(number: int, batch: int, seed: int) -> Iterator[torch.Tensor]:
    """Random batches of indices without end, each example at most once in an epoch, all batches of the same size."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(number, generator=generator)[: max(batch, number // batch * batch)].split(batch)


def warm_up_and_decay(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Learning rates rise linearly over a tenth of the steps, then fall linearly to zero."""
    warm = max(1, steps // 10)
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min((k + 1) / warm, (steps - k) / max(1, steps - warm))
    )


def accuracy(predict: Callable[[torch.Tensor], torch.Tensor], labels: torch.Tensor) -> float:
    """Share of right answers: ``predict(indices)`` are the scores (N, classes) of examples, 100 at a time."""
    with torch.no_grad():
        parts = torch.arange(len(labels)).split(100)
        return sum(int((predict(part).argmax(-1) == labels[part]).sum()) for part in parts) / len(labels)


@contextlib.contextmanager
def one_thread():
    """One thread, so that sums are rounded in the same way whatever runs beside it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# -- transformers ------------------------------------------------------------------------------------------------------


def fine_tune(
    *,
    setting: dict,
    method: str,
    lr: float,
    seed: int,
    rank: int = 8,
    tau: float = 0.3,
    budget: int | None = None,
    weight_decay: float = 0.0,
    looks: int = 1,
) -> dict:
    """Fine-tune once: JSON values in and out.

    Parameters
    ----------
    setting : dict
        Of a :class:`Setting`.
    method : str
        One of ``METHODS``.
    lr : float
        Largest learning rate of the adapters (of all parameters, or of the head alone, for full fine-tuning and the
        linear probe).
    seed : int
        Of the start of head and adapters, dropout, and the order of the examples.
    rank, tau, budget : int, float, int
        Rank at the start (AdaLoRA: 1.5 times that of the budget), relative tolerance, total rank.
    weight_decay : float
        Of the adapters (of the whole body, for full fine-tuning), decoupled: each step shrinks them by the rate times
        this. The head has none.
    looks : int
        How often accuracy and loss on the validation data, parameters and ranks are recorded, evenly over the run.

    Returns
    -------
    dict
        ``status``, ``losses`` by step, ``tapes`` (backward passes), ``looks`` (a list), ``validation`` and ``test``
        accuracy at the end, ``validation_loss``, ``right`` (of which test examples the class was found, see
        :func:`examples`), ``parameters`` trained (masked triplets left out), ``head`` among them, ``ranks`` by layer,
        ``seconds`` per step (median).
    """
    wanted = Setting(**setting)
    record = blank(method=method, lr=lr, seed=seed) | {"looks": []}
    seconds = []
    marks = {round(wanted.steps * (k + 1) / looks) for k in range(looks)}
    with one_thread(), torch.random.fork_rng(devices=[]):
        task = load(wanted)
        torch.manual_seed(seed)
        prepared = prepare(
            task.build(), method, lr, rank=rank, tau=tau, budget=budget, steps=wanted.steps, seed=seed,
            weight_decay=weight_decay,
        )  # fmt: skip
        for step, spent in enumerate(training(prepared, task, wanted, seed, record), 1):
            seconds.append(spent)
            report(step / wanted.steps)
            if step in marks:
                right, loss = held_out(prepared.model, task, "validation")
                look = {"step": step, "validation": _share(right), "validation_loss": loss}
                record["looks"].append(look | size(prepared))
        if record["status"] == "finished" and not math.isfinite(loss):
            record |= {"status": "diverged: the validation loss is not finite", "looks": []}
        if record["status"] == "finished":
            right, _ = held_out(prepared.model, task, "test")
            record |= {"test": _share(right), "right": np.packbits(right.numpy()).tobytes().hex()}
            record |= {key: value for key, value in record["looks"][-1].items() if key != "step"}
    record["losses"] = [round(loss, 5) for loss in record["losses"]]
    record["seconds"] = float(np.median(seconds)) if seconds else None
    return record


def time_steps(*, setting: dict, rates: dict[str, float], rounds: int, rank: int = 8, tau: float = 0.3) -> dict:
    """Seconds of a training step (forward, backward, optimiser) of each method on one thread: median and quartiles.

    The methods take turns in one process, so that whatever slows the machine slows all of them. The first two rounds
    are left out.
    """
    wanted = Setting(**setting)
    with one_thread(), torch.random.fork_rng(devices=[]):
        task = load(wanted)
        started = []
        for method, lr in rates.items():
            torch.manual_seed(0)
            prepared = prepare(task.build(), method, lr, rank=rank, tau=tau, budget=None, steps=wanted.steps, seed=0)
            started.append(training(prepared, task, wanted, 0, blank()))
        table = [[next(generator) for generator in started] for _ in range(rounds + 2)][2:]
    low, middle, high = np.quantile(table, (0.25, 0.5, 0.75), axis=0)
    return {m: {"median": middle[i], "quartiles": [low[i], high[i]]} for i, m in enumerate(rates)}


def training(prepared: Prepared, task: Task, setting: Setting, seed: int, record: dict) -> Iterator[float]:
    """The loop on the training data of a task, see :func:`steps`."""
    schedule = warm_up_and_decay(prepared.optimizer, setting.steps)
    batches = islice(random_batches(len(task.splits["train"][1]), setting.batch, seed), setting.steps)
    return steps(prepared.optimizer, losses_of(prepared.model, task, batches), record, schedule, prepared.after)


def losses_of(model, task: Task, batches: Iterable[torch.Tensor]) -> Iterator[Callable[[], torch.Tensor]]:
    """The loss of the model on each batch of training examples, for :func:`steps`."""
    inputs, labels = task.splits["train"]

    def loss(batch):
        return model(**batch).loss

    for chosen in batches:
        batch = task.batch(inputs, chosen) | {"labels": labels[chosen]}
        model.train()  # looks at the accuracy end in another mode
        yield functools.partial(loss, batch)


def held_out(model, task: Task, split: str) -> tuple[torch.Tensor, float]:
    """Of which examples the class is found, and the mean loss."""
    inputs, labels = task.splits[split]
    model.eval()
    with torch.no_grad():
        parts = torch.arange(len(labels)).split(100)
        scores = torch.cat([model(**task.batch(inputs, part)).logits for part in parts])
    return scores.argmax(-1) == labels, float(torch.nn.functional.cross_entropy(scores, labels))


def _share(right: torch.Tensor) -> float:
    return int(right.sum()) / len(right)


def examples(right: str, number: int) -> np.ndarray:
    """Of which of a number of examples the class was found, as bool, from the record of a run."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(right), np.uint8), count=number).astype(bool)
