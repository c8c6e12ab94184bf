"""One optimiser for all low-rank layers of a network, driven by any integrator."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from integrators import Adam, FixedRank, Integrator, LowRank, Optimizer, State, Tolerance, count_evaluations
from integrators.checks import check_instance, check_integer, check_number, check_positive
from integrators.linalg import read
from integrators.together import Apart, Together, finish, separate

from .average import aligned
from .factors import Factor, assign
from .layers import FACTORS, LowRankLayer
from .lockstep import Coefficients, batches, gradients, place, request_gradients, truncated
from .model import low_rank_layers, matches

__all__ = ["LowRankOptimizer"]

EVERYTHING = FixedRank(2**31)
SETTLED = "max_rank", "parameters"
"""What a truncation may leave to the start; saved with the learning rates."""


class LowRankOptimizer(torch.optim.Optimizer):
    r"""Steps of an integrator on all low-rank layers of a model, and of a torch optimiser on everything else.

    The field of each layer is minus the gradient, the step size is ``lr``. All layers advance in lockstep: one
    backward pass of the whole network for each field the integrator asks for. A method that asks once needs
    ``loss.backward(); optimizer.step()``, any other ``optimizer.step(closure)``, where ``closure()`` clears the
    gradients, computes the loss on the same mini-batch, calls ``backward`` and returns the loss. Truncation sees all
    layers together.

    A layer that nothing moves in a step, having no gradient but zeros, no momentum and no decay, keeps its rank.

    All other parameters move once per step, at its end, with the gradient of the first backward pass, so that all
    stages of a step see the same ones.

    Parameters
    ----------
    model : Module
    integrator : integrators.Integrator
        At the end of a step a ``Tolerance`` without a ``max_rank`` keeps at most twice the largest rank that the layers
        have when the optimiser is made, as in the code of GeoLoRA's authors; ``Tolerance(..., max_rank=...)`` sets
        another bound. A ``GlobalBudget`` of neither parameters nor columns keeps no more parameters than there are
        then. Any other truncation is used as it is.
    lr : float or tensor
        Step size of the low-rank layers. Layers whose ``lr`` is 0 are left out of a step, as those without gradients:
        matrix, rank and memory stay.
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
    align : bool
        Turn new bases so that they are as near as possible to the old ones, wherever the rank has not changed. The
        matrices are the same. Averages of U, S and V over steps are then averages of the matrices, to second order in
        their distance. It costs one more read on the host for all layers, and some small products for each.

    Attributes
    ----------
    param_groups : list of dict
        Those of the low-rank layers, then those of ``rest``, the same dict objects.
    state : dict of Parameter to dict
        The memory of a low-rank layer is that of its S, or of its U where the method does not move S.
    rest : torch.optim.Optimizer or None
    layers : dict of str to LowRankLayer
        All of the model. One that is frozen (``requires_grad_(False)``) is left as it is until it is not.
    tapes : int
        Backward passes of one step of the integrator.
    truncation : integrators.Truncation or None
        That of the integrator with the bound of the rank.
    truncation_errors : dict of str to float
        What truncation cut off from each layer in the last step (Frobenius norm).

    Raises
    ------
    TypeError, ValueError
        Bad arguments; no trainable low-rank layer; a learning rate that is not finite; ``step`` without a closure
        although the method needs more fields, or with one that adds to gradients that were there before.
    RuntimeError
        From ``step``: there are several processes and nobody averages the gradients of the factors
        (:func:`dlrt.nn.prepare_distributed`).
    FloatingPointError
        From ``step``: a gradient or a matrix is not finite. The message names the layers; nothing has been changed.

    Notes
    -----
    **Schedulers** of torch act on all groups; ``max_lr=[0.5, 1e-3]``, or a list of functions, has an entry for each. A
    scheduler of ``optimizer.rest`` acts on the rest alone; with ``rest=None`` and an optimiser of its own the rest is
    on its own altogether. ``OneCycleLR`` and ``CyclicLR`` cycle the momentum too, where the integrator has one
    (``Adam()`` beside a ``rest`` with ``betas``, ``Momentum()`` beside one with ``momentum``); otherwise torch asks for
    ``cycle_momentum=False``.

    **Saving.** ``state_dict`` has torch's layout, with tensors, numbers and names only. Together with that of the
    model (at any rank) it resumes bit for bit; the state of another method or schedule is refused. Copies and pickles
    of ``(model, optimizer)`` go on as well. ``torch.distributed.checkpoint`` gets and sets it; what its ``load`` fills
    in place must have the saved ranks, its ``format_utils.dcp_to_torch_save`` makes an ordinary file of any.

    **Averages** of U, S and V (``torch.optim.swa_utils.AveragedModel``, the EMA of Lightning or diffusers) mean
    nothing, since the bases turn from step to step: use :class:`dlrt.nn.AveragedModel`, which averages matrices, or
    ``align`` where ranks do not change.

    **A step under autocast** is done in full precision; its closure is evaluated under autocast.

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
        lr: float | torch.Tensor,
        *,
        weight_decay: float = 0.0,
        rest: Callable[[list], torch.optim.Optimizer] | None = torch.optim.AdamW,
        groups: Mapping[str, Mapping[str, float]] | None = None,
        coefficient_steps: int = 0,
        truncate_after: int = 0,
        coefficient_optimizer: Optimizer | None = None,
        coefficient_lr: float | None = None,
        align: bool = False,
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
        if align and not integrator.manifold:
            raise ValueError(f"align needs a method with orthonormal bases, {type(integrator).__name__} has none")
        if align and truncate_after:
            raise ValueError(f"align needs a truncation at once, got truncate_after={truncate_after}")
        self.align = align
        self.layers = low_rank_layers(model)
        trained = {name: layer for name, layer in self.layers.items() if _is_trained(layer)}
        if not trained:
            raise ValueError("model has no trained low-rank layer: make them with dlrt.nn.adapt(model, targets, rank)")
        self.integrator, self.truncation = integrator, integrator.truncation
        starts = [(layer.shape, layer.rank) for layer in trained.values()]
        settled = {} if self.truncation is None else self.truncation.settled(starts)
        self._settle(settled)
        self.coefficient_steps, self.truncate_after = coefficient_steps, truncate_after
        self.coefficients = Coefficients(optimizer=Adam() if coefficient_optimizer is None else coefficient_optimizer)
        others = [p for p in model.parameters() if p.requires_grad and not isinstance(p, Factor)]

        rate = _check_rate("lr", lr)
        defaults = {"lr": lr, "weight_decay": weight_decay, "coefficient_ratio": 1.0}
        if coefficient_lr is not None:
            check_positive("coefficient_lr", coefficient_lr)
            if rate == 0:
                raise ValueError("coefficient_lr must follow an lr other than 0")
            defaults["coefficient_ratio"] = coefficient_lr / rate
        own = self._grouped(groups or {}, defaults)
        cycled = _cycled(integrator.optimizer)
        for group in own:
            group |= {**cycled, "method": self._method(), **dict.fromkeys(SETTLED), **settled, "position": 0}
        self.truncation_errors: dict[str, float] = {}
        self._first_memory: dict[torch.Tensor, dict[str, Any]] = {}
        super().__init__(own, defaults)
        self._own_groups = self.param_groups
        self.rest = rest(others) if rest is not None and others else None
        if self.rest is not None and not isinstance(self.rest, torch.optim.Optimizer):
            raise TypeError(f"rest must make an optimiser, such as torch.optim.AdamW, got one that made {self.rest!r}")
        self._share()
        for name, value in cycled.items():
            if all(name in group for group in self.param_groups):
                self.defaults[name] = value  # where torch's schedulers look for it

        for name in trained:
            self._enter(name)
        self._first_memory, self.state = dict(self.state), defaultdict(dict)  # as in torch: none before the first step
        self.tapes = count_evaluations(integrator, next(iter(trained.values())).Y.S)
        if coefficient_steps:
            self.coefficients.memory(next(iter(trained.values())).Y)  # raises where it takes no S alone
        self._request_gradients(integrator.factors)

    def _method(self) -> str:
        """What a saved state must agree with."""
        name, optimizer = (type(x).__name__ for x in (self.integrator, self.integrator.optimizer))
        if not self.coefficient_steps:
            return f"{name} with {optimizer}"
        return (
            f"{name} with {optimizer}, {self.coefficient_steps} coefficient steps with "
            f"{type(self.coefficients.optimizer).__name__}, truncation after {self.truncate_after}"
        )

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
            _check_rate("lr", chosen["lr"])
            check_number("weight_decay", chosen["weight_decay"], 0.0)
        return [
            {**chosen, "lr": _own(chosen["lr"]), "layers": found, "params": self._factors(found)}
            for chosen, found in zip(options, names, strict=True)
            if found
        ]

    def _share(self):
        """Show groups and memory of the rest beside the own ones."""
        if self.rest is not None:
            self.param_groups = [*self._own_groups, *self.rest.param_groups]
            self.state.update(self.rest.state)

    def add_param_group(self, param_group):
        """Refused after construction."""
        if hasattr(self, "_own_groups"):
            raise RuntimeError("LowRankOptimizer takes no further groups: give groups and rest when it is made")
        super().add_param_group(param_group)

    @property
    def _position(self) -> int:
        """In the cycle of one step of the integrator and the coefficient steps."""
        return self._own_groups[0]["position"]

    @_position.setter
    def _position(self, position: int) -> None:
        for group in self._own_groups:
            group["position"] = position

    def _enter(self, name: str) -> None:
        """Bring a layer into the form of the method, with new memory."""
        state = self.integrator.init(self.layers[name].Y)
        self.layers[name].Y = state.Y
        self._remember(name, state)

    def _remember(self, name: str, state: State, due: bool = False) -> None:
        """Keep the memory of a layer; ``due`` says that coefficient steps come before its truncation."""
        entry = {"rank": state.Y.rank, "memory": state.memory, "coefficients": {}, "due": due}
        self.state[self._key(name)] = entry

    def _key(self, name: str) -> Factor:
        """The factor to which the memory of a layer belongs, for torch: one that the method moves."""
        factors = self.integrator.factors
        return getattr(self.layers[name], "S" if "S" in factors else factors[0])

    def _request_gradients(self, factors: Sequence[str]) -> None:
        for layer in self.layers.values():
            if _is_trained(layer):  # the user has not frozen it
                request_gradients(layer, factors)

    def _follow(self) -> None:
        """Keep hold of the factors where moving the model has made new parameters, and show the first memory."""
        self.state.update(self._first_memory)
        self._first_memory = {}
        for group in self._own_groups:
            old, new = group["params"], self._factors(group["layers"])
            if any(p is not q for p, q in zip(old, new, strict=True)):
                self.state.update({q: self.state.pop(p) for p, q in zip(old, new, strict=True) if p in self.state})
                group["params"] = new

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As in torch."""
        if self.state:
            self._follow()
        super().zero_grad(set_to_none)

    # -- the step --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None):  # type: ignore[override]
        """One step of all layers, and of the other parameters.

        Layers without any gradient are left out, as in torch, and so are those whose learning rate is 0.

        Parameters
        ----------
        closure : callable, optional
            Clears gradients, computes the loss, calls ``backward``, returns the loss.

        Returns
        -------
        The loss of the first backward pass; None without a closure.
        """
        with _without_autocast({layer.S.device.type for layer in self.layers.values()}) as outside:
            return self._step(None if closure is None else partial(_evaluate, closure, outside))

    def _step(self, closure):
        self._follow()
        options = self._options()
        moving = [name for name, layer in self.layers.items() if options[name][0] > 0 and _is_trained(layer)]
        self._check_averaged(moving)
        if moving and self._position == 0 and closure is None and self.tapes > 1:
            raise self._needs_closure()
        loss = None if closure is None else self._first(closure)
        active = [name for name in moving if _has_gradient(self.layers[name])]
        if self._position:  # a layer that was free for the first time meanwhile waits for the method's step
            active = [name for name in active if self._key(name) in self.state]
        if active:
            try:
                if self._position == 0:
                    self._basis_steps(active, options, closure)
                else:
                    self._coefficient_step(active, options)
            except FloatingPointError as error:
                raise FloatingPointError(f"{error}; no parameter has been changed") from error
        if self.rest is not None:
            self.rest.step()
            self._share()
        if active and self.coefficient_steps:
            self._position = (self._position + 1) % (self.coefficient_steps + 1)
            self._request_gradients(("S",) if self._position else self.integrator.factors)
        return loss

    def _options(self) -> dict[str, tuple[float, float]]:
        """Step size and decay ``lr weight_decay`` of each layer."""
        found: dict[str, tuple[float, float]] = {}
        for i, group in enumerate(self._own_groups):
            lr = float(group["lr"])
            if not (math.isfinite(lr) and lr >= 0):
                raise ValueError(f"lr of parameter group {i} must be finite and >= 0, got {lr}")
            found |= dict.fromkeys(group["layers"], (lr, lr * float(group["weight_decay"])))
        return found

    def _check_averaged(self, names) -> None:
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return
        for name in names:
            if not all(p.is_averaged for p in self.layers[name].factors):
                raise RuntimeError(
                    f"there are {dist.get_world_size()} processes, and nobody averages the gradients of the factors of "
                    f"{name}: call dlrt.nn.prepare_distributed(model) before the model is wrapped and before the "
                    "optimiser is made"
                )

    def _first(self, closure):
        """The loss of a first backward pass; a method that needs more of them must have all of the batch in each."""
        factors = self._factors(self.layers) if self.tapes > 1 and self._position == 0 else []
        found: list[bool] = []  # at the first gradient that arrives: whether one was there already

        def look(p, _):
            if not found:
                found.append(p.grad is not None and bool(p.grad.any()))

        handles = [p.register_hook(partial(look, p)) for p in factors if p.grad is not None and p.requires_grad]
        try:
            loss = closure()
        finally:
            for handle in handles:
                handle.remove()
        if any(found):
            raise ValueError(
                f"the closure added to gradients that were there: {type(self.integrator).__name__} needs {self.tapes} "
                "backward passes per step, each over the whole batch, so the closure must clear the gradients first "
                "and go through all parts of an accumulated batch itself"
            )
        return loss

    def _state(self, name: str) -> State:
        """The matrix of a layer, and its memory, which has followed it to another device or dtype."""
        layer = self.layers[name]
        if self._key(name) not in self.state:
            self._enter(name)
        entry = self.state[self._key(name)]
        if entry["memory"] and entry["rank"] != layer.rank:
            raise RuntimeError(
                f"layer {name} has rank {layer.rank}, but its memory belongs to rank {entry['rank']}: "
                "load the state of the optimiser that belongs to the model, or make a new optimiser"
            )
        return State(layer.Y, _like(entry["memory"], layer.S))

    def _batches(self, states: Mapping[str, State], options, apart: Collection[str]) -> list[Together]:
        """The layers in stacks, some alone; the momentum of a parameter group may have been scheduled."""
        momenta: dict[tuple, dict[str, State]] = {}
        for group in self._own_groups:
            key = tuple((name, group[name]) for name in _cycled(self.integrator.optimizer))
            momenta.setdefault(key, {}).update({n: states[n] for n in group["layers"] if n in states})
        found = []
        for key, members in momenta.items():
            integrator = self.integrator
            if dict(key) != _cycled(integrator.optimizer):
                integrator = replace(integrator, optimizer=_with_momentum(integrator.optimizer, dict(key)))
            found += batches(integrator, members, options, apart)
        return found

    def _others(self) -> list[torch.Tensor]:
        """The parameters of the rest."""
        return [] if self.rest is None else [p for group in self.rest.param_groups for p in group["params"]]

    def _basis_steps(self, active, options, closure) -> None:
        """A step of all layers; it begins anew, from the first backward pass, where some cannot stay in a stack."""
        apart: frozenset[str] = frozenset()
        while True:
            try:
                return self._basis_step(active, options, closure, apart)
            except Apart as error:
                if error.names <= apart:
                    raise
                apart |= error.names
            others = self._others()
            kept = [p.grad for p in others]
            for p in others:
                p.grad = None
            closure()
            for p, gradient in zip(others, kept, strict=True):
                p.grad = gradient

    def _basis_step(self, active, options, closure, apart: frozenset[str] = frozenset()) -> None:
        """Run the generators of all layers side by side, one backward pass for each round of requests.

        Raises Apart, with nothing changed, for layers that must be `apart` from any stack.
        """
        for name in active:
            for factor in self.integrator.factors:
                if not getattr(self.layers[name], factor).requires_grad:
                    raise ValueError(f"{factor} of layer {name} requires no gradient: freeze all three factors or none")
        states = {name: self._state(name) for name in active}
        others = self._others()
        kept: list | None = None
        groups = self._batches(states, options, apart)
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
            concluded = finish(self.truncation if truncates else EVERYTHING, groups)
            concluded |= {name: (states[name], 0.0) for name in self._unmoved(groups, states, concluded, options)}
            if self.align:
                concluded = aligned(concluded, {name: state.Y for name, state in states.items()})
            self._take_over(concluded, due=not truncates)
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

    def _unmoved(self, groups: Sequence[Together], states, concluded, options) -> set[str]:
        """Layers that a tolerance has cut although nothing moved them: without field, first moment and decay.

        One read for all of them, in a step in which a rank has fallen.
        """
        rule = self.truncation
        if not isinstance(rule, Tolerance):
            return set()
        cut = {name for name, state in states.items() if concluded[name][0].Y.rank < state.Y.rank <= rule.limit}
        touched = [group for group in groups if not cut.isdisjoint(group.names)]
        sizes = read([_sizes(group) for group in touched])
        still = {
            name
            for group, found in zip(touched, sizes, strict=True)
            for name, size in zip(group.names, found, strict=True)
            if name in cut and size == 0 and options[name][1] == 0
        }
        return {
            name
            for name in still
            if not any(bool(X.any()) for key, X in states[name].memory.items() if key.startswith("first."))
        }

    def _needs_closure(self) -> ValueError:
        kind = type(self.integrator).__name__
        return ValueError(f"{kind} needs {self.tapes} backward passes per step: call step(closure)")

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
        closure()

    def _coefficient_step(self, active, options) -> None:
        """A step of each S in fixed bases."""
        ratio = {name: group["coefficient_ratio"] for group in self._own_groups for name in group["layers"]}
        options = {name: (lr * ratio[name], decay) for name, (lr, decay) in options.items()}
        states = {}
        for name in active:
            U, S, V = self.layers[name].Y
            Y = LowRank(U[:0], S, V[:0])  # the bases stay where they are
            entry = self.state[self._key(name)]
            states[name] = State(Y, _like(entry["coefficients"], S) or self.coefficients.memory(Y))
        groups = batches(self.coefficients, states, options)
        for group in groups:
            group.answer(gradients(group, self.layers))
        moved = {name: state for name, (state, _) in finish(None, groups).items()}
        if self._position == self.truncate_after:
            due = {name: self._state(name) for name, entry in self._entries().items() if entry["due"]}
            ends = {}
            for name, state in due.items():
                S = moved.pop(name).Y.S if name in moved else state.Y.S
                ends[name] = State(replace(state.Y, S=S), state.memory, origin=state.Y)
            self._take_over(truncated(self.truncation, ends))
        assign([self.layers[name].S for name in moved], [state.Y.S for state in moved.values()])
        for name, state in moved.items():
            self.truncation_errors[name] = 0.0
            self.state[self._key(name)]["coefficients"] = state.memory

    def _entries(self) -> dict[str, dict[str, Any]]:
        """The memory of the layers that have one."""
        return {name: self.state[key] for name in self.layers if (key := self._key(name)) in self.state}

    def _take_over(self, concluded: Mapping[str, tuple[State, float]], due: bool = False) -> None:
        """Write new matrices into their layers; steps on S start anew in the new bases."""
        layers = [self.layers[name] for name in concluded]
        assign(
            [factor for layer in layers for factor in layer.factors],
            [X for state, _ in concluded.values() for X in state.Y],
        )
        for name, (state, cut) in concluded.items():
            self._remember(name, state, due)
            self.truncation_errors[name] = cut

    # -- copying and saving ----------------------------------------------------------------------------------------

    def __getstate__(self):
        """All but hooks, and what schedulers put around ``step``, as in torch."""
        return {k: v for k, v in vars(self).items() if k != "step" and not k.startswith("_optimizer_")}

    def state_dict(self):
        """Everything that is needed to go on, in torch's layout: tensors, numbers and names."""
        for prepare in self._optimizer_state_dict_pre_hooks.values():
            prepare(self)
        self._follow()
        number = {p: i for i, p in enumerate(p for group in self._own_groups for p in group["params"])}
        state: dict[Any, Any] = {i: {"rank": min(p.shape)} for p, i in number.items()}
        state |= {number[self._key(name)]: _cloned(entry) for name, entry in self._entries().items()}
        groups = [{**group, "params": [number[p] for p in group["params"]]} for group in self._own_groups]
        if self.rest is not None:
            rest, first = self.rest.state_dict(), len(number)
            for group in rest["param_groups"]:
                groups.append({**group, "params": [first + i for i in group["params"]]})
                state |= {
                    first + i: {"empty": True} for i in group["params"]
                }  # checkpoints lose what is without entries
            state |= {first + key if isinstance(key, int) else key: entry for key, entry in rest["state"].items()}
        found: dict[str, Any] = {"state": state, "param_groups": groups}
        for hook in self._optimizer_state_dict_post_hooks.values():
            found = hook(self, found) or found
        return found

    def load_state_dict(self, state_dict) -> None:
        """Take over a saved state; the model's own must be loaded too.

        Raises ValueError if it belongs to other layers, groups, another method or schedule; nothing is changed then.
        """
        self._follow()
        state_dict = dict(state_dict)
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = hook(self, state_dict) or state_dict
        own = [group for group in state_dict["param_groups"] if "layers" in group]
        others = [group for group in state_dict["param_groups"] if "layers" not in group]
        found = self._checked(own, others, state_dict["state"])
        if self.rest is not None:
            keys = [key for group in others for key in group["params"]]
            number = {key: i for i, key in enumerate(keys)}
            taken = {key for group in own for key in group["params"]}
            entries = {k: v for k, v in state_dict["state"].items() if k not in taken and v and "empty" not in v}
            self.rest.load_state_dict(
                {
                    "state": {number.get(k, k): v for k, v in entries.items()},
                    "param_groups": [{**group, "params": [number[k] for k in group["params"]]} for group in others],
                }
            )
        for group, saved in zip(self._own_groups, own, strict=True):
            kept = {"params", "layers", *(name for name in SETTLED if None in (group[name], saved.get(name)))}
            group.update({k: _own(v) for k, v in saved.items() if k not in kept})
        self._settle({name: self._own_groups[0][name] for name in SETTLED})
        self.state = defaultdict(dict)
        for name, entry in found.items():
            key = self._key(name)
            self.state[key] = {k: _cloned(v, key.device) if isinstance(v, Mapping) else v for k, v in entry.items()}
        self._share()
        self._request_gradients(("S",) if self._position else self.integrator.factors)
        for conclude in self._optimizer_load_state_dict_post_hooks.values():
            conclude(self)

    def _settle(self, options: Mapping[str, int | None]) -> None:
        """Set what the truncation left to the start."""
        if given := {name: value for name, value in options.items() if value is not None}:
            self.truncation = replace(self.truncation, **given)

    def _checked(self, own, others, state) -> dict[str, dict[str, Any]]:
        """The saved memory of each layer that had one; ValueError where it does not fit."""
        counts, expected = (len(own), len(others)), (len(self._own_groups), len(self.param_groups))
        if counts != (expected[0], expected[1] - expected[0]):
            raise ValueError(
                f"the state has {counts[0]} parameter groups of low-rank layers and {counts[1]} of other parameters, "
                f"expected {expected[0]} and {expected[1] - expected[0]}"
            )
        found = {}
        for group, saved in zip(self._own_groups, own, strict=True):
            names = saved["layers"]
            if names != group["layers"]:
                raise ValueError(
                    f"the state belongs to the layers {', '.join(names)}, expected {', '.join(group['layers'])}"
                )
            if saved["method"] != group["method"]:
                raise ValueError(
                    f"the state belongs to {saved['method']}, this optimiser is {group['method']}: "
                    "to go on in another way from the same weights load the model alone"
                )
            number = dict(zip(self._factors(names), saved["params"], strict=True))
            for name in names:
                entry = {"memory": {}, "coefficients": {}, **state.get(number[self._key(name)], {})}
                if "due" not in entry:  # a layer that has never been free
                    continue
                found[name] = {k: _flat(v) if isinstance(v, Mapping) else v for k, v in entry.items()}
                mine = self.state.get(self._key(name))
                if mine and found[name]["memory"].keys() != mine["memory"].keys():
                    raise ValueError(
                        f"the state of layer {name} holds {sorted(found[name]['memory'])}, "
                        f"{self.integrator!r} expects {sorted(mine['memory'])}"
                    )
        return found


