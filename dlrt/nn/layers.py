"""Low-rank layers: counterparts of torch's linear, convolution and embedding layers whose weight is ``U S V^T``."""

from __future__ import annotations

import inspect
import math
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from integrators import LowRank
from integrators.checks import check_integer, check_rank

from .factors import Factor, assign
from .maps import ConvMap, ConvTransposeMap, EmbeddingMap, LinearMap, Map, is_plain, map_of

__all__ = [
    "LowRankConv1d",
    "LowRankConv2d",
    "LowRankConv3d",
    "LowRankConvTranspose1d",
    "LowRankConvTranspose2d",
    "LowRankConvTranspose3d",
    "LowRankEmbedding",
    "LowRankLayer",
    "LowRankLinear",
    "TrainedLayer",
]

FACTORS = ("U", "S", "V")
WIDE = (torch.float32, torch.float64)
"""What factors are kept in: 16 bits are too few for orthonormal bases and small singular values."""


class LowRankLayer(nn.Module):
    """A layer that owns a trained matrix ``Y = U S V^T`` of low rank.

    Attributes
    ----------
    U, S, V : Factor
        (m, r), (r, r), (n, r). Their shapes change with the rank, the parameter objects stay. See
        :class:`dlrt.nn.Factor` for what their ``grad`` holds. They stay in single (or double) precision under
        ``half()``, ``bfloat16()`` and ``to(dtype)``.
    map : type of Map
        What the layer does with its matrix.
    scale : float
        By which the map is multiplied.
    dropout : float
        Fraction of the entries of the input that are set to zero in training, before the map.
    """

    U: Factor
    S: Factor
    V: Factor
    map: type[Map]
    scale: float = 1.0
    dropout: float = 0.0

    def __setattr__(self, name, value):
        """U, S and V stay factors, whatever loads them."""
        if name in FACTORS and type(value) is nn.Parameter:
            value = Factor(value.data, value.requires_grad)
        super().__setattr__(name, value)

    def to_dense(self) -> nn.Module:
        """The plain torch layer of the same function."""
        raise TypeError(f"{type(self).__name__} must define to_dense()")

    def _make_factors(self, shape, rank, norm, generator=None, device=None, dtype=None):
        """Haar-distributed bases and r equal singular values, of Frobenius norm ``norm`` together."""
        (m, n), rank = shape, check_rank(rank, shape)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if dtype.is_complex:
            raise TypeError(f"low-rank layers are real, got {dtype}")
        options = {"device": device, "dtype": dtype if dtype in WIDE else torch.float32}
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
        return LowRank(*(X.detach() for X in self.factors))

    @Y.setter
    def Y(self, Y: LowRank) -> None:
        assign(self.factors, list(Y))

    @property
    def factors(self) -> tuple[Factor, Factor, Factor]:
        """U, S and V as parameters."""
        return self.U, self.S, self.V

    @property
    def settings(self) -> Any:
        """The layer whose attributes (``in_features``, ``stride``, ...) are the settings of the map."""
        return self

    def dense(self) -> torch.Tensor:
        """``scale U S V^T`` in the layout of the weight of the torch layer, without gradient, also under autocast."""
        with without_autocast(self.S.device.type):
            return self.map.weight(self.settings, self.scale * self.Y.full())

    def lora_factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """B (m, r) and A (r, n) with ``B A = scale U S V^T``."""
        with without_autocast(self.S.device.type):
            return self.scale * self.Y.K, self.V.detach().mT.contiguous()

    def _lift(self, x, base=None, **options):
        """The map of the trained matrix (times scale) added to ``base``, under autocast in its dtype."""
        if x.is_complex():
            raise TypeError(f"low-rank layers are real, got an input of {x.dtype}")
        pixels = self.map.pixels(self.settings)
        if pixels and x.ndim == pixels + 1:  # one image without a batch
            return self._lift(x[None], None if base is None else base[None], **options)[0]
        # Read past the attribute access of modules: torch.compile takes the shapes of what that finds for fixed.
        parameters = self.__dict__["_parameters"]
        if "U" not in parameters:  # copies of nn.DataParallel have their parameters as attributes
            parameters = self.__dict__
        U, S, V = parameters["U"], parameters["S"], parameters["V"]
        kind, dtype = U.device.type, U.dtype
        autocast = kind != "meta" and torch.is_autocast_enabled(kind) and dtype is not torch.float64
        if autocast:
            dtype = torch.get_autocast_dtype(kind)
            U, S, V = U.to(dtype), S.to(dtype), V.to(dtype)
        if x.is_floating_point():
            x = x.to(dtype)
            if self.dropout:
                x = F.dropout(x, self.dropout, self.training)
        start = None if base is None else base.to(dtype)
        if autocast:  # all is cast: what is done inside must keep to it
            with without_autocast(kind):
                y = self.map.apply(self.settings, x, U, S, V, start, self.scale, **options)
        else:
            y = self.map.apply(self.settings, x, U, S, V, start, self.scale, **options)
        return y if base is None else y.to(base.dtype)

    def _apply(self, fn, recurse=True):
        """Moves take the factors to other devices, and from single to double precision and back, not to others."""
        own = [X for p in self.factors for X in (p, p.grad) if X is not None]

        def moved(X):
            made = fn(X)
            return made if made.dtype in WIDE or all(X is not mine for mine in own) else X.to(made.device)

        super()._apply(moved, recurse)
        for name in FACTORS:  # a move to another kind of device makes plain parameters, loading by assignment any type
            parameter = self._parameters[name]
            if parameter is not None and not (isinstance(parameter, Factor) and parameter.dtype in WIDE):
                data = parameter.data if parameter.dtype in WIDE else parameter.data.float()
                self._parameters[name] = Factor(data, parameter.requires_grad)
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


