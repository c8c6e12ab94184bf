"""Whole models: replace layers by low-rank ones, look at them, save them, and turn them back."""

from __future__ import annotations

import difflib
import fnmatch
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from integrators import LowRank
from integrators.checks import check_instance, check_rank

from ..runs import write_atomically
from .adapters import Adapter, Conv2dAdapter, EmbeddingAdapter, LinearAdapter
from .factors import Factor
from .layers import FACTORS, LowRankConv2d, LowRankEmbedding, LowRankLayer, LowRankLinear

__all__ = [
    "LayerReport",
    "LoRAFactors",
    "ParameterReport",
    "adapt",
    "load_low_rank",
    "low_rank_layers",
    "low_rank_state_dict",
    "matches",
    "merge",
    "parameter_report",
    "ranks",
    "save_low_rank",
    "to_lora",
]

logger = logging.getLogger(__name__)

Target = str | re.Pattern | type
# What takes the place of each torch layer, by the kind of `adapt`.
KINDS: dict[type[nn.Module], dict[str, Any]] = {
    nn.Linear: {"adapter": LinearAdapter, "train": LowRankLinear},
    nn.Conv2d: {"adapter": Conv2dAdapter, "train": LowRankConv2d},
    nn.Embedding: {"adapter": EmbeddingAdapter, "train": LowRankEmbedding},
}


def matches(target: Target, name: str, module: nn.Module) -> bool:
    """Whether a layer is meant by a target.

    A type means all its instances; a compiled regular expression must match the whole dotted name; a string is the
    whole name, its last parts (``"query"``, ``"attention.query"``), or a glob for the whole name
    (``"encoder.*.query"``).
    """
    if isinstance(target, type):
        return isinstance(module, target)
    if isinstance(target, re.Pattern):
        return target.fullmatch(name) is not None
    return name == target or name.endswith("." + target) or fnmatch.fnmatchcase(name, target)


def adapt(
    model: nn.Module,
    targets: Target | Iterable[Target],
    rank: int | Mapping[Target, int],
    kind: Literal["adapter", "train"] = "adapter",
    *,
    trainable: Target | Iterable[Target] = (),
    generator: torch.Generator | None = None,
) -> dict[str, LowRankLayer]:
    """Replace layers of a model, in place, by low-rank ones.

    Parameters
    ----------
    model : Module
    targets : str, compiled regular expression, type, or several of them
        Which layers, by name or type: ``"query"``, ``"encoder.*.dense"``, ``re.compile(...)``, ``nn.Linear``.
    rank : int, or mapping from targets to int
        Of all, or by the first target that fits: ``{"*.query": 4, "*": 8}``. A rank above min(m, n) of a layer is an
        error.
    kind : "adapter" or "train"
        ``"adapter"`` adds a matrix of low rank, zero at the start, to the layer, and freezes all parameters that the
        model had. ``"train"`` replaces the weight by its best approximation of that rank, to be trained; nothing is
        frozen.
    trainable : targets
        For adapters: modules of the model whose own parameters are trained too (a new classifier).
    generator : torch.Generator, optional
        Source of the adapters' bases; torch's default one without it.

    Returns
    -------
    dict of str to LowRankLayer
        The new layers by name.

    Raises
    ------
    ValueError
        Nothing matches (the message has the nearest names), a rank does not fit, or a matching layer is used by its
        weight alone, so that replacing it would change nothing (``out_proj`` of ``nn.MultiheadAttention``).
    TypeError
        A layer matches by its name but cannot be replaced; a rank is no integer. Whatever is raised for a target or a
        rank, the model is as it was.
    """
    check_instance("model", model, nn.Module)
    if kind not in ("adapter", "train"):
        raise ValueError(f"kind must be 'adapter' or 'train', got {kind!r}")
    if kind == "train" and not isinstance(trainable, (str, type, re.Pattern)) and list(trainable):
        raise ValueError("trainable is for adapters: kind='train' freezes nothing")
    targets, trainable = _several(targets), _several(trainable)
    found = _targeted(model, targets)
    if not found:
        raise ValueError(_no_match("targets", targets, [name for name, _ in _candidates(model)]))
    plan = {}
    for name, module in found.items():
        make = _replacement(module, kind)
        if make is None:
            raise TypeError(
                f"{name} is a {type(module).__name__}, expected {', '.join(base.__name__ for base in KINDS)}"
            )
        parent = model.get_submodule(name.rpartition(".")[0])
        if isinstance(parent, nn.MultiheadAttention):
            raise ValueError(f"{name} is used by its weight alone, not called, inside nn.MultiheadAttention")
        r = _rank_of(rank, name, module)
        with _naming(name):
            plan[name] = (make, module, check_rank(r, make.map.shape(module)))
    opened = {
        name: module for name, module in model.named_modules() if any(matches(t, name, module) for t in trainable)
    }
    if trainable and not opened:
        raise ValueError(_no_match("trainable", trainable, [name for name, _ in model.named_modules()]))

    if kind == "adapter":
        model.requires_grad_(False)
        for module in opened.values():
            module.requires_grad_(True)
    layers: dict[str, LowRankLayer] = {}
    made: dict[int, LowRankLayer] = {}
    for name, (make, module, r) in plan.items():
        if id(module) not in made:  # a module under two names stays one
            with _naming(name):
                new = make(module, r, generator=generator) if kind == "adapter" else make.from_dense(module, r)
            made[id(module)] = new.train(module.training)
        layers[name] = made[id(module)]
    for name, layer in layers.items():
        parent_name, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent_name), child, layer)
        logger.info("%s: %s", name, layer)
    return layers