def _evaluate(closure, autocast):
    """The closure with gradients, under the autocast that was on outside of the step."""
    with ExitStack() as stack:
        for kind, dtype in autocast:
            stack.enter_context(torch.autocast(kind, dtype))
        stack.enter_context(torch.enable_grad())
        return closure()


@contextmanager
def _without_autocast(kinds: set[str]) -> Iterator[list[tuple[str, torch.dtype]]]:
    """Full precision; yields what was on."""
    on = [
        (kind, torch.get_autocast_dtype(kind))
        for kind in sorted(kinds | {"cpu"})
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    ]
    with ExitStack() as stack:
        for kind, _ in on:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield on
    torch.clear_autocast_cache()  # its copies of weights are out of date


def _cycled(optimizer: Optimizer) -> dict[str, Any]:
    """The momentum of the optimiser by the names under which torch's schedulers change it."""
    if hasattr(optimizer, "beta1") and hasattr(optimizer, "beta2"):
        return {"betas": (optimizer.beta1, optimizer.beta2)}
    return {"momentum": optimizer.beta} if hasattr(optimizer, "beta") else {}


def _with_momentum(optimizer: Any, cycled: Mapping[str, Any]) -> Any:
    """The optimiser with that momentum."""
    if "betas" in cycled:
        return replace(optimizer, **dict(zip(("beta1", "beta2"), map(float, cycled["betas"]), strict=True)))
    return replace(optimizer, beta=float(cycled["momentum"]))


