"""What each type of torch layer does with its matrix: the one place that knows shapes, settings and low-rank maps.

The functions of a `Map` take a module that has the attributes of the torch layer (``in_features``, ``stride``, ...):
the torch layer itself, its low-rank counterpart, or any other module that says the same about itself.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from .functional import low_rank_conv, low_rank_embedding, low_rank_linear

__all__ = ["Conv2dMap", "EmbeddingMap", "LinearMap", "Map"]


class Map:
    """The map of one type of torch layer.

    Attributes
    ----------
    torch_type : type
        The torch layer.
    arguments : tuple of str
        Its arguments, apart from the bias, that are attributes too. Any module that has the first one is taken for a
        layer of this type.
    has_bias : bool
        Whether it can have a bias.
    pixels : int
        Number of dimensions of the output after that of the channels.
    """

    torch_type: ClassVar[Any]
    arguments: ClassVar[tuple[str, ...]]
    has_bias: ClassVar[bool] = True
    pixels: ClassVar[int] = 0

    @staticmethod
    def shape(module) -> tuple[int, int]:
        """(m, n) of the matrix.

        Raises
        ------
        TypeError
            The module lacks an attribute.
        ValueError
            It has an option that is not possible with a matrix of low rank.
        """
        raise TypeError("a map must define shape(module)")

    @staticmethod
    def apply(module, x, U, S, V, base=None, scale=1.0) -> torch.Tensor:
        """``base`` plus ``scale`` times the map of ``U S V^T``."""
        raise TypeError("a map must define apply(module, x, U, S, V, base, scale)")

    @staticmethod
    def effective(module, W):
        """The dense matrix W without the entries that the map does not use."""
        return W


class LinearMap(Map):
    """Map of ``torch.nn.Linear``: ``y = x W^T``."""

    torch_type = nn.Linear
    arguments = ("in_features", "out_features")

    @staticmethod
    def shape(module):
        """(out_features, in_features)."""
        return _integers(module, "out_features", "in_features")

    @staticmethod
    def apply(module, x, U, S, V, base=None, scale=1.0):
        """(..., in_features) to (..., out_features)."""
        return low_rank_linear(x, U, S, V, base, scale)


class Conv2dMap(Map):
    """Map of ``torch.nn.Conv2d`` with any stride, padding, dilation, groups and padding mode."""

    torch_type = nn.Conv2d
    arguments = (
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode",
    )  # fmt: skip
    pixels = 2

    @staticmethod
    def shape(module):
        """(out, in / groups * kh * kw)."""
        out, channels, groups = _integers(module, "out_channels", "in_channels", "groups")
        return out, channels // groups * math.prod(module.kernel_size)

    @staticmethod
    def apply(module, x, U, S, V, base=None, scale=1.0):
        """(B, in, H, W) to (B, out, H', W')."""
        padding = module.padding
        if module.padding_mode != "zeros" or isinstance(padding, str):
            mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
            x = F.pad(x, _margins(module), mode=mode)
            padding = (0, 0)
        kernel = tuple(module.kernel_size)
        return low_rank_conv(x, U, S, V, base, scale, module.stride, padding, module.dilation, kernel)


class EmbeddingMap(Map):
    """Map of ``torch.nn.Embedding``: ``y`` is a row of W, zero for ``padding_idx``.

    ``max_norm``, ``scale_grad_by_freq`` and ``sparse`` change single rows of a table, which one of low rank does not
    have.
    """

    torch_type = nn.Embedding
    arguments = ("num_embeddings", "embedding_dim", "padding_idx")
    has_bias = False

    @staticmethod
    def shape(module):
        """(num_embeddings, embedding_dim)."""
        for name in ("max_norm", "scale_grad_by_freq", "sparse"):
            if getattr(module, name, None):
                raise ValueError(f"an embedding with {name}={getattr(module, name)} has no low-rank counterpart")
        return _integers(module, "num_embeddings", "embedding_dim")

    @staticmethod
    def apply(module, x, U, S, V, base=None, scale=1.0):
        """(...) of integers to (..., embedding_dim)."""
        return low_rank_embedding(x, U, S, V, base, scale, module.padding_idx)

    @staticmethod
    def effective(module, W):
        """The table with zeros in the row of ``padding_idx``."""
        if module.padding_idx is None:
            return W
        keep = torch.arange(len(W), device=W.device) != module.padding_idx
        return W * keep[:, None]


def _integers(module, *names):
    missing = [name for name in names if not isinstance(getattr(module, name, None), Integral)]
    if missing:
        raise TypeError(f"{type(module).__name__} cannot be adapted: it has no attribute {', '.join(missing)}")
    return tuple(getattr(module, name) for name in names)


def _margins(module):
    """Left, right, top, bottom."""
    margins = []
    for i in (1, 0):
        if module.padding == "valid":
            margins += [0, 0]
        elif module.padding == "same":
            total = module.dilation[i] * (module.kernel_size[i] - 1)
            margins += [total // 2, total - total // 2]
        else:
            margins += [module.padding[i]] * 2
    return margins