def low_rank_layers(model: nn.Module) -> dict[str, LowRankLayer]:
    """All low-rank layers of a model by name."""
    check_instance("model", model, nn.Module)
    return {name: module for name, module in model.named_modules() if isinstance(module, LowRankLayer)}


def ranks(model: nn.Module) -> dict[str, int]:
    """The current rank of each low-rank layer by name."""
    return {name: layer.rank for name, layer in low_rank_layers(model).items()}


class LayerReport(NamedTuple):
    """A row of a :class:`ParameterReport`; ``dense`` counts the entries of the matrix."""

    name: str
    shape: tuple[int, int]
    rank: int
    trained: int
    dense: int


@dataclass(frozen=True)
class ParameterReport:
    """Parameters of a model: of each low-rank layer, trained, and in all. ``str()`` is a table."""

    layers: list[LayerReport]
    trained: int
    total: int

    def __str__(self):
        rows = [("layer", "matrix", "rank", "trained", "dense")]
        rows += [
            (r.name, f"{r.shape[0]} x {r.shape[1]}", str(r.rank), f"{r.trained:,}", f"{r.dense:,}") for r in self.layers
        ]
        width = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = [
            "  ".join(x.ljust(w) if i == 0 else x.rjust(w) for i, (x, w) in enumerate(zip(row, width))) for row in rows
        ]
        lines.append(f"trained {self.trained:,} of {self.total:,} parameters ({self.trained / max(self.total, 1):.2%})")
        return "\n".join(lines)


def parameter_report(model: nn.Module) -> ParameterReport:
    """Count parameters. Of a low-rank layer only factors that its method moves are trained (LoRA's S is not)."""
    check_instance("model", model, nn.Module)
    layers = []
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad and not isinstance(p, Factor))
    for name, layer in low_rank_layers(model).items():
        count = sum(p.numel() for p in layer.factors if p.requires_grad)
        layers.append(LayerReport(name, layer.shape, layer.rank, count, layer.shape[0] * layer.shape[1]))
        trained += count
    return ParameterReport(layers, trained, sum(p.numel() for p in model.parameters()))


def merge(model: nn.Module) -> nn.Module:
    """Turn all low-rank layers of a model, in place, into plain ones of the same function.

    An adapter becomes the layer inside, with the matrix added to its weight, and a trained layer its torch counterpart.

    Returns
    -------
    Module
        The model, or what has become of it if it is a low-rank layer itself.
    """
    check_instance("model", model, nn.Module)
    if isinstance(model, LowRankLayer):
        return model.to_dense()
    made: dict[int, nn.Module] = {}
    for name, layer in [(n, m) for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, LowRankLayer)]:
        parent, _, child = name.rpartition(".")
        if id(layer) not in made:
            made[id(layer)] = layer.to_dense()
        setattr(model.get_submodule(parent), child, made[id(layer)])
    return model


class LoRAFactors(NamedTuple):
    """Factors A (r, n) and B (m, r) of the trained matrix times its scale, ``B A``."""

    A: torch.Tensor
    B: torch.Tensor


def to_lora(model: nn.Module) -> dict[str, LoRAFactors]:
    """Plain LoRA factors of all adapters by the name of the layer.

    ``W0 + B A`` is the adapted weight, as a matrix (out, in / groups * kh * kw) for a convolution and (num, dim) for an
    embedding: LoRA with ``alpha / r = 1``.
    """
    found = {name: layer for name, layer in low_rank_layers(model).items() if isinstance(layer, Adapter)}
    if not found:
        raise ValueError("model has no adapters")
    return {name: LoRAFactors(A, B) for name, layer in found.items() for B, A in [layer.lora_factors()]}


def low_rank_state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    """What training changes: the factors of all low-rank layers and all other parameters that require a gradient.

    Frozen parameters, and buffers, are left out. Contiguous copies on the CPU, ready for safetensors.
    """
    _unmerged(model)
    return {
        name: p.detach().to("cpu", copy=True).contiguous()
        for name, p in model.named_parameters()
        if p.requires_grad or isinstance(p, Factor)
    }


def save_low_rank(model: nn.Module, path: str | os.PathLike) -> None:
    """Write :func:`low_rank_state_dict` to a safetensors file, atomically."""
    content = save(low_rank_state_dict(model), metadata={"format": "pt"})
    write_atomically(path, lambda file: file.write(content))


