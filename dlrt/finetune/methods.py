"""Methods of fine-tuning as data, and how a network is prepared for one: adapters, optimiser, and how to count."""

from __future__ import annotations

import contextlib
import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from integrators import (
    INTEGRATORS,
    AdaLoRA,
    Adam,
    FixedRank,
    GeoLoRA,
    GlobalBudget,
    ImportanceBudget,
    Integrator,
    LoRAPlus,
    Momentum,
    Muon,
    Tolerance,
    Truncation,
)

from ..nn import Adapter, LowRankOptimizer, adapt, low_rank_layers, parameter_report, ranks
from ..nn.maps import LinearMap, map_of

__all__ = ["BLOCKS", "HEAD_LR", "METHODS", "WITH_ADAM", "Method", "Plan", "Prepared", "plan_of", "prepare", "size"]

BLOCKS = re.compile(r".*\.\d+\..*")
"""Layers in repeated blocks, whatever the network calls them: a number is part of their name."""
HEAD_LR = 1e-3


@dataclass(frozen=True)
class Plan:
    """Hyper-parameters of the adapters: rank at the start, tolerance, and columns of all layers together.

    ``direction`` is the number of parameters of one direction in each layer, the m + n of all layers.
    """

    rank: int
    tau: float
    budget: int | None
    layers: int
    steps: int
    direction: int = 0

    @property
    def total(self) -> int:
        """The budget, by default as much as the rank of all layers."""
        return self.layers * self.rank if self.budget is None else self.budget

    @property
    def parameters(self) -> int:
        """Parameters of U and V, so that with those of S there are no more than LoRA has with this many columns.

        S has rank^2 in each layer where all ranks are alike, and more where they are not: three times as many are left
        for it. One direction of each layer is there in any case.
        """
        return max(self.direction, (self.total * self.direction - 3 * self.total**2) // self.layers)

    @property
    def start(self) -> int:
        """Rank at the start of a method that is cut down to a budget: half as much again."""
        return max(1, math.ceil(1.5 * self.total / self.layers))

    def ramp(self) -> tuple[int, int, int]:
        """Warm-up, final phase and interval of AdaLoRA's budget."""
        return self.steps // 10, self.steps // 3, max(1, self.steps // 40)


@dataclass(frozen=True)
class Method:
    """A method by its label: an integrator, and what a plan makes of its truncation and of its rank at the start.

    Without an integrator the network has none of this project's adapters.
    """

    label: str
    integrator: Integrator | None = None
    truncation: Callable[[Plan], Truncation] | None = None
    rank: Callable[[Plan], int] = lambda plan: plan.rank
    start: Callable[[torch.nn.Module], object] = lambda model: None
    """What is done to the adapters, which start from S = 0."""

    def planned(self, plan: Plan) -> Integrator:
        """The integrator for a plan."""
        assert self.integrator is not None, f"{self.label} has no integrator"
        changes: dict[str, Any] = {} if self.truncation is None else {"truncation": self.truncation(plan)}
        return replace(self.integrator, **changes)


@torch.no_grad()
def from_identity(model: torch.nn.Module) -> None:
    """Let adapters start from S = I, for methods whose bases would rest at S = 0, without a change of the network.

    ``U V^T`` is taken out of the frozen weights.
    """
    for layer in low_rank_layers(model).values():
        assert isinstance(layer, Adapter)
        layer.S.copy_(torch.eye(layer.rank))
        layer.merged = True
        layer.unmerge()


SPECTRAL = GeoLoRA.spectral()  # a plan tells the rank or the budget
WITH_ADAM = {name: replace(integrator, optimizer=Adam()) for name, integrator in INTEGRATORS.items()}
UNBOUNDED = 2**31  # ranks that follow from tau alone, whatever the start, which is what some figures compare
METHODS = {
    "full": Method("full fine-tuning"),
    "probe": Method("linear probe"),
    "lora": Method("LoRA", WITH_ADAM["lora"]),
    "lora-plus": Method("LoRA+", replace(INTEGRATORS["lora"], optimizer=LoRAPlus())),
    "lora-factor-muon": Method("LoRA, Muon on each factor", replace(INTEGRATORS["lora"], optimizer=Muon())),
    "lora-muon": Method("LoRA-Muon", replace(INTEGRATORS["lora-muon"], optimizer=Momentum(0.9, nesterov=True))),
    "riemannian-lora": Method("Riemannian LoRA", WITH_ADAM["riemannian-lora"]),
    "stiefel-adamw": Method("Stiefel-AdamW", WITH_ADAM["stiefel-adamw"]),
    "svd-lora": Method("SVD-LoRA", WITH_ADAM["svd-lora"]),
    "stella": Method("StelLA", WITH_ADAM["stella"], start=from_identity),
    "adalora": Method(
        "AdaLoRA",
        WITH_ADAM["adalora"],
        lambda p: ImportanceBudget(p.layers * p.start, p.total, p.steps, *p.ramp()),
        lambda p: p.start,
    ),
    "geolora": Method(
        "GeoLoRA, local tolerance",
        WITH_ADAM["geolora"],
        lambda p: Tolerance(relative=p.tau, spare=1, max_rank=UNBOUNDED),
    ),
    "geolora-budget": Method(
        "GeoLoRA, global budget",
        WITH_ADAM["geolora"],
        lambda p: GlobalBudget(columns=p.total, spare=1),
        lambda p: max(1, p.total // p.layers),
    ),
    "geolora-spectral": Method("GeoLoRA, spectral, fixed rank", SPECTRAL, lambda p: FixedRank(p.rank)),
    "geolora-spectral-budget": Method(
        "GeoLoRA, spectral, budget",
        SPECTRAL,
        lambda p: GeoLoRA.spectral(p.parameters).truncation,
        lambda p: max(1, p.total // p.layers),
    ),
    "peft-lora": Method("LoRA (PEFT)"),
    "peft-adalora": Method("AdaLoRA (PEFT)"),
    "peft-dora": Method("DoRA (PEFT)"),
}


@dataclass
class Prepared:
    """A network and its optimiser, how many parameters are trained, which ranks they have, what follows a step."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    parameters: Callable[[], int]
    ranks: Callable[[], dict[str, int]] = dict
    after: Callable[[int], object] = lambda step: None
    head: int = 0
    """Trained parameters beside the adapters."""


def prepare(
    model, method: str, lr: float, *, rank: int, tau: float, budget: int | None, steps: int, seed: int,
    weight_decay: float = 0.0, heads: Sequence[str] | None = None,
) -> Prepared:  # fmt: skip
    """Put the adapters of a method into a network of transformers, in place, and make its optimiser.

    Adapters go to all linear layers in repeated blocks. The modules ``heads`` are trained beside them: by default what
    is not of the pretrained body, and the pooler.
    """
    names, plan = plan_of(model, rank, tau, budget, steps)
    if heads is None:
        heads = [n for n, _ in model.named_children() if n != model.base_model_prefix] + ["pooler"]
    head = [p for n, p in model.named_parameters() if any(part in heads for part in n.split("."))]
    number = sum(map(torch.numel, head))
    chosen = METHODS[method]
    if chosen.integrator is not None:
        targets = re.compile("|".join(map(re.escape, names)))
        adapt(model, targets, chosen.rank(plan), trainable=heads, generator=torch.Generator().manual_seed(seed))
        chosen.start(model)
        integrator = chosen.planned(plan)
        rest = functools.partial(torch.optim.AdamW, lr=HEAD_LR, weight_decay=0.0)
        columns = unmasked if isinstance(integrator, AdaLoRA) else ranks
        return Prepared(
            model,
            LowRankOptimizer(model, integrator, lr, weight_decay=weight_decay, rest=rest),
            functools.partial(trained, model, integrator),
            functools.partial(columns, model),
            head=number,
        )
    if method == "probe":
        model.requires_grad_(False)
        _open(head)
        return Prepared(model, _adamw(head, lr), functools.partial(trained, model), head=number)
    if method == "full":
        mine = set(map(id, head))
        body = [p for p in model.parameters() if id(p) not in mine]
        return Prepared(model, _adamw(body, lr, head, weight_decay), functools.partial(trained, model))
    return _peft(model, method, names, head, lr, plan, weight_decay)


def plan_of(model, rank: int, tau: float, budget: int | None, steps: int) -> tuple[list[str], Plan]:
    """The linear layers in repeated blocks, by name, and the plan for adapters of them."""
    shapes = {}
    for name, module in model.named_modules():
        if BLOCKS.fullmatch(name):
            with contextlib.suppress(TypeError):  # no known map
                if issubclass(map_of(module), LinearMap):
                    shapes[name] = map_of(module).shape(module)
    if not shapes:
        raise ValueError("model has no linear layers in repeated blocks")
    return list(shapes), Plan(rank, tau, budget, len(shapes), steps, sum(map(sum, shapes.values())))


def _peft(model, method, names, head, lr, plan, weight_decay) -> Prepared:
    """LoRA, DoRA and AdaLoRA of PEFT, with torch's AdamW."""
    from peft import AdaLoraConfig, LoraConfig, get_peft_model

    shared: dict[str, Any] = {"lora_dropout": 0.0, "target_modules": names}
    if method != "peft-adalora":
        config: Any = LoraConfig(r=plan.rank, lora_alpha=plan.rank, use_dora=method == "peft-dora", **shared)
    else:
        first, last, interval = plan.ramp()
        config = AdaLoraConfig(
            init_r=plan.start, target_r=max(1, round(plan.total / plan.layers)), lora_alpha=plan.start,
            orth_reg_weight=0.1, tinit=first, tfinal=last, deltaT=interval, total_step=plan.steps, **shared,
        )  # fmt: skip
    with torch.random.fork_rng(devices=[]):  # the dropout after it is that of the other methods
        model = get_peft_model(model, config)
    adapters = [p for p in model.parameters() if p.requires_grad]
    _open(head)
    number = sum(map(torch.numel, head))
    prepared = Prepared(model, _adamw(adapters, lr, head, weight_decay), functools.partial(trained, model), head=number)
    if method != "peft-adalora":
        prepared.ranks = lambda: dict.fromkeys(names, plan.rank)
        return prepared
    layers = {name: model.get_submodule(f"base_model.model.{name}") for name in names}

    def kept() -> dict[str, int]:
        return {name: int(layer.lora_E["default"].count_nonzero()) for name, layer in layers.items()}

    def parameters() -> int:
        shapes = {name: (layer.out_features, layer.in_features) for name, layer in layers.items()}
        return number + sum(r * _triplet(shapes[name]) for name, r in kept().items())

    prepared.ranks, prepared.parameters, prepared.after = kept, parameters, model.base_model.update_and_allocate
    return prepared


def _open(parameters) -> None:
    for p in parameters:
        p.requires_grad_(True)


def _adamw(parameters, lr, head=(), weight_decay=0.0) -> torch.optim.Optimizer:
    groups: list[dict] = [{"params": parameters, "lr": lr, "weight_decay": weight_decay}]
    return torch.optim.AdamW(groups + [{"params": head, "lr": HEAD_LR}] * bool(head), weight_decay=0.0)


# -- how to count ------------------------------------------------------------------------------------------------------


def size(prepared: Prepared) -> dict:
    """Trained parameters, those of the head among them, and ranks by layer; masked triplets of AdaLoRA do not count."""
    return {"parameters": prepared.parameters(), "head": prepared.head, "ranks": prepared.ranks()}


def trained(model, integrator: Integrator | None = None) -> int:
    """Trained parameters of a network; of AdaLoRA's triplets those that are not masked."""
    report = parameter_report(model)
    if not isinstance(integrator, AdaLoRA):
        return report.trained
    kept = unmasked(model)
    return report.trained + sum(kept[row.name] * _triplet(row.shape) - row.trained for row in report.layers)


def unmasked(model) -> dict[str, int]:
    """Triplets of each layer that AdaLoRA has not masked: none where it has masked all."""
    return {name: int(torch.diagonal(layer.S).count_nonzero()) for name, layer in low_rank_layers(model).items()}


def _triplet(shape: tuple[int, int]) -> int:
    """Parameters of a triplet: two vectors and a number."""
    return sum(shape) + 1
