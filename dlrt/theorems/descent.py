"""Descent in every step, deterministic and in expectation over mini-batches."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from integrators import (
    AugmentedBUG,
    BackwardCorrectedSplitting,
    FullRank,
    GeoLoRA,
    LowRank,
    ParallelBUG,
    ProjectedRungeKutta,
    SecondOrderParallelBUG,
    Tolerance,
)
from problems import FiniteSum, LinearLeastSquares, MatrixRegression, completion, synthetic

from .certificate import Constant, Hypothesis, Series
from .hypotheses import euler_steps, lipschitz_gradient, loss_lipschitz, plain_descent, stable_step
from .measure import (
    attempt,
    bases,
    dense,
    eps_of,
    failed,
    gradient_at,
    norm,
    rounding,
    start_of,
    tangent_part,
    truncated,
)
from .theorem import FACTORS, SEQUENTIAL, Measured, Theorem, one_euler_step

SAMPLES = 200
"""Mini-batches in a sampled expectation."""
Z_999 = 3.0902323061678132
"""One-sided 99.9 % quantile of the normal distribution, for expectations that are sampled."""


@dataclass(frozen=True)
class Descent(Theorem):
    r"""One step decreases the loss, before and after truncation (Theorem 1 of the GeoLoRA paper).

    For a loss f with L-Lipschitz gradient G and ``0 < lam < 2 / L``:

    .. math::
        f(\hat W) &\le f(W) - \lambda (1 - L\lambda/2) \|P(W) G\|_F^2, \\
        f(W_1) &\le f(\hat W) + B\,\vartheta, \qquad \vartheta = \|W_1 - \hat W\|_F = (\sum_{j>r_1} d_j^2)^{1/2},

    with singular values d of W^ and B a bound of ``||G||`` on the segment from W^ to W_1. For an unbiased mini-batch
    gradient g,

    .. math:: E f(\hat W) \le f(W) - \lambda \|P G\|^2 + \tfrac{L\lambda^2}{2} E\|P g\|^2 .

    Hypotheses: a loss with known L; plain descent by explicit Euler steps; ``0 < lam < 2/L``.

    Proof. Smoothness gives ``f(W + D) <= f(W) + Re<G, D> + L/2 ||D||^2``. With ``D = -lam P g``, P an orthogonal
    projector that depends on W alone, ``Re<G, D> = -lam Re<P G, P g>``; the expectation over g gives the third line,
    and g = G the first. For augmented BUG with Euler, ``D = -lam U^ U^^H G V^ V^^H`` (projection onto a tensor product,
    also orthogonal), and as U^ contains the ranges of U and G V, V^ those of V and G^H U, this projection contains P G:
    ``||U^^H G V^||^2 = ||P G||^2 + ||Ut^H G Vt||^2``; so the first line holds for it too (the third does not: U^
    depends on g). So it is for backward-corrected splitting, ``D = -lam U^ U^^H G``, and for parallel BUG with step
    rejection and of second order, which project onto the tangent space in larger bases. The second line is the mean
    value theorem. B is the smaller of the problem's ``gradient_bound`` on the ball that holds both ends, and
    ``||G(W^)|| + L theta``.

    What is compared, per step: the promised decrease (left) with the measured one (right), before and after
    truncation; ``||W^ - W_1||`` with the tail of singular values that the new rank leaves, and with the error the
    step reports; and, for a truncation by tolerance, ``||W^ - W_1||`` with that tolerance. The expectation runs over
    *all* mini-batches where there are at most ``max_batches``; else over a sample of 200, and the right side is the
    upper end of the one-sided 99.9 % confidence interval. Slack: rounding of the step times the gradient, plus 100
    eps of the losses.

    Source: Schotthöfer et al. (2025), arXiv:2410.18720, Theorem 1, with the constants derived above.
    """

    rank: int = 4
    steps: int = 25
    seed: int = 0
    max_batches: int = 300
    step_size: float | None = None
    start: LowRank | None = None

    name = "descent"
    statement = "f(W^) <= f(W) - lam (1 - L lam / 2) ||P G||^2 and f(W1) <= f(W^) + B theta"
    source = "GeoLoRA (arXiv:2410.18720), Theorem 1; constants derived"

    few = 2
    promised = dict.fromkeys(
        (GeoLoRA, ParallelBUG, AugmentedBUG, BackwardCorrectedSplitting, SecondOrderParallelBUG, ProjectedRungeKutta),
        "W^ - W is -lam times an orthogonal projection of G that contains P G",
    ) | {FullRank: "gradient descent, P = I"}
    unless = {ProjectedRungeKutta: one_euler_step}
    doubts = dict.fromkeys(SEQUENTIAL, "the start is not in the space of the last sub-step") | dict.fromkeys(
        FACTORS, "simultaneous descent follows P^ G, and P^ is no orthogonal projector"
    )

    def problems(self):
        """Regression (equality: L = 1 is attained everywhere), least squares, completion; with and without batches."""
        rng = np.random.default_rng(2)
        A = synthetic((16, 12), [2.0**-j for j in range(12)], rng)
        X = rng.standard_normal((6, 5)) * np.array([2.0, 1.0, 1.0, 0.5, 0.2])
        Y = X @ rng.standard_normal((5, 7)) + 0.1 * rng.standard_normal((6, 7))
        return {
            "matrix-regression": MatrixRegression(A),
            "mini-batches": LinearLeastSquares(X, Y, batch_size=2),
            "least-squares": LinearLeastSquares(X, Y),
            "completion": completion(rng, A, 0.5),
            "completion, mini-batches": completion(rng, A, 0.5, batch_size=24),
        }

    def settings(self, full):
        """A deterministic and a stochastic problem; with ``full`` all of them and larger steps."""
        for _, problem in super().settings(full):
            for fraction in (0.1, 0.5, 1.0, 1.9) if full else (0.5,):
                if stochastic(problem):
                    fraction /= 5
                yield replace(self, step_size=fraction / problem.lipschitz), problem

    def lam(self, problem) -> float:
        """The step size."""
        L = loss_lipschitz(problem)
        return float(self.step_size) if self.step_size is not None else 0.5 / L if L > 0 else math.nan

    def hypotheses(self, integrator, problem):
        """A loss with known L, plain descent by Euler steps of stable size, a projection free of the mini-batch."""
        yield from (lipschitz_gradient(problem), plain_descent(integrator), euler_steps(integrator))
        yield stable_step(self.lam(problem), loss_lipschitz(problem))
        if stochastic(problem):
            yield Hypothesis("the projection does not depend on the mini-batch", *fixed_projection(integrator))

    def measure(self, integrator, problem):
        """Along a run from the problem's start (or ``start``) with constant step size, 1 / (2 L) by default."""
        L, lam = problem.lipschitz, self.lam(problem)
        rng = np.random.default_rng(self.seed)
        state = integrator.init(start_of(problem, self.rank, rng, norm=1.0) if self.start is None else self.start)
        notes: list[str] = []
        tables: tuple[list, ...] = ([], [], [], [], [])
        before, after, tail, reported, within = tables
        largest_B = 0.0
        for k in range(1, 1 + (max(3, self.steps // 5) if stochastic(problem) else self.steps)):
            Y = state.Y
            U, V = bases(Y)
            W, G, f0 = dense(Y), gradient_at(problem, Y), problem.loss(Y)
            batches, complete = self.batches(problem, rng)
            squares = [norm(tangent_part(gradient_at(batch, Y), U, V)) ** 2 for batch in batches]
            steps: list[Any] = [attempt(integrator, batch.field, state, lam) for batch in batches]
            if None in steps:
                before.append(failed(k))
                notes.append(f"diverged at step {k}")
                break
            gains, gains_after = [], []
            for batch, step in zip(batches, steps, strict=True):
                theta, B = truncated(problem, step, L)
                largest_B = max(largest_B, B)
                gains.append(f0 - problem.loss(step.augmented))
                gains_after.append(f0 - problem.loss(step.state.Y) + B * theta)
                if integrator.truncation is None or not integrator.manifold:
                    continue
                A, rank = dense(step.augmented), step.state.Y.rank
                slack = rounding(Y, norm(A), lam * norm(gradient_at(batch, Y)))
                d = np.linalg.svd(A, compute_uv=False)
                tail.append((k, abs(theta - norm(d[rank:])), 0.0, slack))
                reported.append((k, abs(theta - step.truncation_error), 0.0, slack))
                rule = integrator.truncation
                if isinstance(rule, Tolerance) and rank < rule.limit:
                    within.append((k, theta, rule.threshold(norm(d)), slack))
            along = lam * norm(tangent_part(G, U, V)) ** 2
            promised = along - 0.5 * L * lam**2 * float(np.mean(squares))
            slack = rounding(Y, norm(W), lam * norm(G)) * (norm(G) + L * lam * norm(G)) + 100 * eps_of(Y) * abs(f0)
            # a sampled expectation: the paired differences have less variance than each side
            for rows, gain in ((before, gains), (after, gains_after)):
                z = np.array(gain) - (along - 0.5 * L * lam**2 * np.array(squares))
                rows.append((k, promised, float(np.mean(gain)) + (0.0 if complete else upper_end(z)), slack))
            if not complete:
                limits = "right sides are upper 99.9 % confidence limits"
                notes = [f"expectation over {SAMPLES} sampled mini-batches: {limits}"]
            elif stochastic(problem):
                notes = [f"expectation over all {len(batches)} mini-batches"]
            state = steps[int(rng.integers(len(steps)))].state
        kind = "in expectation " if stochastic(problem) else ""
        names = ("promised decrease", "measured decrease")
        found = [
            Series.of(f"descent {kind}before truncation", "step", before, *names),
            Series.of(f"descent {kind}after truncation", "step", after, names[0], "measured decrease + B theta"),
            Series.of("truncation error is the tail", "step", tail, "| ||W1 - W^|| - tail |", "0"),
            Series.of("reported truncation error", "step", reported, "| ||W1 - W^|| - reported |", "0"),
            Series.of("truncation within its tolerance", "step", within, "||W1 - W^||", "tolerance"),
        ]
        constants = {
            "L": Constant(L, f"{type(problem).__name__}.lipschitz"),
            "lam": Constant(lam, "step size of the check"),
            "B": Constant(largest_B, "largest min(gradient_bound(radius), ||G(W^)|| + L theta) of the steps"),
        }
        return Measured([*found[:2], *(s for s in found[2:] if s.values)], constants, notes)

    def batches(self, problem, rng) -> tuple[list, bool]:
        """The mini-batches of one step, and whether they are all of them."""
        if not stochastic(problem):
            return [problem], True
        if math.comb(problem.samples, problem.batch_size) <= self.max_batches:
            return list(problem.enumerate_minibatches()), True
        return [problem.minibatch(rng) for _ in range(SAMPLES)], False


def stochastic(problem) -> bool:
    """Whether the problem has mini-batches."""
    return isinstance(problem, FiniteSum) and problem.stochastic


def upper_end(values: np.ndarray) -> float:
    """What to add to the mean of a sample for the upper end of its one-sided 99.9 % confidence interval."""
    return Z_999 * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def fixed_projection(integrator) -> tuple[bool, str]:
    """Whether the space a step projects the gradient onto depends on the point alone, and why not."""
    if isinstance(integrator, (AugmentedBUG, BackwardCorrectedSplitting, SecondOrderParallelBUG)):
        return False, "the bases depend on the gradient"
    if getattr(integrator, "rejection", None) is not None:
        return False, "a rejected step is repeated in bases that depend on the gradient"
    return True, ""
