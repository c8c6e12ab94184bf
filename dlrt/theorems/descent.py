"""Descent in every step, deterministic and in expectation over mini-batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from integrators import AugmentedBUG, FullRank, GeoLoRA, ParallelBUG
from problems import FiniteSum, LinearLeastSquares, MatrixRegression, completion, synthetic

from .certificate import Certificate, Constant, Hypothesis
from .theorem import (
    FAILURES,
    Theorem,
    bases,
    dense,
    eps_of,
    field_at,
    gradient_bound,
    lipschitz,
    norm,
    plain_descent,
    rounding,
    series,
    start_of,
    substep_name,
    tangent_part,
    tolerance_of,
)

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
    and g = G the first. For augmented BUG with Euler, ``D = -lam U^ U^^H G V^ V^^H`` (projection onto a tensor
    product, also orthogonal), and as U^ contains the ranges of U and G V, V^ those of V and G^H U, this projection
    contains P G: ``||U^^H G V^||^2 = ||P G||^2 + ||Ut^H G Vt||^2``; so the first line holds for it too (the third
    does not: U^ depends on g). So it is for parallel BUG with step rejection, which ends with a projection onto the
    tangent space in larger bases. The second line is the mean value theorem. B is the smaller of the problem's
    ``gradient_bound`` on the ball that holds both ends, and ``||G(W^)|| + L theta``.

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

    name = "descent"
    statement = "f(W^) <= f(W) - lam (1 - L lam / 2) ||P G||^2 and f(W1) <= f(W^) + B theta"
    source = "GeoLoRA (arXiv:2410.18720), Theorem 1; constants derived"

    def promises(self, integrator):
        """GeoLoRA, parallel and augmented BUG with Euler steps, full-rank descent."""
        if isinstance(integrator, (GeoLoRA, ParallelBUG, AugmentedBUG)):
            return True, "W^ - W is -lam times an orthogonal projection of G that contains P G"
        if isinstance(integrator, FullRank):
            return True, "gradient descent, P = I"
        if integrator.manifold:
            return False, "the start is not in the space of the last sub-step"
        return False, "simultaneous descent follows P^ G, and P^ is no orthogonal projector"

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

    def cases(self, integrator, full=False):
        """A deterministic and a stochastic problem; with ``full`` all of them and larger steps."""
        problems = list(self.problems().values())
        for problem in problems if full else problems[:2]:
            for fraction in (0.1, 0.5, 1.0, 1.9) if full else (0.5,):
                if getattr(problem, "stochastic", False):
                    fraction /= 5
                yield self.check(self.configured(integrator), problem, step_size=fraction / lipschitz(problem))

    @np.errstate(all="ignore")
    def check(self, integrator, problem, *, step_size=None, rank=None, steps=None, start=None) -> Certificate:
        """Along a run from the problem's start (or ``start``) with constant step size, 1 / (2 L) by default."""
        L = lipschitz(problem) if hasattr(problem, "loss") else math.nan
        lam = float(step_size) if step_size is not None else 0.5 / L if L > 0 else math.nan
        hypotheses = [
            Hypothesis("a loss with Lipschitz gradient", math.isfinite(L) and L > 0, f"L = {L:.4g}"),
            plain_descent(integrator),
            Hypothesis("explicit Euler steps", substep_name(integrator) == "Euler", substep_name(integrator)),
            Hypothesis("0 < lam < 2 / L", 0 < lam * L < 2, f"lam = {lam:.4g}, 2 / L = {2 / L if L else math.inf:.4g}"),
        ]
        if not all(h.met for h in hypotheses):
            return self.certificate(integrator, problem, hypotheses)
        stochastic = isinstance(problem, FiniteSum) and problem.stochastic
        if stochastic:
            hypotheses.append(
                Hypothesis("the projection does not depend on the mini-batch", *fixed_projection(integrator))
            )
            if not hypotheses[-1].met:
                return self.certificate(integrator, problem, hypotheses)
        rng = np.random.default_rng(self.seed)
        rank = min(rank or self.rank, *problem.shape)
        state = integrator.init(start if start is not None else start_of(problem, rank, rng, norm=1.0))
        run = _Run(self, integrator, problem, lam, L, stochastic)
        for k in range(steps or (self.steps if not stochastic else max(3, self.steps // 5))):
            state = run.step(k, state, rng)
            if state is None:
                break
        constants = {
            "L": Constant(L, f"{type(problem).__name__}.lipschitz"),
            "lam": Constant(lam, "step size of the check"),
            "B": Constant(run.largest_B, "largest min(gradient_bound(radius), ||G(W^)|| + L theta) of the steps"),
        }
        return self.certificate(integrator, problem, hypotheses, run.series(), constants, run.notes)


def fixed_projection(integrator) -> tuple[bool, str]:
    """Whether the space a step projects the gradient onto depends on the point alone, and why not."""
    if isinstance(integrator, AugmentedBUG):
        return False, "U^ and V^ depend on the gradient"
    if getattr(integrator, "rejection", None) is not None:
        return False, "a rejected step is repeated in bases that depend on the gradient"
    return True, ""


class _Run:
    """The rows of a descent certificate."""

    def __init__(self, theorem, integrator, problem, lam, L, stochastic):
        self.theorem, self.integrator, self.problem, self.lam, self.L = theorem, integrator, problem, lam, L
        self.stochastic = stochastic
        self.before: list = []
        self.after: list = []
        self.tail: list = []
        self.reported: list = []
        self.within: list = []
        self.largest_B = 0.0
        self.notes: list[str] = []

    def batches(self, rng):
        """The mini-batches of one step, and whether they are all of them."""
        if not self.stochastic:
            return [self.problem], True
        if math.comb(self.problem.samples, self.problem.batch_size) <= self.theorem.max_batches:
            return list(self.problem.enumerate_minibatches()), True
        return [self.problem.minibatch(rng) for _ in range(200)], False

    def step(self, k, state, rng):
        lam, L, problem = self.lam, self.L, self.problem
        Y = state.Y
        U, V = bases(Y)
        W, G, f0 = dense(Y), -field_at(problem, 0.0, Y), problem.loss(Y)
        PG = tangent_part(G, U, V)
        batches, complete = self.batches(rng)
        gains, gains_after, squares, states = [], [], [], []
        for batch in batches:
            g = -field_at(batch, 0.0, Y)
            try:
                step = self.integrator.step(batch.field, 0.0, state, lam)
            except FAILURES:
                self.before.append((k + 1, math.inf, 0.0, 0.0))
                self.notes.append(f"diverged at step {k + 1}")
                return None
            A, B = dense(step.augmented), dense(step.state.Y)
            theta = norm(A - B)
            GA = -field_at(problem, 0.0, step.augmented)
            bound = gradient_bound(problem, GA, theta, max(norm(A), norm(B)), L)
            self.largest_B = max(self.largest_B, bound)
            gains.append(f0 - problem.loss(step.augmented))
            gains_after.append(f0 - problem.loss(step.state.Y) + bound * theta)
            squares.append(norm(tangent_part(g, U, V)) ** 2)
            states.append(step.state)
            self.truncation(k, step, A, theta, rounding(Y, norm(A), lam * norm(g)))
        mean_square = float(np.mean(squares))
        promised = lam * norm(PG) ** 2 - 0.5 * L * lam**2 * mean_square
        slack = rounding(Y, norm(W), lam * norm(G)) * (norm(G) + L * lam * norm(G)) + 100 * eps_of(Y) * abs(f0)
        # a sampled expectation: the paired differences have less variance than each side
        for rows, gain in ((self.before, gains), (self.after, gains_after)):
            z = np.array(gain) - (lam * norm(PG) ** 2 - 0.5 * L * lam**2 * np.array(squares))
            spread = 0.0 if complete else Z_999 * float(np.std(z, ddof=1)) / math.sqrt(len(z))
            rows.append((k + 1, promised, float(np.mean(gain)) + spread, slack))
        if not complete:
            self.notes = ["expectation over 200 sampled mini-batches: right sides are upper 99.9 % confidence limits"]
        elif self.stochastic:
            self.notes = [f"expectation over all {len(batches)} mini-batches"]
        return states[int(rng.integers(len(states)))]

    def truncation(self, k, step, A, theta, slack):
        """(I3): what was cut is the tail, it is what the step reports, and no more than the rule allows."""
        integrator = self.integrator
        if integrator.truncation is None or not integrator.manifold:
            return
        d = np.linalg.svd(A, compute_uv=False)
        tail = norm(d[step.state.Y.rank :])
        self.tail.append((k + 1, abs(theta - tail), 0.0, slack))
        self.reported.append((k + 1, abs(theta - step.truncation_error), 0.0, slack))
        rule = tolerance_of(integrator)
        if rule is not None and step.state.Y.rank < rule.limit:
            self.within.append((k + 1, theta, rule.threshold(norm(d)), slack))

    def series(self):
        kind = "in expectation " if self.stochastic else ""
        names = ("promised decrease", "measured decrease")
        found = [series(f"descent {kind}before truncation", "step", self.before, *names)]
        found.append(
            series(f"descent {kind}after truncation", "step", self.after, names[0], "measured decrease + B theta")
        )
        if self.tail:
            found.append(series("truncation error is the tail", "step", self.tail, "| ||W1 - W^|| - tail |", "0"))
            found.append(series("reported truncation error", "step", self.reported, "| ||W1 - W^|| - reported |", "0"))
        if self.within:
            found.append(series("truncation within its tolerance", "step", self.within, "||W1 - W^||", "tolerance"))
        return found
