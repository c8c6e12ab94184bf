"""Fine-tuning runs of pretrained transformers, alike for all methods: Figures 2 to 4, Tables 2 and 3 are made of them.

All methods see the same split, batches, number of steps, schedule, dropout, start of the head, and optimiser of the
head (AdamW). Adapters go to all linear layers in the repeated blocks of the network; the classifier (and pooler, where
there is one) is trained beside them.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dlrt.nn import adapt, low_rank_layers
from dlrt.nn.optimizer import LowRankOptimizer
from integrators import (
    AdaLoRA,
    Adam,
    GeoLoRA,
    GlobalBudget,
    ImportanceBudget,
    Integrator,
    LoRA,
    SVDLoRA,
    Tolerance,
)

from .data import Setting, Task, load

BLOCKS = re.compile(r".*\.\d+\..*")
"""Layers in repeated blocks, whatever the network calls them: a number is part of their name."""
HEAD_LR = 1e-3


IMAGES = Setting("images")
SENTENCES = Setting("sentences", train=4000, validation=1000, test=1500, size=40)


# -- methods -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """Hyper-parameters of the adapters: rank at the start, tolerance, and columns of all layers together."""

    rank: int
    tau: float
    budget: int | None
    layers: int
    steps: int

    @property
    def total(self) -> int:
        """The budget, by default as much as the rank of all layers."""
        return self.layers * self.rank if self.budget is None else self.budget

    @property
    def start(self) -> int:
        """Rank at the start of a method that is cut down to a budget: half as much again."""
        return max(1, math.ceil(1.5 * self.total / self.layers))

    def ramp(self) -> tuple[int, int, int]:
        """Warm-up, final phase and interval of AdaLoRA's budget."""
        return self.steps // 10, self.steps // 3, max(1, self.steps // 40)


@dataclass(frozen=True)
class Method:
    """``integrator(plan)`` and ``rank(plan)`` at the start; no integrator where no adapters of this project are."""

    label: str
    integrator: Callable[[Plan], Integrator] | None = None
    rank: Callable[[Plan], int] = lambda plan: plan.rank


