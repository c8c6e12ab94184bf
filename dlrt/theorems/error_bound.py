"""Robust error bounds: the distance from the exact flow, without any singular value in the constants."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from integrators import (
    AugmentedBUG,
    Exact,
    FixedRank,
    FullRank,
    GeoLoRA,
    LoRA,
    LowRank,
    ParallelBUG,
    SVDLoRA,
    Tolerance,
)
from problems import MatrixRegression, Rotating, given_solution, manufactured, rotating, synthetic

from ..registry import with_options
from .certificate import Constant, Hypothesis, Series
from .hypotheses import euler_steps, plain_descent, substep_name
from .local_error import LOCAL, gradient_flow, kind_of, means, nonlinear, pairs, simultaneous_descent
from .measure import dense, failed, field_at, norm, normal_part, rounding, run, start_of
from .theorem import FACTORS, SEQUENTIAL, Measured, Theorem, with_truncation


def _underived(method) -> str:
    derived = (kind_of(method), substep_name(method)) in LOCAL
    return "" if derived else "constants are derived for Euler and exact sub-steps"


@dataclass(frozen=True)
class ErrorBound(Theorem):
    r"""The error is bounded by the start error, the normal component, the step size and the truncation error.

    (Theorem 3 of the GeoLoRA paper; the robust bounds of projector splitting, BUG, augmented and parallel BUG.) Let
    W(t) solve ``W' = F(t, W)``, ``||F(t, X) - F(t, Y)|| <= L ||X - Y||``,
    ``Re <F(t, X) - F(t, Y), X - Y> <= l ||X - Y||^2``, ``||F(s, Y) - F(t, Y)|| <= L_t |s - t|``, ``||F|| <= B``.
    With delta the error at the start, eps the normal component and theta the truncation error of a step, at
    ``t = k h``

    .. math::
        \|Y_k - W(t)\| \le e^{lt} \delta
            + \frac{h\,(e^{lt} - 1)}{e^{lh} - 1}
            \Big( a\,\varepsilon + (b\,L B + c\,L_t)\, h + \frac{\vartheta}{h} \Big),

    with (a, b, c) from :data:`~dlrt.theorems.local_error.LOCAL`; ``h (e^{lt}-1)/(e^{lh}-1) <= (e^{lt}-1)/l`` for l > 0
    and equal to t for l = 0 (convex losses). No singular value enters. For GeoLoRA on a gradient flow (l = L, L_t = 0)
    it reads ``e^{Lt} delta + (e^{Lt}-1)/L (eps + L B lam / 2 + theta / lam)``.

    Hypotheses: L, l, L_t are known and finite; plain descent; explicit Euler steps or exact sub-flows; a reference
    solution. B is computed: within a step nothing moves for longer than 3 h along fields of size at most
    ``b_0 + L d`` at distance d from Y_0, ``b_0 = ||F(t_0, Y_0)|| + L_t h``, so ``B = b_0 e^{3 L h}`` (Grönwall),
    and ``e^{L h}`` for GeoLoRA, the full matrix, and augmented and parallel BUG, which do not move for longer than
    h.

    The normal component eps of a step, and the derivation of (a, b, c) for every method, are in
    :mod:`dlrt.theorems.local_error`.

    **Proof, from local to global.** The exact flow is stable, ``||Phi(X) - Phi(Y)|| <= e^{lh} ||X - Y||``, so the
    errors obey ``e_{k+1} <= e^{lh} e_k + d_k``, d_k the local error plus theta, and
    ``sum_{j<k} e^{ljh} = (e^{lt} - 1) / (e^{lh} - 1)``.

    What is compared: the measured error with the bound, both with the largest eps, B, theta of the run (the theorem)
    and summed with each step's own values (``step by step``), at each step. Slack: accumulated rounding.
    :class:`Scaling` checks how each term scales, and the dependence on the smallest singular value.

    For LoRA and SVD-LoRA, which follow P^ F instead, the bound with the constants of GeoLoRA is compared all the same:
    there is no reason why it should hold.

    Source: Schotthöfer et al. (2025), arXiv:2410.18720, Theorem 3; Kieri, Lubich, Walach (2016),
    doi:10.1137/15M1026791; Ceruti, Lubich (2022), doi:10.1007/s10543-021-00873-0; Ceruti, Kusch, Lubich (2022),
    doi:10.1007/s10543-021-00907-7, and (2024), doi:10.1137/23M1565103. Their constants are not explicit; those here
    are derived in :mod:`dlrt.theorems.local_error`.
    """

    rank: int = 4
    steps: int = 20
    seed: int = 0
    t_end: float | None = None
    """Horizon: by default that of the problem, at most 1."""
    step_size: float | None = None
    """Sets the number of steps where it is given."""
    start: LowRank | None = None

    name = "error-bound"
    statement = "||Y_k - W(t)|| <= e^{lt} delta + h (e^{lt}-1)/(e^{lh}-1) (a eps + (b L B + c L_t) h + theta / h)"
    source = "GeoLoRA (arXiv:2410.18720), Theorem 3; Kieri, Lubich, Walach (2016); constants derived"
    promised = dict.fromkeys((FullRank, GeoLoRA, ParallelBUG, AugmentedBUG, *SEQUENTIAL), "its local error is derived")
    unless = dict.fromkeys(promised, _underived)
    doubts = dict.fromkeys(FACTORS, "it follows another flow")

    def configured(self, integrator):
        """Fixed rank, so that plateau and truncation error are seen."""
        return with_truncation(super().configured(integrator), FixedRank(self.rank))

    def problems(self):
        """Rotating matrix, regression (one-sided constant -1), nonlinear problem of exact rank."""
        rng = np.random.default_rng(8)
        A = synthetic((16, 12), [2.0**-j for j in range(10)], rng)
        start = synthetic((16, 12), [2.0**-j for j in range(4)], rng)
        return {
            "rotating": rotating(np.random.default_rng(8), (24, 20)),
            "matrix-regression": MatrixRegression(A, start),
            "given-solution": given_solution(np.random.default_rng(8), (14, 12), 4),
            "manufactured": manufactured((9, 9), rank=4, rest=0.05),
        }

    def cases(self, integrator, full=False):
        """Each problem with Euler steps, and with exact sub-flows where they are known; then the scalings.

        Methods of factors are run on the gradient flow only: on other fields they diverge.
        """
        method = self.configured(integrator)
        problems = self.problems()
        if not (kind_of(method) or method.manifold):
            problems = {"matrix-regression": problems["matrix-regression"]}
        for name, problem in problems.items():
            t_end = 0.4 if name in ("given-solution", "manufactured") else 1.0
            yield from self._both(method, problem, name in ("rotating", "matrix-regression"), t_end, 80 if full else 20)
        if full and kind_of(method):
            for rank in (4, 8, 16, 32):  # the size of the literature
                problem = rotating(np.random.default_rng(8), (100, 100))
                wide = with_truncation(method, FixedRank(rank))
                yield from replace(self, rank=rank)._both(wide, problem, True, 1.0, 50)
        yield Scaling(rank=self.rank, seed=self.seed, full=full).check(method)

    def _both(self, method, problem, exact, t_end, steps):
        """With Euler steps, and with exact sub-flows where there are any."""
        theorem = replace(self, t_end=t_end, steps=steps)
        yield theorem.check(method, problem)
        if exact and hasattr(method, "substep"):
            yield theorem.check(with_options(method, substep=Exact()), problem)

    def horizon(self, problem) -> tuple[float, int]:
        """End time and number of steps."""
        t_end = float(self.t_end or min(getattr(problem, "t_end", 1.0), 1.0))
        return t_end, max(1, round(t_end / self.step_size)) if self.step_size else self.steps

    def hypotheses(self, integrator, problem):
        """Known constants of the problem, a reference solution, and a method whose local error is derived."""
        L, name, kind = problem.lipschitz, substep_name(integrator), kind_of(integrator)
        Lt = problem.time_lipschitz(0.0, self.horizon(problem)[0])
        yield Hypothesis("Lipschitz continuous in Y", math.isfinite(L), f"L = {L:.4g}")
        yield Hypothesis("Lipschitz continuous in t", Lt is not None, "no constant is known" if Lt is None else "")
        known = problem.reference(0.0) is not None
        yield Hypothesis("reference solution", known, "a loss needs a start to have a flow")
        yield plain_descent(integrator)
        derived = not kind or (kind, name) in LOCAL
        yield Hypothesis("Euler steps or exact sub-flows", derived, f"sub-steps: {name}")
        mean = name == "Euler" or L == 0 or Lt == 0
        yield Hypothesis("mean field known", mean, "F depends on t and on Y")

    def measure(self, integrator, problem):
        """Along a run from the problem's start, or from ``start``."""
        t_end, steps = self.horizon(problem)
        h, name, kind = t_end / steps, substep_name(integrator), kind_of(integrator)
        L, l, Lt = problem.lipschitz, problem.one_sided_lipschitz, problem.time_lipschitz(0.0, t_end)
        assert Lt is not None  # a hypothesis
        a, b, c = LOCAL[kind, name] if kind else LOCAL["GeoLoRA", "Euler"]
        start = start_of(problem, self.rank, np.random.default_rng(self.seed)) if self.start is None else self.start
        first = integrator.init(start)
        own = delta = problem.error(0.0, first.Y)
        worst, size = {"eps": 0.0, "B": 0.0, "theta": 0.0}, norm(dense(first.Y))
        slack = rounding(first.Y, size)
        points: list[LowRank] = []

        def seen(t: float, Y: LowRank):
            points.append(Y)
            return problem.field(t, Y)

        measured, bounds, notes = [], [], []
        path = 1.0 if kind in ("GeoLoRA", "FullRank", "AugmentedBUG", "ParallelBUG", "") else 3.0
        for k, state, step in run(integrator, seen, first, h, steps):
            t = (k - 1) * h
            if step is None:
                notes.append(f"diverged at step {k}")
            if step is None or not math.isfinite(error := problem.error(k * h, step.state.Y)):
                measured.append(failed(k * h))
                break
            F0 = field_at(problem, t, state.Y)
            B = (norm(F0) + Lt * h) * float(np.exp(path * L * h))
            fields = [F0, F0] if name == "Euler" else means(problem, t, h, F0, kind)
            normal = (normal_part(F, U, V) for F, (U, V) in zip(fields, pairs(kind, points, step), strict=False))
            eps, theta = max(map(norm, normal)), norm(dense(step.augmented) - dense(step.state.Y))
            for key, value in (("eps", eps), ("B", B), ("theta", theta)):
                worst[key] = max(worst[key], value)
            local = a * eps * h + (b * L * B + c * Lt) * h**2 + theta
            own = math.exp(l * h) * own + local
            size = max(size, norm(dense(step.state.Y)))
            slack = math.exp(max(l, 0.0) * h) * slack + rounding(step.state.Y, size, norm(F0) * h)
            measured.append((k * h, error, own, slack))
            points.clear()
        for k, (t, error, _, allowed) in enumerate(measured, 1):
            growth = k * h if l == 0 else h * math.expm1(l * t) / math.expm1(l * h)
            terms = a * worst["eps"] + (b * L * worst["B"] + c * Lt) * h + worst["theta"] / h
            bounds.append((t, error, math.exp(l * t) * delta + growth * terms, allowed))
        if notes:
            bounds[-1] = measured[-1]
        found = [
            Series.of("bound of the theorem", "t", bounds, "measured error", "bound"),
            Series.of("bound, step by step", "t", measured, "measured error", "bound"),
        ]
        constants = {
            "h": Constant(h, "t_end / steps"),
            "L": Constant(L, "Lipschitz constant of the problem"),
            "l": Constant(l, "one-sided Lipschitz constant of the problem"),
            "L_t": Constant(Lt, "Lipschitz constant in time, derived by the problem"),
            "a": Constant(a, f"local error of {kind or 'GeoLoRA'} with {name} steps"),
            "b": Constant(b, "as a"),
            "c": Constant(c, "as a"),
            "delta": Constant(delta, "error at the start"),
            "eps": Constant(worst["eps"], "largest normal component of the run, in the bases of the steps"),
            "B": Constant(worst["B"], "largest (||F|| + L_t h) e^{p L h} of the run, p = 1 or 3"),
            "theta": Constant(worst["theta"], "largest truncation error of the run"),
        }
        return Measured(found, constants, notes)


