"""The optimiser's step alone: calls of torch's dispatcher, reads on the host, and time, by the ranks of the layers.

Calls and reads do not depend on the machine. On a GPU each call that is no view is a kernel to launch, and each read
makes the processor wait for all that was launched before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dlrt.nn import LowRankLinear, LowRankOptimizer
from integrators import GeoLoRA, Tolerance

READS = {"__bool__", "__float__", "__int__", "__index__", "cpu", "equal", "is_nonzero", "item", "numpy", "tolist"}


class Calls(TorchDispatchMode):
    """Counts the dispatcher's calls that are no views, and names those with results in double precision."""

    def __init__(self):
        super().__init__()
        self.count = 0
        self.double: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """One call."""
        view = function.is_view or function is torch.ops.aten._unsafe_view.default
        result = function(*args, **(kwargs or {}))
        self.count += not view
        for X in result if isinstance(result, tuple) else [result]:
            if isinstance(X, torch.Tensor) and X.dtype == torch.float64 and not view:
                self.double.add(function.overloadpacket.__name__)
        return result


class Reads(TorchFunctionMode):
    """Counts the places where Python asks for the entries of a tensor on the model's device.

    What comes from numpy, or is a copy for the host, is on the host, with all that is computed from it there.
    """

    def __init__(self):
        super().__init__()
        self.count = 0
        self.host: dict[int, torch.Tensor] = {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """One function of torch."""
        name, tensors = getattr(function, "__name__", ""), [X for X in args if isinstance(X, torch.Tensor)]
        result = function(*args, **(kwargs or {}))
        away = bool(tensors) and all(id(X) in self.host for X in tensors)
        self.count += name in READS and not away
        if name in ("asarray", "cpu", "from_numpy") or (away and name != "to"):
            for X in result if isinstance(result, tuple) else [result]:
                self.host[id(X)] = X
        return result


def layers(shapes: Sequence[tuple[int, int]], ranks: Sequence[int], device: str = "cpu") -> nn.ModuleDict:
    """Linear layers of these ranks, the shapes in turn."""
    torch.manual_seed(0)
    return nn.ModuleDict(
        {f"{i}": LowRankLinear(*shapes[i % len(shapes)], False, device, rank=r) for i, r in enumerate(ranks)}
    )


def give_gradients(model: nn.ModuleDict) -> None:
    """A gradient of about the singular values 1, 1/2, 1/3, ... in random directions to each layer."""
    for layer in model.values():
        m, n = layer.shape
        (U, _, V), k = layer.Y, min(m, n)
        P, Q = (torch.randn(size, k, device=U.device) / size**0.5 for size in (m, n))
        P = P / torch.arange(1, k + 1, device=U.device)
        layer.U.grad, layer.V.grad, layer.S.grad = P @ (Q.mT @ V), Q @ (P.mT @ U), (U.mT @ P) @ (Q.mT @ V)


def stepper(shapes, ranks, integrator=None, device="cpu", **options):
    """Such layers, and an optimiser of them."""
    model = layers(shapes, ranks, device)
    integrator = GeoLoRA(truncation=Tolerance(relative=0.1, spare=1)) if integrator is None else integrator
    optimizer = LowRankOptimizer(model, integrator, 0.1, **options)
    return model, optimizer


def counted(shapes, ranks, integrator=None, **options) -> tuple[int, int]:
    """Calls that are no views, and reads on the host, of one step from these ranks."""
    model, optimizer = stepper(shapes, ranks, integrator, **options)
    give_gradients(model)
    with Calls() as calls, Reads() as reads:
        optimizer.step()
    return calls.count, reads.count
