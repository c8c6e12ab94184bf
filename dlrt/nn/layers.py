"""Low-rank layers: counterparts of torch's Linear, Conv2d and Embedding whose weight is ``U S V^T``."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import nn

from integrators import LowRank
from integrators.checks import check_integer, check_rank

from .factors import Factor, assign
from .maps import Conv2dMap, EmbeddingMap, LinearMap, Map

__all__ = ["LowRankConv2d", "LowRankEmbedding", "LowRankLayer", "LowRankLinear", "TrainedLayer"]

FACTORS = ("U", "S", "V")


class LowRankLayer(nn.Module):
    """A layer that owns a trained matrix ``Y = U S V^T`` of low rank.

    Attributes
    ----------
    U, S, V : Factor
        (m, r), (r, r), (n, r). Their shapes change with the rank, the parameter objects stay. See
        :class:`dlrt.nn.Factor` for what their ``grad`` holds.
    map : type of Map
        What the layer does with its matrix.
    scale : float
        By which the map is multiplied.
    """

    U: Factor
    S: Factor
    V: Factor
    map: ClassVar[type[Map]]
    scale: float = 1.0

    def to_dense(self) -> nn.Module:
        """The plain torch layer of the same function."""
        raise TypeError(f"{type(self).__name__} must define to_dense()")

    def _make_factors(self, shape, rank, norm, generator=None, device=None, dtype=None):
        """Haar-distributed bases and r equal singular values, of Frobenius norm ``norm`` together."""
        (m, n), rank = shape, check_rank(rank, shape)
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
        """The module whose attributes (``in_features``, ``stride``, ...) are the settings of the map."""
        return self

    def dense(self) -> torch.Tensor:
        """The trained matrix U S V^T as a dense (m, n) array, without gradient."""
        return self.map.effective(self.settings, self.Y.full())

    def lora_factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """B (m, r) and A (r, n) with ``B A = scale U S V^T``."""
        return self.scale * self.Y.K, self.V.detach().mT.contiguous()

    def _lift(self, x, base=None):
        """The map of the trained matrix (times scale) added to ``base``, under autocast in its dtype."""
        if self.map.pixels and x.ndim == self.map.pixels + 1:  # one image without a batch
            return self._lift(x[None], None if base is None else base[None])[0]
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
                y = self.map.apply(self.settings, x, U, S, V, start, self.scale)
        else:
            y = self.map.apply(self.settings, x, U, S, V, start, self.scale)
        return y if base is None else y.to(base.dtype)

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


class TrainedLayer(LowRankLayer):
    """A layer in the place of a torch layer: its weight is the trained matrix, its bias is its own.

    Parameters
    ----------
    like : Module
        The torch layer of the same settings; its weight and bias are not read, and may be on the meta device.
    rank, generator, device, dtype
        As in :class:`LowRankLinear`.
    """

    bias: Any

    def __init__(self, like: Any, rank: int, generator=None, device=None, dtype=None):
        super().__init__()
        for name in self.map.arguments:
            setattr(self, name, getattr(like, name))
        m, n = self.map.shape(like)
        check_rank(rank, (m, n))
        self._make_factors((m, n), rank, self._start_norm(m, n), generator, device, dtype)
        self.bias = None
        if getattr(like, "bias", None) is not None:
            bias, bound = torch.empty(m, device=device, dtype=dtype), 1 / math.sqrt(n)
            self.bias = nn.Parameter(nn.init.uniform_(bias, -bound, bound, generator=generator))

    @staticmethod
    def _start_norm(m, n):
        """The Frobenius norm of torch's own start, whose entries have the variance 1 / (3 n)."""
        return math.sqrt(m * n / (3 * n))

    @property
    def weight(self) -> torch.Tensor:
        """The dense weight for reading, made anew at each call and without gradient."""
        return self.dense()

    @classmethod
    def from_dense(cls, module: Any, rank: int):
        """A layer with the best approximation of rank ``rank`` of the weight of a torch layer, and its bias.

        Raises
        ------
        TypeError
            The module is another type of layer.
        ValueError
            The rank exceeds min(m, n), or an option of the torch layer has no counterpart.
        """
        if not isinstance(module, cls.map.torch_type):
            raise TypeError(f"{cls.__name__} replaces {cls.map.torch_type.__name__}, got {type(module).__name__}")
        check_rank(rank, cls.map.shape(module))
        weight = module.weight.detach()
        layer = cls(**cls._arguments(module), rank=rank, device=weight.device, dtype=weight.dtype)
        layer.Y = LowRank.from_dense(weight.flatten(1), rank=rank)
        return layer._finished(module, layer)

    def to_dense(self) -> nn.Module:
        """The torch layer with the same weight and bias."""
        module = self.map.torch_type(**self._arguments(self), device=self.U.device, dtype=self.U.dtype)
        with torch.no_grad():
            module.weight.copy_(self.weight)
        return self._finished(self, module)

    @classmethod
    def _arguments(cls, module) -> dict[str, Any]:
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

    def forward(self, x):
        """The output of the torch layer of the same weight and bias."""
        y = self._lift(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)[(..., *[None] * self.map.pixels)]

    def extra_repr(self) -> str:
        """Constructor arguments and rank."""
        return ", ".join([*(f"{name}={getattr(self, name)!r}" for name in self.map.arguments), f"rank={self.rank}"])