class TrainedLayer(LowRankLayer):
    """A layer in the place of a torch layer: its weight is the trained matrix, its bias is its own.

    Parameters
    ----------
    *args, **kwargs
        Those of the torch layer, ``device`` and ``dtype`` too.
    rank : int
        At the start; 1 <= rank <= min(m, n).
    generator : torch.Generator, optional
        Source of the bases and the bias; torch's default one without it.

    Attributes
    ----------
    torch_type : type
        The torch layer.
    dtype : torch.dtype
        Of the output, and what the torch layer would have: under ``bfloat16()`` it changes, the factors do not.

    Raises
    ------
    TypeError, ValueError
        The rank is no integer from 1 to min(m, n); a size is no positive integer; the type is complex.

    Notes
    -----
    Starts with Haar-distributed bases and equal singular values, of the Frobenius norm of torch's own start. Cost and
    memory O((m + n) rank).
    """

    torch_type: ClassVar[Any]
    __signature__: ClassVar[inspect.Signature]
    bias: Any

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "torch_type"):  # what help() shows
            ours = inspect.signature(TrainedLayer.__init__).parameters
            theirs = inspect.signature(cls.torch_type).parameters.values()
            cls.__signature__ = inspect.Signature([*theirs, ours["rank"], ours["generator"]])

    def __init__(self, *args: Any, rank: int, generator: torch.Generator | None = None, **kwargs: Any):
        super().__init__()
        given = inspect.signature(self.torch_type).bind(*args, **kwargs).arguments
        device, dtype = given.pop("device", None), given.pop("dtype", None)
        for name in self.map.arguments[:2]:
            given[name] = check_integer(name, given[name])
        like = self.torch_type(**given, device="meta")
        for name in self.map.arguments:
            setattr(self, name, getattr(like, name))
        m, n = self.map.shape(like)
        check_rank(rank, (m, n))
        self.dtype = torch.get_default_dtype() if dtype is None else dtype
        self._make_factors((m, n), rank, self._start_norm(m, n), generator, device, self.dtype)
        self.bias = None
        if getattr(like, "bias", None) is not None:
            bias, bound = torch.empty(like.bias.shape, device=device, dtype=dtype), 1 / math.sqrt(n)
            self.bias = nn.Parameter(nn.init.uniform_(bias, -bound, bound, generator=generator))

    @staticmethod
    def _start_norm(m, n):
        """The Frobenius norm of torch's own start, whose entries have the variance 1 / (3 n)."""
        return math.sqrt(m * n / (3 * n))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """A new random start, of the current rank, as in the constructor."""
        m, n = self.shape
        options: dict[str, Any] = {"device": self.S.device, "dtype": self.S.dtype}
        U, V = (_orthonormal(size, self.rank, generator, options) for size in (m, n))
        self.Y = LowRank(U, torch.eye(self.rank, **options) * (self._start_norm(m, n) / math.sqrt(self.rank)), V)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -1 / math.sqrt(n), 1 / math.sqrt(n), generator=generator)

    @property
    def weight(self) -> torch.Tensor:
        """The dense weight for reading, made anew at each call and without gradient."""
        return self.dense().to(self.dtype)

    @classmethod
    def from_dense(cls, module: Any, rank: int):
        """A layer with the best approximation of rank ``rank`` of the weight of a torch layer, and its bias.

        Raises
        ------
        TypeError
            The module is another type of layer, or its weight is packed or complex.
        ValueError
            The rank exceeds min(m, n), or an option of the torch layer has no counterpart.
        """
        if not cls.replaces(module):
            if isinstance(module, cls.torch_type):
                map_of(module)  # says what is wrong with it
            raise TypeError(f"{cls.__name__} replaces {cls.torch_type.__name__}, got {type(module).__name__}")
        map = map_of(module)
        check_rank(rank, map.shape(module))
        weight = module.weight.detach()
        if not is_plain(weight):
            raise TypeError(f"{type(module).__name__} has a weight of {weight.dtype}, expected a floating-point one")
        layer = cls(**cls._arguments(module, map), rank=rank, device=weight.device, dtype=weight.dtype)
        layer.Y = LowRank.from_dense(map.matrix(weight).to(layer.S.dtype), rank=rank)
        return layer._finished(module, layer)

    @classmethod
    def replaces(cls, module: Any) -> bool:
        """Whether this is the counterpart of a layer."""
        try:
            map = map_of(module)
        except TypeError:
            return False
        return issubclass(map, cls.map) and (map.pixels(module) == 0 or isinstance(module, cls.torch_type))

    def to_dense(self) -> nn.Module:
        """The torch layer with the same weight and bias."""
        arguments = self._arguments(self, self.map)
        module = self.torch_type(**arguments, device=self.U.device, dtype=self.dtype)
        with torch.no_grad():
            module.weight.copy_(self.dense())
        return self._finished(self, module)

    @classmethod
    def _arguments(cls, module, map) -> dict[str, Any]:
        """What the torch layer and its counterpart are made with."""
        arguments = {name: getattr(module, name) for name in cls.map.arguments}
        return {**arguments, "bias": module.bias is not None} if cls.map.has_bias else arguments

    @staticmethod
    def _finished(source, made):
        """The new layer with the bias and the mode of the source."""
        if getattr(source, "bias", None) is not None:
            with torch.no_grad():
                made.bias.copy_(source.bias)
        return made.train(source.training)

    def _apply(self, fn, recurse=True):
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.S.device)).dtype
        return super()._apply(fn, recurse)

    def forward(self, x, **options):
        """The output of the torch layer of the same weight and bias."""
        y = self._lift(x, **options)
        if y.is_meta or not torch.is_autocast_enabled(y.device.type):
            y = y.to(self.dtype)
        return y if self.bias is None else y + self.bias.to(y.dtype)[(..., *[None] * self.map.pixels(self))]

    def extra_repr(self) -> str:
        """Constructor arguments and rank."""
        return ", ".join([*(f"{name}={getattr(self, name)!r}" for name in self.map.arguments), f"rank={self.rank}"])


