"""A tuner of PEFT with all methods of this project: `GeoloraConfig` takes the place of `LoraConfig`.

Importing this module makes the type ``"GEOLORA"`` known to PEFT. `get_peft_model`, `PeftModel.from_pretrained`,
`add_adapter` and `load_adapter` of transformers, and whatever else goes by the type of a configuration then work as for
LoRA; each layer has a rank of its own, which changes in training and is saved.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as TARGETS
from peft.utils import AuxiliaryTrainingWrapper, PeftType, load_peft_weights, register_peft_method
from torch import nn

from integrators import INTEGRATORS, Integrator, Tolerance
from integrators.checks import check_instance, check_integer, check_number

from ..nn import LowRankDelta, LowRankOptimizer
from ..nn.export import PREFIX, of_peft, write_lora
from ..nn.maps import LinearMap, is_plain, map_of
from ..nn.model import UNNAMED, check_untied, close_fast_paths, unwrapped
from .methods import METHODS, WITH_ADAM, Method, Plan

__all__ = [
    "GeoloraConfig", "GeoloraLayer", "GeoloraModel", "hotswap_adapter", "integrator_of", "make_optimizer", "save_lora",
]  # fmt: skip


# -- the methods -------------------------------------------------------------------------------------------------------


def _with_adam(name: str, integrator: Integrator) -> Method:
    """A method of the table, with Adam, and the tolerance of the configuration where its rank adapts."""
    if integrator.truncation is None:
        return Method(name, WITH_ADAM[name])
    spare = integrator.truncation.spare
    return Method(name, WITH_ADAM[name], lambda p: Tolerance(relative=p.tau, spare=spare))


BUDGETS = {
    "spectral": METHODS["geolora-spectral-budget"],
    **{name: METHODS[name] for name in ("geolora-spectral-budget", "geolora-budget", "adalora")},
}
"""Those of them that keep to a budget."""
CHOICES: dict[str, Method] = {
    **{name: method for name, method in METHODS.items() if method.integrator is not None},
    **{name: _with_adam(name, integrator) for name, integrator in INTEGRATORS.items()},
    **BUDGETS,
}
"""What ``method`` may be."""


def _member(name: str) -> PeftType:
    """A new member of the enumeration of PEFT's types, which PEFT compares, prints and saves by its value."""
    member = str.__new__(PeftType, name)
    member._name_, member._value_ = name, name
    setattr(PeftType, name, member)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = PeftType._value2member_map_[name] = member
    return member


GEOLORA = PeftType.__members__.get("GEOLORA") or _member("GEOLORA")


