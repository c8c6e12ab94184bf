"""What each type of torch layer does with its matrix: the one place that knows shapes, settings and low-rank maps.

The functions of a `Map` take the layer whose settings (``in_features``, ``stride``, ...) they read, at each call: the
torch layer itself or its low-rank counterpart.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from .functional import low_rank_conv, low_rank_conv_transpose, low_rank_embedding, low_rank_linear

__all__ = ["MAPS", "Conv1DMap", "ConvMap", "ConvTransposeMap", "EmbeddingMap", "LinearMap", "Map", "is_plain", "map_of"]


class Map:
    """The map of one type of torch layer.

    Attributes
    ----------
    arguments : tuple of str
        Arguments of the torch layer, apart from the bias, that are attributes too.
    has_bias : bool
        Whether it can have a bias.
    """

    arguments: ClassVar[tuple[str, ...]]
    has_bias: ClassVar[bool] = True

    @staticmethod
    def shape(layer) -> tuple[int, int]:
        """(m, n) of the matrix.

        Raises
        ------
        TypeError
            The layer lacks an attribute.
        ValueError
            It has an option that is not possible with a matrix of low rank.
        """
        raise TypeError("a map must define shape(layer)")

    @staticmethod
    def apply(layer, x, U, S, V, base=None, scale=1.0) -> torch.Tensor:
        """``base`` plus ``scale`` times the map of ``U S V^T``."""
        raise TypeError("a map must define apply(layer, x, U, S, V, base, scale)")

    @staticmethod
    def pixels(layer) -> int:
        """Number of dimensions of the output after that of the channels."""
        return 0

    @staticmethod
    def matrix(weight):
        """The weight of the layer as an (m, n) matrix."""
        return weight

    @staticmethod
    def weight(layer, W):
        """The matrix W as a weight of the layer, zero where the layer does not use it."""
        return W


class LinearMap(Map):
    """Map of ``torch.nn.Linear``: ``y = x W^T``."""

    arguments = ("in_features", "out_features")

    @staticmethod
    def shape(layer):
        """(out_features, in_features)."""
        return _integers(layer, "out_features", "in_features")

    @staticmethod
    def apply(layer, x, U, S, V, base=None, scale=1.0):
        """(..., in_features) to (..., out_features)."""
        return low_rank_linear(x, U, S, V, base, scale)


class Conv1DMap(LinearMap):
    """Map of transformers' ``Conv1D``, a linear layer whose weight is (in, out): the matrix is its transpose."""

    @staticmethod
    def shape(layer):
        """(out, in)."""
        return _integers(layer, "nf", "nx")

    @staticmethod
    def matrix(weight):
        """Transposed."""
        return weight.mT

    @staticmethod
    def weight(layer, W):
        """Transposed."""
        return W.mT


class ConvMap(Map):
    """Map of ``torch.nn.Conv1d`` to ``Conv3d`` with any stride, padding, dilation, groups and padding mode."""

    arguments: ClassVar[tuple[str, ...]] = (
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode",
    )  # fmt: skip

    @staticmethod
    def shape(layer):
        """(out, in / groups * k1 * k2 ...)."""
        out, channels, groups = _integers(layer, "out_channels", "in_channels", "groups")
        return out, channels // groups * math.prod(layer.kernel_size)

    @staticmethod
    def apply(layer, x, U, S, V, base=None, scale=1.0):
        """(B, in, H, W) to (B, out, H', W')."""
        padding = layer.padding
        if layer.padding_mode != "zeros" or isinstance(padding, str):
            mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
            x = F.pad(x, _margins(layer), mode=mode)
            padding = (0,) * len(layer.kernel_size)
        return low_rank_conv(x, U, S, V, base, scale, layer.stride, padding, layer.dilation, layer.kernel_size)

    @staticmethod
    def pixels(layer):
        """1, 2 or 3."""
        return len(layer.kernel_size)

    @staticmethod
    def matrix(weight):
        """(m, channels * pixels of the kernel)."""
        return weight.flatten(1)

    @staticmethod
    def weight(layer, W):
        """(m, channels, k1, k2, ...)."""
        return W.reshape(len(W), -1, *layer.kernel_size)


class ConvTransposeMap(ConvMap):
    """Map of ``torch.nn.ConvTranspose1d`` to ``ConvTranspose3d``; the rows of the matrix are channels of the input."""

    arguments = (
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "output_padding", "groups", "dilation",
        "padding_mode",
    )  # fmt: skip

    @staticmethod
    def shape(layer):
        """(in, out / groups * k1 * k2 ...)."""
        channels, out, groups = _integers(layer, "in_channels", "out_channels", "groups")
        return channels, out // groups * math.prod(layer.kernel_size)

    @staticmethod
    def apply(layer, x, U, S, V, base=None, scale=1.0, output_size=None):
        """(B, in, H, W) to (B, out, H', W'), of the size of ``base`` or as asked for."""
        stride, padding, dilation, kernel = layer.stride, layer.padding, layer.dilation, layer.kernel_size
        size = output_size if base is None else base.shape
        more = layer.output_padding
        if size is not None:
            settings = zip(size[-len(kernel) :], x.shape[2:], stride, padding, dilation, kernel, strict=True)
            more = tuple(n - ((k - 1) * s - 2 * p + d * (w - 1) + 1) for n, k, s, p, d, w in settings)
        return low_rank_conv_transpose(x, U, S, V, base, scale, stride, padding, dilation, kernel, layer.groups, more)