def load_low_rank(model: nn.Module, state: str | os.PathLike | Mapping[str, torch.Tensor]) -> None:
    """Load a file of :func:`save_low_rank`, or its mapping, into a model with the same layers at any ranks.

    Raises
    ------
    ValueError
        The file is damaged, or names or shapes do not fit; the model is then as it was.
    RuntimeError
        An adapter is merged.
    """
    _unmerged(model)
    if not isinstance(state, Mapping):
        try:
            state = load_file(state)
        except SafetensorError as error:
            raise ValueError(f"{state} is damaged or no safetensors file: {error}") from error
    parameters = dict(model.named_parameters())
    layers = low_rank_layers(model)
    own = {f"{name}.{f}" if name else f for name in layers for f in FACTORS}
    expected = own | {name for name, p in parameters.items() if p.requires_grad}
    if missing := sorted(expected - set(state)):
        raise ValueError(f"the saved state lacks {', '.join(missing)}")
    if unknown := sorted(set(state) - set(parameters)):
        raise ValueError(f"the saved state has parameters that the model has not: {', '.join(unknown)}")
    new = {}
    for name, layer in layers.items():
        prefix = f"{name}." if name else ""
        Y = LowRank(*(state[prefix + f].to(layer.S.device, layer.S.dtype) for f in FACTORS))
        if Y.shape != layer.shape or Y.S.shape[0] != Y.S.shape[1]:
            raise ValueError(f"{name}: the saved matrix is {Y.shape}, expected {layer.shape}")
        new[name] = Y
    for name in set(state) - own:
        if state[name].shape != parameters[name].shape:
            raise ValueError(
                f"{name}: saved with shape {tuple(state[name].shape)}, expected {tuple(parameters[name].shape)}"
            )
    with torch.no_grad():
        for name, Y in new.items():
            layers[name].Y = Y
        for name in set(state) - own:
            parameters[name].copy_(state[name])


# -- finding layers ----------------------------------------------------------------------------------------------------


def _several(targets) -> list:
    several = (
        [targets] if isinstance(targets, (str, type, re.Pattern)) or not isinstance(targets, Iterable) else targets
    )
    for target in several:
        if not isinstance(target, (str, type, re.Pattern)):
            raise TypeError(f"a target must be a str, a compiled regular expression or a type, got {target!r}")
    return list(several)


def _replacement(module, kind: str):
    """What takes the place of a layer, None for none.

    Adapters are for modules too that are no torch layer but have the attributes of one. Modules made of others (the
    blocks and the whole of a U-Net know their channels too) are no layers.
    """
    for torch_type, kinds in KINDS.items():
        if isinstance(module, torch_type):
            return kinds[kind]
    if kind != "adapter" or list(module.children()):
        return None
    adapters = (kinds["adapter"] for kinds in KINDS.values())
    return next((adapter for adapter in adapters if hasattr(module, adapter.map.arguments[0])), None)


def _candidates(model) -> Iterator[tuple[str, nn.Module]]:
    """Modules that are no part of a low-rank layer, shared ones under each name."""
    inside: set[int] = set()
    for _, module in model.named_modules():
        if isinstance(module, LowRankLayer):
            inside |= {id(part) for part in module.modules()}
    for name, module in model.named_modules(remove_duplicate=False):
        if name and id(module) not in inside:
            yield name, module


def _targeted(model, targets) -> dict[str, nn.Module]:
    """Layers of a type that can be replaced, or meant by a name that is exactly theirs."""
    found = {}
    for name, module in _candidates(model):
        replaceable = _replacement(module, "adapter") is not None
        for target in targets:
            exact = isinstance(target, str) and (name == target or name.endswith("." + target))
            if matches(target, name, module) and (replaceable or (exact and not list(module.children()))):
                found[name] = module
    return found


def _rank_of(rank, name, module) -> int:
    if isinstance(rank, Mapping):
        fitting = [r for target, r in rank.items() if matches(target, name, module)]
        if not fitting:
            raise ValueError(f"rank has no pattern for {name}: add '*' for all others")
        rank = fitting[0]
    return rank


@contextmanager
def _naming(name: str):
    """Put the name of the layer before the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _no_match(argument, targets, names) -> str:
    wanted = ", ".join(t.__name__ if isinstance(t, type) else repr(getattr(t, "pattern", t)) for t in targets)
    texts = [str(getattr(t, "pattern", t)) for t in targets if not isinstance(t, type)]
    pool = list(dict.fromkeys([*names, *(name.rpartition(".")[2] for name in names)]))
    near = list(dict.fromkeys(n for text in texts for n in difflib.get_close_matches(text, pool, 3, 0.3)))
    known = near or names[:5]
    return (
        f"{argument}: no layer matches {wanted}; nearest names: {', '.join(known) or 'none, the model has no layers'}"
    )


def _unmerged(model) -> None:
    merged = [n for n, layer in low_rank_layers(model).items() if isinstance(layer, Adapter) and layer.merged]
    if merged:
        raise RuntimeError(f"{', '.join(merged)}: merged adapters, unmerge() them before saving or loading")
