"""Convergence to stationary points with decreasing step sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from integrators import FullRank, GeoLoRA, ParallelBUG
from problems import FiniteSum, LinearLeastSquares, MatrixRegression, synthetic

from .certificate import Certificate, Constant, Hypothesis
from .descent import Z_999, fixed_projection
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
    series,
    start_of,
    substep_name,
    tangent_part,
)


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

    hence ``min_{t<T} E||P G_t||^2 <= R_T / sum_{t<T} lam_t (1 - L lam_t / 2)``. With Robbins-Monro steps and ``sum E
    theta_t < inf`` (B bounded) R_T stays bounded, and liminf ``E||P G||^2 = 0``.

    Hypotheses: a loss with known L; plain descent, Euler steps; ``lam_t < 2/L``; Robbins-Monro steps; for the limit
    also a summable truncation error, for which a finite run gives evidence only: the second half of its sum is at
    most as large as the first (the bound at finite T does not need it).

    Proof. Descent in expectation (:class:`Descent`), with ``E||P g||^2 = ||P G||^2 + E||P (g - G)||^2 <= ||P G||^2 +
    Var``, summed over t with ``E f(W_T) >= f_inf``. The minimum is at most the weighted mean.

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
    schedule: Callable[[int], float] | None = field(default=None)

    name = "convergence"
    statement = "sum lam (1 - L lam / 2) E||P G||^2 <= f(W0) - f_inf + sum E[B theta] + L/2 sum lam^2 Var"
    source = "GeoLoRA (arXiv:2410.18720), Theorem 2; constants derived"

    def promises(self, integrator):
        """Methods with descent in expectation."""
        fixed, why = fixed_projection(integrator)
        if not fixed:
            return False, why
        if isinstance(integrator, (GeoLoRA, ParallelBUG)):
            return True, "descent in expectation"
        if isinstance(integrator, FullRank):
            return True, "stochastic gradient descent, P = I"
        return False, "no descent in expectation with these constants"

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

    def cases(self, integrator, full=False):
        """Deterministic and enumerated; with ``full`` the sampled runs too."""
        for problem in list(self.problems().values())[: 3 if full else 2]:
            yield self.check(self.configured(integrator), problem)

    @np.errstate(all="ignore")
    def check(self, integrator, problem, *, schedule=None, rank=None, steps=None, start=None) -> Certificate:
        """All terms along a run, a tree of runs, or several runs."""
        L = lipschitz(problem) if hasattr(problem, "loss") else math.nan
        schedule = schedule or self.schedule or Polynomial(0.5 / L if L > 0 else math.nan)
        rule = getattr(schedule, "robbins_monro", (False, "not known for this schedule: use Polynomial"))
        steps = steps or self.steps
        hypotheses = [
            Hypothesis("a loss with Lipschitz gradient", math.isfinite(L) and L > 0, f"L = {L:.4g}"),
            plain_descent(integrator),
            Hypothesis("explicit Euler steps", substep_name(integrator) == "Euler", substep_name(integrator)),
            Hypothesis("Robbins-Monro steps", *rule),
        ]
        if not all(h.met for h in hypotheses):
            return self.certificate(integrator, problem, hypotheses)
        largest = max(schedule(k) for k in range(steps))
        hypotheses.append(Hypothesis("lam_t < 2 / L", largest * L < 2, f"largest {largest:.4g}, 2 / L = {2 / L:.4g}"))
        if not hypotheses[-1].met:
            return self.certificate(integrator, problem, hypotheses)

        rng = np.random.default_rng(self.seed)
        rank = min(rank or self.rank, *problem.shape)
        first = integrator.init(start if start is not None else start_of(problem, rank, rng, norm=1.0))
        run = _Expectation(integrator, problem, L, first)
        notes = []
        if not (isinstance(problem, FiniteSum) and problem.stochastic):
            rows = run.along(schedule, steps, lambda: [problem])
            differences = None
        else:
            count = math.comb(problem.samples, int(problem.batch_size or 0))
            depth = int(math.log(self.max_nodes) / math.log(count)) if count > 1 else steps
            if depth >= 4:
                rows = run.along(schedule, min(steps, depth), lambda: list(problem.enumerate_minibatches()))
                notes.append(f"expectation over all {count}^{min(steps, depth)} sequences of mini-batches")
                differences = None
            else:
                samples = [run.along(schedule, steps, lambda: [problem.minibatch(rng)]) for _ in range(self.runs)]
                T = min(len(s) for s in samples)
                rows = [tuple(np.mean([s[t] for s in samples], axis=0)) for t in range(T)]
                differences = np.array([[s[t][2] - s[t][1] for t in range(T)] for s in samples])
                notes.append(f"expectation over {self.runs} runs: right sides are upper 99.9 % confidence limits")
        sums, minima, weight, least = [], [], 0.0, math.inf
        for t, (square, left, right, *_) in enumerate(rows):
            weight += schedule(t) * (1 - 0.5 * L * schedule(t))
            least = min(least, square)
            if differences is not None:
                right += Z_999 * float(np.std(differences[:, t], ddof=1)) / math.sqrt(self.runs)
            slack = 1000 * eps_of(first.Y) * abs(right)
            sums.append((t + 1, left, right, slack))
            minima.append((t + 1, least, right / weight, slack / weight))
        if run.failed:
            sums.append((len(rows) + 1, math.inf, 0.0, 0.0))
        f_inf = problem.minimum()
        theta = np.array([r[3] for r in rows])
        half = len(theta) // 2
        early, late = float(theta[:half].sum()), float(theta[half:].sum())
        summable = late <= early or late <= 1e-12 * (1 + norm(dense(first.Y)))
        notes.append(
            f"sum of E theta over the first half {early:.3g}, over the second {late:.3g}: "
            + ("summable as far as a finite run shows" if summable else "no sign of summability, no limit is claimed")
        )
        constants = {
            "L": Constant(L, f"{type(problem).__name__}.lipschitz"),
            "f(W0)": Constant(problem.loss(first.Y), "loss at the start"),
            "f_inf": Constant(f_inf, f"{type(problem).__name__}.minimum()"),
            "sum E[B theta]": Constant(rows[-1][4] if rows else math.nan, "measured; B as in the descent theorem"),
            "L/2 sum lam^2 Var": Constant(rows[-1][5] if rows else math.nan, "exact variance of the problem"),
            "sum lam (1 - L lam/2)": Constant(weight, "the schedule"),
        }
        found = [
            series("summed squared gradients", "T", sums, "sum lam (1 - L lam/2) E||P G||^2", "R_T"),
            series("running minimum", "T", minima, "min E||P G||^2", "R_T / sum lam (1 - L lam/2)"),
        ]
        return self.certificate(integrator, problem, hypotheses, found, constants, notes)


class _Expectation:
    """Terms of the sum, averaged over equally probable states."""

    def __init__(self, integrator, problem, L, first):
        self.integrator, self.problem, self.L, self.first = integrator, problem, L, first
        self.failed = False

    def along(self, schedule, steps, batches):
        """Rows (E||P G_t||^2, left, right, E theta, sum E[B theta], L/2 sum lam^2 Var) for T = 1, 2, ..."""
        problem, L = self.problem, self.L
        left, cut, noise = 0.0, 0.0, 0.0
        start = problem.loss(self.first.Y) - problem.minimum()
        states: list = [self.first]
        rows: list = []
        for k in range(steps):
            lam = schedule(k)
            squares, variances, cuts, thetas, after = [], [], [], [], []
            for state in states:
                G = -field_at(problem, 0.0, state.Y)
                squares.append(norm(tangent_part(G, *bases(state.Y))) ** 2)
                variances.append(problem.variance(state.Y))
                for batch in batches():
                    try:
                        step = self.integrator.step(batch.field, 0.0, state, lam)
                    except FAILURES:
                        self.failed = True
                        return rows
                    A, B = dense(step.augmented), dense(step.state.Y)
                    theta = norm(A - B)
                    bound = 0.0
                    if theta:
                        GA = -field_at(problem, 0.0, step.augmented)
                        bound = gradient_bound(problem, GA, theta, max(norm(A), norm(B)), L)
                    cuts.append(bound * theta)
                    thetas.append(theta)
                    after.append(step.state)
            left += lam * (1 - 0.5 * L * lam) * float(np.mean(squares))
            cut += float(np.mean(cuts))
            noise += 0.5 * L * lam**2 * float(np.mean(variances))
            rows.append((float(np.mean(squares)), left, start + cut + noise, float(np.mean(thetas)), cut, noise))
            states = after
        return rows