METHODS = {
    "full": Method("full fine-tuning"),
    "probe": Method("linear probe"),
    "lora": Method("LoRA", lambda p: LoRA(optimizer=Adam())),
    "svd-lora": Method("SVD-LoRA", lambda p: SVDLoRA(optimizer=Adam())),
    "adalora": Method(
        "AdaLoRA",
        lambda p: AdaLoRA(
            optimizer=Adam(), truncation=ImportanceBudget(p.layers * p.start, p.total, p.steps, *p.ramp())
        ),
        lambda p: p.start,
    ),
    "geolora": Method(
        "GeoLoRA, local tolerance",
        lambda p: GeoLoRA(optimizer=Adam(), truncation=Tolerance(relative=p.tau, spare=1)),
    ),
    "geolora-budget": Method(
        "GeoLoRA, global budget",
        lambda p: GeoLoRA(optimizer=Adam(), truncation=GlobalBudget(p.total - p.layers, spare=1)),
        lambda p: max(1, p.total // p.layers),
    ),
    "peft-lora": Method("LoRA (PEFT)"),
    "peft-adalora": Method("AdaLoRA (PEFT)"),
}


@dataclass
class Prepared:
    """A network, its optimiser, what to do after a step, and how to count."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    ranks: Callable[[], dict[str, int]]
    after: Callable[[int], None] = lambda step: None
    head: int = 0
    """Trained parameters beside the adapters."""


def prepare(
    model, method: str, lr: float, *, rank: int, tau: float, budget: int | None, steps: int, seed: int
) -> Prepared:
    """Put the adapters of a method into a network and make its optimiser."""
    names = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and BLOCKS.fullmatch(n)]
    if not names:
        raise ValueError("model has no linear layers in repeated blocks")
    plan = Plan(rank, tau, budget, len(names), steps)
    heads = [n for n, _ in model.named_children() if n != model.base_model_prefix] + ["pooler"]
    rest = functools.partial(torch.optim.AdamW, lr=HEAD_LR, weight_decay=0.0)
    chosen = METHODS[method]
    if chosen.integrator is not None:
        adapt(model, BLOCKS, chosen.rank(plan), trainable=heads, generator=torch.Generator().manual_seed(seed))
        integrator = chosen.integrator(plan)
        optimizer: Any = LowRankOptimizer(model, integrator, lr, rest=rest)
        columns = unmasked if isinstance(integrator, AdaLoRA) else _columns
        return Prepared(model, optimizer, functools.partial(columns, model), head=_count(optimizer.rest))
    head = [p for n, p in model.named_parameters() if any(part in heads for part in n.split("."))]
    if method == "full":
        mine = {id(p) for p in head}
        body = [p for p in model.parameters() if id(p) not in mine]
        groups: list[dict] = [{"params": body, "lr": lr}, {"params": head, "lr": HEAD_LR}]
        return Prepared(model, torch.optim.AdamW(groups, weight_decay=0.0), dict)
    if method == "probe":
        model.requires_grad_(False)
        for p in head:
            p.requires_grad_(True)
        return Prepared(model, torch.optim.AdamW(head, lr=lr, weight_decay=0.0), dict, head=sum(map(torch.numel, head)))
    return _peft(model, method, names, head, lr, plan)


def _peft(model, method, names, head, lr, plan) -> Prepared:
    """The same methods by PEFT, with torch's AdamW."""
    from peft import AdaLoraConfig, LoraConfig, get_peft_model

    if method == "peft-lora":
        config: Any = LoraConfig(r=plan.rank, lora_alpha=plan.rank, lora_dropout=0.0, target_modules=names)
    else:
        first, last, interval = plan.ramp()
        config = AdaLoraConfig(
            init_r=plan.start, target_r=max(1, round(plan.total / plan.layers)), lora_alpha=plan.start,
            lora_dropout=0.0, orth_reg_weight=0.1, tinit=first, tfinal=last, deltaT=interval, total_step=plan.steps,
            target_modules=names,
        )  # fmt: skip
    with torch.random.fork_rng(devices=[]):  # the dropout after it is that of the other methods
        model = get_peft_model(model, config)
    adapters = [p for p in model.parameters() if p.requires_grad]
    for p in head:
        p.requires_grad_(True)
    groups = [{"params": adapters, "lr": lr}, {"params": head, "lr": HEAD_LR}]
    prepared = Prepared(model, torch.optim.AdamW(groups, weight_decay=0.0), dict, head=sum(map(torch.numel, head)))
    if method == "peft-lora":
        prepared.ranks = lambda: dict.fromkeys(names, plan.rank)
    else:
        prepared.after = lambda step: model.base_model.update_and_allocate(step)
        prepared.ranks = lambda: {n: int((model.get_submodule(f"base_model.model.{n}").lora_E["default"] != 0).sum())
                                  for n in names}  # fmt: skip
    return prepared


def _count(optimizer) -> int:
    return sum(p.numel() for group in optimizer.param_groups for p in group["params"])


def _columns(model) -> dict[str, int]:
    return {name: len(layer.S) for name, layer in low_rank_layers(model).items()}


def unmasked(model) -> dict[str, int]:
    """Triplets of each layer that AdaLoRA has not masked: none where it has masked all."""
    return {name: int(torch.diagonal(layer.S).count_nonzero()) for name, layer in low_rank_layers(model).items()}


# -- one run -----------------------------------------------------------------------------------------------------------


def fine_tune(
    *,
    setting: dict,
    method: str,
    lr: float,
    seed: int,
    rank: int = 8,
    tau: float = 0.3,
    budget: int | None = None,
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
    looks : int
        How often accuracy on the validation data, parameters and ranks are recorded, evenly over the run.

    Returns
    -------
    dict
        ``status``, ``losses`` by step, ``looks`` (a list), ``validation`` and ``test`` accuracy at the end,
        ``parameters`` trained (masked triplets left out), ``head`` among them, ``ranks`` by layer, ``seconds`` per step
        (median).
    """
    wanted = Setting(**setting)
    with one_thread(), torch.random.fork_rng(devices=[]):
        task = load(wanted)
        torch.manual_seed(seed)
        prepared = prepare(task.build(), method, lr, rank=rank, tau=tau, budget=budget, steps=wanted.steps, seed=seed)
        record: dict = {"method": method, "lr": lr, "seed": seed, "status": "finished", "losses": [], "looks": []}
        times = []
        marks = {round(wanted.steps * (k + 1) / looks) for k in range(looks)}
        for step, seconds in enumerate(steps(prepared, task, wanted, seed, record), 1):
            times.append(seconds)
            if step in marks:
                record["looks"].append(
                    {"step": step, "validation": accuracy(prepared.model, task, "validation")} | size(prepared)
                )
    if record["status"] == "finished":
        with one_thread():
            record["test"] = accuracy(prepared.model, task, "test")
        record |= {key: value for key, value in record["looks"][-1].items() if key != "step"}
    record["seconds"] = float(np.median(times)) if times else None
    return record


def time_steps(*, setting: dict, rates: dict[str, float], rounds: int, rank: int = 8, tau: float = 0.3) -> dict:
    """Seconds of a training step (forward, backward, optimiser) of each method on one thread: median and quartiles.

    The methods take turns in one process, so that whatever slows the machine slows all of them. The first two rounds
    are left out.
    """
    wanted = Setting(**setting)
    with one_thread(), torch.random.fork_rng(devices=[]):
        task = load(wanted)
        trained = {}
        for method, lr in rates.items():
            torch.manual_seed(0)
            prepared = prepare(task.build(), method, lr, rank=rank, tau=tau, budget=None, steps=wanted.steps, seed=0)
            trained[method] = steps(prepared, task, wanted, 0, {"losses": []})
        table = [[next(generator) for generator in trained.values()] for _ in range(rounds + 2)][2:]
    low, middle, high = np.quantile(table, (0.25, 0.5, 0.75), axis=0)
    return {m: {"median": middle[i], "quartiles": [low[i], high[i]]} for i, m in enumerate(rates)}


def steps(prepared: Prepared, task: Task, setting: Setting, seed: int, record: dict) -> Iterator[float]:
    """Train, and yield the seconds of each step. Stops where numbers cease to be finite, with a line in the record."""
    model, optimizer = prepared.model, prepared.optimizer
    schedule = warm_up_and_decay(optimizer, setting.steps)
    inputs, labels = task.splits["train"]
    for step, chosen in enumerate(_batches(len(labels), setting.batch, seed), 1):
        batch = task.batch(inputs, chosen) | {"labels": labels[chosen]}
        model.train()
        began = time.perf_counter()

        def closure(batch=batch):
            optimizer.zero_grad()
            loss = model(**batch).loss
            loss.backward()
            return loss.detach()

        try:
            loss = float(optimizer.step(closure))
            prepared.after(step)
        except FloatingPointError:
            loss = math.nan
        if not math.isfinite(loss):
            record["status"] = f"diverged at step {step}"
            return
        schedule.step()
        record["losses"].append(round(loss, 5))
        yield time.perf_counter() - began
        if step == setting.steps:
            return


def warm_up_and_decay(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Learning rates rise linearly over a tenth of the steps, then fall linearly to zero."""
    warm = max(1, steps // 10)
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min((k + 1) / warm, (steps - k) / max(1, steps - warm))
    )


def accuracy(model, task: Task, split: str) -> float:
    """Share of right answers."""
    inputs, labels = task.splits[split]
    model.eval()
    right = 0
    with torch.no_grad():
        for chosen in torch.arange(len(labels)).split(100):
            right += int((model(**task.batch(inputs, chosen)).logits.argmax(-1) == labels[chosen]).sum())
    return right / len(labels)


def size(prepared: Prepared) -> dict:
    """Trained parameters, those of the head among them, and ranks by layer; masked triplets of AdaLoRA do not count."""
    model, ranks = prepared.model, prepared.ranks()
    if not ranks:
        return {"parameters": sum(p.numel() for p in model.parameters() if p.requires_grad), "head": prepared.head,
                "ranks": {}}  # fmt: skip
    count = prepared.head
    square = {"GeoLoRA": lambda r: r * r, "SVDLoRA": lambda r: r * r, "AdaLoRA": lambda r: r}
    integrator = type(getattr(prepared.optimizer, "integrator", None)).__name__
    for name, r in ranks.items():
        rows, columns = _shape(model, name)
        extra = square.get(integrator, lambda r: 0)(r)
        if hasattr(model, "peft_config") and hasattr(model.get_submodule(f"base_model.model.{name}"), "lora_E"):
            extra = r
        count += r * (rows + columns) + extra
    return {"parameters": count, "head": prepared.head, "ranks": ranks}


def _shape(model, name) -> tuple[int, int]:
    layer = model.get_submodule(f"base_model.model.{name}" if hasattr(model, "peft_config") else name)
    return layer.out_features, layer.in_features


def _batches(number: int, batch: int, seed: int) -> Iterator[torch.Tensor]:
    """Random batches without end, each example once in an epoch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(number, generator=generator)[: max(batch, number // batch * batch)].split(batch)


@contextlib.contextmanager
def one_thread():
    """One thread, so that sums are rounded in the same way whatever runs beside it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
