"""One optimiser for all low-rank layers of a network, driven by any integrator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from integrators import Adam, FixedRank, Integrator, LowRank, Optimizer, State, count_evaluations
from integrators.checks import check_instance, check_integer, check_number, check_positive
from integrators.together import Together, finish, separate

from .factors import Factor, assign
from .layers import FACTORS, LowRankLayer
from .lockstep import Coefficients, batches, gradients, place, request_gradients, truncated
from .model import low_rank_layers, matches

__all__ = ["LowRankOptimizer"]

EVERYTHING = FixedRank(2**31)


class LowRankOptimizer(torch.optim.Optimizer):
    r"""Steps of an integrator on all low-rank layers of a model, and of a torch optimiser on everything else.

    The field of each layer is minus the gradient, the step size is ``lr``. All layers advance in lockstep: one
    backward pass of the whole network for each field the integrator asks for. A method that asks once needs
    ``loss.backward(); optimizer.step()``, any other ``optimizer.step(closure)``, where ``closure()`` clears the
    gradients, computes the loss on the same mini-batch, calls ``backward`` and returns the loss. Truncation sees all
    layers together.

    All other parameters move once per step, at its end, with the gradient of the first backward pass, so that all
    stages of a step see the same ones.

    Parameters
    ----------
    model : Module
    integrator : integrators.Integrator
        Its truncation is used as it is. (``GeoLoRA()`` has one spare direction.)
    lr : float
        Step size of the low-rank layers.
    weight_decay : float
        ``W <- (1 - lr weight_decay) W`` in each step, beside the gradient; the orthonormal factors stay as they are.
    rest : callable, optional
        Makes the torch optimiser of all other parameters that require a gradient, with its own learning rate:
        ``torch.optim.AdamW`` by default, ``functools.partial(torch.optim.AdamW, lr=3e-4)``; None leaves them.
    groups : mapping of str to dict, optional
        Other ``lr`` and ``weight_decay`` for layers by pattern of their names (as in :func:`dlrt.nn.adapt`), the first
        that fits: ``{"*.attention.*": {"lr": 0.02}}``. Each makes a parameter group.
    coefficient_steps : int
        Number of steps on S alone, in fixed bases, after each step of the integrator. They skip two thirds of the
        products for the gradients.
    truncate_after : int
        The coefficient step after which the augmented matrix is truncated; 0: at once. The authors of GeoLoRA
        truncate after three quarters of them.
    coefficient_optimizer : integrators.Optimizer
        What coefficient steps do with the S-gradient, elementwise, from no memory after each change of the bases.
    coefficient_lr : float, optional
        Their learning rate before any schedule; ``lr`` by default. It follows the schedule of ``lr``.

    Attributes
    ----------
    param_groups : list of dict
        Those of the low-rank layers, then those of ``rest``, the same dict objects: schedulers act on both.
    rest : torch.optim.Optimizer or None
    layers : dict of str to LowRankLayer
    truncation_errors : dict of str to float
        What truncation cut off from each layer in the last step (Frobenius norm).

    Raises
    ------
    TypeError, ValueError
        Bad arguments; no trainable low-rank layer; ``step`` without a closure although the method needs more fields.
    FloatingPointError
        From ``step``: a gradient or a matrix is not finite. The message names the layers; nothing has been changed.

    Notes
    -----
    ``state_dict`` holds the memory of the integrator by layer name, tensors and numbers only. Together with that of the
    model (at any rank) it resumes bit for bit.

    Clipping by norm scales all three gradients of a layer alike, as it should; the norm that
    ``clip_grad_norm_`` sees is ``||P(W) G||^2 + 2 ||S-gradient||^2`` for a layer. Clipping by value would break their
    consistency.

    Layers of equal shape and options advance in one stack, whatever their ranks.
    """

    steps_factors = True

    def __init__(
        self,
        model: nn.Module,
        integrator: Integrator,
        lr: float,
        *,
        weight_decay: float = 0.0,
        rest: Callable[[list], torch.optim.Optimizer] | None = torch.optim.AdamW,
        groups: Mapping[str, Mapping[str, float]] | None = None,
        coefficient_steps: int = 0,
        truncate_after: int = 0,
        coefficient_optimizer: Optimizer | None = None,
        coefficient_lr: float | None = None,
    ):
        check_instance("model", model, nn.Module)
        check_instance("integrator", integrator, Integrator, "GeoLoRA()")
        if rest is not None and not callable(rest):
            raise TypeError(f"rest must make an optimiser, such as torch.optim.AdamW, got {rest!r}")
        check_instance("groups", {} if groups is None else groups, Mapping)
        check_integer("coefficient_steps", coefficient_steps, 0)
        check_integer("truncate_after", truncate_after, 0)
        if truncate_after > coefficient_steps:
            raise ValueError(
                f"truncate_after must not exceed coefficient_steps = {coefficient_steps}, got {truncate_after}"
            )
        if coefficient_steps and not integrator.manifold:
            raise ValueError(
                f"coefficient_steps needs a method with orthonormal bases, {type(integrator).__name__} has none"
            )
        self.integrator = integrator
        self.coefficient_steps, self.truncate_after = coefficient_steps, truncate_after
        self.coefficients = Coefficients(optimizer=Adam() if coefficient_optimizer is None else coefficient_optimizer)
        self.layers = {name: layer for name, layer in low_rank_layers(model).items() if _is_trained(layer)}
        if not self.layers:
            raise ValueError("model has no trained low-rank layer: make them with dlrt.nn.adapt(model, targets, rank)")
        others = [p for p in model.parameters() if p.requires_grad and not isinstance(p, Factor)]

        check_positive("lr", lr)
        defaults = {"lr": lr, "weight_decay": weight_decay, "coefficient_ratio": 1.0}
        if coefficient_lr is not None:
            check_positive("coefficient_lr", coefficient_lr)
            defaults["coefficient_ratio"] = coefficient_lr / lr
        super().__init__(self._grouped(groups or {}, defaults), defaults)
        self._own_groups = self.param_groups
        self.rest = rest(others) if rest is not None and others else None
        if self.rest is not None and not isinstance(self.rest, torch.optim.Optimizer):
            raise TypeError(f"rest must make an optimiser, such as torch.optim.AdamW, got one that made {self.rest!r}")
        self._share_groups()

        self.truncation_errors: dict[str, float] = {}
        self._memory: dict[str, Mapping[str, Any]] = {}
        self._coefficient_memory: dict[str, Mapping[str, Any]] = {}
        self._ranks: dict[str, int] = {}
        self._position = 0  # in the cycle of one step of the integrator and the coefficient steps
        for name, layer in self.layers.items():
            self._set(name, integrator.init(layer.Y))
        self._tapes = count_evaluations(integrator, next(iter(self.layers.values())).Y.S)
        if coefficient_steps:
            self.coefficients.memory(next(iter(self.layers.values())).Y)  # raises where it takes no S alone
        self._request_gradients(integrator.factors)

    def _grouped(self, groups, defaults) -> list[dict]:
        """Parameter groups with the names of their layers; those that fit no pattern come first."""
        for pattern, chosen in groups.items():
            check_instance(f"groups[{pattern!r}]", chosen, Mapping)
        options = [defaults, *({**defaults, **chosen} for chosen in groups.values())]
        names: list[list[str]] = [[] for _ in options]
        for name, layer in self.layers.items():
            fitting = [i for i, pattern in enumerate(groups, 1) if matches(pattern, name, layer)]
            names[fitting[0] if fitting else 0].append(name)
        for pattern, found in zip(groups, names[1:], strict=True):
            if not found:
                raise ValueError(f"groups: no low-rank layer is left for {pattern!r} among {', '.join(self.layers)}")
        for chosen in options:
            if unknown := set(chosen) - set(defaults):
                raise ValueError(f"groups: options are lr and weight_decay, got {', '.join(sorted(unknown))}")
            check_positive("lr", chosen["lr"])
            check_number("weight_decay", chosen["weight_decay"], 0.0)
        return [
            {**chosen, "layers": found, "params": [getattr(self.layers[n], f) for n in found for f in FACTORS]}
            for chosen, found in zip(options, names, strict=True)
            if found
        ]

    def _share_groups(self):
        self.param_groups = [*self._own_groups, *(self.rest.param_groups if self.rest is not None else [])]

    def add_param_group(self, param_group):
        """Refused after construction."""
        if hasattr(self, "_own_groups"):
            raise RuntimeError("LowRankOptimizer takes no further groups: give groups and rest when it is made")
        super().add_param_group(param_group)

    def _set(self, name: str, state: State) -> None:
        self.layers[name].Y = state.Y
        self._memory[name], self._ranks[name] = state.memory, state.Y.rank

    def _request_gradients(self, factors: Sequence[str]) -> None:
        for layer in self.layers.values():
            request_gradients(layer, factors)

    # -- the step --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None):  # type: ignore[override]
        """One step of all layers, and of the other parameters.

        Layers without any gradient are left out, as in torch.

        Parameters
        ----------
        closure : callable, optional
            Clears gradients, computes the loss, calls ``backward``, returns the loss.

        Returns
        -------
        The loss of the first backward pass; None without a closure.
        """
        if self._position == 0 and closure is None and self._tapes > 1:
            raise self._needs_closure()
        loss = None if closure is None else _evaluate(closure)
        active = [name for name, layer in self.layers.items() if _has_gradient(layer)]
        if active:
            try:
                if self._position == 0:
                    self._basis_step(active, closure)
                else:
                    self._coefficient_step(active)
            except FloatingPointError as error:
                raise FloatingPointError(f"{error}; no parameter has been changed") from error
        if self.rest is not None:
            self.rest.step()
        if active and self.coefficient_steps:
            self._position = (self._position + 1) % (self.coefficient_steps + 1)
            self._request_gradients(("S",) if self._position else self.integrator.factors)
        return loss

    def _options(self, ratio: bool = False) -> dict[str, tuple[float, float]]:
        """Step size and decay ``lr weight_decay`` of each layer."""
        found: dict[str, tuple[float, float]] = {}
        for group in self._own_groups:
            lr, factor = float(group["lr"]), group["coefficient_ratio"] if ratio else 1.0
            found |= dict.fromkeys(group["layers"], (lr * factor, lr * float(group["weight_decay"])))
        return found

    def _state(self, name: str) -> State:
        """The matrix of a layer, and its memory, which has followed it to another device or dtype."""
        Y, memory = self.layers[name].Y, self._memory[name]
        if any(isinstance(X, torch.Tensor) and (X.dtype, X.device) != (Y.S.dtype, Y.S.device) for X in memory.values()):
            memory = {k: X.to(Y.S) if isinstance(X, torch.Tensor) else X for k, X in memory.items()}
        return State(Y, memory)

    def _basis_step(self, active, closure) -> None:
        """Run the generators of all layers side by side, one backward pass for each round of requests."""
        states = {name: self._state(name) for name in active}
        for name, state in states.items():
            if state.memory and self._ranks[name] != state.Y.rank:
                raise RuntimeError(
                    f"layer {name} has rank {state.Y.rank}, but its memory belongs to rank {self._ranks[name]}: "
                    "load the state of the optimiser that belongs to the model, or make a new optimiser"
                )
        others = [p for group in self.rest.param_groups for p in group["params"]] if self.rest is not None else []
        kept: list | None = None
        groups = batches(self.integrator, states, self._options())
        try:
            while pending := [group for group in groups if group.request is not None]:
                if pending[0].fields:
                    if closure is None:
                        raise self._needs_closure()
                    if kept is None:
                        kept = [p.grad for p in others]
                        self._let_go(active)
                    groups += (left := separate(pending))
                    self._evaluate_at([*pending, *left], [*others, *self._factors(active)], closure)
                    pending += left
                for group in pending:
                    group.answer(gradients(group, self.layers))
            truncates = self.truncate_after == 0
            # before it is time: a square S for the layer, and nothing is lost
            self._take_over(finish(self.integrator.truncation if truncates else EVERYTHING, groups))
        except BaseException:
            if kept is not None:
                for name, state in states.items():
                    self.layers[name].Y = state.Y
            raise
        finally:
            if kept is not None:
                for p, gradient in zip(others, kept, strict=True):
                    p.grad = gradient
                self._request_gradients(self.integrator.factors)

    def _needs_closure(self) -> ValueError:
        kind = type(self.integrator).__name__
        return ValueError(f"{kind} needs {self._tapes} backward passes per step: call step(closure)")

    def _factors(self, names) -> list[Factor]:
        return [getattr(self.layers[name], f) for name in names for f in FACTORS]

    def _let_go(self, active) -> None:
        """Give the layers tensors of their own: the methods hold the old ones, and the layers go to other points."""
        for p in self._factors(active):
            p.data = p.data.clone()

    def _evaluate_at(self, pending: Sequence[Together], parameters, closure) -> None:
        """A backward pass at the points that are asked for."""
        place(pending, self.layers)
        for p in parameters:
            p.grad = None
        _evaluate(closure)

    def _coefficient_step(self, active) -> None:
        """A step of each S in fixed bases."""
        states = {}
        for name in active:
            U, S, V = self.layers[name].Y
            Y = LowRank(U[:0], S, V[:0])  # the bases stay where they are
            memory = self._coefficient_memory.get(name) or self.coefficients.memory(Y)
            states[name] = State(Y, memory)
        groups = batches(self.coefficients, states, self._options(ratio=True))
        for group in groups:
            group.answer(gradients(group, self.layers))
        moved = {name: state for name, (state, _) in finish(None, groups).items()}
        if self._position == self.truncate_after:
            old = {name: self.layers[name].Y for name in active}
            moved = {
                name: State(replace(Y, S=moved[name].Y.S), self._memory[name], origin=Y) for name, Y in old.items()
            }
            self._take_over(truncated(self.integrator.truncation, moved))
            return
        assign([self.layers[name].S for name in moved], [state.Y.S for state in moved.values()])
        for name, state in moved.items():
            self.truncation_errors[name] = 0.0
            self._coefficient_memory[name] = state.memory

    def _take_over(self, concluded: Mapping[str, tuple[State, float]]) -> None:
        """Write new matrices into their layers; steps on S start anew in the new bases."""
        layers = [self.layers[name] for name in concluded]
        assign(
            [factor for layer in layers for factor in layer.factors],
            [X for state, _ in concluded.values() for X in state.Y],
        )
        for name, (state, cut) in concluded.items():
            self._memory[name], self._ranks[name] = state.memory, state.Y.rank
            self.truncation_errors[name] = cut
        self._coefficient_memory = {}

    # -- saving ----------------------------------------------------------------------------------------------------

    def state_dict(self):
        """Everything that is needed to go on: tensors, numbers and names, a copy."""
        return {
            "state": {
                name: {
                    "rank": self._ranks[name],
                    "memory": _cloned(self._memory[name]),
                    "coefficients": _cloned(self._coefficient_memory.get(name, {})),
                }
                for name in self.layers
            },
            "param_groups": [{k: v for k, v in group.items() if k != "params"} for group in self._own_groups],
            "position": self._position,
            "rest": None if self.rest is None else self.rest.state_dict(),
        }

    def load_state_dict(self, state_dict) -> None:
        """Take over a saved state; the model's own must be loaded too.

        Raises ValueError if it belongs to other layers, groups or another kind of method.
        """
        if list(state_dict["state"]) != list(self.layers):
            raise ValueError(
                f"the state belongs to the layers {', '.join(state_dict['state'])}, expected {', '.join(self.layers)}"
            )
        if len(state_dict["param_groups"]) != len(self._own_groups):
            raise ValueError(
                f"the state has {len(state_dict['param_groups'])} parameter groups, expected {len(self._own_groups)}"
            )
        if (state_dict["rest"] is None) != (self.rest is None):
            raise ValueError("only one of the state and this optimiser has an optimiser for the rest")
        for name, saved in state_dict["state"].items():
            if saved["memory"].keys() != self._memory[name].keys():
                raise ValueError(
                    f"the state of layer {name} holds {sorted(saved['memory'])}, "
                    f"{self.integrator!r} expects {sorted(self._memory[name])}"
                )
        for group, saved in zip(self._own_groups, state_dict["param_groups"], strict=True):
            group.update(saved)
        for name, saved in state_dict["state"].items():
            device = self.layers[name].S.device
            self._ranks[name] = saved["rank"]
            self._memory[name] = _cloned(saved["memory"], device)
            self._coefficient_memory[name] = _cloned(saved["coefficients"], device)
        self._position = state_dict["position"]
        if self.rest is not None:
            self.rest.load_state_dict(state_dict["rest"])
        self._share_groups()
        self._request_gradients(("S",) if self._position else self.integrator.factors)


def _evaluate(closure):
    with torch.enable_grad():
        return closure()


def _is_trained(layer: LowRankLayer) -> bool:
    return any(getattr(layer, factor).requires_grad for factor in FACTORS)


def _has_gradient(layer: LowRankLayer) -> bool:
    return any(getattr(layer, factor).grad is not None for factor in FACTORS)


def _cloned(memory: Mapping[str, Any], device=None) -> dict:
    return {k: X.to(device or X.device, copy=True) if isinstance(X, torch.Tensor) else X for k, X in memory.items()}
