"""AdaLoRA: simultaneous descent on P, diag(lam), Q with a penalty for orthogonality and a budget of triplets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from array_api_compat import device

from .checks import check_fraction, check_instance, check_not_negative
from .integrator import Integrator
from .linalg import array_namespace, dagger, double_svd, is_complex
from .lowrank import LowRank, diagonalise
from .state import State
from .truncation import ImportanceBudget

__all__ = ["AdaLoRA"]


@dataclass(frozen=True, kw_only=True)
class AdaLoRA(Integrator):
    r"""Adaptive LoRA (AdaLoRA): simultaneous descent on the factors of an SVD, with a budget of triplets.

    The matrix is ``W = P diag(lam) Q``. Descent is on the loss plus the penalty
    :math:`\gamma (\|P^H P - I\|_F^2 + \|Q Q^H - I\|_F^2)`:

    .. math::
        P_1 &= P + h\,(F Q^H \Lambda - 4 \gamma P (P^H P - I)), \\
        \lambda_1 &= \lambda + h\, \mathrm{diag}(P^H F Q^H), \\
        Q^H_1 &= Q^H + h\,(F^H P \Lambda - 4 \gamma Q^H (Q Q^H - I)).

    From the sensitivity :math:`I = |w\, \partial \mathcal{L} / \partial w|` of each entry w of P, lam and Q (loss with
    penalty; the real part of the product for complex w) two running means and the importance of triplet i follow:

    .. math::
        \bar I &= \beta_1 \bar I + (1 - \beta_1) I, \qquad \bar U = \beta_2 \bar U + (1 - \beta_2) |I - \bar I|,
        \qquad s = \bar I\, \bar U, \\
        s_i &= s(\lambda_i) + \mathrm{mean}_j\, s(P_{ji}) + \mathrm{mean}_j\, s(Q_{ij}).

    ``truncation`` then zeroes the lam_i of the least important triplets over all matrices
    (:class:`~integrators.ImportanceBudget`). In its final phase the means stay as they are, so that the triplets masked
    at its beginning are masked after each step to the end.

    Parameters
    ----------
    truncation : ImportanceBudget, optional
        The budget; without it no triplet is ever masked, and :meth:`for_run` sets one.
    gamma : float
        Weight of the penalty, >= 0.
    beta1, beta2 : float
        Smoothing of sensitivity and uncertainty, in [0, 1).
    optimizer : Optimizer
        Acts on P, lam and Q, elementwise.

    Notes
    -----
    One field per step, cost O((m + n) r^2). ``state.Y`` is ``P diag(lam) Q`` with V = Q^H.

    Both w and the derivative in the sensitivity are those before the step, as in the paper. PEFT, called after the
    optimiser's step, multiplies the derivative by the new w.

    References
    ----------
    Zhang et al. (2023), AdaLoRA: Adaptive budget allocation for parameter-efficient fine-tuning, arXiv:2303.10512.
    """

    truncation: ImportanceBudget | None = None  # type: ignore[misc]
    gamma: float = 0.1
    beta1: float = 0.85
    beta2: float = 0.85

    manifold: ClassVar[bool] = False
    rank_adaptive: ClassVar[bool] = True
    stackable: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if self.truncation is not None:
            check_instance("truncation", self.truncation, ImportanceBudget)
        for name, check in (("gamma", check_not_negative), ("beta1", check_fraction), ("beta2", check_fraction)):
            object.__setattr__(self, name, check(name, getattr(self, name)))

    def for_run(self, steps: int, rank: int) -> AdaLoRA:
        """With a budget that falls from ``rank`` to two thirds of it, unless there is one already.

        It is full for a tenth of the steps and final for the last third; between, masks are set every hundredth of the
        steps.
        """
        if self.truncation is not None:
            return self
        budget = ImportanceBudget(
            initial=rank,
            final=-(-2 * rank // 3),
            total_steps=steps,
            warmup=steps // 10,
            cooldown=steps // 3,
            interval=max(1, steps // 100),
        )
        return replace(self, truncation=budget)

    def start(self, Y: LowRank) -> LowRank:
        """The singular value decomposition of Y; Y itself where S is diagonal and not I, as two factors have it."""
        xp = array_namespace(Y.S)
        if Y.S.shape[-2] == Y.S.shape[-1]:
            one = xp.eye(Y.rank, dtype=Y.dtype, device=device(Y.S))
            if bool(xp.all(Y.S == Y.S * one)) and not bool(xp.all(Y.S == one)):
                return Y
        Y = Y.orthonormalised()
        P, d, Q = double_svd(Y.S)
        return diagonalise(Y, P, d, Q, Y.rank)

    def memory(self, Y):
        """Optimiser moments, smoothed sensitivity and uncertainty of P, lam and Q, and the step count."""
        blocks = _triplet_factors(Y)
        means = {f"{mean}.{w}": 0.0 * abs(X) for mean in ("sensitivity", "uncertainty") for w, X in blocks.items()}
        return {**_prefixed("optimizer", self.optimizer.init(blocks)), **means, "step": 0}

    def stages(self, t, state, h):
        """One gradient step on P, lam and Q, and the new importance of each triplet."""
        Y, memory = state.Y, dict(state.memory)
        xp = array_namespace(Y.S)
        factors = _triplet_factors(Y)
        P, lam, QH = factors["P"], factors["lam"], factors["Q"]
        one = xp.eye(Y.rank, dtype=Y.dtype, device=device(Y.S))
        f = yield t, Y
        descent = {
            "P": f.K * dagger(lam[..., None]) - 4 * self.gamma * P @ (dagger(P) @ P - one),
            "lam": xp.linalg.diagonal(f.S),
            "Q": f.L * lam[..., None, :] - 4 * self.gamma * QH @ (dagger(QH) @ QH - one),
        }
        step = int(memory["step"]) + 1
        if self.truncation is None or not self.truncation.frozen(step):
            for w, X in factors.items():
                sensitivity = abs(xp.real(xp.conj(X) * descent[w])) if is_complex(X) else abs(X * descent[w])
                smooth = self.beta1 * memory[f"sensitivity.{w}"] + (1 - self.beta1) * sensitivity
                unsure = self.beta2 * memory[f"uncertainty.{w}"] + (1 - self.beta2) * abs(sensitivity - smooth)
                memory |= {f"sensitivity.{w}": smooth, f"uncertainty.{w}": unsure}
        old = {key.removeprefix("optimizer."): X for key, X in memory.items() if key.startswith("optimizer.")}
        d, moments = self.optimizer.update(old, descent)
        memory |= _prefixed("optimizer", moments) | {"step": step}
        Y1 = LowRank(P + h * d["P"], (lam + h * d["lam"])[..., None, :] * one, QH + h * d["Q"])
        return State(Y1, memory)


def _triplet_factors(Y: LowRank) -> dict:
    """P (m, r), lam (r,) and Q^H (n, r)."""
    U, S, V = Y
    return {"P": U, "lam": array_namespace(S).linalg.diagonal(S), "Q": V}


def _prefixed(prefix: str, memory) -> dict:
    return {f"{prefix}.{key}": X for key, X in memory.items()}
