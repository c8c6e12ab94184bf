"""Convergence to stationary points with decreasing step sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from integrators import AugmentedBUG, FullRank, GeoLoRA, ParallelBUG
from problems import LinearLeastSquares, MatrixRegression, synthetic

from .certificate import Constant, Hypothesis, Series
from .descent import fixed_projection, stochastic, upper_end
from .hypotheses import euler_steps, lipschitz_gradient, loss_lipschitz, plain_descent
from .measure import attempt, bases, dense, eps_of, failed, gradient_at, norm, start_of, tangent_part, truncated
from .theorem import FACTORS, SEQUENTIAL, Measured, Theorem


@dataclass(frozen=True)
class Polynomial:
    r"""Step sizes ``lam_k = a / (1 + k / b)^p``, k = 0, 1, ...

    ``sum lam_k`` diverges exactly for p <= 1 and ``sum lam_k^2`` converges exactly for p > 1/2 (integral test).
    """

    a: float
    b: float = 10.0
    p: float = 0.75

    def __call__(self, k: int) -> float:
        """lam_k."""
        return self.a / (1.0 + k / self.b) ** self.p

    @property
    def robbins_monro(self) -> tuple[bool, str]:
        """Whether the sum diverges and the sum of squares converges, and why."""
        if self.p > 1:
            return False, f"the sum of step sizes converges, p = {self.p:g} > 1"
        if self.p <= 0.5:
            return False, f"the sum of their squares diverges, p = {self.p:g} <= 1/2"
        return True, f"1/2 < p = {self.p:g} <= 1"


@dataclass(frozen=True)
class Convergence(Theorem):
    r"""The projected gradients are summable, so their lower limit is 0 (Theorem 2 of the GeoLoRA paper).

    For a loss with L-Lipschitz gradient and lower bound f_inf, unbiased mini-batch gradients of variance Var_t, and
    ``lam_t < 2 / L``:

    .. math::
        \sum_{t<T} \lambda_t (1 - L\lambda_t/2)\, E\|P(W_t) G_t\|^2
        \le f(W_0) - f_{inf} + \sum_{t<T} E[B_t \vartheta_t] + \frac{L}{2} \sum_{t<T} \lambda_t^2\, E\,Var_t =: R_T,

    hence ``min_{t<T} E||P G_t||^2 <= R_T / sum_{t<T} lam_t (1 - L lam_t / 2)``. With Robbins-Monro steps and
    ``sum E theta_t < inf`` (B bounded) R_T stays bounded, and liminf ``E||P G||^2 = 0``.

    Hypotheses: a loss with known L; plain descent, Euler steps; ``lam_t < 2/L``; Robbins-Monro steps; for the limit
    also a summable truncation error, for which a finite run gives evidence only: the second half of its sum is at
    most as large as the first (the bound at finite T does not need it).

    Proof. Descent in expectation (:class:`Descent`), with
    ``E||P g||^2 = ||P G||^2 + E||P (g - G)||^2 <= ||P G||^2 + Var``, summed over t with ``E f(W_T) >= f_inf``. The
    minimum is at most the weighted mean.

    What is compared: both sides for each T, with all terms. B_t is the bound of :class:`Descent`, taken inside the
    expectation. The expectation runs over *all* sequences of mini-batches where there are at most ``max_nodes``
    (a tree of runs); else over ``runs`` independent runs, and the right side is then the upper end of the 99.9 %
    confidence interval of the difference. Slack: 1000 eps of the right side.

    Source: Schotthöfer et al. (2025), arXiv:2410.18720, Theorem 2; Robbins, Monro (1951), doi:10.1214/aoms/1177729586.
    """

    rank: int = 4
    steps: int = 80
    seed: int = 0
    runs: int = 24
    max_nodes: int = 1500
    schedule: Callable[[int], float] | None = None

    name = "convergence"
    statement = "sum lam (1 - L lam / 2) E||P G||^2 <= f(W0) - f_inf + sum E[B theta] + L/2 sum lam^2 Var"
    source = "GeoLoRA (arXiv:2410.18720), Theorem 2; constants derived"

    few = 2
    promised = dict.fromkeys((GeoLoRA, ParallelBUG), "descent in expectation") | {
        FullRank: "stochastic gradient descent, P = I"
    }
    unless = {ParallelBUG: lambda method: fixed_projection(method)[1]}
    doubts = {AugmentedBUG: "U^ and V^ depend on the gradient"} | dict.fromkeys(
        (*FACTORS, *SEQUENTIAL), "no descent in expectation with these constants"
    )

    def problems(self):
        """Deterministic regression; least squares with few pairs (all sequences) and with many (sampled runs)."""
        rng = np.random.default_rng(3)
        X = rng.standard_normal((3, 4))
        Y = X @ rng.standard_normal((4, 5)) + 0.1 * rng.standard_normal((3, 5))
        X2 = rng.standard_normal((40, 8))
        Y2 = X2 @ rng.standard_normal((8, 10)) + 0.1 * rng.standard_normal((40, 10))
        return {
            "matrix-regression": MatrixRegression(synthetic((16, 12), [2.0**-j for j in range(4)], rng)),
            "all mini-batches": LinearLeastSquares(X, Y, batch_size=2),
            "sampled mini-batches": LinearLeastSquares(X2, Y2, batch_size=8),
        }

    def lam(self, problem) -> Callable[[int], float]:
        """The step sizes."""
        L = loss_lipschitz(problem)
        return self.schedule or Polynomial(0.5 / L if L > 0 else math.nan)

    def hypotheses(self, integrator, problem):
        """A loss with known L, plain descent by Euler steps, steps that fall at the right rate from below 2 / L."""
        L, lam = loss_lipschitz(problem), self.lam(problem)
        yield from (lipschitz_gradient(problem), plain_descent(integrator), euler_steps(integrator))
        rule = getattr(lam, "robbins_monro", (False, "not known for this schedule: use Polynomial"))
        yield Hypothesis("Robbins-Monro steps", *rule)
        largest = max(lam(k) for k in range(self.steps))
        limit = 2 / L if L else math.inf
        yield Hypothesis("lam_t < 2 / L", largest * L < 2, f"largest {largest:.4g}, 2 / L = {limit:.4g}")

    def measure(self, integrator, problem):
        """All terms along a run, a tree of runs, or several runs."""
        L, lam = problem.lipschitz, self.lam(problem)
        rng = np.random.default_rng(self.seed)
        first = integrator.init(start_of(problem, self.rank, rng, norm=1.0))
        notes, samples, depth = [], 1, self.steps
        batches: Callable = lambda: [problem]  # noqa: E731
        if stochastic(problem):
            count = math.comb(problem.samples, problem.batch_size)
            depth = min(self.steps, int(math.log(self.max_nodes) / math.log(count))) if count > 1 else self.steps
            if depth >= 4:
                batches = lambda: list(problem.enumerate_minibatches())  # noqa: E731
                notes.append(f"expectation over all {count}^{depth} sequences of mini-batches")
            else:
                batches = lambda: [problem.minibatch(rng)]  # noqa: E731
                samples, depth = self.runs, self.steps
                notes.append(f"expectation over {samples} runs: right sides are upper 99.9 % confidence limits")
        runs = [_terms(integrator, problem, first, lam, depth, batches) for _ in range(samples)]
        whole = min(map(len, runs))
        rows = np.mean([run[:whole] for run in runs], axis=0)
        gaps = np.array([[right - left for _, left, right, *_ in run[:whole]] for run in runs])
        sums: list[tuple] = []
        minima, weight, least = [], 0.0, math.inf
        for t, (square, left, right, *_) in enumerate(rows):
            weight += lam(t) * (1 - 0.5 * L * lam(t))
            least = min(least, square)
            right += upper_end(gaps[:, t]) if samples > 1 else 0.0
            slack = 1000 * eps_of(first.Y) * abs(right)
            sums.append((t + 1, left, right, slack))
            minima.append((t + 1, least, right / weight, slack / weight))
        if whole < depth:
            sums.append(failed(whole + 1))
        theta = np.array([row[3] for row in rows])
        half = len(theta) // 2
        early, late = float(theta[:half].sum()), float(theta[half:].sum())
        summable = late <= early or late <= 1e-12 * (1 + norm(dense(first.Y)))
        notes.append(
            f"sum of E theta over the first half {early:.3g}, over the second {late:.3g}: "
            + ("summable as far as a finite run shows" if summable else "no sign of summability, no limit is claimed")
        )
        cut, noise = rows[-1][4:] if whole else (math.nan, math.nan)
        constants = {
            "L": Constant(L, f"{type(problem).__name__}.lipschitz"),
            "f(W0)": Constant(problem.loss(first.Y), "loss at the start"),
            "f_inf": Constant(problem.minimum(), f"{type(problem).__name__}.minimum()"),
            "sum E[B theta]": Constant(cut, "measured; B as in the descent theorem"),
            "L/2 sum lam^2 Var": Constant(noise, "exact variance of the problem"),
            "sum lam (1 - L lam/2)": Constant(weight, "the schedule"),
        }
        found = [
            Series.of("summed squared gradients", "T", sums, "sum lam (1 - L lam/2) E||P G||^2", "R_T"),
            Series.of("running minimum", "T", minima, "min E||P G||^2", "R_T / sum lam (1 - L lam/2)"),
        ]
        return Measured(found, constants, notes)


def _terms(integrator, problem, first, lam, steps, batches) -> list[tuple[float, ...]]:
    """Rows (E||P G_t||^2, left, right, E theta, sum E[B theta], L/2 sum lam^2 Var) for T = 1, 2, ..., steps.

    From equally probable states, each moved by all ``batches()``; the rows end early where a step fails.
    """
    L = problem.lipschitz
    left, cut, noise = 0.0, 0.0, 0.0
    start = problem.loss(first.Y) - problem.minimum()
    states = [first]
    rows: list[tuple[float, ...]] = []
    for k in range(steps):
        h = lam(k)
        squares = [norm(tangent_part(gradient_at(problem, s.Y), *bases(s.Y))) ** 2 for s in states]
        variances = [problem.variance(s.Y) for s in states]
        made: list[Any] = [attempt(integrator, batch.field, s, h) for s in states for batch in batches()]
        if None in made:
            break
        cuts = [truncated(problem, step, L) for step in made]
        left += h * (1 - 0.5 * L * h) * float(np.mean(squares))
        cut += float(np.mean([B * theta for theta, B in cuts]))
        noise += 0.5 * L * h**2 * float(np.mean(variances))
        theta = float(np.mean([theta for theta, _ in cuts]))
        rows.append((float(np.mean(squares)), left, start + cut + noise, theta, cut, noise))
        states = [step.state for step in made]
    return rows
