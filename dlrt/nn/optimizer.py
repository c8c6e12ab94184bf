"""One optimiser for all low-rank layers of a network, driven by any integrator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from integrators import (
    Adam,
    Carried,
    FixedRank,
    Integrator,
    LowRank,
    Optimizer,
    Proposal,
    State,
    conclude,
    stack,
    unstack,
)

from .factors import Factor
from .layers import FACTORS, LowRankLayer
from .model import low_rank_layers, matches

__all__ = ["LowRankOptimizer"]

EVERYTHING = FixedRank(2**31)
SLOTS = {"K": "U", "L": "V", "S": "S"}


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
        Other ``lr`` and ``weight_decay`` for layers by pattern of their names (as in :func:`dlrt.adapt`), the first
        that fits: ``{"*.attention.*": {"lr": 0.02}}``. Each makes a parameter group.
    coefficient_steps : int
        So many steps on S alone, in fixed bases, after each step of the integrator. They skip two thirds of the
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

    Layers of equal shape, rank and options are stacked and stepped in batched calls.
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
        if not isinstance(integrator, Integrator):
            raise TypeError(f"integrator must be an integrators.Integrator, got {integrator!r}")
        _check_count("coefficient_steps", coefficient_steps)
        _check_count("truncate_after", truncate_after)
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
        self.coefficient_optimizer = Adam() if coefficient_optimizer is None else coefficient_optimizer
        self.layers = {name: layer for name, layer in low_rank_layers(model).items() if _is_trained(layer)}
        if not self.layers:
            raise ValueError("model has no trained low-rank layer: make them with dlrt.adapt(model, targets, rank)")
        others = [p for p in model.parameters() if p.requires_grad and not isinstance(p, Factor)]

        _check_positive("lr", lr)
        defaults = {"lr": lr, "weight_decay": weight_decay, "coefficient_ratio": 1.0}
        if coefficient_lr is not None:
            _check_positive("coefficient_lr", coefficient_lr)
            defaults["coefficient_ratio"] = coefficient_lr / lr
        super().__init__(self._grouped(groups or {}, defaults), defaults)
        self._own_groups = self.param_groups
        self.rest = rest(others) if rest is not None and others else None
        self._share_groups()

        self.truncation_errors: dict[str, float] = {}
        self._memory: dict[str, Mapping[str, Any]] = {}
        self._coefficient_memory: dict[str, Mapping[str, Any]] = {}
        self._ranks: dict[str, int] = {}
        self._position = 0  # in the cycle of one step of the integrator and the coefficient steps
        for name, layer in self.layers.items():
            state = integrator.init(_orthonormalised(layer.Y) if integrator.manifold else layer.Y)
            self._set(name, state)
        self._request_gradients(integrator.factors)

    def _grouped(self, groups, defaults) -> list[dict]:
        """Parameter groups with the names of their layers; those that fit no pattern come first."""
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
            _check_positive("lr", chosen["lr"])
            if not chosen["weight_decay"] >= 0:
                raise ValueError(f"weight_decay must be >= 0, got {chosen['weight_decay']!r}")
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
        basis_step = self._position == 0
        if basis_step and closure is None and self.integrator.evaluations > 1:
            raise ValueError(
                f"{type(self.integrator).__name__} needs {self.integrator.evaluations} backward passes per step: "
                "call step(closure)"
            )
        loss = None if closure is None else _evaluate(closure)
        options = {name: group for group in self._own_groups for name in group["layers"]}
        active = [name for name, layer in self.layers.items() if _has_gradient(layer)]
        if active:
            self._check_gradients(active)
            if basis_step:
                self._basis_step(active, options, closure)
            else:
                self._coefficient_step(active, options)
        if self.rest is not None:
            self.rest.step()
        if active and self.coefficient_steps:
            self._position = (self._position + 1) % (self.coefficient_steps + 1)
            self._request_gradients(("S",) if self._position else self.integrator.factors)
        return loss

    def _basis_step(self, active, options, closure) -> None:
        """Run the generators of all layers side by side, one backward pass for each round of requests."""
        others = [p for group in self.rest.param_groups for p in group["params"]] if self.rest is not None else []
        before: dict[str, LowRank] = {}
        gradients: list = []
        batches = self._batches(active, options)
        try:
            while pending := [batch for batch in batches if batch.request is not None]:
                if not pending[0].fresh:
                    if closure is None:
                        raise ValueError(f"{self.integrator!r} needs one more backward pass: call step(closure)")
                    if not before:
                        before = {name: _copied(self.layers[name].Y) for name in active}
                        gradients = [p.grad for p in others]
                    for batch in pending:
                        batch.place()
                    for p in [*others, *(getattr(self.layers[name], f) for name in active for f in FACTORS)]:
                        p.grad = None
                    _evaluate(closure)
                    self._check_gradients(active)
                for batch in pending:
                    batch.answer()
            self._conclude({name: proposal for batch in batches for name, proposal in batch.proposals().items()})
        except BaseException:
            for name, Y in before.items():
                self.layers[name].Y = Y
            raise
        finally:
            if before:
                for p, gradient in zip(others, gradients, strict=True):
                    p.grad = gradient
                self._request_gradients(self.integrator.factors)

    def _batches(self, active, options) -> list[_Batch]:
        """Layers of equal shapes, types, options and counters together."""
        found: dict[Any, dict[str, State]] = {}
        for i, name in enumerate(active):
            Y, group = self.layers[name].Y, options[name]
            memory = self._memory[name]
            if memory and self._ranks[name] != Y.rank:
                raise RuntimeError(
                    f"layer {name} has rank {Y.rank}, but its memory belongs to rank {self._ranks[name]}: "
                    "load the state of the optimiser that belongs to the model, or make a new optimiser"
                )
            counters = tuple((key, X) for key, X in memory.items() if not isinstance(X, torch.Tensor))
            key: Any = (
                float(group["lr"]),
                float(group["weight_decay"]),
                Y.shape,
                Y.rank,
                Y.dtype,
                Y.U.device,
                counters,
            )
            if not self.integrator.stackable:
                key = i
            Y = self._decayed(Y, group)
            # the layers' own tensors are overwritten as soon as another point is looked at
            found.setdefault(key, {})[name] = State(_copied(Y) if self.integrator.evaluations > 1 else Y, memory)
        return [
            _Batch(self.integrator, {name: self.layers[name] for name in states}, states, float(options[name]["lr"]))
            for states in found.values()
            for name in list(states)[:1]
        ]

    def _decayed(self, Y: LowRank, group) -> LowRank:
        """(1 - lr weight_decay) Y."""
        decay = float(group["lr"]) * float(group["weight_decay"])
        if decay == 0:
            return Y
        factor = "S" if "S" in self.integrator.factors else "U"
        return replace(Y, **{factor: (1.0 - decay) * getattr(Y, factor)})

    def _coefficient_step(self, active, options) -> None:
        """A step of each S in fixed bases, those of equal sizes and options in one call."""
        groups: dict[tuple, dict[str, Mapping]] = {}
        for name in active:
            S, group = self.layers[name].S.detach(), options[name]
            memory = self._coefficient_memory.get(name) or self.coefficient_optimizer.init({"S": S})
            counters = tuple((key, X) for key, X in memory.items() if not isinstance(X, torch.Tensor))
            key = (float(group["lr"]), group["coefficient_ratio"], group["weight_decay"], S.shape, S.dtype, S.device)
            groups.setdefault((*key, counters), {})[name] = memory
        moved: dict[str, torch.Tensor] = {}
        memories: dict[str, Mapping] = {}
        for (lr, ratio, decay, *_), each in groups.items():
            factors: list[torch.Tensor] = [self.layers[name].S for name in each]
            gradients = [torch.zeros_like(S) if S.grad is None else S.grad for S in factors]
            memory = {
                key: torch.stack([m[key] for m in each.values()]) if isinstance(X, torch.Tensor) else X
                for key, X in next(iter(each.values())).items()
            }
            direction, memory = self.coefficient_optimizer.update(memory, {"S": torch.stack(gradients).neg_()})
            S = (1.0 - lr * decay) * torch.stack(factors).detach() + lr * ratio * direction["S"]
            moved |= zip(each, S.unbind(), strict=True)
            for i, name in enumerate(each):
                memories[name] = {key: X[i] if isinstance(X, torch.Tensor) else X for key, X in memory.items()}
        if self._position == self.truncate_after:
            points = {name: replace(self.layers[name].Y, S=S) for name, S in moved.items()}
            self._conclude({name: Proposal(Y, finish=Carried(self._memory[name], Y)) for name, Y in points.items()})
            return
        _check_finite(moved)
        for name, S in moved.items():
            self.layers[name].S.copy_(S)
            self.truncation_errors[name] = 0.0
        self._coefficient_memory.update(memories)

    def _conclude(self, proposals: Mapping[str, Proposal]) -> None:
        """Truncate all matrices together where it is time to, and write them into the layers."""
        truncates = self._position == self.truncate_after
        if self._position == 0 or truncates:
            self._coefficient_memory = {}
        _check_finite({name: proposal.Y.S for name, proposal in proposals.items()})
        try:
            # before it is time: a square S for the layer, and nothing is lost
            concluded = conclude(self.integrator.truncation if truncates else EVERYTHING, list(proposals.values()))
        except (FloatingPointError, torch.linalg.LinAlgError) as error:
            raise _named(error, list(proposals)) from error
        for name, (state, cut) in zip(proposals, concluded, strict=True):
            self._set(name, state)
            self.truncation_errors[name] = cut

    def _check_gradients(self, active) -> None:
        found = [
            (name, parameter.grad)
            for name in active
            for parameter in (getattr(self.layers[name], f) for f in FACTORS)
            if parameter.grad is not None
        ]
        norms = torch.stack([x.to(found[0][1].device) for x in torch._foreach_norm([g for _, g in found])])
        if bool(torch.isfinite(norms).all()):
            return
        bad = list(dict.fromkeys(name for name, g in found if not bool(torch.isfinite(g).all())))
        if bad:  # otherwise only the norms overflowed
            raise _named(FloatingPointError("the gradient has non-finite entries"), bad)

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


class _Batch:
    """The generator of some layers of equal shape: places the points it asks for, answers with the gradients there."""

    def __init__(
        self, integrator: Integrator, layers: Mapping[str, LowRankLayer], states: Mapping[str, State], h: float
    ):
        self.integrator, self.layers = integrator, layers
        self.alone = len(layers) == 1
        state = next(iter(states.values())) if self.alone else stack(list(states.values()))
        self.generator = integrator.advance(0.0, state, h)
        self.fresh = True
        self.result: Proposal | None = None
        self.request: tuple | None = next(self.generator)

    def place(self) -> None:
        """Write the point asked for into the layers."""
        assert self.request is not None
        point, parts = self.request[1], self.request[2:]
        width = max(point.S.shape[-2:])
        U, V = (_padded(X, X.shape[-2], width) for X in (point.U, point.V))
        S = _padded(point.S, width, width)
        S = S.expand(*U.shape[:-2], width, width)
        for i, layer in enumerate(self.layers.values()):
            layer.Y = LowRank(U, S, V) if self.alone else LowRank(U[i], S[i], V[i])
            request_gradients(layer, [SLOTS[part] for part in parts or SLOTS])

    def answer(self) -> None:
        """Send the field at the point asked for, and take the next request or the result."""
        assert self.request is not None
        parts = self.request[2:] or tuple(SLOTS)
        field = _Field(list(self.layers.values()), self.request[1], parts, self.alone)
        self.fresh, self.request = False, None
        try:
            self.request = self.generator.send(field)
        except StopIteration as stop:
            self.result = stop.value
        except (FloatingPointError, torch.linalg.LinAlgError) as error:
            raise _named(error, list(self.layers)) from error

    def proposals(self) -> dict[str, Proposal]:
        """What the step proposes for each layer."""
        assert self.result is not None
        if self.alone:
            return dict.fromkeys(self.layers, self.result)
        return dict(zip(self.layers, unstack(self.result, len(self.layers), self.integrator.manifold), strict=True))


class _Field:
    """Minus the gradient of the loss by the matrices of some layers, through the bases of ``point``.

    Read at once: a method may come back to it after further backward passes.
    """

    def __init__(self, layers: list[LowRankLayer], point: LowRank, parts: Sequence[str], alone: bool):
        rU, rV = point.S.shape[-2:]
        shapes = {"K": (None, rV), "L": (None, rU), "S": (rU, rV)}
        for part in parts:
            parameters = [getattr(layer, SLOTS[part]) for layer in layers]
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            F = -gradients[0] if alone else torch.stack(gradients).neg_()
            rows, columns = shapes[part]
            setattr(self, part, F[..., :rows, :columns])


def request_gradients(layer: LowRankLayer, factors: Sequence[str]) -> None:
    """Let backward passes compute the gradients of these factors alone."""
    for factor in FACTORS:
        parameter = getattr(layer, factor)
        parameter.requires_grad_(factor in factors)
        if factor not in factors:
            parameter.grad = None


def _evaluate(closure):
    with torch.enable_grad():
        return closure()


def _is_trained(layer: LowRankLayer) -> bool:
    return any(getattr(layer, factor).requires_grad for factor in FACTORS)


def _has_gradient(layer: LowRankLayer) -> bool:
    return any(getattr(layer, factor).grad is not None for factor in FACTORS)


def _copied(Y: LowRank) -> LowRank:
    return LowRank(Y.U.clone(), Y.S.clone(), Y.V.clone())


def _cloned(memory: Mapping[str, Any], device=None) -> dict:
    return {k: X.to(device or X.device, copy=True) if isinstance(X, torch.Tensor) else X for k, X in memory.items()}


def _orthonormalised(Y: LowRank) -> LowRank:
    """Y in orthonormal bases; as it is where they are orthonormal already."""
    one = torch.eye(Y.rank, dtype=Y.dtype, device=Y.S.device)
    if all(float((X.mT @ X - one).abs().max()) < 1e-3 for X in (Y.U, Y.V)):
        return Y
    (U, RU), (V, RV) = torch.linalg.qr(Y.U), torch.linalg.qr(Y.V)
    return LowRank(U, RU @ Y.S @ RV.mT, V)


def _padded(X: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """X with zero rows and columns added up to this size."""
    return nn.functional.pad(X, (0, columns - X.shape[-1], 0, rows - X.shape[-2]))


def _check_finite(matrices: Mapping[str, torch.Tensor]) -> None:
    if bad := [name for name, S in matrices.items() if not bool(torch.isfinite(S).all())]:
        raise _named(FloatingPointError("the matrix is not finite after the step"), bad)


def _named(error: Exception, names: Iterable[str]) -> FloatingPointError:
    return FloatingPointError(f"{', '.join(names)}: {error}; no parameter has been changed")


def _check_count(name: str, value) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} must be an integer >= 0, got {value!r}")


def _check_positive(name: str, value) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