class LowRankLinear(TrainedLayer):
    """Low-rank counterpart of ``torch.nn.Linear``: ``y = x V S^T U^T + bias``.

    Parameters, errors and start are those of :class:`TrainedLayer`; m and n are ``out_features`` and ``in_features``.
    """

    torch_type = nn.Linear
    map = LinearMap

    @classmethod
    def from_linear(cls, module, rank):
        """As :meth:`from_dense`."""
        return cls.from_dense(module, rank)

    @classmethod
    def _arguments(cls, module, map):
        """By the shape, since transformers' Conv1D has other names for it."""
        m, n = map.shape(module)
        return {"in_features": n, "out_features": m, "bias": module.bias is not None}


class _Conv(TrainedLayer):
    map = ConvMap
    kernel_size: tuple[int, ...]


class LowRankConv1d(_Conv):
    """Low-rank counterpart of ``torch.nn.Conv1d``: ``U S V^T`` is the kernel as a matrix (out, in / groups * k)."""

    torch_type = nn.Conv1d


class LowRankConv2d(_Conv):
    """Low-rank counterpart of ``torch.nn.Conv2d``: ``U S V^T`` is the kernel as a matrix (out, in / groups * kh * kw).

    Parameters, errors and start are those of :class:`TrainedLayer`.
    """

    torch_type = nn.Conv2d