@dataclass
class GeoloraConfig(PeftConfig):
    """Adapters ``W0 + scale U S V^T`` whose ranks adapt; `integrator_of` and `make_optimizer` train them by ``method``.

    Parameters
    ----------
    r : int
        Rank at the start, at most min(m, n) of a layer (a method that is cut down to a budget starts with more); and
        the rank of the LoRA with which budget and scale are those of this one.
    method : str
        ``"spectral"``: GeoLoRA with orthogonalised momentum and a budget of parameters, weighted by a Fisher
        information. ``"geolora"``: GeoLoRA with Adam and a relative tolerance. Or any other method with an integrator
        in `dlrt.finetune.METHODS`, or the name of any integrator (with Adam), as `dlrt list` shows them. All start from
        S = 0, StelLA too, whose bases therefore rest in its first step.
    tau : float
        Relative tolerance of the methods that have one.
    budget : int, optional
        About how many parameters all layers may have together, for the methods with a budget; by default as many as
        LoRA. (Exact is the bound of those in U and V; room for those in S is left as if ranks were not too unequal.)
    target_modules, exclude_modules, modules_to_save, task_type
        As in PEFT's `LoraConfig`. Linear, convolutional and embedding layers, transformers' ``Conv1D`` and linear
        layers with a packed weight can be targets.
    lora_alpha, use_rslora
        The scale is ``lora_alpha / r``, or ``lora_alpha / sqrt(r)``. It stays when ranks change.
    lora_dropout : float
        Fraction of the entries of the inputs of the adapters that are zero in training.
    bias : "none", "all" or "geolora_only"
        Which biases are trained beside them.
    ranks : dict, optional
        Rank of each layer at the time of saving: written by ``save_pretrained``, not to be given.

    Raises
    ------
    TypeError, ValueError
        The method is not known; it has no budget, but one is given; a number does not fit.
    """

    r: int = 8
    method: str = "spectral"
    tau: float = 0.1
    budget: int | None = None
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    lora_alpha: float = 8
    use_rslora: bool = False
    lora_dropout: float = 0.0
    bias: str = "none"
    modules_to_save: list[str] | None = None
    ranks: dict[str, int] | None = field(default=None, repr=False)

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = GEOLORA
        check_integer("r", self.r, 1)
        check_number("tau", self.tau, 0.0)
        check_number("lora_alpha", self.lora_alpha)
        if self.method not in CHOICES:
            raise ValueError(f"method must be one of {', '.join(CHOICES)}, got {self.method!r}")
        if self.budget is not None:
            check_integer("budget", self.budget, 1)
            if self.method not in BUDGETS:
                raise ValueError(f"method {self.method!r} has no budget, expected one of {', '.join(BUDGETS)}")
        if self.bias not in ("none", "all", "geolora_only"):
            raise ValueError(f"bias must be 'none', 'all' or 'geolora_only', got {self.bias!r}")
        for name in ("target_modules", "exclude_modules"):
            if isinstance(chosen := getattr(self, name), list):
                setattr(self, name, set(chosen))
        self._loaded = dict(self.ranks or {})  # of this adapter; `ranks` is written when one with this object is saved

    @property
    def scale(self) -> float:
        """By which U S V^T is multiplied."""
        return self.lora_alpha / (self.r**0.5 if self.use_rslora else self.r)

    def rank(self, name: str) -> int:
        """At the start in a layer: that of the saved adapter, or what the method starts with."""
        return self._loaded.get(name) or CHOICES[self.method].rank(Plan(self.r, self.tau, None, layers=1, steps=0))


# -- the layers --------------------------------------------------------------------------------------------------------


class Deltas(nn.ModuleDict):
    """The trained matrices beside a layer by the name of their adapter."""


