"""Adapters: a trained matrix of low rank beside a frozen layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from integrators.checks import check_instance, check_number

from .layers import FACTORS, LowRankLayer
from .maps import is_plain, map_of

__all__ = ["Adapter", "Conv2dAdapter", "EmbeddingAdapter", "LinearAdapter", "LowRankDelta"]


class LowRankDelta(LowRankLayer):
    """A trained matrix that is added to a layer which it does not own: ``forward(x, y)`` adds its output to y.

    Parameters
    ----------
    layer : Module
        The layer beside which it stands; its map must be known (:func:`dlrt.nn.maps.map_of`). Its settings are read
        at each call, its parameters are not.
    rank : int
        At the start; 1 <= rank <= min(m, n).
    scale : float
        Fixed: it does not depend on the rank, so that truncation does not change the function.
    generator : torch.Generator, optional
        Source of the bases; torch's default one without it.
    dropout : float
        Fraction of the entries of x that are set to zero in training; indices of embeddings are not.

    Raises
    ------
    TypeError
        The map of the layer is not known, or complex; the rank is no integer or the scale no number.
    ValueError
        The rank exceeds min(m, n); the scale is zero or not finite; the dropout is not in [0, 1).

    Notes
    -----
    S = 0 at the start. The factors are float64 beside a weight of float64, else float32: 16 bits are too few for them.
    """

    def __init__(
        self,
        layer: Any,
        rank: int,
        scale: float = 1.0,
        generator: torch.Generator | None = None,
        *,
        dropout: float = 0.0,
    ):
        super().__init__()
        check_instance("layer", layer, nn.Module)
        self.scale, self.dropout = check_number("scale", scale), check_number("dropout", dropout, 0.0)
        if self.scale == 0:
            raise ValueError("scale must be other than 0")
        if self.dropout >= 1:
            raise ValueError(f"dropout must be less than 1, got {dropout}")
        layer = layer.settings if isinstance(layer, Adapter) else layer
        self.map = map_of(layer)
        self.__dict__["_layer"] = layer  # past the registration of modules
        weight = getattr(layer, "weight", None)
        tensors = [weight] if isinstance(weight, torch.Tensor) else [*layer.parameters(), *layer.buffers()]
        dtype = torch.float64 if isinstance(weight, torch.Tensor) and weight.dtype == torch.float64 else torch.float32
        device = tensors[0].device if tensors else None
        self._make_factors(self.map.shape(layer), rank, 0.0, generator, device, dtype)

    @property
    def settings(self) -> Any:
        """The layer beside which it stands."""
        return self.__dict__["_layer"]

    def forward(self, x, y):
        """``y`` plus the output of the trained matrix for ``x``."""
        return self._lift(x, y)

    def to_dense(self) -> nn.Module:
        """Refused: the layer is somebody else's."""
        raise TypeError("this matrix is added to a layer that it does not own: merge that one (PEFT: merge_and_unload)")

    def extra_repr(self) -> str:
        """Rank, scale and dropout."""
        return f"rank={self.rank}, scale={self.scale:g}" + (f", dropout={self.dropout:g}" if self.dropout else "")


