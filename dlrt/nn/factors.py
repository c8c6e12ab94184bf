"""The factors of a low-rank layer as torch parameters: a type of their own, and how they change shape."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

__all__ = ["Factor", "assign"]


class Factor(nn.Parameter):
    """One of U, S, V of a low-rank layer.

    Its ``grad`` is not the derivative by its entries: for a loss with gradient G by ``W = U S V^T`` a backward pass
    adds ``G V`` to ``U.grad``, ``U^T G V`` to ``S.grad`` and ``G^T U`` to ``V.grad``, the gradients by ``K = U S``, S
    and ``L = V S^T``. An ordinary torch optimiser would make wrong steps with them and destroy the orthonormal bases;
    every optimiser but :class:`dlrt.nn.LowRankOptimizer` is therefore stopped at its first step. Averages of U, S and V
    over steps or models (EMA, SWA, soups) mean nothing, since bases turn: :class:`dlrt.nn.AveragedModel` is for these.

    Attributes
    ----------
    is_averaged : bool
        Whether its gradient is averaged over processes (:func:`dlrt.nn.distributed`).
    """

    is_averaged = False

    def __reduce_ex__(self, protocol):
        """Copies and files keep the type."""
        return _rebuild, (self.data, self.requires_grad)


def _rebuild(data, requires_grad):
    return Factor(data, requires_grad)


def _refuse(optimizer, args, kwargs):
    if getattr(optimizer, "steps_factors", False):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if isinstance(parameter, Factor):
                raise TypeError(
                    f"{type(optimizer).__name__} was given the factors of a low-rank layer "
                    f"(one of shape {tuple(parameter.shape)}), whose gradients belong to K = U S, S and L = V S^T: "
                    f"use dlrt.nn.LowRankOptimizer(model, integrator, lr, rest={type(optimizer).__name__}), which "
                    f"trains all other parameters with {type(optimizer).__name__}"
                )


register_optimizer_step_pre_hook(_refuse)


@torch.no_grad()
def assign(parameters: Sequence[nn.Parameter], values: Sequence[torch.Tensor]) -> None:
    """Give parameters new values, of other shapes if need be.

    They stay the same objects, so hooks and optimisers keep hold of them. Of the same shape the values are copied, and
    ``grad`` stays. Otherwise ``grad`` is dropped, and with it torch's gradient accumulator for the old shape, which a
    graph that is still alive would else use again, summing new gradients of rank k into old ones of rank 1. torch
    forgets the accumulator when the dtype of the data changes, so that is done for a moment.

    Parameters
    ----------
    parameters : sequence of Parameter
    values : sequence of tensors
        Copied, never shared.
    """
    pairs = list(zip(parameters, values, strict=True))
    if same := [(p, X) for p, X in pairs if p.shape == X.shape]:
        torch._foreach_copy_([p for p, _ in same], [X for _, X in same])
    if not (others := [(p, X) for p, X in pairs if p.shape != X.shape]):
        return
    torch._foreach_zero_([p for p, _ in others])  # a graph that is still alive sees it, and refuses its backward pass
    copies = torch._foreach_mul([X.to(p.device, p.dtype) for p, X in others], 1.0)
    nothing: dict = {}  # of another dtype, which every device has
    for (p, _), copy in zip(others, copies, strict=True):
        kind = p.device, torch.float16 if p.dtype != torch.float16 else torch.float32
        if kind not in nothing:
            nothing[kind] = torch.empty(0, device=kind[0], dtype=kind[1])
        p.grad = None
        p.data = nothing[kind]
        p.data = copy.contiguous()
