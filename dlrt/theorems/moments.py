"""Conservation of moments by a truncation that keeps them, in the Vlasov-Poisson equation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from integrators import (
    AugmentedBUG,
    BackwardCorrectedSplitting,
    Conservative,
    FixedRank,
    FullRank,
    GeoLoRA,
    ParallelBUG,
    ProjectedRungeKutta,
    RungeKuttaBUG,
)
from problems import Vlasov, landau, two_stream

from .certificate import Constant, Hypothesis, Series
from .hypotheses import euler_steps, plain_descent
from .measure import basis, dense, failed, norm, rounding, run, start_of, wide
from .theorem import Measured, Theorem, cuts_values

NAMES = ("mass", "momentum", "kinetic energy")
N = 32
"""Points in velocity of the problems of the check, for which the moments are made."""


def _other(method) -> str:
    rules = [method.truncation]
    if isinstance(method, ProjectedRungeKutta) and method.order > 1:
        rules.append(method.stage_truncation)
    return "" if all(isinstance(rule, Conservative) for rule in rules) else "its truncation does not keep moments"


@dataclass(frozen=True)
class Moments(Theorem):
    r"""Moments change as those of the full equation do, and what it conserves is conserved, truncation included.

    For ``Y' = F(Y)``, W (n, k), and a method whose truncation is `Conservative` with W, a step from Y0 to the truncated
    Y1 obeys

    .. math:: Y_1 W = Y_0 W + h \sum_j b_j F(Y_j) W

    with the weights ``b_j >= 0, sum b_j = 1`` and the stages of its Runge-Kutta method; for those of order 1,
    ``Y_1 W = (Y_0 + h F(Y_0)) W``. Hence each ``l^T Y w`` that the equation conserves, ``l^T F(Y) w = 0`` for all Y and
    w in the span of W, is conserved to rounding. For Vlasov and Poisson, ``l = 1``: *mass* always; *momentum* up to
    ``sum_x E_x sum_v f_v (1 + (D_v v)_v)``, which is what f has at the ends of the grid of velocities, where v jumps,
    since ``sum_x E_x rho_x = 0``. The *kinetic energy* changes by the work of E as the field says; the *total* energy
    is conserved up to the order of the Runge-Kutta method, because that of E is quadratic in Y.

    Hypotheses: plain descent, explicit Euler steps; W spans s, v s and v^2 s of the problem.

    Proof. W is in the span of V0: `Conservative` puts it there. *Truncation*: Y1 W = Y^ W, as what is cut has rows
    orthogonal to W. *Augmented BUG*: ``Y^ = U^ U^^T (Y0 + h F(Y0)) V^ V^^T``, V^ contains V0, so the right projector
    keeps W; ``(Y0 + h F(Y0)) V0 = K(t1)`` is in the span of U^, so the left one keeps that. *Parallel BUG, GeoLoRA,
    projected Runge-Kutta*: ``P(Y) F W = F W`` for W in the span of V, for each stage (the truncation of stages is
    `Conservative` too). *Runge-Kutta BUG*: U_i contains all F_j V_j and U_0, V_i contains V_0. *Backward-corrected
    splitting*: ``Y^ = U^ U^^T (Y0 + h F(Y0))`` with the U^ of augmented BUG.

    What is compared: the change of ``sum_x Y w`` in a step, with h times the interval from the least to the largest of
    ``sum_x F(Y_j) w`` over all points that the step asked for; for mass the change itself. Slack: rounding of a step,
    times ``||1|| ||w||``.

    Source: Einkemmer, Kusch, Schotthöfer (2023), arXiv:2311.06399, for augmented BUG; the others by the same argument.
    """

    steps: int = 5
    step_size: float = 0.02
    rank: int = 2
    """Of what is beside the moments, in every step; the start has as many directions more."""
    seed: int = 0

    name = "moments"
    statement = "mass, momentum and kinetic energy change as those of the full equation do, truncation included"
    source = "Einkemmer, Kusch, Schotthöfer (2023) for augmented BUG; the others derived"

    promised = {
        AugmentedBUG: "W is in V^, K(t1) in U^",
        GeoLoRA: "the tangent projection keeps F W",
        ParallelBUG: "the tangent projection keeps F W",
        ProjectedRungeKutta: "the tangent projection of each stage keeps F W",
        RungeKuttaBUG: "W is in all V_i, F_j V_j in U_i",
        BackwardCorrectedSplitting: "the L-step projects with U^ alone, K(t1) is in it",
        FullRank: "Euler's method itself",
    }
    unless = dict.fromkeys((kind for kind in promised if kind is not FullRank), _other)

    def configured(self, integrator):
        """Euler steps; the truncation keeps the moments, that of stages too."""
        method: Any = super().configured(integrator)
        if not cuts_values(method) or getattr(method, "rejection", None) is not None:
            return method
        rule = Conservative(landau(4, N).moment_functions, FixedRank(self.rank))
        method = replace(method, truncation=rule)
        return replace(method, stage_truncation=rule) if isinstance(method, ProjectedRungeKutta) else method

    def problems(self):
        """Landau damping and two streams, on grids with the same span of 1, v and v^2, and Y = f."""
        return {"landau": landau(16, N, 0.5), "two-stream": two_stream(16, N, 0.5)}

    def hypotheses(self, integrator, problem):
        """A Vlasov-Poisson equation, Euler steps, no memory; where moments are kept, the ones of this problem."""
        fits = isinstance(problem, Vlasov)
        yield Hypothesis("a Vlasov-Poisson equation", fits, getattr(problem, "name", ""))
        yield from (euler_steps(integrator), plain_descent(integrator))
        if fits and isinstance(integrator.truncation, Conservative):
            given, W = wide(integrator.truncation.moments), problem.moment_functions
            inside = len(given) == len(W) and norm(W - (Q := basis(given)) @ (Q.T @ W)) < 1e-12 * norm(W)
            yield Hypothesis("the truncation keeps mass, momentum and energy", inside, f"moments {given.shape}")

    def measure(self, integrator, problem):
        """Steps from the problem's start."""
        W = problem.moment_functions
        first = integrator.init(start_of(problem, self.rank + W.shape[1], np.random.default_rng(self.seed)))
        rates: list[np.ndarray] = []

        def seen(t, Y):
            f = problem.field(t, Y)
            rates.append(wide(f.apply(W.astype(Y.dtype))).sum(axis=0))
            return f

        rows: list[list[tuple]] = [[] for _ in NAMES]
        for k, state, step in run(integrator, seen, first, self.step_size, self.steps):
            if step is None:
                rows[0].append(failed(k))
                break
            change = (dense(step.state.Y) @ W - dense(state.Y) @ W).sum(axis=0)
            least, most = self.step_size * np.min(rates, axis=0), self.step_size * np.max(rates, axis=0)
            outside = np.maximum(0.0, np.maximum(least - change, change - most))
            outside[0] = abs(change[0])
            sizes = [problem.shape[0] ** 0.5 * norm(w) for w in W.T]
            slack = rounding(state.Y, norm(dense(state.Y)))
            for row, left, size in zip(rows, outside.tolist(), sizes, strict=True):
                row.append((k, left / size, 0.0, slack))
            rates.clear()
        labels = ("change of sum Y / (||1|| ||w||)", *["distance of the change from h sum F w"] * 2)
        found = [
            Series.of(name, "step", row, label, "0")
            for name, row, label in zip(NAMES, rows, labels, strict=True)
            if row
        ]
        return Measured(found, {"h": Constant(self.step_size, "setting of the check")})