class GeoloraLayer(nn.Module, BaseTunerLayer):
    """A frozen layer, and the trained matrices of its adapters.

    Parameters
    ----------
    base_layer : Module
    adapter_name : str
        Of the first adapter.
    rank : int
        Its rank at the start.
    config : GeoloraConfig

    Attributes
    ----------
    geolora_delta : ModuleDict of LowRankDelta
        By the name of the adapter.
    r : dict of str to int
        The rank of the LoRA to which each is compared, at most min(m, n).

    Notes
    -----
    Attributes of the frozen layer that code around it asks for are found. An adapter that is active and not merged is
    added, whatever others are.
    """

    adapter_layer_names = ("geolora_delta",)
    other_param_names = ("r",)
    geolora_delta: Any
    merged_adapters: list[str]

    def __init__(self, base_layer: nn.Module, adapter_name: str, rank: int, config: GeoloraConfig):
        super().__init__()
        self.base_layer = base_layer
        self.geolora_delta, self.merged_adapters = Deltas(), []
        self.r: dict[str, int] = {}
        self._active_adapter = adapter_name
        self.train(base_layer.training)
        self.update_layer(adapter_name, rank, config)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or name in ("base_layer", "geolora_delta"):
                raise
            return getattr(super().__getattr__("base_layer"), name)

    def update_layer(self, adapter_name: str, rank: int, config: GeoloraConfig) -> None:
        """Add an adapter."""
        layer = self.get_base_layer()
        m, n = map_of(layer).shape(layer)
        self.r[adapter_name] = min(config.r, m, n)
        delta = LowRankDelta(layer, min(rank, m, n), config.scale, dropout=config.lora_dropout)
        self.geolora_delta[adapter_name] = delta.train(self.training)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    @property
    def scaling(self) -> dict[str, float]:
        """The scale of each adapter, for reading."""
        return {name: delta.scale for name, delta in self.geolora_delta.items()}

    def forward(self, x, *args, adapter_names: Sequence[str] | None = None, **kwargs):
        """The output of the frozen layer plus those of the trained matrices: of the active ones, or row by row."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        y = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return y
        if adapter_names is not None:
            return self._row_by_row(x, y, adapter_names)
        for name in self.active_adapters:
            if name in self.geolora_delta and name not in self.merged_adapters:
                y = self.geolora_delta[name](x, y)
        return y

    def _row_by_row(self, x, y, names):
        """The same with the adapter of its own for each row of the batch."""
        if len(x) != len(names):
            raise ValueError(f"adapter_names must be one name for each row of the batch: {len(names)} for {len(x)}")
        if self.merged:
            raise ValueError("adapter_names: adapters are merged; unmerge_adapter() first")
        for name in self.geolora_delta.keys() & set(names):
            rows = torch.tensor([i for i, own in enumerate(names) if own == name], device=y.device)
            y = y.index_copy(0, rows, self.geolora_delta[name](x[rows], y[rows]))
        return y

    def get_delta_weight(self, adapter_name: str) -> torch.Tensor:
        """``scale U S V^T`` in the layout of the weight of the layer."""
        return self.geolora_delta[adapter_name].dense()

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the matrices of the active adapters, or of these, to the frozen weight.

        Raises
        ------
        TypeError
            The weight is packed, or computed from other parameters; it is then as it was.
        ValueError
            The sum is not finite, and ``safe_merge`` asks for it to be.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.geolora_delta]
        if not names:
            return
        weight = self.plain_weight()
        with torch.no_grad():
            merged = (weight + sum(self.get_delta_weight(name) for name in names)).to(weight.dtype)
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(f"the merged weight is not finite: adapter {', '.join(names)} seems to be broken")
            weight.copy_(merged)
        self.merged_adapters += names

    def unmerge(self) -> None:
        """Take them out again, which brings the frozen weight back to rounding."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        weight = self.plain_weight()
        with torch.no_grad():
            weight.copy_(weight - sum(self.get_delta_weight(name) for name in self.merged_adapters))
        self.merged_adapters = []

    def plain_weight(self) -> torch.Tensor:
        """The frozen weight; TypeError where nothing can be added to it."""
        layer = self.get_base_layer()
        weight = layer._parameters.get("weight")
        if weight is None or not is_plain(weight):
            raise TypeError(
                f"the weight of {type(layer).__name__} is packed, or computed from other parameters: nothing can be "
                "merged into it. Dequantise the model, or remove its parametrisations, first"
            )
        return weight

    def _load_from_state_dict(self, state_dict, prefix, *args):
        """Refused for what is part of the frozen weight, from which other numbers would then be taken out."""
        for name in self.merged_adapters:
            if any(key.startswith(f"{prefix}geolora_delta.{name}.") for key in state_dict):
                raise RuntimeError(f"{prefix}: adapter {name!r} is merged: unmerge it before loading")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Whether PEFT's own `convert_to_lora` is right for it: for linear layers."""
        return issubclass(map_of(self.get_base_layer()), LinearMap)


class GeoloraLinear(GeoloraLayer):
    """That of a linear layer, whose name PEFT looks for in ``"all-linear"``."""


# -- the model ---------------------------------------------------------------------------------------------------------


