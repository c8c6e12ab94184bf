"""Plain LoRA in the files of PEFT: adapters written for whoever serves LoRA, and any LoRA as a start."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from integrators import LowRank
from integrators.checks import check_instance

from ..runs import write_atomically
from .adapters import Adapter, LowRankDelta
from .factors import Factor
from .layers import LowRankLayer
from .maps import ConvMap, ConvTransposeMap, EmbeddingMap, map_of
from .model import adapt, low_rank_layers, plain_name

__all__ = ["from_lora", "save_lora"]

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
HARMLESS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Starts of PEFT's LoRA that leave the frozen weights as they are, which PiSSA, OLoRA and others do not."""


def save_lora(model: nn.Module, folder: str | os.PathLike) -> None:
    """Write the adapters of a model as a LoRA adapter of PEFT, which ``PeftModel.from_pretrained(base, folder)`` loads.

    The function is the same to rounding. Each layer has its own rank; scales are part of the factors, so that
    ``lora_alpha / r`` is 1 for all. Adapters that are switched off are left out, several on a layer become one. Other
    parameters that are trained (a classifier) are saved with their module, as ``modules_to_save``.

    Parameters
    ----------
    model : Module
    folder : path
        Made if need be; ``adapter_config.json`` and ``adapter_model.safetensors`` are written there.

    Raises
    ------
    ValueError
        There is no adapter; a layer has no counterpart in PEFT's LoRA, which knows no transposed convolutions, and
        convolutions without dilation and with zeros as padding alone; or a layer is of low rank by itself
        (``kind="train"``).
    RuntimeError
        An adapter is merged.
    """
    _write(folder, *_described(model))


