"""Adapters: a trained matrix of low rank beside a frozen layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from integrators.checks import check_number

from .layers import FACTORS, LowRankLayer
from .maps import Conv2dMap, EmbeddingMap, LinearMap

__all__ = ["Adapter", "Conv2dAdapter", "EmbeddingAdapter", "LinearAdapter"]


class Adapter(LowRankLayer):
    """A frozen layer W0 and a trained matrix beside it: the map of ``W0 + scale U S V^T``, with S = 0 at the start.

    Parameters
    ----------
    base : Module
        Frozen here. Any module with the call and the attributes of the torch layer.
    rank : int
        At the start; 1 <= rank <= min(m, n).
    scale : float
        Fixed: it does not depend on the rank, so that truncation does not change the function.
    generator : torch.Generator, optional
        Source of the bases; torch's default one without it.

    Attributes
    ----------
    merged : bool
        Whether the trained matrix is part of the frozen weight.

    Raises
    ------
    TypeError
        ``base`` does not tell its shape; the rank is no integer or the scale no number.
    ValueError
        The rank exceeds min(m, n); the scale is zero or not finite.

    Notes
    -----
    Attributes of the frozen layer that code around it asks for (``in_features``, ``bias``, ...) are found. The factors
    are float64 beside a weight of float64, else of torch's default type: 16 bits are too few for them.
    """

    def __init__(self, base: Any, rank: int, scale: float = 1.0, generator: torch.Generator | None = None):
        super().__init__()
        self.scale = check_number("scale", scale)
        if self.scale == 0:
            raise ValueError("scale must be other than 0")
        shape = self.map.shape(base)
        self.base: Any = base.requires_grad_(False)
        self.merged = False
        weight = getattr(base, "weight", None)
        options: dict[str, Any] = {}
        if isinstance(weight, torch.Tensor):
            options = {"device": weight.device, "dtype": torch.float64 if weight.dtype == torch.float64 else None}
        self._make_factors(shape, rank, 0.0, generator, **options)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("base", "merged", *FACTORS):
                raise
            return getattr(super().__getattr__("base"), name)

    @property
    def settings(self) -> Any:
        """The frozen layer."""
        return self.base

    @property
    @torch.no_grad()
    def weight(self) -> torch.Tensor:
        """The dense weight, frozen plus trained part, for reading: made anew at each call and without gradient."""
        weight = self.base.weight
        if self.merged:
            return weight
        return (weight + self.scale * self.dense().reshape(weight.shape)).to(weight.dtype)

    def forward(self, x):
        """The output of the frozen layer plus that of the trained matrix."""
        y = self.base(x)
        return y if self.merged else self._lift(x, y)

    def merge(self) -> None:
        """Add the trained matrix to the frozen weight: the layer then costs what the frozen one does. Idempotent."""
        self._add(1)

    def unmerge(self) -> None:
        """Take it out again, which brings the frozen weight back to rounding. Idempotent."""
        self._add(-1)

    def to_dense(self) -> nn.Module:
        """The layer inside, with the trained matrix added to its weight."""
        self.merge()
        return self.base

    @torch.no_grad()
    def _add(self, sign):
        if self.merged == (sign > 0):
            return
        weight = getattr(self.base, "weight", None)
        if not isinstance(weight, torch.Tensor) or not weight.is_floating_point():
            raise TypeError(f"{type(self.base).__name__} has no floating-point weight to merge into")
        weight.copy_(weight + sign * self.scale * self.dense().reshape(weight.shape))
        self.merged = sign > 0

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        if self.merged:
            raise RuntimeError("the adapter is merged into its frozen weight: unmerge() before saving")
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def extra_repr(self) -> str:
        """Rank, scale and whether merged."""
        return f"rank={self.rank}, scale={self.scale:g}" + (", merged" if self.merged else "")


class LinearAdapter(Adapter):
    """Adapter of a ``torch.nn.Linear`` or its like: the output ``base(x) + scale x V S^T U^T``.

    Parameters and errors are those of :class:`Adapter`; m and n are ``out_features`` and ``in_features``.
    """

    map = LinearMap


class Conv2dAdapter(Adapter):
    """Adapter of a ``torch.nn.Conv2d`` or its like; the matrix is (out, in / groups * kh * kw).

    Parameters and errors are those of :class:`Adapter`.
    """

    map = Conv2dMap


class EmbeddingAdapter(Adapter):
    """Adapter of a ``torch.nn.Embedding`` or its like; the matrix is (num_embeddings, embedding_dim).

    Parameters and errors are those of :class:`Adapter`, and ValueError for the options that :class:`LowRankEmbedding`
    does not have.
    """

    map = EmbeddingMap
