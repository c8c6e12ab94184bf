"""Averages of models with low-rank layers: of their matrices, whatever the ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import swa_utils

from integrators import LowRank, State, Tolerance, combine, conclude, stack, unstack
from integrators.checks import check_integer, check_not_negative
from integrators.fields import PARTS
from integrators.linalg import host_svds, read, rotate, write

from .factors import Factor, assign
from .layers import LowRankLayer
from .model import low_rank_layers

__all__ = ["AveragedModel", "aligned"]


class AveragedModel(swa_utils.AveragedModel):
    r"""Average of a model over the steps of training (EMA, SWA) that averages the *matrices* of low-rank layers.

    ``torch.optim.swa_utils.AveragedModel`` averages U, S and V entry by entry, which means nothing, since the bases of
    a matrix are no function of it: they turn from step to step. Here the average of each matrix

    .. math:: \bar W \leftarrow (1 - w) \bar W + w W

    is formed from the factors, without a dense matrix, and truncated; the ranks may be any, and change. All else is as
    in torch: the same arguments, ``update_parameters(model)``, ``module``, ``state_dict``, ``update_bn``.

    Parameters
    ----------
    model : Module
        Copied.
    device, avg_fn, multi_avg_fn, use_buffers
        As in torch: the mean of all models without a function, ``multi_avg_fn=get_ema_multi_avg_fn(0.999)`` for an
        exponential moving average. The function must be a weighted mean with weights that depend on ``n_averaged``.
    tolerance : float
        Bound of the relative error that truncation makes in the average, all updates together, as long as ``max_rank``
        does not cut more. (Each may cut the part w of it, so that what is new is not lost for being small.)
    max_rank : int, optional
        Largest rank of the average of a layer; by default twice the rank that the layer has.

    Raises
    ------
    ValueError
        The function is no weighted mean; from ``update_parameters``: the model has other low-rank layers.
    FloatingPointError
        From ``update_parameters``: a matrix is not finite. The average is as it was.

    Notes
    -----
    Cost O((m + n) r^2) per layer and update; layers of equal shapes and ranks share a stack, and all of one rank a read
    on the host. With ``LowRankOptimizer(align=True)`` torch's own class, and other averages of parameters, are right as
    long as the ranks stay the same.
    """

    def __init__(
        self,
        model: nn.Module,
        device=None,
        avg_fn=None,
        multi_avg_fn=None,
        use_buffers: bool = False,
        *,
        tolerance: float = 1e-3,
        max_rank: int | None = None,
    ):
        self.tolerance = check_not_negative("tolerance", tolerance)
        self.max_rank = None if max_rank is None else check_integer("max_rank", max_rank, 1)
        super().__init__(model, device, avg_fn, multi_avg_fn, use_buffers)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in the model as it is now."""
        mine, new = low_rank_layers(self.module), low_rank_layers(model)
        if [layer.shape for layer in mine.values()] != [layer.shape for layer in new.values()]:
            raise ValueError(f"the low-rank layers of model are {', '.join(new)}, expected {', '.join(mine)}")
        w = self._weight()
        stacks: dict[
            Any, list[tuple[LowRankLayer, LowRank]]
        ] = {}  # layers that share a stack, by what they have in common
        for average, layer in zip(mine.values(), new.values(), strict=True):
            Y = LowRank(*(X.to(average.S.device) for X in layer.Y))
            stacks.setdefault((Y.shape, Y.rank, average.rank, Y.dtype, Y.S.device), []).append((average, Y))
        sums: dict[int, list] = {}  # by the largest rank that may stay
        for key, pairs in stacks.items():
            new_one = stack([State(Y) for _, Y in pairs]).Y
            old_one = stack([State(average.Y) for average, _ in pairs]).Y
            total = combine([(w, new_one)] if w == 1 else [(1 - w, old_one), (w, new_one)])
            sums.setdefault(self.max_rank or 2 * key[1], []).append((pairs, State(total)))
        found = []
        for max_rank, parts in sums.items():
            rule = Tolerance(relative=self.tolerance * w, max_rank=max_rank)
            concluded = conclude(rule, [state for _, state in parts])
            found += [(pairs, *one) for (pairs, _), one in zip(parts, concluded, strict=True)]
        if not all(np.isfinite(errors).all() for _, _, errors in found):
            raise FloatingPointError("a matrix of model is not finite; the average has not been changed")
        for pairs, state, _ in found:
            factors = [p for average, _ in pairs for p in average.factors]
            assign(factors, [X for one in unstack(state, [State(Y) for _, Y in pairs]) for X in one.Y])
        self._update_others(model, w)
        self.n_averaged += 1

    def _weight(self) -> float:
        """w, found by averaging 0 with 1; and 1 with 0, for a check."""
        if self.n_averaged == 0:
            return 1.0
        zero, one = (torch.tensor(x, dtype=torch.float64, device=self.n_averaged.device) for x in (0.0, 1.0))
        average = [zero.clone(), one.clone()]
        self._average(average, [one, zero])
        w, rest = (float(x) for x in average)
        if not (0 <= w <= 1 and abs(w + rest - 1) < 1e-6):
            raise ValueError(f"avg_fn must be a weighted mean, it made {w} of 0 and 1, and {rest} of 1 and 0")
        return w

    def _average(self, average: list[torch.Tensor], new: list[torch.Tensor]) -> None:
        """Entry by entry, in place, as torch does it."""
        n = self.n_averaged.to(average[0].device)
        if self.multi_avg_fn is not None:
            self.multi_avg_fn(average, new, n)
            return
        for X, Y in zip(average, new, strict=True):
            X.copy_((self.avg_fn or swa_utils.get_swa_avg_fn())(X, Y, n))

    def _update_others(self, model: nn.Module, w: float) -> None:
        """All that is no factor; without ``use_buffers`` buffers are those of the model."""
        pairs = [
            (X.detach(), Y.detach().to(X.device))
            for X, Y in zip(self.module.parameters(), model.parameters(), strict=True)
            if not isinstance(X, Factor)
        ]
        buffers = [(X, Y.to(X.device)) for X, Y in zip(self.module.buffers(), model.buffers(), strict=True)]
        groups: dict = {}
        for X, Y in pairs + (buffers if self.use_buffers else []):
            groups.setdefault((X.device, X.dtype), []).append((X, Y))
        for group in groups.values():
            Xs, Ys = (list(Z) for Z in zip(*group, strict=True))
            if w == 1:
                torch._foreach_copy_(Xs, Ys)
            else:
                self._average(Xs, Ys)
        if not self.use_buffers:
            for X, Y in buffers:
                X.copy_(Y)