class LowRankLinear(TrainedLayer):
    """Low-rank counterpart of ``torch.nn.Linear``: ``y = x V S^T U^T + bias``.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    device, dtype
        As in torch.
    rank : int
        At the start; 1 <= rank <= min(in_features, out_features).
    generator : torch.Generator, optional
        Source of the bases and the bias; torch's default one without it.

    Raises
    ------
    TypeError, ValueError
        The rank is no integer from 1 to min(m, n).

    Notes
    -----
    Starts with Haar-distributed bases and equal singular values, of the Frobenius norm of torch's own start. Cost and
    memory O((in + out) rank).
    """

    map = LinearMap

    def __init__(self, in_features, out_features, bias=True, device=None, dtype=None, *, rank, generator=None):
        check_integer("in_features", in_features)
        check_integer("out_features", out_features)
        super().__init__(nn.Linear(in_features, out_features, bias, "meta"), rank, generator, device, dtype)

    @classmethod
    def from_linear(cls, module, rank):
        """As :meth:`from_dense`."""
        return cls.from_dense(module, rank)


class LowRankConv2d(TrainedLayer):
    """Low-rank counterpart of ``torch.nn.Conv2d``: ``U S V^T`` is the kernel as a matrix (out, in / groups * kh * kw).

    Parameters are those of ``torch.nn.Conv2d``, and ``rank`` and ``generator`` as in :class:`LowRankLinear`.
    """

    map = Conv2dMap
    kernel_size: tuple[int, int]

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
        check_integer("in_channels", in_channels)
        check_integer("out_channels", out_channels)
        like = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, "meta"
        )
        super().__init__(like, rank, generator, device, dtype)

    @property
    def weight(self):
        """The dense kernel (out, in / groups, kh, kw) for reading, without gradient."""
        return self.dense().reshape(self.shape[0], -1, *self.kernel_size)


class LowRankEmbedding(TrainedLayer):
    """Low-rank counterpart of ``torch.nn.Embedding``: the table (num_embeddings, embedding_dim) is ``U S V^T``.

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
    There is no ``max_norm``, ``scale_grad_by_freq`` or ``sparse``: they change single rows of a table, which one of low
    rank does not have.
    """

    map = EmbeddingMap

    def __init__(
        self, num_embeddings, embedding_dim, padding_idx=None, device=None, dtype=None, *, rank, generator=None
    ):
        check_integer("num_embeddings", num_embeddings)
        check_integer("embedding_dim", embedding_dim)
        like = nn.Embedding(num_embeddings, embedding_dim, padding_idx, device="meta")
        super().__init__(like, rank, generator, device, dtype)

    @staticmethod
    def _start_norm(m, n):
        """torch's own start has entries of variance 1."""
        return math.sqrt(m * n)

    @classmethod
    def from_embedding(cls, module, rank):
        """As :meth:`from_dense`."""
        return cls.from_dense(module, rank)


def _orthonormal(m, rank, generator, options):
    """Haar distributed (m, rank)."""
    dtype = options["dtype"] or torch.get_default_dtype()
    device = torch.device(options["device"]) if options["device"] is not None else torch.get_default_device()
    if device.type == "meta":
        return torch.empty(m, rank, **options)
    X = torch.randn(m, rank, generator=generator, dtype=torch.float64, device=device if generator is None else None)
    Q, R = torch.linalg.qr(X)
    return (Q * R.diagonal().sign()).to(device, dtype).contiguous()