class GeoloraModel(BaseTuner):
    """What PEFT puts around a model: `get_peft_model(model, GeoloraConfig(...))` makes it.

    Raises
    ------
    TypeError, ValueError
        The map of a layer among the targets is not known; a layer is used by its weight alone, so that an adapter
        would have no effect, or under two names.
    """

    prefix = "geolora_"
    tuner_layer_cls = GeoloraLayer
    target_module_mapping = TARGETS

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args, **kwargs) -> None:
        """As in PEFT; all layers get their adapter, or none. torch's transformer layers then call their parts."""
        places = Counter(id(child) for module in model.modules() for child in module._modules.values())
        self._shared = {key for key, count in places.items() if count > 1}
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        except BaseException:
            _withdraw(model, adapter_name)
            raise
        close_fast_paths(model)

    def _create_and_replace(self, peft_config, adapter_name, target, target_name, parent, current_key, **_):
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        try:
            map = map_of(base)
            map.shape(base)
            if isinstance(parent, nn.MultiheadAttention):
                raise ValueError("used by its weight alone, not called, inside nn.MultiheadAttention: exclude it")
            if id(target) in self._shared:
                raise ValueError("the same module has another name too, under which it would have no adapter")
        except (TypeError, ValueError) as error:
            raise type(error)(f"{current_key}: {error}") from error
        rank = peft_config.rank(current_key)
        if isinstance(target, GeoloraLayer):
            target.update_layer(adapter_name, rank, peft_config)
            return
        kind = GeoloraLinear if issubclass(map, LinearMap) else GeoloraLayer
        layer = kind(target, adapter_name, rank, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        """Nothing is written before all can be."""
        super()._check_merge_allowed()
        weights: dict[torch.Tensor, list[str]] = {}
        for name, layer in self.model.named_modules(remove_duplicate=False):
            if isinstance(layer, GeoloraLayer):
                try:
                    weights.setdefault(layer.plain_weight(), []).append(f"{name}.base_layer")
                except TypeError as error:
                    raise TypeError(f"{name}: {error}") from error
        check_untied(self.model, [(names, weight) for weight, names in weights.items()])

    @contextmanager
    def _enable_peft_forward_hooks(self, *args, adapter_names=None, num_beams=None, **kwargs):
        """For the time of a call, the adapter of each row of the batch; ``"__base__"`` is none."""
        if adapter_names is None:
            yield
            return
        if self.training:
            raise ValueError("adapter_names: batches of several adapters are for inference, call eval() first")
        if unknown := set(adapter_names) - self.peft_config.keys() - {"__base__"}:
            raise ValueError(f"adapter_names: no adapter {', '.join(sorted(unknown))}, there are {[*self.peft_config]}")
        beams = [name for name in adapter_names for _ in range(num_beams or 1)]  # rows that `generate` makes of one
        encoder = getattr(self.model, "get_encoder", lambda: None)()  # which sees each row once
        once = set() if encoder in (None, self.model) else set(encoder.modules())
        handles = [
            module.register_forward_pre_hook(_with_names(adapter_names if module in once else beams), with_kwargs=True)
            for module in self.model.modules()
            if isinstance(module, (GeoloraLayer, AuxiliaryTrainingWrapper))
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @classmethod
    def _get_adapter_state_dict(cls, model, config, adapter_name, state_dict, unwanted_adapter_names):
        config.ranks = {name: layer.geolora_delta[adapter_name].rank for name, layer in _layers(model, adapter_name)}
        return super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)


if GEOLORA not in PEFT_TYPE_TO_TUNER_MAPPING:
    register_peft_method(name="geolora", config_cls=GeoloraConfig, model_cls=GeoloraModel)
# `dlrt.nn` then names the trained matrix of the adapter "default" as that of `adapt`: by its layer
UNNAMED.update(
    {PeftModel: ("base_model",), GeoloraModel: ("model",), GeoloraLayer: ("geolora_delta",), Deltas: ("default",)}
)


def _with_names(names: Sequence[str]):
    """A hook that gives them to a module that is called."""
    return lambda module, args, kwargs: (args, kwargs | {"adapter_names": names})


def _layers(model: Any, adapter_name: str) -> Iterator[tuple[str, Any]]:
    """Names, as in the model that PEFT was given, and layers of an adapter."""
    for name, layer in _bare(model).named_modules():
        if isinstance(layer, GeoloraLayer) and adapter_name in layer.geolora_delta:
            yield name, layer


def _withdraw(model: nn.Module, adapter_name: str) -> None:
    """Take an adapter away, and the layers around those that then have none."""
    for parent in list(model.modules()):
        for child, layer in parent._modules.items():
            if isinstance(layer, GeoloraLayer) and adapter_name in layer.geolora_delta:
                del layer.geolora_delta[adapter_name], layer.r[adapter_name]
                if not layer.geolora_delta:
                    parent._modules[child] = layer.base_layer


def _bare(model: Any) -> Any:
    """The model that PEFT was given."""
    model = model.base_model if isinstance(model, PeftModel) else model
    return model.model if isinstance(model, GeoloraModel) else model


def _active(model: Any) -> list[str]:
    """The active adapters of a model, which all its layers share."""
    check_instance("model", model, nn.Module)
    names = {
        tuple(layer.active_adapters)
        for layer in model.modules()
        if isinstance(layer, GeoloraLayer) and not layer.disable_adapters
    }
    if len(names) != 1 or not (found := [*names.pop()]):
        raise ValueError(f"model must have active GeoLoRA adapters, the same in all layers, got {names or 'none'}")
    return found


# -- training ----------------------------------------------------------------------------------------------------------


def integrator_of(model: Any, steps: int | None = None) -> Integrator:
    """The integrator that the configuration of the active adapters asks for.

    Parameters
    ----------
    model : Module
        Of `get_peft_model`, or a model of transformers after ``add_adapter``; in wrappers of torch too.
    steps : int, optional
        Number of steps, which the schedule of ``"adalora"`` needs.

    Raises
    ------
    ValueError
        There is no active adapter that is trained, or several ask for different methods; steps are missing; the budget
        is too small for one direction of each layer.
    """
    names = _active(model)
    model = unwrapped(model)
    configs = [model.peft_config[name] for name in names]
    first = configs[0]
    if any((c.method, c.tau) != (first.method, first.tau) for c in configs):
        raise ValueError(f"adapters {', '.join(names)} differ in method or tau: train them one after the other")
    if first.method == "adalora" and steps is None:
        raise ValueError("method 'adalora' follows a schedule: give steps, the number of steps")
    layers = [(layer, name) for name in names for _, layer in _layers(model, name)]
    if not any(p.requires_grad for layer, name in layers for p in layer.geolora_delta[name].factors):
        raise ValueError(f"adapters {', '.join(names)} are frozen: load them with is_trainable=True")
    sizes = [sum(layer.geolora_delta[name].shape) for layer, name in layers]
    own = dict.fromkeys(names, 0)
    for (layer, name), size in zip(layers, sizes, strict=True):
        own[name] += layer.r[name] * size
    total = sum(own[name] if config.budget is None else config.budget for name, config in zip(names, configs))
    if total < sum(sizes):
        raise ValueError(f"budget {total} is too small for one direction of each layer: {sum(sizes)} parameters")
    columns = total * len(sizes) // sum(sizes)
    plan = Plan(first.r, first.tau, columns, len(sizes), steps or 0, sum(sizes))
    return CHOICES[first.method].planned(plan)


def make_optimizer(model: Any, lr: float, *, steps: int | None = None, **options: Any) -> LowRankOptimizer:
    """The optimiser of the active adapters by the method of their configuration, and of what is trained beside them.

    Parameters
    ----------
    model, steps
        As in :func:`integrator_of`.
    lr, **options
        As in :class:`dlrt.nn.LowRankOptimizer`: ``weight_decay``, ``rest``, ``groups``, ...
    """
    return LowRankOptimizer(model, integrator_of(model, steps), lr, **options)


# -- files -------------------------------------------------------------------------------------------------------------


def hotswap_adapter(model: Any, folder: str | os.PathLike, adapter_name: str = "default") -> None:
    """Put a saved adapter of any ranks in the place of one with the same layers; the parameters stay the same objects.

    Make a new optimiser after it: the memory of one belongs to the old adapter.

    Raises
    ------
    ValueError
        The adapter is merged, or there is none; the folder holds another type of adapter, or one of other layers.
        Nothing is changed then.
    """
    model = unwrapped(model)
    layers = dict(_layers(model, adapter_name))
    if not layers:
        raise ValueError(f"model has no GeoLoRA adapter {adapter_name!r}")
    if any(adapter_name in layer.merged_adapters for layer in layers.values()):
        raise ValueError(f"adapter {adapter_name!r} is merged: unmerge it first")
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, GeoloraConfig):
        raise ValueError(f"{folder} holds an adapter of type {config.peft_type.value}, expected GEOLORA")
    state = load_peft_weights(str(folder), device="cpu")
    embeddings = any(key.endswith(".base_layer.weight") for key in state)  # which PEFT saves where they are targets
    expected = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=embeddings)
    if state.keys() != expected.keys():
        raise ValueError(f"{folder} differs in {', '.join(sorted(state.keys() ^ expected.keys()))}")
    for key, X in state.items():
        old = expected[key].shape
        fits = X.shape == old if ".geolora_delta." not in key else key.endswith(".S") or X.shape[0] == old[0]
        if not fits:
            raise ValueError(f"{folder}: {key} has shape {tuple(X.shape)}, expected {tuple(old)}")
    set_peft_model_state_dict(model, state, adapter_name)
    for layer in layers.values():
        delta = layer.geolora_delta[adapter_name]
        delta.scale, delta.dropout = config.scale, config.lora_dropout
        layer.r[adapter_name] = min(config.r, *delta.shape)
    config.inference_mode = model.peft_config[adapter_name].inference_mode
    model.peft_config[adapter_name] = config


