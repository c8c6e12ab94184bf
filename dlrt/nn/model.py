"""Whole models: replace layers by low-rank ones, look at them, save them, and turn them back."""

from __future__ import annotations

import difflib
import fnmatch
import logging
import math
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
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from integrators import LowRank
from integrators.checks import check_instance, check_number, check_rank

from ..runs import write_atomically
from .adapters import Adapter, LowRankDelta
from .factors import Factor
from .layers import (
    FACTORS,
    LowRankConv1d,
    LowRankConv2d,
    LowRankConv3d,
    LowRankConvTranspose1d,
    LowRankConvTranspose2d,
    LowRankConvTranspose3d,
    LowRankEmbedding,
    LowRankLayer,
    LowRankLinear,
    TrainedLayer,
)
from .maps import is_plain, map_of

__all__ = [
    "LayerReport",
    "LoRAFactors",
    "ParameterReport",
    "activate",
    "adapt",
    "adapters",
    "load_low_rank",
    "low_rank_layers",
    "low_rank_state_dict",
    "matches",
    "merge",
    "parameter_report",
    "plain_name",
    "ranks",
    "remove",
    "save_low_rank",
    "switched_off",
    "to_lora",
]

logger = logging.getLogger(__name__)

Target = str | re.Pattern | type
TRAINED: list[type[TrainedLayer]] = [
    LowRankLinear,
    LowRankConv1d,
    LowRankConv2d,
    LowRankConv3d,
    LowRankConvTranspose1d,
    LowRankConvTranspose2d,
    LowRankConvTranspose3d,
    LowRankEmbedding,
]
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Names under which torch's wrappers hold a module, whatever their type."""
HOLDERS = (DataParallel, DistributedDataParallel, AveragedModel)
"""Types of torch that hold a model as their ``module``."""
UNNAMED: dict[type, tuple[str, ...]] = dict.fromkeys(HOLDERS, ("module",))
"""Children that are no part of a plain name, by the type of the module that holds them."""


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


def plain_name(model, path: str) -> str:
    """The name of a module or parameter without wrappers."""
    parts, module = [], model
    for part in path.split("."):
        if part not in WRAPPERS and not any(part in UNNAMED[kind] for kind in UNNAMED if isinstance(module, kind)):
            parts.append(part)
        module = getattr(module, part, None)
    return ".".join(parts)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of torch's wrappers."""
    for name in (*WRAPPERS, *(["module"] if isinstance(model, HOLDERS) else [])):
        if name in model._modules:
            return unwrapped(getattr(model, name))
    return model