def _sizes(group: Together) -> torch.Tensor:
    """A number for each matrix that is zero if all its fields are."""
    parts = [X for field in group.fields for X in (field.K, field.L, field.S) if X is not None]
    return sum(X.abs().sum((-2, -1)) for X in parts).reshape(-1)


def _check_rate(name: str, lr: Any) -> float:
    """A learning rate, a number or a tensor of one, as a float."""
    return check_number(name, lr.item() if isinstance(lr, torch.Tensor) and lr.numel() == 1 else lr, 0.0)


def _own(value: Any) -> Any:
    """Tensors copied: a scheduler fills the learning rate of each group."""
    return value.clone() if isinstance(value, torch.Tensor) else value


def _is_trained(layer: LowRankLayer) -> bool:
    return any(getattr(layer, factor).requires_grad for factor in FACTORS)


def _has_gradient(layer: LowRankLayer) -> bool:
    return any(getattr(layer, factor).grad is not None for factor in FACTORS)


def _like(memory: Mapping[str, Any], S: torch.Tensor) -> Mapping[str, Any]:
    """The memory on the device and in the dtype of S."""
    if any(isinstance(X, torch.Tensor) and (X.dtype, X.device) != (S.dtype, S.device) for X in memory.values()):
        return {k: X.to(S.device, S.dtype) if isinstance(X, torch.Tensor) else X for k, X in memory.items()}
    return memory


def _cloned(memory: Mapping[str, Any], device=None) -> dict:
    def cloned(X):
        if isinstance(X, Mapping):
            return _cloned(X, device)
        return X.to(device or X.device, copy=True) if isinstance(X, torch.Tensor) else X

    return {k: cloned(X) for k, X in memory.items()}


def _flat(memory: Mapping[str, Any]) -> dict:
    """Names like ``first.K`` again, which torch.distributed.checkpoint may have split at the dot."""
    found: dict[str, Any] = {}
    for name, X in memory.items():
        found |= {f"{name}.{k}": v for k, v in _flat(X).items()} if isinstance(X, Mapping) else {name: X}
    return found
