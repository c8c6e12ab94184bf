"""The Trainer of transformers with low-rank layers: any integrator, ranks in the log, small checkpoints, processes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from transformers import Trainer
from transformers.utils import SAFE_WEIGHTS_NAME

from integrators import Integrator
from integrators.checks import check_instance

from ..nn import Adapter, Factor, LowRankDelta, LowRankOptimizer, low_rank_layers, prepare_distributed, save_lora

__all__ = ["LowRankTrainer", "LowRankTraining"]

logger = logging.getLogger(__name__)


class LowRankTraining:
    """What makes a Trainer, or a class derived from it, train low-rank layers by an integrator.

    It comes before the other class: ``class LowRankSFTTrainer(LowRankTraining, trl.SFTTrainer): pass``.
    :class:`LowRankTrainer` is that with the Trainer of transformers; its docstring says what it does.
    """

    # of the Trainer
    args: Any
    model: Any
    optimizer: Any
    accelerator: Any
    processing_class: Any
    data_collator: Any
    is_fsdp_enabled: Any
    is_deepspeed_enabled: Any
    _clip_grad_norm: Any

    def __init__(self, *args: Any, integrator: Integrator | None = None, **kwargs: Any):
        self.integrator: Any = integrator
        self._low_rank: LowRankOptimizer | None = None
        self._batch: list[tuple] = []
        super().__init__(*args, **kwargs)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                "FSDP and DeepSpeed shard parameters, and cannot follow a change of rank: use torchrun alone, or a "
                "loop of your own with fully_shard(model, ignored_params=...), see dlrt.nn.prepare_distributed"
            )
        if self.optimizer is None:
            check_instance("integrator", integrator, Integrator, "GeoLoRA()")
        elif integrator is not None:
            raise ValueError("only one of integrator and optimizers can be given")
        else:
            check_instance("optimizers[0]", self.optimizer, LowRankOptimizer)
            self._adopt(self.optimizer)

    # -- the optimiser -------------------------------------------------------------------------------------------------

    def create_optimizer(self, model=None):
        """That of the low-rank layers; inside, for all other parameters, the one that the Trainer would make."""
        model = self.model if model is None else model
        self._batch = []  # of a run that has been stopped
        if dist.is_initialized() and dist.get_world_size() > 1:
            self._prepare(model)
        if self.optimizer is None:
            options = {"lr": self.args.learning_rate, "weight_decay": self.args.weight_decay}
            optimizer = LowRankOptimizer(model, self.integrator, rest=self._rest_of(model), **options)
            self._adopt(optimizer)
        return self.optimizer

    def _prepare(self, model) -> None:
        """Let the processes average the gradients of the factors, before anybody wraps the model."""
        if not any(p.is_averaged for layer in low_rank_layers(model).values() for p in layer.factors):
            prepare_distributed(model)
        if all(isinstance(p, Factor) for p in model.parameters() if p.requires_grad):
            self.accelerator.prepare_model(model, evaluation_mode=True)  # DistributedDataParallel refuses such a model

    def _rest_of(self, model) -> Callable[[list], torch.optim.Optimizer]:
        def rest(parameters):
            factors = [p for p in model.parameters() if isinstance(p, Factor) and p.requires_grad]
            for p in factors:  # the Trainer takes all that requires a gradient
                p.requires_grad_(False)
            try:
                return super(LowRankTraining, self).create_optimizer(model)  # type: ignore[misc]
            finally:
                self.optimizer = None
                for p in factors:
                    p.requires_grad_(True)

        return rest

    def _adopt(self, optimizer: LowRankOptimizer) -> None:
        """Let the Trainer, which calls ``step()``, serve a method that needs a closure."""
        self.optimizer = self._low_rank = optimizer
        if optimizer.tapes == 1:
            return
        if getattr(self.accelerator, "scaler", None) is not None:
            raise ValueError(
                f"{type(optimizer.integrator).__name__} needs {optimizer.tapes} backward passes per step, and torch's "
                "GradScaler takes one: train with bf16=True in place of fp16=True"
            )

        def give_closure(optimizer, args, kwargs):
            batch, self._batch = self._batch, []
            return args[:1], {"closure": self._closure(batch)}

        optimizer.register_step_pre_hook(give_closure)

    def training_step(self, model, inputs, *args, **kwargs):
        """As in the Trainer; the batch is kept for further backward passes of the same step."""
        if self._low_rank is not None and self._low_rank.tapes > 1:
            self._batch.append((model, inputs, *args))
        return super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]

    def _closure(self, batch):
        """The Trainer has made the first backward pass; each further one goes through all parts of the batch again."""
        first = iter([True])

        def closure():
            if next(first, False):
                return
            model = batch[0][0]
            model.zero_grad()
            for part in batch:
                super(LowRankTraining, self).training_step(*part)  # type: ignore[misc]
            if self.args.max_grad_norm > 0:
                self._clip_grad_norm(model)

        return closure

    # -- the log -------------------------------------------------------------------------------------------------------

    def log(self, logs, *args, **kwargs):
        """Beside the loss: ranks, what truncation cut off in the last step, and the number of trained parameters."""
        if "loss" in logs and self._low_rank is not None:
            layers = [x for x in self._low_rank.layers.values() if any(p.requires_grad for p in x.factors)]
            ranks = [layer.rank for layer in layers]
            trained = [p for p in self.model.parameters() if p.requires_grad and not isinstance(p, Factor)]
            trained += [getattr(layer, factor) for layer in layers for factor in self._low_rank.integrator.factors]
            logs |= {
                "mean_rank": sum(ranks) / max(len(ranks), 1),
                "max_rank": max(ranks, default=0),
                "truncation_error": math.hypot(*self._low_rank.truncation_errors.values()),
                "trained_parameters": sum(map(torch.numel, trained)),
            }
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    # -- files ---------------------------------------------------------------------------------------------------------

    def _save(self, output_dir=None, state_dict=None):
        """What training changes, to go on from; adapters as LoRA too, for others."""
        folder = Path(self.args.output_dir if output_dir is None else output_dir)
        if not self.args.should_save:
            return
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._trained(), folder / SAFE_WEIGHTS_NAME, metadata={"format": "pt"})
        if hasattr(self.model, "peft_config"):
            self.model.save_pretrained(folder)
        elif any(isinstance(layer, Adapter) for layer in low_rank_layers(self.model).values()):
            try:
                save_lora(self.model, folder)
            except ValueError as error:
                logger.warning("%s has no LoRA adapter: %s", folder, error)
        tokenizer = self.processing_class or getattr(self.data_collator, "tokenizer", None)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        torch.save(self.args, folder / "training_args.bin")

    def _trained(self) -> dict[str, torch.Tensor]:
        """Factors, parameters with a gradient, and buffers but those of frozen layers inside adapters."""
        kept = self.model.state_dict().keys()
        inside = {
            id(X)
            for layer in low_rank_layers(self.model).values()
            if isinstance(layer, LowRankDelta)
            for X in layer.settings.buffers()
        }
        parameters = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad or isinstance(p, Factor)]
        buffers = [(n, X) for n, X in self.model.named_buffers() if n in kept and id(X) not in inside]
        return {name: X.detach().to("cpu", copy=True).contiguous() for name, X in parameters + buffers}

    def _issue_warnings_after_load(self, load_result):
        """Frozen parameters are in no checkpoint; everything else must be."""
        missing = sorted(self._trained().keys() & set(load_result.missing_keys))
        unknown = sorted(load_result.unexpected_keys)
        if missing or unknown:
            raise ValueError(
                f"the checkpoint belongs to another model: it lacks {', '.join(missing) or 'nothing'}, "
                f"and {', '.join(unknown) or 'nothing'} in it is unknown"
            )


class LowRankTrainer(LowRankTraining, Trainer):
    """The Trainer of transformers for a model with low-rank layers or adapters (:func:`dlrt.nn.adapt`).

    Arguments, data, callbacks, evaluation and schedules are those of the Trainer.

    Parameters
    ----------
    *args, **kwargs
        Those of the Trainer. ``learning_rate`` and ``weight_decay`` of its arguments are those of the low-rank layers;
        for all other trained parameters it makes the optimiser that it always makes (``optim``).
    integrator : integrators.Integrator
        Or instead ``optimizers=(LowRankOptimizer(model, integrator, ...), None)``, for rates by layer, coefficient
        steps, or another optimiser of the rest.

    Raises
    ------
    TypeError, ValueError
        Neither integrator nor optimiser, or both; FSDP or DeepSpeed; ``fp16`` with a method that needs several backward
        passes per step; a checkpoint to go on from that belongs to another model.

    Notes
    -----
    **Several backward passes** per step, where the method needs them, all go through the same batch, with the parts
    that are accumulated. Dropout is drawn anew in each.

    **Clipping.** ``max_grad_norm`` (1 by default in transformers) bounds the norm of the gradient in each backward
    pass: the root of the sum of ``||P(W) G||^2 + 2 ||S-gradient||^2`` over low-rank layers, and of the squares of all
    other gradients. All are scaled alike, so that K-, L- and S-gradient stay those of one matrix.

    **The log** has, beside the loss, ``mean_rank``, ``max_rank``, ``truncation_error`` (what was cut off in the last
    step, Frobenius norm of all layers together) and ``trained_parameters``.

    **Checkpoints** hold what training changes, no frozen weights. Going on from one (``resume_from_checkpoint``) gives,
    at whatever ranks, bit for bit what a run without a break gives. A folder with adapters, also that of
    ``save_model``, is at the same time a LoRA adapter for stock PEFT and ``from_pretrained``
    (:func:`dlrt.nn.save_lora`).

    **Several processes**, by ``torchrun`` or ``accelerate launch``, need no further call. ``DataParallel`` works, too.
    """