def adapt(
    model: nn.Module,
    targets: Target | Iterable[Target],
    rank: int | Mapping[Target, int],
    kind: Literal["adapter", "train"] = "adapter",
    *,
    exclude: Target | Iterable[Target] = (),
    trainable: Target | Iterable[Target] = (),
    scale: float | None = None,
    alpha: float | None = None,
    rank_stabilised: bool = False,
    dropout: float = 0.0,
    name: str = "default",
    generator: torch.Generator | None = None,
) -> dict[str, LowRankLayer]:
    """Replace layers of a model, in place, by low-rank ones.

    Parameters
    ----------
    model : Module
    targets : str, compiled regular expression, type, or several of them
        Which layers, by name or type: ``"query"``, ``"encoder.*.dense"``, ``re.compile(...)``, ``nn.Linear``. Globs,
        expressions and types pass over layers that cannot be replaced, names do not.
    rank : int, or mapping from targets to int
        Of all, or by the first target that fits: ``{"*.query": 4, "*": 8}``. A rank above min(m, n) of a layer is an
        error.
    kind : "adapter" or "train"
        ``"adapter"`` adds a matrix of low rank, zero at the start, to the layer, and freezes all parameters that the
        model had, the first time: whatever is trained after that stays so. ``"train"`` replaces the weight by its best
        approximation of that rank, to be trained; nothing is frozen.
    exclude : targets
        Layers that stay as they are.
    trainable : targets
        For adapters: modules of the model whose own parameters are trained too (a new classifier).
    scale : float, optional
        For adapters: by which the matrices are multiplied; 1 by default.
    alpha : float, optional
        For adapters: the scale is ``alpha / rank``, with the rank at the start.
    rank_stabilised : bool
        The scale is ``alpha / sqrt(rank)``.
    dropout : float
        For adapters: fraction of the entries of their inputs that are zero in training.
    name : str
        For adapters: layers that have an adapter get another one beside it if its name is another.
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

    Notes
    -----
    Code that reads the ``weight`` of an adapter instead of calling it sees the frozen part alone. torch's own fast path
    of ``nn.TransformerEncoderLayer`` does so, and is therefore closed.
    """
    check_instance("model", model, nn.Module)
    if kind not in ("adapter", "train"):
        raise ValueError(f"kind must be 'adapter' or 'train', got {kind!r}")
    targets, exclude, trainable = _several(targets), _several(exclude), _several(trainable)
    if kind == "train" and (
        trainable or dropout or rank_stabilised or name != "default" or (scale, alpha) != (None,) * 2
    ):
        raise ValueError(
            "trainable, scale, alpha, rank_stabilised, dropout and name are for adapters: kind='train' freezes nothing "
            "and adds nothing"
        )
    if alpha is None and rank_stabilised:
        raise ValueError("rank_stabilised needs alpha")
    if alpha is not None:
        if scale is not None:
            raise ValueError("only one of scale and alpha can be given")
        check_number("alpha", alpha)
    found = _targeted(model, targets, exclude, kind, name)
    if not found:
        names = [plain_name(model, path) for path, module in _candidates(model, name) if _is_known(module)]
        raise ValueError(_no_match("targets", targets, names))
    plan = {}
    for path, module in found.items():
        chosen = _rank_of(rank, plain_name(model, path), module)
        with _naming(path):
            plan[path] = module, check_rank(chosen, _shape(module))
    modules = {plain_name(model, path): module for path, module in model.named_modules()}
    opened = {path: module for path, module in modules.items() if _any(trainable, path, module)}
    if trainable and not opened:
        raise ValueError(_no_match("trainable", trainable, list(modules)))

    def make(module, r):
        if kind == "train":
            return _counterpart(module).from_dense(module, r)
        factor = scale if alpha is None else alpha / (math.sqrt(r) if rank_stabilised else r)
        return Adapter(module, r, 1.0 if factor is None else factor, generator, dropout=dropout, name=name)

    made: dict[int, LowRankLayer] = {}
    was_trained = [p for p in model.parameters() if p.requires_grad]
    try:
        for path, (module, r) in plan.items():
            if id(module) not in made:  # a module under two names stays one
                with _naming(path):
                    made[id(module)] = make(module, r).train(module.training)
    except BaseException:
        for p in was_trained:
            p.requires_grad_(True)
        raise
    if kind == "adapter":
        _freeze(model)
        for module in opened.values():
            module.requires_grad_(True)
    placed: dict[str, LowRankLayer] = {}
    for path, (module, _) in plan.items():
        layer = made[id(module)]
        parent_name, _, child = path.rpartition(".")
        setattr(model.get_submodule(parent_name), child, layer)
        placed[path] = layer
        logger.info("%s: %s", path, layer)
    if kind == "adapter":
        close_fast_paths(model)
    return {plain_name(model, path): layer for path, layer in placed.items()}


def low_rank_layers(model: nn.Module) -> dict[str, LowRankLayer]:
    """All low-rank layers of a model by name, as it is without torch's wrappers (compiled, DDP and others)."""
    check_instance("model", model, nn.Module)
    return {
        plain_name(model, path): module for path, module in model.named_modules() if isinstance(module, LowRankLayer)
    }


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


def adapters(model: nn.Module) -> dict[str, list[Adapter]]:
    """The adapters of a model by their names (``adapt(..., name=)``)."""
    found: dict[str, list[Adapter]] = {}
    for layer in low_rank_layers(model).values():
        if isinstance(layer, Adapter):
            found.setdefault(layer.name, []).append(layer)
    return found


@contextmanager
def switched_off(model: nn.Module, *names: str) -> Iterator[None]:
    """The model without its adapters, or without those of these names, inside a ``with`` block.

    Raises
    ------
    ValueError
        There is no adapter, or none of a name.
    RuntimeError
        One is merged.
    """
    before = [(layer, layer.active) for layer in _named(model, names)]
    try:
        activate(model, *names, active=False)
        yield
    finally:
        for layer, active in before:
            layer.active = active


def activate(model: nn.Module, *names: str, active: bool = True) -> None:
    """Switch on all adapters of a model, or those of these names; with ``active=False`` switch them off for good.

    Those that are off add nothing and get no gradient. Errors are those of :func:`switched_off`.
    """
    chosen = _named(model, names)
    if any(layer.merged for layer in chosen):
        raise RuntimeError("merged adapters cannot be switched: unmerge() them first")
    for layer in chosen:
        layer.active = active