@dataclass(frozen=True)
class Scaling(ErrorBound):
    r"""Error and bound over h, eps, theta / h and the smallest singular value.

    - over h, on the nonlinear problem of exact rank: the slope of the log error is the order of the method (at
      least 1 for every method with a bound), within 0.25;
    - over h, on a rotating matrix of full rank: error below bound down to the plateau that eps leaves;
    - over eps, on rotating matrices of rank 4 whose last singular value eta is not represented (run at rank 3):
      error and eps fall with eta; the slope over the three largest values is 1, within 0.25, for exact sub-flows,
      whose error has no other part that is larger;
    - over h at fixed absolute truncation tolerance (rank-adaptive methods): for small h the error grows again (by
      a quarter at least, over its smallest value), because nothing that one step adds passes the tolerance. The
      term theta / h does not grow beyond all bounds, though: unless the rank falls, Y_0 itself has the rank that
      is kept, so ``theta <= ||Y^ - Y_0|| <= h ||F||``;
    - over sigma_min from 1e-1 to 1e-14, on the nonlinear problem and on a gradient flow: error below bound, and
      at most twice that for 1e-1.

    For methods of factors, on the gradient flow only (the nonlinear field makes them diverge): the error does not
    fall with h, because they follow another flow; their local error is what P^ predicts
    (:func:`~dlrt.theorems.local_error.simultaneous_descent`).

    Only the comparisons with the bound are rounding-only; the slopes are measured, with the tolerances stated here.
    """

    full: bool = False

    own_problem = "scaling of the terms"

    def hypotheses(self, integrator, problem):
        """Plain descent by Euler steps."""
        return plain_descent(integrator), euler_steps(integrator)

    def measure(self, integrator, problem):
        """All series."""
        kind = kind_of(integrator)
        follows = bool(kind) or integrator.manifold
        found = [s for flow in ((True, False) if follows else (True,)) for s in self._over_sigma(integrator, flow)]
        found += self._over_h(integrator, not follows)
        if kind and kind != "FullRank":
            found += self._over_eps(integrator)
        if integrator.rank_adaptive and kind:
            found += self._over_theta(integrator)
        if isinstance(integrator, (LoRA, SVDLoRA)):
            found += simultaneous_descent(integrator, self.seed)
        return Measured(found)

    def _end(self, integrator, problem, steps, t_end, rank=None):
        """Last error and bound of a run, slack, and its largest eps."""
        theorem = ErrorBound(rank=rank or self.rank, seed=self.seed, steps=steps, t_end=t_end)
        c = theorem.check(integrator, problem)
        s = c.series[0]
        return s.left[-1], s.right[-1], s.slack[-1], c.constants["eps"].value

    def _over_sigma(self, integrator, flow):
        sigmas = 10.0 ** -np.arange(1, 15) if self.full else np.array([1e-1, 1e-4, 1e-9, 1e-14])
        rows = []
        for sigma in sigmas:
            problem, t_end = (gradient_flow(sigma), 1.0) if flow else (nonlinear(sigma), 0.4)
            error, bound, slack, _ = self._end(integrator, problem, 160 if self.full else 60, t_end)
            rows.append((sigma, error, bound, slack))
        name = "gradient flow" if flow else "nonlinear problem"
        growth = [(sigma, error, 2 * rows[0][1], 0.0) for sigma, error, *_ in rows]
        return [
            Series.of(f"error over sigma_min, {name}", "sigma_min", rows, "measured error", "bound"),
            Series.of(f"error free of sigma_min, {name}", "sigma_min", growth, "error", "twice that at 1e-1"),
        ]

    def _over_h(self, integrator, flow):
        problem, t_end = (gradient_flow(0.1), 1.0) if flow else (nonlinear(None), 0.4)
        counts = (10, 20, 40, 80, 160, 320) if self.full else (10, 20, 40, 80)
        rows = [(t_end / n, *self._end(integrator, problem, n, t_end)[:3]) for n in counts]
        h, e = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
        found = [Series.of("error over h", "h", rows, "measured error", "bound")]
        slope = float(np.polyfit(np.log(h), np.log(e), 1)[0]) if np.all(np.isfinite(e)) else math.nan
        found.append(Series.of("slope over h", "h", [(h[-1], 1.0 - slope, 0.25, 0.0)], "1 - measured slope", "0.25"))
        if not flow:
            problem = rotating(np.random.default_rng(11), (16, 14))
            rows = [(1.0 / n, *self._end(integrator, problem, n, 1.0)[:3]) for n in (5, *counts)]
            found.append(Series.of("error over h, with plateau", "h", rows, "measured error", "bound"))
        return found

    def _over_eps(self, integrator):
        base = rotating(np.random.default_rng(10), (16, 14), rank=4)
        exact = hasattr(integrator, "substep")
        method = with_truncation(with_options(integrator, substep=Exact()) if exact else integrator, FixedRank(3))
        rows, eps = [], []
        for eta in (1e-1, 3e-2, 1e-2, 1e-3) if self.full else (1e-1, 3e-2, 1e-2):
            problem = Rotating(base.W1, base.W2, np.array([1.0, 0.6, 0.4, eta]))
            error, bound, slack, normal = self._end(method, problem, 200 if self.full else 60, 1.0, 3)
            rows.append((normal, error, bound, slack))
            eps.append(normal)
        found = [Series.of("error over eps", "eps", rows, "measured error", "bound")]
        if exact and kind_of(integrator) != "ParallelBUG":
            slope = float(np.polyfit(np.log(eps[:3]), np.log([r[1] for r in rows[:3]]), 1)[0])
            label = "|measured slope - 1|"
            found.append(Series.of("slope over eps", "eps", [(eps[-1], abs(slope - 1), 0.25, 0.0)], label, "0.25"))
        return found

    def _over_theta(self, integrator):
        rng = np.random.default_rng(11)
        target = synthetic((16, 14), (8.0, 6.0, 4.0, 2.0), rng)
        problem = MatrixRegression(target, synthetic((16, 14), (1.0, 0.5), rng))
        method = with_truncation(integrator, Tolerance(absolute=0.05))
        counts = (5, 10, 20, 40, 80, 160, 320, 640) if self.full else (5, 10, 40, 160)
        rows = [(1.0 / n, *self._end(method, problem, n, 1.0, 2)[:3]) for n in counts]
        least = 1.25 * min(r[1] for r in rows)
        label = "1.25 times the smallest error"
        return [
            Series.of("error over h at fixed tolerance", "h", rows, "measured error", "bound"),
            Series.of(
                "a tolerance beside small h",
                "h",
                [(rows[-1][0], least, rows[-1][1], 0.0)],
                label,
                "error at the smallest h",
            ),
        ]