class Adapter(LowRankDelta):
    """A frozen layer W0 and a trained matrix beside it: the map of ``W0 + scale U S V^T``, with S = 0 at the start.

    Parameters
    ----------
    base : Module
        The layer, frozen here; or an adapter, which stays as it is: several matrices are then added to one layer.
    rank, scale, generator, dropout
        As in :class:`LowRankDelta`.
    name : str
        To switch it off and on, and to remove it.

    Attributes
    ----------
    active : bool
        Whether the trained matrix is used; see :func:`dlrt.nn.switched_off`.
    merged : bool
        Whether the trained matrix is part of the frozen weight.

    Notes
    -----
    Attributes of the frozen layer that code around it asks for (``in_features``, ``weight``, ``bias``, ...) are found,
    so ``weight`` is the frozen part alone; :meth:`dense` is the trained one.
    """

    def __init__(
        self,
        base: Any,
        rank: int,
        scale: float = 1.0,
        generator: torch.Generator | None = None,
        *,
        dropout: float = 0.0,
        name: str = "default",
    ):
        super().__init__(base, rank, scale, generator, dropout=dropout)
        del self.__dict__["_layer"]
        self.base: Any = base if isinstance(base, Adapter) else base.requires_grad_(False)
        self.name, self.active, self.merged = name, True, False

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("base", "merged", "active", "name", *FACTORS):
                raise
            return getattr(super().__getattr__("base"), name)

    def __setattr__(self, name, value):
        if name in ("weight", "bias"):  # a head that is tied to an embedding later on
            setattr(self.base, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def settings(self) -> Any:
        """The frozen layer."""
        return self.base.settings if isinstance(self.base, Adapter) else self.base

    def stack(self) -> Iterator[Adapter]:
        """This adapter and those inside."""
        yield self
        if isinstance(self.base, Adapter):
            yield from self.base.stack()

    def forward(self, x, *args, **kwargs):
        """The output of the frozen layer plus that of the trained matrix."""
        y = self.base(x, *args, **kwargs)
        return self._lift(x, y) if self.active and not self.merged else y

    def merge(self) -> None:
        """Add the trained matrix to the frozen weight: the layer then costs what the frozen one does. Idempotent.

        Raises
        ------
        TypeError
            The weight is packed, or computed from other parameters.
        RuntimeError
            The adapter is switched off.
        """
        if not self.active:
            raise RuntimeError("the adapter is switched off: it cannot be merged")
        if not self.merged:
            self._add(self.dense())
            self.merged = True

    def unmerge(self) -> None:
        """Take it out again, which brings the frozen weight back to rounding. Idempotent."""
        if self.merged:
            self._add(-self.dense())
            self.merged = False

    def merged_weight(self) -> torch.Tensor:
        """What the frozen weight becomes with all trained matrices that are switched on; nothing is changed.

        Raises TypeError as :meth:`merge`.
        """
        weight = self._frozen_weight()
        changes = [adapter.dense() for adapter in self.stack() if adapter.active and not adapter.merged]
        return (weight + sum(changes)).to(weight.dtype) if changes else weight.detach().clone()

    def to_dense(self) -> nn.Module:
        """The layer inside, with all trained matrices that are switched on added to its weight."""
        weight = self.merged_weight()
        return self._replaced(weight)

    @torch.no_grad()
    def _replaced(self, weight):
        self._frozen_weight().copy_(weight)
        return self.settings

    @torch.no_grad()
    def _add(self, change):
        weight = self._frozen_weight()
        weight.copy_(weight + change)

    def _frozen_weight(self) -> torch.Tensor:
        layer = self.settings
        kind = type(layer).__name__
        weight = layer._parameters.get("weight")
        if (
            weight is None
            and isinstance(getattr(layer, "weight", None), torch.Tensor)
            and "weight" not in layer._buffers
        ):
            raise TypeError(
                f"the weight of {kind} is computed from other parameters, to which nothing can be added: make it a "
                "plain one first (torch.nn.utils.parametrize.remove_parametrizations)"
            )
        if not is_plain(weight):
            raise TypeError(f"{kind} has no floating-point weight to merge into: dequantise the model first")
        return weight

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        if self.merged:
            raise RuntimeError("the adapter is merged into its frozen weight: unmerge() before saving")
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def extra_repr(self) -> str:
        """Rank, scale, dropout, name, and whether merged or switched off."""
        named = f", name={self.name!r}" if self.name != "default" else ""
        state = (", merged" if self.merged else "") + ("" if self.active else ", switched off")
        return super().extra_repr() + named + state


LinearAdapter = Conv2dAdapter = EmbeddingAdapter = Adapter
"""One class serves all layers; these names are older."""