def save_lora(model: Any, folder: str | os.PathLike, adapter_name: str = "default") -> None:
    """Write an adapter as plain LoRA, which `PeftModel.from_pretrained` loads without this project.

    The function is the same to rounding, of all layers that :func:`dlrt.nn.save_lora` can write. PEFT's own
    `save_as_lora` works too, for linear layers, by a singular value decomposition of each dense matrix.

    Raises
    ------
    ValueError
        There is no such adapter; a layer has no counterpart in PEFT's LoRA; biases are trained.
    """
    model = unwrapped(model)
    layers = dict(_layers(model, adapter_name))
    if not layers:
        raise ValueError(f"model has no GeoLoRA adapter {adapter_name!r}")
    own = model.peft_config[adapter_name]
    if own.bias != "none":
        raise ValueError(f"bias = {own.bias!r}: save_lora writes no biases")
    state = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    prefix = PREFIX if isinstance(model, PeftModel) else ""
    tensors = {PREFIX + k.removeprefix(prefix): X for k, X in state.items() if ".geolora_delta." not in k}
    found: dict[str, tuple[LowRankDelta, int]] = {}
    for name, layer in layers.items():
        delta = layer.geolora_delta[adapter_name]
        B, A = delta.lora_factors()
        pair = of_peft(name, delta, A, B)
        tensors |= {f"{PREFIX}{name}.{key}": X for key, X in pair.items()}
        found[name] = delta, next(iter(pair.values())).shape[0]
    tensors = {key: X.detach().to("cpu", copy=True).contiguous() for key, X in tensors.items()}
    names = [name for name, _ in _bare(model).named_modules()]
    more = {name: getattr(own, name) for name in ("task_type", "modules_to_save", "base_model_name_or_path")}
    write_lora(folder, tensors, found, names, **more)