def remove(model: nn.Module, *names: str) -> None:
    """Take all adapters of a model away, or those of these names; what is frozen stays so. Errors as above."""
    chosen = {id(layer) for layer in _named(model, names)}
    activate(model, *names)  # refuses merged ones
    for module in list(model.modules()):
        for child, layer in module._modules.items():
            while isinstance(layer, Adapter) and id(layer) in chosen:
                layer = layer.base
            module._modules[child] = layer


def merge(model: nn.Module) -> nn.Module:
    """Turn all low-rank layers of a model, in place, into plain ones of the same function.

    An adapter becomes the layer inside, with the matrix added to its weight (unless it is switched off), and a trained
    layer its torch counterpart. The new weights are made before the first is written: whatever is raised, the model is
    as it was.

    Returns
    -------
    Module
        The model, or what has become of it if it is a low-rank layer itself.

    Raises
    ------
    ValueError
        The frozen weight of an adapter is used elsewhere too, where it would change (a head tied to an embedding).
    TypeError
        The frozen weight is packed, or computed from other parameters.
    """
    check_instance("model", model, nn.Module)
    paths: dict[int, list[str]] = {}
    layers: dict[int, LowRankLayer] = {}
    inside: set[int] = set()
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, LowRankLayer) and id(module) not in inside:
            paths.setdefault(id(module), []).append(path)
            layers[id(module)] = module
            if isinstance(module, Adapter):
                inside |= {id(part) for part in [*module.stack()][1:]}
    frozen = []
    for key, layer in layers.items():
        if isinstance(layer, Adapter):
            with _naming(paths[key][0]):
                frozen.append((paths[key], layer._frozen_weight()))
    check_untied(model, frozen)
    made: dict[int, Any] = {}
    plain: nn.Module
    for key, layer in layers.items():
        with _naming(paths[key][0]):
            made[key] = layer.merged_weight() if isinstance(layer, Adapter) else layer.to_dense()
    for key, layer in layers.items():
        plain = layer._replaced(made[key]) if isinstance(layer, Adapter) else made[key]
        for path in paths[key]:
            if not path:
                return plain
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, plain)
    for module in model.modules():
        module.__dict__.pop("_is_adapted", None)
    return model


class LoRAFactors(NamedTuple):
    """Factors A (r, n) and B (m, r) of the trained matrix times its scale, ``B A``."""

    A: torch.Tensor
    B: torch.Tensor


def to_lora(model: nn.Module) -> dict[str, LoRAFactors]:
    """Plain LoRA factors of all adapters by the name of the layer.

    ``W0 + B A`` is the adapted weight, as a matrix (out, in / groups * kh * kw) for a convolution, (in, ...) for a
    transposed one and (num, dim) for an embedding: LoRA with ``alpha / r = 1``.
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
        plain_name(model, path): p.detach().to("cpu", copy=True).contiguous()
        for path, p in model.named_parameters()
        if p.requires_grad or isinstance(p, Factor)
    }


def save_low_rank(model: nn.Module, path: str | os.PathLike) -> None:
    """Write :func:`low_rank_state_dict` to a safetensors file, atomically."""
    content = save(low_rank_state_dict(model), metadata={"format": "pt"})
    write_atomically(path, lambda file: file.write(content))


def load_low_rank(model: nn.Module, state: str | os.PathLike | Mapping[str, torch.Tensor]) -> None:
    """Load a file of :func:`save_low_rank`, or its mapping, into a model with the same layers at any ranks.

    Names are those of the model without torch's wrappers: what a compiled model saved, a plain one loads.

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
    state = {".".join(part for part in name.split(".") if part not in WRAPPERS): X for name, X in state.items()}
    parameters = {plain_name(model, path): p for path, p in model.named_parameters()}
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


def _any(targets, name, module) -> bool:
    return any(matches(target, name, module) for target in targets)


def _shape(module) -> tuple[int, int]:
    """Of the matrix of a layer, or of that inside an adapter."""
    layer = module.settings if isinstance(module, Adapter) else module
    return map_of(layer).shape(layer)


def _is_known(module) -> bool:
    try:
        _shape(module)
    except (TypeError, ValueError):
        return False
    return True


def _counterpart(module) -> type[TrainedLayer]:
    """What replaces a layer for training."""
    found = next((kind for kind in TRAINED if kind.replaces(module)), None)
    if found is None or not is_plain(module.weight):
        raise TypeError(f"{type(module).__name__} has no low-rank counterpart: use kind='adapter'")
    return found


