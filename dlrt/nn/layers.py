"""Low-rank layers: drop-in for torch's Linear, Conv2d and Embedding, and adapters around frozen ones."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from integrators import LowRank

from .factors import Factor, assign
from .functional import low_rank_conv2d, low_rank_embedding, low_rank_linear

__all__ = [
    "Conv2dAdapter",
    "EmbeddingAdapter",
    "LinearAdapter",
    "LowRankConv2d",
    "LowRankEmbedding",
    "LowRankLayer",
    "LowRankLinear",
]

FACTORS = ("U", "S", "V")


class LowRankLayer(nn.Module):
    r"""A layer that owns a trained matrix ``Y = U S V^T`` of low rank.

    Attributes
    ----------
    U, S, V : Factor
        (m, r), (r, r), (n, r). Shapes change with the rank, the parameter objects stay. What their ``grad`` holds says
        :class:`dlrt.nn.Factor`.
    """

    U: Factor
    S: Factor
    V: Factor

    def to_dense(self) -> nn.Module:
        """The plain torch layer of the same function."""
        raise TypeError(f"{type(self).__name__} must define to_dense()")

    def _make_factors(self, shape, rank, norm, generator=None, device=None, dtype=None):
        """Haar-distributed bases and r equal singular values, of Frobenius norm ``norm`` together."""
        m, n = shape
        check_rank(rank, shape)
        options = {"device": device, "dtype": dtype}
        self.U = Factor(_orthonormal(m, rank, generator, options))
        self.S = Factor(torch.eye(rank, **options) * (norm / math.sqrt(rank)))
        self.V = Factor(_orthonormal(n, rank, generator, options))

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of the matrix."""
        return self.U.shape[0], self.V.shape[0]

    @property
    def rank(self) -> int:
        """The current rank, spare directions included."""
        return self.S.shape[0]

    @property
    def Y(self) -> LowRank:
        """The trained matrix; the factors themselves, not copies."""
        return LowRank(self.U.detach(), self.S.detach(), self.V.detach())

    @Y.setter
    def Y(self, Y: LowRank) -> None:
        for name in FACTORS:
            assign(getattr(self, name), getattr(Y, name))

    def dense(self) -> torch.Tensor:
        """The trained matrix U S V^T as a dense (m, n) array, without gradient."""
        return self.Y.full()

    def lora_factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """B (m, r) and A (r, n) with ``B A = U S V^T``."""
        return self.Y.K.clone(), self.V.detach().mT.contiguous()

    def _lift(self, x, base=None):
        """The map of the trained matrix (times scale) added to ``base``, under autocast in its dtype."""
        # Read past the attribute access of modules: torch.compile takes the shapes of what that finds for fixed.
        parameters = self.__dict__["_parameters"]
        U, S, V = parameters["U"], parameters["S"], parameters["V"]
        kind, dtype = U.device.type, U.dtype
        autocast = torch.is_autocast_enabled(kind) and dtype is not torch.float64
        if autocast:
            dtype = torch.get_autocast_dtype(kind)
            U, S, V = U.to(dtype), S.to(dtype), V.to(dtype)
        if x.is_floating_point():
            x = x.to(dtype)
        start = None if base is None else base.to(dtype)
        if autocast:  # all is cast: what is done inside must keep to it
            with torch.autocast(kind, enabled=False):
                y = self._map(x, U, S, V, start)
        else:
            y = self._map(x, U, S, V, start)
        return y if base is None else y.to(base.dtype)

    def _map(self, x, U, S, V, base):
        raise TypeError(f"{type(self).__name__} must define _map(x, U, S, V, base)")

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        for name in FACTORS:  # a move to another kind of device makes plain parameters
            parameter = self._parameters[name]
            if parameter is not None and not isinstance(parameter, Factor):
                self._parameters[name] = Factor(parameter.data, parameter.requires_grad)
        return self

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, errors):
        """A saved rank other than the current one is taken over; other dimensions must fit."""
        saved = [state_dict.get(prefix + name) for name in FACTORS]
        if all(X is not None and X.ndim == 2 for X in saved):
            U, S, V = saved
            fits = (U.shape[0], V.shape[0]) == self.shape and S.shape == (U.shape[1], V.shape[1])
            if fits and S.shape[0] == S.shape[1] and S.shape != self.S.shape:
                self.Y = LowRank(*(X.to(self.S.device, self.S.dtype) for X in saved))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, errors)
        self._apply(lambda X: X)