def _described(model: nn.Module) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The contents of the two files."""
    check_instance("model", model, nn.Module)
    tensors: dict[str, torch.Tensor] = {}
    found: dict[str, tuple[Adapter, int]] = {}
    for name, adapter in _outermost(model).items():
        parts = [part.lora_factors() for part in adapter.stack() if part.active]
        if any(part.merged for part in adapter.stack()):
            raise RuntimeError(f"{name}: a merged adapter, unmerge() it before saving")
        if parts:
            B, A = torch.cat([B for B, _ in parts], 1), torch.cat([A for _, A in parts])
            pair = of_peft(name, adapter, A, B)
            tensors |= {f"{PREFIX}{name}.{key}": X.to("cpu", copy=True).contiguous() for key, X in pair.items()}
            found[name] = adapter, next(iter(pair.values())).shape[0]
    if not found:
        raise ValueError("model has no adapters that are switched on")
    saved = _others(model)
    for name, module in saved.items():
        for key, X in module.state_dict().items():
            tensors[f"{PREFIX}{name}.{key}"] = X.detach().to("cpu", copy=True).contiguous()
    names = [plain_name(model, path) for path, _ in model.named_modules()]
    origin = getattr(getattr(model, "config", None), "_name_or_path", None) or None
    more = {"modules_to_save": list(saved) or None, "base_model_name_or_path": origin}
    return _config(found, names, **more), tensors


def write_lora(
    folder: str | os.PathLike,
    tensors: dict[str, torch.Tensor],
    found: Mapping[str, tuple[LowRankDelta, int]],
    names: Collection[str],
    **more: Any,
) -> None:
    """Write tensors under PEFT's names, and the configuration of the layers with these adapters and LoRA ranks.

    ``names`` are those of all modules of the model, ``more`` is what the configuration says besides.
    """
    _write(folder, _config(found, names, **more), tensors)


def _write(folder: str | os.PathLike, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = save(tensors, metadata={"format": "pt"})
    write_atomically(folder / TENSORS, lambda file: file.write(content))
    text = json.dumps(config, indent=2).encode()
    write_atomically(folder / CONFIG, lambda file: file.write(text))


def _config(found: Mapping[str, tuple[LowRankDelta, int]], names: Collection[str], **more: Any) -> dict[str, Any]:
    rank = max(r for _, r in found.values())
    pattern = {name: r for name, (_, r) in sorted(found.items(), key=lambda item: -len(item[0])) if r != rank}
    dropouts = {adapter.dropout for adapter, _ in found.values()}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": dropouts.pop() if len(dropouts) == 1 else 0.0,
        "rank_pattern": {_pattern(name): r for name, r in pattern.items()},
        "alpha_pattern": {_pattern(name): r for name, r in pattern.items()},
        "target_modules": _targets(names, found),
        "fan_in_fan_out": all(type(adapter.settings).__name__ == "Conv1D" for adapter, _ in found.values()),
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        **more,
    }


def from_lora(model: nn.Module, source: str | os.PathLike | nn.Module) -> dict[str, LowRankLayer]:
    """Adapters with the matrices of a LoRA adapter, as a start or to be evaluated.

    ``B A`` becomes ``U S V^T`` with orthonormal bases and the rank of the checkpoint (at most min(m, n)); its
    ``lora_alpha / r`` is the scale, its ``modules_to_save`` are loaded and trained.

    Parameters
    ----------
    model : Module
        The base model, changed in place as by :func:`dlrt.nn.adapt`.
    source : path or Module
        A folder of PEFT with ``adapter_config.json`` and ``adapter_model.safetensors``; or a model with the active LoRA
        adapter of PEFT, or with adapters of this project, which may be of any rank.

    Returns
    -------
    dict of str to LowRankLayer
        The adapters by name.

    Raises
    ------
    ValueError
        A file is damaged; the adapter is no plain LoRA (DoRA, PiSSA, with biases) or belongs to another model. The
        model is then as it was.
    """
    check_instance("model", model, nn.Module)
    if isinstance(source, nn.Module):
        folder = type(source).__name__
        config, tensors = _of_model(source)
    else:
        folder = str(source)
        config, tensors = _read(Path(source))
    for key, plain in (("use_dora", False), ("lora_bias", False), ("bias", "none"), ("target_parameters", None)):
        if config.get(key, plain) not in (plain, None):
            raise ValueError(f"{folder}: {key} = {config[key]!r} is no plain LoRA")
    if (start := config.get("init_lora_weights", True)) not in HARMLESS:
        raise ValueError(
            f"{folder}: init_lora_weights = {start!r} belongs to other frozen weights than those of the model"
        )
    modules = dict(model.named_modules())
    starts: dict[str, tuple[LowRank, float]] = {}
    others: dict[str, torch.Tensor] = {}
    for key, A in tensors.items():
        name, _, kind = key.removeprefix(PREFIX).rpartition(".lora_")
        if kind in ("A.weight", "embedding_A"):
            B = tensors.get(key.replace("lora_A", "lora_B").replace("lora_embedding_A", "lora_embedding_B"))
            if name not in modules or B is None:
                raise ValueError(f"{folder}: {key} belongs to no layer of the model, or has no B beside it")
            starts[name] = _start(name, modules[name], A, B), _scale(config, name)
        elif ".lora_" not in key:
            others[key.removeprefix(PREFIX).replace(".base_layer.", ".")] = A
    parameters = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, X in others.items():
        if name not in parameters or parameters[name].shape != X.shape:
            raise ValueError(f"{folder}: {name} of shape {tuple(X.shape)} does not fit the model")
    if not starts:
        raise ValueError(f"{folder} holds no LoRA factors")
    whole: dict[Any, int] = {re.compile(re.escape(name)): Y.rank for name, (Y, _) in starts.items()}
    opened = [re.compile(re.escape(name)) for name in {key.rpartition(".")[0] for key in others} - starts.keys()]
    layers = adapt(model, list(whole), whole, trainable=opened)
    with torch.no_grad():
        for name, (Y, scale) in starts.items():
            layer = layers[name]
            layer.Y, layer.scale = LowRank(*(X.to(layer.S.device, layer.S.dtype) for X in Y)), scale
        for name, X in others.items():
            parameters[name].copy_(X)
    return layers


def _outermost(model) -> dict[str, Adapter]:
    layers = low_rank_layers(model)
    inside = {id(a) for layer in layers.values() if isinstance(layer, Adapter) for a in [*layer.stack()][1:]}
    found: dict[str, Adapter] = {}
    for name, layer in layers.items():
        if isinstance(layer, LowRankDelta) and not isinstance(layer, Adapter):
            raise ValueError(f"{name} belongs to an adapter of PEFT: dlrt.finetune.peft.save_lora writes it")
        if not isinstance(layer, Adapter):
            raise ValueError(f"{name} is of low rank by itself, not an adapter: LoRA cannot say that")
        if id(layer) not in inside:
            found[name] = layer
    return found


def of_peft(name, adapter, A, B) -> dict[str, torch.Tensor]:
    """The factors under the names and in the shapes of PEFT."""
    layer, map = adapter.settings, adapter.map
    if issubclass(map, EmbeddingMap):
        return {"lora_embedding_A": map.weight(layer, B).mT, "lora_embedding_B": A.mT}
    if not issubclass(map, ConvMap):
        return {"lora_A.weight": A, "lora_B.weight": B}
    _check_convolution(name, layer, map)
    r, groups, channels = len(A), layer.groups, layer.in_channels // layer.groups
    # PEFT's A sees the channels of all groups: one copy of V for each group, with zeros for the others
    full = A.new_zeros(groups, r, groups, channels, *layer.kernel_size)
    full[range(groups), :, range(groups)] = A.reshape(r, channels, *layer.kernel_size)
    ones = (1,) * len(layer.kernel_size)
    return {"lora_A.weight": full.reshape(groups * r, -1, *layer.kernel_size), "lora_B.weight": B.reshape(-1, r, *ones)}


def _check_convolution(name, layer, map) -> None:
    if issubclass(map, ConvTransposeMap):
        raise ValueError(f"{name}: PEFT's LoRA knows no transposed convolutions")
    if set(layer.dilation) != {1} or layer.padding_mode != "zeros":
        raise ValueError(
            f"{name}: PEFT's LoRA leaves out dilation = {layer.dilation} and padding_mode = {layer.padding_mode!r} "
            "and would compute another map: merge the model instead"
        )


def _start(name, layer, A, B) -> LowRank:
    """``B A`` with orthonormal bases."""
    map = map_of(layer)
    if issubclass(map, EmbeddingMap):
        A, B = B.mT, A.mT
        if layer.padding_idx is not None and B[layer.padding_idx].any():
            raise ValueError(f"{name}: the row of padding_idx = {layer.padding_idx} is changed")
    elif issubclass(map, ConvMap):
        _check_convolution(name, layer, map)
        if layer.groups != 1:
            raise ValueError(f"{name}: PEFT's LoRA of a convolution with groups has no counterpart")
    if (B.shape[0], A.flatten(1).shape[1]) != map.shape(layer) or A.shape[0] != B.shape[1]:
        raise ValueError(
            f"{name}: factors of shapes {tuple(B.shape)}, {tuple(A.shape)} for a {map.shape(layer)} matrix"
        )
    A, B = A.flatten(1).double(), B.flatten(1).double()
    (P, R), (Q, T) = torch.linalg.qr(B), torch.linalg.qr(A.mT)
    U, d, Vh = torch.linalg.svd(R @ T.mT, full_matrices=False)
    return LowRank(P @ U, torch.diag(d), Q @ Vh.mT)


def _scale(config, name) -> float:
    """PEFT's rule: the first pattern that ends the name."""

    def of(pattern, default):
        fits = (value for key, value in (config.get(pattern) or {}).items() if re.match(rf"(.*\.)?({key})$", name))
        return next(fits, config.get(default, 8))

    r, alpha = of("rank_pattern", "r"), of("alpha_pattern", "lora_alpha")
    return alpha / (math.sqrt(r) if config.get("use_rslora") else r)


