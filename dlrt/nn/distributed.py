"""Low-rank layers under several processes: average gradients, never factors."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .factors import Factor
from .model import low_rank_layers

__all__ = ["distributed"]


def distributed(model: nn.Module, **options: Any) -> nn.Module:
    """A model with low-rank layers for training by several processes, each on its part of the batch.

    The first process sends its model to all others; then ``DistributedDataParallel`` looks after all other parameters
    and leaves the factors alone, since it cannot follow a change of rank. A hook averages each K-, L- and S-gradient
    over the processes as soon as a backward pass has accumulated it, hence before clipping and unscaling. Averages are
    equal bit for bit on all processes, so all take the same step, and ranks stay equal.

    Parameters
    ----------
    model : Module
        Call this before making the optimiser, once.
    options
        Of ``torch.nn.parallel.DistributedDataParallel``; ``process_group`` is used for the hooks too.

    Returns
    -------
    DistributedDataParallel
        Or the model itself, where it has no trained parameters but factors.

    Raises
    ------
    RuntimeError
        There is no process group, or the model has been given before.
    ValueError
        The model has no low-rank layer.

    Notes
    -----
    All processes must use the same layers in each step, in the same order.
    """
    if not dist.is_initialized():
        raise RuntimeError("distributed needs a process group: call torch.distributed.init_process_group first")
    layers = low_rank_layers(model)
    if not layers:
        raise ValueError("model has no low-rank layer: torch's DistributedDataParallel is enough")
    group = options.get("process_group")
    ignored = [name for name, p in model.named_parameters() if isinstance(p, Factor)]
    for name, layer in layers.items():
        for parameter in layer.factors:
            if parameter.is_averaged:
                raise RuntimeError(f"distributed was called twice with the layer {name}")
            parameter.is_averaged = True
            parameter.register_post_accumulate_grad_hook(_averaging(group))
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ignored)
    for tensor in [*model.parameters(), *model.buffers()]:
        dist.broadcast(tensor.detach(), 0, group=group)
    others = any(p.requires_grad for name, p in model.named_parameters() if name not in ignored)
    return DistributedDataParallel(model, **options) if others else model


def _averaging(group):
    def average(parameter):
        dist.all_reduce(parameter.grad, group=group)
        parameter.grad.div_(dist.get_world_size(group))

    return average