class EmbeddingMap(Map):
    """Map of ``torch.nn.Embedding``: ``y`` is a row of W, zero for ``padding_idx``.

    ``max_norm``, ``scale_grad_by_freq`` and ``sparse`` change single rows of a table, which one of low rank does not
    have.
    """

    arguments = ("num_embeddings", "embedding_dim", "padding_idx")
    has_bias = False

    @staticmethod
    def shape(layer):
        """(num_embeddings, embedding_dim)."""
        for name in ("max_norm", "scale_grad_by_freq", "sparse"):
            if getattr(layer, name, None):
                raise ValueError(f"an embedding with {name}={getattr(layer, name)} has no low-rank counterpart")
        return _integers(layer, "num_embeddings", "embedding_dim")

    @staticmethod
    def apply(layer, x, U, S, V, base=None, scale=1.0):
        """(...) of integers to (..., embedding_dim)."""
        return low_rank_embedding(x, U, S, V, base, scale, layer.padding_idx)

    @staticmethod
    def weight(layer, W):
        """The table with zeros in the row of ``padding_idx``."""
        if layer.padding_idx is None:
            return W
        keep = torch.arange(len(W), device=W.device) != layer.padding_idx
        return W * keep[:, None]


MAPS: dict[type | str, type[Map]] = {
    nn.Linear: LinearMap,
    "transformers.pytorch_utils.Conv1D": Conv1DMap,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), ConvMap),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), ConvTransposeMap),
    nn.Embedding: EmbeddingMap,
}
"""The maps of all known types of layers, by type or dotted name: a line for another type makes it known."""

FORWARD = ("forward", "_conv_forward")


def map_of(layer: Any) -> type[Map]:
    """The map of a layer.

    Known are the types in `MAPS`, classes derived from them that do not change the forward pass, and linear layers
    with a packed weight (4 and 8 bits of bitsandbytes and others), which tell ``in_features`` and ``out_features``. Of
    other layers that look like these nobody knows what they compute.

    Raises
    ------
    TypeError
        The map is not known, or the weight is complex or not initialised yet.
    """
    kind = type_before_parametrizations(layer)
    for known in kind.__mro__:
        found = MAPS.get(known) or MAPS.get(f"{known.__module__}.{known.__qualname__}")
        if found is None:
            continue
        if all(getattr(kind, name, None) is getattr(known, name, None) for name in FORWARD):
            weight: Any = getattr(layer, "weight", None)
            if nn.parameter.is_lazy(weight):
                raise TypeError(f"{kind.__name__} has no weight yet: run the model once first")
            if isinstance(weight, torch.Tensor) and weight.is_complex():
                raise TypeError(f"{kind.__name__} has a complex weight, expected a real one")
            return found
        break
    if isinstance(layer, nn.Module) and not list(layer.children()) and not is_plain(getattr(layer, "weight", None)):
        if all(isinstance(getattr(layer, name, None), Integral) for name in LinearMap.arguments):
            return LinearMap
    names = ", ".join(known.rpartition(".")[2] if isinstance(known, str) else known.__name__ for known in MAPS)
    raise TypeError(
        f"the map of {kind.__name__} is not known: expected {names}, or a class derived from these with their forward "
        "pass"
    )


def is_plain(weight) -> bool:
    """Whether a weight is an ordinary tensor of real numbers in half, single or double precision."""
    kinds = torch.bfloat16, torch.float16, torch.float32, torch.float64
    return type(weight) in (torch.Tensor, nn.Parameter) and weight.dtype in kinds


def _integers(layer, *names):
    missing = [name for name in names if not isinstance(getattr(layer, name, None), Integral)]
    if missing:
        raise TypeError(f"{type(layer).__name__} cannot be adapted: it has no attribute {', '.join(missing)}")
    return tuple(getattr(layer, name) for name in names)


def _margins(layer):
    """Of the last dimension first: left, right, top, bottom, ..."""
    margins = []
    for i in reversed(range(len(layer.kernel_size))):
        if layer.padding == "valid":
            margins += [0, 0]
        elif layer.padding == "same":
            total = layer.dilation[i] * (layer.kernel_size[i] - 1)
            margins += [total // 2, total - total // 2]
        else:
            margins += [layer.padding[i]] * 2
    return margins