class _Dense(LowRankLayer):
    """Trained from scratch: the matrix is the weight, with a bias of its own."""

    bias: Any
    namesake: ClassVar[Any]
    settings: ClassVar[tuple[str, ...]]

    @property
    def weight(self) -> torch.Tensor:
        """The dense weight for reading, made anew at each call and without gradient."""
        return self.dense()

    def _start(self, shape, fan_in, rank, generator, options):
        # torch's own start has entries of variance 1 / (3 fan_in): the same Frobenius norm here
        self._make_factors(shape, rank, math.sqrt(shape[0] * shape[1] / (3 * fan_in)), generator, **options)

    @classmethod
    def from_dense(cls, module: Any, rank: int):
        """A layer with the best approximation of rank ``rank`` of the weight of a torch layer, and its bias.

        Raises TypeError for another type of layer, ValueError if the rank exceeds min(m, n).
        """
        if not isinstance(module, cls.namesake):
            raise TypeError(f"{cls.__name__} replaces {cls.namesake.__name__}, got {type(module).__name__}")
        weight = module.weight.detach()
        matrix = weight.flatten(1)
        check_rank(rank, matrix.shape)
        settings = {name: getattr(module, name) for name in cls.settings}
        if cls.namesake is not nn.Embedding:
            settings["bias"] = module.bias is not None
        layer = cls(**settings, rank=rank, device=weight.device, dtype=weight.dtype)
        layer.Y = LowRank.from_dense(matrix, rank=rank)
        if getattr(module, "bias", None) is not None:
            with torch.no_grad():
                layer.bias.copy_(module.bias)
        return layer.train(module.training)

    def to_dense(self) -> nn.Module:
        """The torch layer with the same weight and bias."""
        settings = {name: getattr(self, name) for name in self.settings}
        if self.namesake is not nn.Embedding:
            settings["bias"] = self.bias is not None
        module = self.namesake(**settings, device=self.U.device, dtype=self.U.dtype)
        with torch.no_grad():
            module.weight.copy_(self.weight)
            if self.bias is not None:
                module.bias.copy_(self.bias)
        return module.train(self.training)

    def extra_repr(self) -> str:
        """Constructor arguments and rank."""
        return ", ".join([*(f"{name}={getattr(self, name)!r}" for name in self.settings), f"rank={self.rank}"])


class LowRankLinear(_Dense):
    """``torch.nn.Linear`` with the weight ``U S V^T``: y = x V S^T U^T + bias.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    rank : int
        At the start; 1 <= rank <= min(in_features, out_features).
    device, dtype
        As in torch.
    generator : torch.Generator, optional
        Source of the bases; torch's default one without it.

    Notes
    -----
    Starts with Haar-distributed bases and equal singular values, of the Frobenius norm of torch's own start.
    Cost and memory O((in + out) rank).
    """

    namesake = nn.Linear
    settings = ("in_features", "out_features")

    def __init__(self, in_features, out_features, bias=True, device=None, dtype=None, *, rank, generator=None):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        options = {"device": device, "dtype": dtype}
        self._start((out_features, in_features), in_features, rank, generator, options)
        self.bias = _bias(out_features, in_features, generator, options) if bias else None

    @classmethod
    def from_linear(cls, module, rank):
        """The best approximation of rank ``rank`` of a torch layer."""
        return cls.from_dense(module, rank)

    to_linear = _Dense.to_dense

    def forward(self, x):
        """(..., in_features) to (..., out_features)."""
        y = self._lift(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _map(self, x, U, S, V, base):
        return low_rank_linear(x, U, S, V, base)


class LowRankConv2d(_Dense):
    """``torch.nn.Conv2d`` whose kernel, as a matrix (out, in / groups * kh * kw), is ``U S V^T``.

    Parameters are those of ``torch.nn.Conv2d``, and ``rank`` and ``generator`` as in :class:`LowRankLinear`.
    """

    namesake = nn.Conv2d
    settings = (
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode",
    )  # fmt: skip

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        bias=True,
        padding_mode="zeros",
        device=None,
        dtype=None,
        *,
        rank,
        generator=None,
    ):
        super().__init__()
        # torch checks the arguments and brings them into their usual forms
        meta = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, False, padding_mode, "meta"
        )
        self.out_channels: int
        self.kernel_size: tuple[int, int]
        for name in self.settings:
            setattr(self, name, getattr(meta, name))
        options = {"device": device, "dtype": dtype}
        fan_in = in_channels // groups * math.prod(self.kernel_size)
        self._start((out_channels, fan_in), fan_in, rank, generator, options)
        self.bias = _bias(out_channels, fan_in, generator, options) if bias else None

    @classmethod
    def from_conv2d(cls, module, rank):
        """The best approximation of rank ``rank`` of a torch layer."""
        return cls.from_dense(module, rank)

    to_conv2d = _Dense.to_dense

    @property
    def weight(self):
        """The dense kernel (out, in / groups, kh, kw) for reading, without gradient."""
        return self.dense().reshape(self.out_channels, -1, *self.kernel_size)

    def forward(self, x):
        """(B, in, H, W) or (in, H, W) to the same with out channels."""
        if x.ndim == 3:
            return self.forward(x[None])[0]
        y = self._lift(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)[:, None, None]

    def _map(self, x, U, S, V, base):
        return _convolve(self, x, U, S, V, base, 1.0)