def _others(model) -> dict[str, nn.Module]:
    """Modules with trained parameters of their own, beside the adapters."""
    inside = {id(part) for layer in low_rank_layers(model).values() for part in layer.modules()}
    found = {}
    for path, module in model.named_modules():
        if any(p.requires_grad and not isinstance(p, Factor) for p in module.parameters(recurse=False)):
            name = plain_name(model, path)
            if not name or id(module) in inside:
                raise ValueError(
                    f"{name or 'model'} has trained parameters of its own, for which PEFT's LoRA has no place"
                )
            found[name] = module
    return found


def _pattern(name: str) -> str:
    """For this name alone, not for others that end in it."""
    return "^" + re.escape(name)


def _targets(names, found: Mapping[str, Any]) -> list[str] | str:
    """The layers by name, or by an expression where other layers have names that end in these."""
    if any(other.endswith(f".{name}") and other not in found for name in found for other in names):
        return "|".join(re.escape(name) for name in found)
    return list(found)


def _of_model(model: nn.Module) -> tuple[dict, dict[str, torch.Tensor]]:
    """What PEFT would write for its active adapter, or we for ours."""
    configs: Any = getattr(model, "peft_config", None)
    if not configs:
        return _described(model)
    active: Any = getattr(model, "active_adapters", None) or model.active_adapter
    names = [active] if isinstance(active, str) else list(active() if callable(active) else active)
    if len(names) != 1:
        raise ValueError(f"source must have one active adapter, got {', '.join(names) or 'none'}")
    if (kind := configs[names[0]].peft_type) != "LORA":
        raise ValueError(f"source must have a LoRA adapter, got {kind}")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)  # type: ignore[operator]  # of PEFT or transformers, for its adapters alone
        own = Path(folder, names[0])
        return _read(own if own.is_dir() else Path(folder))


def _read(folder: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSORS)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{folder} is damaged: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ValueError(f"{folder / CONFIG} describes no LoRA adapter")
    return config, tensors