class LowRankConv3d(_Conv):
    """Low-rank counterpart of ``torch.nn.Conv3d``: the matrix is (out, in / groups * kd * kh * kw)."""

    torch_type = nn.Conv3d


class _ConvTranspose(_Conv):
    map = ConvTransposeMap

    def forward(self, x, output_size=None):  # type: ignore[override]
        """The output of the torch layer of the same weight and bias, of a size that is asked for."""
        return super().forward(x, output_size=output_size)


class LowRankConvTranspose1d(_ConvTranspose):
    """Low-rank counterpart of ``torch.nn.ConvTranspose1d``: the matrix is (in, out / groups * k)."""

    torch_type = nn.ConvTranspose1d


class LowRankConvTranspose2d(_ConvTranspose):
    """Low-rank counterpart of ``torch.nn.ConvTranspose2d``: the matrix is (in, out / groups * kh * kw)."""

    torch_type = nn.ConvTranspose2d


class LowRankConvTranspose3d(_ConvTranspose):
    """Low-rank counterpart of ``torch.nn.ConvTranspose3d``: the matrix is (in, out / groups * kd * kh * kw)."""

    torch_type = nn.ConvTranspose3d


class LowRankEmbedding(TrainedLayer):
    """Low-rank counterpart of ``torch.nn.Embedding``: the table (num_embeddings, embedding_dim) is ``U S V^T``.

    Parameters, errors and start are those of :class:`TrainedLayer`. The row of ``padding_idx`` is zero, and stays so.

    Notes
    -----
    ``max_norm``, ``scale_grad_by_freq`` and ``sparse`` are refused: they change single rows of a table, which one of
    low rank does not have.
    """

    torch_type = nn.Embedding
    map = EmbeddingMap

    @staticmethod
    def _start_norm(m, n):
        """torch's own start has entries of variance 1."""
        return math.sqrt(m * n)

    @classmethod
    def from_embedding(cls, module, rank):
        """As :meth:`from_dense`."""
        return cls.from_dense(module, rank)


def without_autocast(kind: str):
    """Products in the precision of their factors, on a kind of device."""
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def _orthonormal(m, rank, generator, options):
    """Haar distributed (m, rank)."""
    dtype = options["dtype"] or torch.get_default_dtype()
    device = torch.device(options["device"]) if options["device"] is not None else torch.get_default_device()
    if device.type == "meta":
        return torch.empty(m, rank, **options)
    X = torch.randn(m, rank, generator=generator, dtype=torch.float64, device=device if generator is None else None)
    Q, R = torch.linalg.qr(X)
    return (Q * R.diagonal().sign()).to(device, dtype).contiguous()