class LowRankEmbedding(_Dense):
    """``torch.nn.Embedding`` with the table ``U S V^T`` (num_embeddings, embedding_dim).

    Parameters
    ----------
    num_embeddings, embedding_dim : int
    padding_idx : int, optional
        Its row is zero, and stays so.
    device, dtype
        As in torch.
    rank, generator
        As in :class:`LowRankLinear`.

    Notes
    -----
    ``max_norm``, ``scale_grad_by_freq`` and ``sparse`` change single rows of a table, which one of low rank has not.
    """

    namesake = nn.Embedding
    settings = ("num_embeddings", "embedding_dim", "padding_idx")
    bias = None

    def __init__(
        self, num_embeddings, embedding_dim, padding_idx=None, device=None, dtype=None, *, rank, generator=None
    ):
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = padding_idx if padding_idx is None else padding_idx % num_embeddings
        # torch's own start has entries of variance 1
        norm = math.sqrt(num_embeddings * embedding_dim)
        self._make_factors((num_embeddings, embedding_dim), rank, norm, generator, device, dtype)

    @classmethod
    def from_embedding(cls, module, rank):
        """The best approximation of rank ``rank`` of a torch layer."""
        return cls.from_dense(module, rank)

    to_embedding = _Dense.to_dense

    @classmethod
    def from_dense(cls, module, rank):
        """As for the other layers; options of torch's layer that have no counterpart here are refused."""
        if isinstance(module, nn.Embedding):
            _check_embedding(module)
        return super().from_dense(module, rank)

    def dense(self):
        """The dense table."""
        return _unpadded(super().dense(), self.padding_idx)

    def forward(self, index):
        """(...) to (..., embedding_dim)."""
        return self._lift(index)

    def _map(self, x, U, S, V, base):
        return low_rank_embedding(x, U, S, V, base, padding_idx=self.padding_idx)


