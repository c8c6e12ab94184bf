"""Low-rank layers under several processes: average gradients, never factors."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .factors import Factor
from .model import low_rank_layers

__all__ = ["distributed", "prepare_distributed"]


def distributed(model: nn.Module, **options: Any) -> nn.Module:
    """A model with low-rank layers for training by several processes, each on its part of the batch.

    It is :func:`prepare_distributed`, and ``DistributedDataParallel`` for all other parameters.

    Parameters
    ----------
    model : Module
        Call this before making the optimiser, once.
    options
        Of ``torch.nn.parallel.DistributedDataParallel``; ``process_group`` is used for the factors too.

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
    prepare_distributed(model, options.get("process_group"))
    others = any(p.requires_grad and not isinstance(p, Factor) for p in model.parameters())
    return DistributedDataParallel(model, **options) if others else model


def prepare_distributed(model: nn.Module, process_group: Any = None) -> None:
    """Make a model with low-rank layers ready for several processes, whoever wraps it later.

    The first process sends its model to all others. A hook averages each K-, L- and S-gradient over the processes as
    soon as a backward pass has accumulated it, hence before clipping and unscaling. Averages are equal bit for bit on
    all processes, so all take the same step, and ranks stay equal. ``DistributedDataParallel(model)``, also that of
    ``accelerate`` or of a Trainer, then leaves the factors alone, since it cannot follow a change of rank.

    Parameters
    ----------
    model : Module
        The one that will be wrapped. Call this before that and before making the optimiser, once.
    process_group : ProcessGroup, optional
        All processes by default. Models that are to be trained apart take a group of one process each.

    Raises
    ------
    RuntimeError
        There is no process group, or the model has been given before.
    ValueError
        The model has no low-rank layer.

    Notes
    -----
    A model all of whose trained parameters are factors needs no wrapper, and ``DistributedDataParallel`` refuses it:
    for accelerate it is prepared by ``accelerator.prepare_model(model, evaluation_mode=True)``, for Lightning by a
    ``DDPStrategy`` whose ``configure_ddp`` does nothing; :func:`distributed` and ``dlrt.finetune.trainer`` do so.
    For FSDP say that the factors are no part of it:
    ``fully_shard(model, ignored_params={p for p in model.parameters() if isinstance(p, Factor)})``.

    Gradients are averaged after each backward pass; accumulating within ``no_sync()`` saves no communication for the
    factors, and changes nothing.
    """
    if not dist.is_initialized():
        raise RuntimeError("distributed needs a process group: call torch.distributed.init_process_group first")
    layers = low_rank_layers(model)
    if not layers:
        raise ValueError("model has no low-rank layer: torch's DistributedDataParallel is enough")
    for name, layer in layers.items():
        for parameter in filter(lambda p: p.requires_grad, layer.factors):
            if parameter.is_averaged:
                raise RuntimeError(f"distributed was called twice with the layer {name}")
            parameter.is_averaged = True
            parameter.register_post_accumulate_grad_hook(_averaging(process_group))
    factors = [name for name, p in model.named_parameters() if isinstance(p, Factor)]
    ignored = [*factors, *(f".{name}" for name in factors if "." not in name)]  # torch looks for the latter at the root
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ignored)
    for tensor in [*model.parameters(), *model.buffers()]:
        dist.broadcast(tensor.detach(), 0, group=process_group)


def _averaging(group):
    def average(parameter):
        dist.all_reduce(parameter.grad, group=group)
        parameter.grad.div_(dist.get_world_size(group))

    return average