def _candidates(model, name) -> Iterator[tuple[str, nn.Module]]:
    """Modules that are no part of a low-rank layer, shared ones under each name, and adapters without this name."""
    inside: set[int] = set()
    for _, module in model.named_modules():
        if isinstance(module, LowRankLayer):
            further = isinstance(module, Adapter) and all(adapter.name != name for adapter in module.stack())
            inside |= {id(part) for part in module.modules() if part is not module or not further}
    for path, module in model.named_modules(remove_duplicate=False):
        if path and id(module) not in inside:
            yield path, module


def _targeted(model, targets, exclude, kind, name) -> dict[str, nn.Module]:
    """Layers that can be replaced and are meant; one that cannot, meant by a name that is exactly its, is an error."""
    found = {}
    for path, module in _candidates(model, name):
        plain = plain_name(model, path)
        if _any(exclude, plain, module) or not _any(targets, plain, module):
            continue
        try:
            _shape(module)
            if kind == "train":
                _counterpart(module)
            if isinstance(model.get_submodule(path.rpartition(".")[0]), nn.MultiheadAttention):
                raise ValueError("used by its weight alone, not called, inside nn.MultiheadAttention")
        except (TypeError, ValueError) as error:
            texts = [target for target in targets if isinstance(target, str)]
            leaf = not list(module.children())
            if plain in texts or (leaf and any(plain.endswith("." + text) for text in texts)):
                raise type(error)(f"{plain}: {error}") from error
            logger.debug("%s is passed over: %s", plain, error)
            continue
        found[path] = module
    return found


def _named(model, names) -> list[Adapter]:
    found = adapters(model)
    if not found and not names:
        raise ValueError("model has no adapters of dlrt.nn.adapt (those of PEFT are switched by the methods of PEFT)")
    if unknown := [name for name in names if name not in found]:
        raise ValueError(f"no adapter is called {', '.join(unknown)}; names are: {', '.join(found) or 'none'}")
    return [layer for name in (names or found) for layer in found[name]]


def _freeze(model) -> None:
    """Freeze all that is not trained already by an earlier call; models remember that they have been through this."""
    if model.__dict__.get("_is_adapted"):
        return
    done = [m for m in model.modules() if isinstance(m, LowRankLayer) or m.__dict__.get("_is_adapted")]
    kept = {id(p) for module in done for p in module.parameters()}
    for p in model.parameters():
        if id(p) not in kept:
            p.requires_grad_(False)
    model.__dict__["_is_adapted"] = True


def close_fast_paths(model) -> None:
    """Make torch's transformer layers call their parts, of which their fast path reads the weights alone."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and _is_adapted(module):
            module.activation_relu_or_gelu = 0  # what that path asks first
        if isinstance(module, nn.TransformerEncoder) and _is_adapted(module):
            module.use_nested_tensor = False  # for that path alone


def _is_adapted(module) -> bool:
    return any(isinstance(part, LowRankDelta) for part in module.modules())


def check_untied(model, weights) -> None:
    """Refuse to write into weights, given with the names of their layer, whose memory other modules use too."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    places = [(path, *_extent(X)) for path, X in tensors if X.numel()]
    for paths, frozen in weights:
        own = {f"{path}." if path else "" for path in paths}
        memory, first, last = _extent(frozen)
        for path, other, begin, end in places:
            shared = other == memory and begin < last and first < end
            if shared and not any(path.startswith(prefix) for prefix in own):
                raise ValueError(
                    f"{paths[0]}: its weight is {path} too, which would change: untie it first, "
                    f"model.{paths[0]}.weight = torch.nn.Parameter(model.{paths[0]}.weight.clone(), False), and say "
                    "so in the model's configuration (transformers: model.config.tie_word_embeddings = False)"
                )


def _extent(X) -> tuple[Any, int, int]:
    """The memory of a tensor: which, first byte, end."""
    computed = type(X).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__  # of parts that have the memory
    if X.device.type == "meta" or X.layout != torch.strided or computed:
        return id(X), 0, 1
    length = 1 + sum((size - 1) * stride for size, stride in zip(X.shape, X.stride(), strict=True))
    begin = X.storage_offset() * X.element_size()
    return (X.device, X.untyped_storage().data_ptr()), begin, begin + length * X.element_size()


def _rank_of(rank, name, module) -> int:
    if isinstance(rank, Mapping):
        fitting = [r for target, r in rank.items() if matches(target, name, module)]
        if not fitting:
            raise ValueError(f"rank has no pattern for {name}: add '*' for all others")
        rank = fitting[0]
    return rank


@contextmanager
def _naming(name: str):
    """Put the name of the layer before the message of an error."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}" if name else str(error)) from error


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