class _Adapter(LowRankLayer):
    """``W0 + scale U S V^T`` around a frozen layer."""

    def __init__(self, base: Any, rank: int, scale: float = 1.0, generator=None):
        super().__init__()
        if not (isinstance(scale, (int, float)) and math.isfinite(scale) and scale != 0):
            raise ValueError(f"scale must be a finite number other than 0, got {scale!r}")
        self.base: Any = base.requires_grad_(False)
        self.scale = float(scale)
        self.merged = False
        weight = getattr(base, "weight", None)
        options: dict[str, Any] = {}
        if isinstance(weight, torch.Tensor):
            options["device"] = weight.device
            if weight.dtype == torch.float64:
                options["dtype"] = weight.dtype  # 16 bit are too few for the factors: float32 otherwise
        self._make_factors(self._matrix_shape(base), rank, 0.0, generator, **options)

    def __getattr__(self, name):
        """Attributes of the frozen layer that code around it asks for (``in_features``, ``bias``, ...)."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("base", "merged", *FACTORS):
                raise
            return getattr(super().__getattr__("base"), name)

    def _matrix_shape(self, base) -> tuple[int, int]:
        raise NotImplementedError

    @property
    @torch.no_grad()
    def weight(self) -> torch.Tensor:
        """The dense weight, frozen plus trained part, for reading: made anew at each call and without gradient."""
        weight = self.base.weight
        if self.merged:
            return weight
        return (weight + self.scale * self.dense().reshape(weight.shape)).to(weight.dtype)

    def forward(self, x):
        """The output of the frozen layer plus that of the adapter."""
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

    def lora_factors(self):
        """B (m, r) and A (r, n) with ``B A = scale U S V^T``."""
        B, A = super().lora_factors()
        return self.scale * B, A

    def extra_repr(self) -> str:
        """Rank, scale and whether merged."""
        return f"rank={self.rank}, scale={self.scale:g}" + (", merged" if self.merged else "")


class LinearAdapter(_Adapter):
    """``base(x) + scale x V S^T U^T`` with S = 0 at the start.

    Parameters
    ----------
    base : Module
        Frozen here. Any module with the call of ``torch.nn.Linear`` and its attributes ``in_features``,
        ``out_features``.
    rank : int
    scale : float
        Fixed: it does not depend on the rank, so that truncation does not change the function.
    generator : torch.Generator, optional

    Raises
    ------
    TypeError
        ``base`` does not tell its shape.
    ValueError
        The rank exceeds min(m, n).
    """

    def _matrix_shape(self, base):
        return _attributes(base, "out_features", "in_features")

    def _map(self, x, U, S, V, base):
        return low_rank_linear(x, U, S, V, base, self.scale)


class Conv2dAdapter(_Adapter):
    """As :class:`LinearAdapter`, around a layer with the call and the attributes of ``torch.nn.Conv2d``."""

    def _matrix_shape(self, base):
        out, channels, groups = _attributes(base, "out_channels", "in_channels", "groups")
        return out, channels // groups * math.prod(base.kernel_size)

    def forward(self, x):
        """(B, in, H, W) or (in, H, W) to the same with out channels."""
        return self.forward(x[None])[0] if x.ndim == 3 else super().forward(x)

    def _map(self, x, U, S, V, base):
        return _convolve(self.base, x, U, S, V, base, self.scale)


class EmbeddingAdapter(_Adapter):
    """As :class:`LinearAdapter`, around a layer with the call and the attributes of ``torch.nn.Embedding``."""

    def _matrix_shape(self, base):
        _check_embedding(base)
        return _attributes(base, "num_embeddings", "embedding_dim")

    def dense(self):
        """The dense table."""
        return _unpadded(super().dense(), self.base.padding_idx)

    def _map(self, x, U, S, V, base):
        return low_rank_embedding(x, U, S, V, base, self.scale, self.base.padding_idx)


def check_rank(rank, shape) -> None:
    """Raise unless ``rank`` is an integer from 1 to min(shape)."""
    if isinstance(rank, bool) or not isinstance(rank, int):
        raise TypeError(f"rank must be an integer, got {rank!r}")
    if not 1 <= rank <= min(shape):
        raise ValueError(f"rank must lie between 1 and min(m, n) = {min(shape)}, got {rank}")


def _orthonormal(m, rank, generator, options):
    """Haar distributed (m, rank)."""
    dtype = options["dtype"] or torch.get_default_dtype()
    device = torch.device(options["device"]) if options["device"] is not None else torch.get_default_device()
    if device.type == "meta":
        return torch.empty(m, rank, **options)
    X = torch.randn(m, rank, generator=generator, dtype=torch.float64, device=device if generator is None else None)
    Q, R = torch.linalg.qr(X)
    return (Q * R.diagonal().sign()).to(device, dtype).contiguous()


def _bias(features, fan_in, generator, options):
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(nn.init.uniform_(torch.empty(features, **options), -bound, bound, generator=generator))


def _convolve(settings, x, U, S, V, base, scale):
    """The convolution with the stride, padding, ... of the layer ``settings``."""
    padding = settings.padding
    if settings.padding_mode != "zeros" or isinstance(padding, str):
        mode = "constant" if settings.padding_mode == "zeros" else settings.padding_mode
        x = F.pad(x, _margins(settings), mode=mode)
        padding = (0, 0)
    return low_rank_conv2d(
        x, U, S, V, base, scale, settings.stride, padding, settings.dilation, tuple(settings.kernel_size)
    )


def _margins(settings):
    """Left, right, top, bottom."""
    margins = []
    for i in (1, 0):
        if settings.padding == "valid":
            margins += [0, 0]
        elif settings.padding == "same":
            total = settings.dilation[i] * (settings.kernel_size[i] - 1)
            margins += [total // 2, total - total // 2]
        else:
            margins += [settings.padding[i]] * 2
    return margins


def _attributes(base, *names) -> tuple:
    missing = [name for name in names if not isinstance(getattr(base, name, None), int)]
    if missing:
        raise TypeError(f"{type(base).__name__} cannot be adapted: it has no attribute {', '.join(missing)}")
    return tuple(getattr(base, name) for name in names)


def _check_embedding(module):
    for name in ("max_norm", "scale_grad_by_freq", "sparse"):
        if getattr(module, name, None):
            raise ValueError(f"an embedding with {name}={getattr(module, name)} has no low-rank counterpart")


def _unpadded(table, padding_idx):
    if padding_idx is None:
        return table
    keep = torch.arange(len(table), device=table.device) != padding_idx
    return table * keep[:, None]