def aligned(
    concluded: Mapping[str, tuple[State, float]], before: Mapping[str, LowRank]
) -> dict[str, tuple[State, float]]:
    """The same matrices in bases as near as possible to those before, where the rank has not changed.

    ``U <- U A`` with the orthogonal A that makes ``||U A - U_0||_F`` least (Procrustes), ``V <- V B`` likewise,
    ``S <- A^T S B``. A tangent vector in the memory turns with them. One read for all small decompositions.

    References
    ----------
    Schönemann (1966), doi:10.1007/BF02289451.
    """
    names = [name for name, (state, _) in concluded.items() if state.Y.rank == before[name].rank]
    crossed = [getattr(concluded[name][0].Y, X).mT @ getattr(before[name], X) for name in names for X in "UV"]
    svds = host_svds(crossed[0], read(crossed)) if crossed else []
    turns = iter(write([P @ Q.T for P, _, Q in svds], crossed))
    found = dict(concluded)
    for name in names:
        (state, error), A, B = concluded[name], next(turns), next(turns)
        U, S, V = state.Y
        first = {k: X for k, X in state.memory.items() if k.startswith("first.")}
        if first:
            K, L, M = (first[f"first.{part}"] for part in PARTS)
            first = {"first.K": K @ B, "first.L": L @ A, "first.S": A.mT @ M @ B}
        Y = LowRank(rotate(U, A), A.mT @ S @ B, rotate(V, B))
        found[name] = State(Y, {**state.memory, **first}), error
    return found
