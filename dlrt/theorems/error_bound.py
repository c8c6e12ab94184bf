"""Robust error bounds: the distance from the exact flow, without any singular value in the constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from integrators import (
    BUG,
    AugmentedBUG,
    Exact,
    FixedRank,
    FullRank,
    GeoLoRA,
    LoRA,
    LowRank,
    ParallelBUG,
    ProjectorSplitting,
    SVDLoRA,
    Tolerance,
)
from problems import MatrixRegression, Rotating, given_solution, rotating, synthetic
from problems.manufactured import manufactured

from .certificate import Certificate, Constant, Hypothesis
from .theorem import (
    FAILURES,
    Theorem,
    bases,
    basis,
    dense,
    field_at,
    lipschitz,
    norm,
    normal_part,
    one_sided,
    plain_descent,
    rounding,
    series,
    start_of,
    substep_name,
    time_lipschitz,
    with_substep,
    with_truncation,
)

PHI = (1 + math.sqrt(5)) / 2

LOCAL: dict[tuple[str, str], tuple[float, float, float]] = {
    ("FullRank", "Euler"): (0.0, 0.5, 0.5),
    ("GeoLoRA", "Euler"): (1.0, 0.5, 0.5),
    ("ParallelBUG", "Euler"): (1.0, 0.5, 0.5),
    ("ParallelBUG", "Exact"): (1.0, PHI, 0.0),
    ("AugmentedBUG", "Euler"): (2.0, 1.5, 1.5),
    ("AugmentedBUG", "Exact"): (2.0, 3.0, 0.0),
    ("BUG", "Euler"): (2.0, 3.5, 1.5),
    ("BUG", "Exact"): (2.0, 5.0, 0.0),
    ("Lie", "Euler"): (1.0, 3.5, 0.5),
    ("Lie", "Exact"): (1.0, 5.0, 0.0),
    ("Strang", "Euler"): (1.0, 4.0, 1.0),
    ("Strang", "Exact"): (1.0, 5.0, 0.0),
}
"""(a, b, c) of the local error ``a eps h + (b L B + c L_t) h^2`` of each method with each sub-step; derived below."""


def kind_of(integrator) -> str:
    """Key of :data:`LOCAL`; a subclass of a method is treated as the method; '' where nothing is derived."""
    if isinstance(integrator, ProjectorSplitting):
        return "Lie" if integrator.order == 1 else "Strang"
    for method in (GeoLoRA, ParallelBUG, AugmentedBUG, BUG, FullRank):
        if isinstance(integrator, method):
            return method.__name__
    return ""


@dataclass(frozen=True)
class ErrorBound(Theorem):
    r"""The error is bounded by the start error, the normal component, the step size and the truncation error.

    (Theorem 3 of the GeoLoRA paper; the robust bounds of projector splitting, BUG, augmented and parallel BUG.) Let
    W(t) solve ``W' = F(t, W)``, ``||F(t, X) - F(t, Y)|| <= L ||X - Y||``, ``Re <F(t, X) - F(t, Y), X - Y> <= l ||X -
    Y||^2``, ``||F(s, Y) - F(t, Y)|| <= L_t |s - t|``, ``||F|| <= B``. With delta the error at the start, eps the
    normal component and theta the truncation error of a step, at ``t = k h``

    .. math::
        \|Y_k - W(t)\| \le e^{lt} \delta
            + \frac{h\,(e^{lt} - 1)}{e^{lh} - 1}
            \Big( a\,\varepsilon + (b\,L B + c\,L_t)\, h + \frac{\vartheta}{h} \Big),

    with (a, b, c) from :data:`LOCAL`; ``h (e^{lt}-1)/(e^{lh}-1) <= (e^{lt}-1)/l`` for l > 0 and equal to t for l = 0
    (convex losses). No singular value enters. For GeoLoRA on a gradient flow (l = L, L_t = 0) it reads ``e^{Lt} delta
    + (e^{Lt}-1)/L (eps + L B lam / 2 + theta / lam)``.

    Hypotheses: L, l, L_t are known and finite; plain descent; explicit Euler steps or exact sub-flows; a reference
    solution. B is computed: within a step nothing moves for longer than 3 h along fields of size at most ``b_0 + L
    d`` at distance d from Y_0, ``b_0 = ||F(t_0, Y_0)|| + L_t h``, so ``B = b_0 e^{3 L h}`` (Grönwall), and ``e^{L
    h}`` for GeoLoRA, the full matrix, and augmented and parallel BUG, which do not move for longer than h.

    **The normal component** of a step is ``eps = max ||(I - U U^H) F* (I - V V^H)||_F`` over the pairs (U, V) of
    bases that the step itself uses: (U_0, V_0) for GeoLoRA and parallel BUG; (U_1, V_0) and (U_0, V_1) for BUG, with
    U^ and V^ in the place of U_1 and V_1 for augmented BUG; (U_1, V_0) for projector splitting, and (U_1, V_1) too
    for Strang. With Euler steps ``F* = F(t_0, Y_0)``; with exact sub-flows it is the mean of F(s, Y_0) over the step
    (over its first half with (U_1, V_0) and its second half with (U_1, V_1) for Strang), known where F does not
    depend on t, or not on Y (``(A(t_1) - A(t_0)) / h``). (At Y_0 alone it would not do for fixed-rank methods: from
    ``Y_0 = diag(1, sigma)`` with ``F = e_3 e_2^T + e_2 e_3^T``, normal component 0 at Y_0, no rank-2 matrix stays
    closer than about t.)

    **Proof, from local to global.** The exact flow is stable, ``||Phi(X) - Phi(Y)|| <= e^{lh} ||X - Y||``, so the
    errors obey ``e_{k+1} <= e^{lh} e_k + d_k``, d_k the local error plus theta, and ``sum_{j<k} e^{ljh} = (e^{lt} -
    1) / (e^{lh} - 1)``.

    **Local errors.** Let W(s) be the exact flow from Y_0, F_0(s) = F(t_0 + s, Y_0), and "x moves" mean ``||x - Y_0||
    <= B s``. All norms are Frobenius, blocks in orthogonal spaces add as squares, and fields at points of distance d
    differ by at most L d.

    - *GeoLoRA, parallel BUG (Euler)*: ``Y^ = Y_0 + h P F_0(0)``. The normal part is h eps, ``W(h) - Y_0 - h F_0(0) =
      int F(s, W) - F_0(0)`` is at most ``(L B + L_t) h^2 / 2``: (1, 1/2, 1/2). The full matrix has no normal part.
    - *Parallel BUG (exact)*: the three blocks of Y^ hold ``int F(s, .)`` at points that move; replacing them by
      F_0(s) costs ``L B h^2 / 2`` each. What the blocks miss of ``int F_0``: the normal part, eps h, and ``(I - U^
      U^^H) int F_0 V_0 V_0^H``, at most ``L B h^2 / 2`` as ``(I - U^ U^^H) int F(s, K V_0^H) V_0 = 0``, and its
      transpose. These five are orthogonal to each other, sqrt(5) L B h^2 / 2; W adds L B h^2 / 2: b = (1 + sqrt 5) /
      2: (1, b, 0).
    - *Augmented BUG (exact)*: U^ contains U_0 and K_1, so ``||(I - U^ U^^H) W(h)|| <= eps h + L B h^2 =: eta`` (W
      moves, K moves, and ``(I - U^ U^^H) F_0 (I - V_0 V_0^H)`` is the normal part), likewise V^. In the
      Galerkin step both Y^(s) and W(s) move, ``||U^ U^^H W V^ V^^H - Y^|| <= L B h^2``. Sum 2 eta + L B h^2: (2, 3,
      0). *Euler*: ``(I - U^ U^^H) F_0(0) V_0 = 0`` exactly, eta = eps h + (L B + L_t) h^2 / 2, Galerkin (L B + L_t)
      h^2 / 2: (2, 3/2, 3/2).
    - *BUG (exact)*: U_1 contains K_1 but not U_0. ``(I - U_1 U_1^H) W(h) = (I - U_1 U_1^H)(W(h) - K_1 V_0^H)``, and
      ``W(h) - K_1 V_0^H = int F(s, W) - F(s, K V_0^H) V_0 V_0^H``, so eta is as above, with the pair (U_1, V_0). The
      Galerkin step starts at ``U_1 U_1^H Y_0 V_1 V_1^H``, at most 2 B h from Y_0 because ``(I - U_1 U_1^H) Y_0 = -(I
      - U_1 U_1^H) int F(s, K V_0^H) V_0 V_0^H``: its error is at most int L (2 B h + 2 B s) = 3 L B h^2. Sum 2 eta +
      3 L B h^2: (2, 5, 0). *Euler*: eta = eps h + (L B + L_t) h^2 / 2, Galerkin int L (B s + 2 B h) + L_t s = 5/2 L B
      h^2 + L_t h^2 / 2: (2, 7/2, 3/2).
    - *Lie splitting (exact)*: ``Y_1 - Y_0 = int F_K V_0 V_0^H - U_1 U_1^H F_S V_0 V_0^H + U_1 U_1^H F_L``. Replacing
      the arguments by Y_0 (distances s, h + s, 2 h + s, times B) costs (1/2 + 3/2 + 5/2) L B h^2 and leaves ``int
      F_0`` less the part normal to (U_1, V_0), eps h; W adds 1/2: (1, 5, 0). *Euler*: distances 0, h, 2 h: 3, W 1/2:
      (1, 7/2, 1/2).
    - *Strang (exact)*: sub-flows K, S over [0, h/2], L over [0, h], S, K over [h/2, h] begin at distances 0, h/2, h,
      2 h, 5/2 h (times B): 1/8 + 3/8 + 3/2 + 9/8 + 11/8 + 1/2 (W) = 5, normal to (U_1, V_0) on the first half and
      (U_1, V_1) on the second: (1, 5, 0). *Euler*: 0 + 1/4 + 1 + 1 + 5/4 + 1/2 = 4; the last two fields are taken at
      t_0 + h/2: L_t (1/4 + 1/4 + 1/2): (1, 4, 1).

    (:func:`dlrt.theorems.symbolic.local_error_constants` integrates these distances again.)

    What is compared: the measured error with the bound, both with the largest eps, B, theta of the run (the theorem)
    and summed with each step's own values (``step by step``), at each step. Slack: accumulated rounding.
    :meth:`scaling` checks how each term scales, and the dependence on the smallest singular value.

    For LoRA and SVD-LoRA, which follow P^ F instead, the bound with the constants of GeoLoRA is compared all the same:
    there is no reason why it should hold.

    Source: Schotthöfer et al. (2025), arXiv:2410.18720, Theorem 3; Kieri, Lubich, Walach (2016),
    doi:10.1137/15M1026791; Ceruti, Lubich (2022), doi:10.1007/s10543-021-00873-0; Ceruti, Kusch, Lubich (2022),
    doi:10.1007/s10543-021-00907-7, and (2024), doi:10.1137/23M1565103. Their constants are not explicit; those here
    are derived above.
    """

    rank: int = 4
    steps: int = 20
    seed: int = 0

    name = "error-bound"
    statement = "||Y_k - W(t)|| <= e^{lt} delta + h (e^{lt}-1)/(e^{lh}-1) (a eps + (b L B + c L_t) h + theta / h)"
    source = "GeoLoRA (arXiv:2410.18720), Theorem 3; Kieri, Lubich, Walach (2016); constants derived"

    def promises(self, integrator):
        """Methods with derived constants."""
        kind = kind_of(integrator)
        if kind and (kind, substep_name(integrator)) in LOCAL:
            return True, f"local error derived for {kind} with {substep_name(integrator)} sub-steps"
        if kind:
            return False, "constants are derived for Euler and exact sub-steps"
        if getattr(integrator, "robust", False):
            return False, "the class says robust, but no constants are derived for it"
        return False, "it follows another flow"

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

    def cases(self, integrator, full=False) -> Iterator[Certificate]:
        """Each problem with Euler steps, and with exact sub-flows where they are known; then the scalings.

        Methods of factors are run on the gradient flow only: on other fields they diverge.
        """
        method = self.configured(integrator)
        problems = self.problems()
        if not (kind_of(method) or method.manifold):
            problems = {"matrix-regression": problems["matrix-regression"]}
        for name, problem in problems.items():
            t_end = 0.4 if name in ("given-solution", "manufactured") else 1.0
            steps = 80 if full else 20
            yield self.check(method, problem, t_end=t_end, steps=steps)
            if name in ("rotating", "matrix-regression") and hasattr(method, "substep"):
                yield self.check(with_substep(method, Exact()), problem, t_end=t_end, steps=steps)
        if full and kind_of(method):
            for rank in (4, 8, 16, 32):  # the size of the literature
                problem = rotating(np.random.default_rng(8), (100, 100))
                wide = with_truncation(method, FixedRank(rank))
                yield self.check(wide, problem, t_end=1.0, steps=50, rank=rank)
                if hasattr(wide, "substep"):
                    yield self.check(with_substep(wide, Exact()), problem, t_end=1.0, steps=50, rank=rank)
        yield self.scaling(method, full)

    # -- one run ---------------------------------------------------------------------------------------------------

    @np.errstate(all="ignore")
    def check(
        self, integrator, problem, *, steps=None, step_size=None, t_end=None, rank=None, start=None
    ) -> Certificate:
        """Along a run to ``t_end`` (the problem's own, at most 1, by default) in ``steps`` steps."""
        t_end = float(t_end or min(getattr(problem, "t_end", 1.0), 1.0))
        steps = int(steps or (round(t_end / step_size) if step_size else self.steps))
        h, name = t_end / steps, substep_name(integrator)
        L, l = lipschitz(problem), one_sided(problem)
        Lt = time_lipschitz(problem, 0.0, t_end)
        kind = kind_of(integrator)
        constants = LOCAL.get((kind, name)) if kind else LOCAL["GeoLoRA", "Euler"]
        hypotheses = [
            Hypothesis("Lipschitz continuous in Y", math.isfinite(L), f"L = {L:.4g}"),
            Hypothesis("Lipschitz continuous in t", Lt is not None, "" if Lt else "no constant is known"),
            Hypothesis("reference solution", problem.reference(0.0) is not None, "a loss needs a start to have a flow"),
            plain_descent(integrator),
            Hypothesis("Euler steps or exact sub-flows", constants is not None, f"sub-steps: {name}"),
            Hypothesis(
                "mean field known",
                name == "Euler" or L == 0 or (Lt is not None and Lt.value == 0),
                "F depends on t and on Y",
            ),
        ]
        if not all(x.met for x in hypotheses) or constants is None or Lt is None:
            return self.certificate(integrator, problem, hypotheses)
        a, b, c = constants
        if start is None:
            start = start_of(problem, min(rank or self.rank, *problem.shape), np.random.default_rng(self.seed))
        state = integrator.init(start)
        error = delta = problem.error(0.0, state.Y)
        own, worst, size, failed = delta, {"eps": 0.0, "B": 0.0, "theta": 0.0}, norm(dense(state.Y)), ""
        slack = rounding(state.Y, size)
        measured, bounds = [], []
        path = 1.0 if kind in ("GeoLoRA", "FullRank", "AugmentedBUG", "ParallelBUG", "") else 3.0
        for k in range(steps):
            t = k * h
            points: list = []
            F0 = field_at(problem, t, state.Y)
            try:
                step = integrator.step(_seen(problem, points), t, state, h)
                error = problem.error((k + 1) * h, step.state.Y)
            except FAILURES:
                failed, error = f"diverged at step {k + 1}", math.inf
            if failed or not math.isfinite(error):
                measured.append(((k + 1) * h, math.inf, 0.0, 0.0))
                break
            B = (norm(F0) + Lt.value * h) * float(np.exp(path * L * h))
            means = [F0, F0] if name == "Euler" else _means(problem, t, h, F0, kind)
            eps = max(norm(normal_part(F, U, V)) for F, (U, V) in zip(means, _pairs(kind, points, step), strict=False))
            theta = norm(dense(step.augmented) - dense(step.state.Y))
            for key, value in (("eps", eps), ("B", B), ("theta", theta)):
                worst[key] = max(worst[key], value)
            local = a * eps * h + (b * L * B + c * Lt.value) * h**2 + theta
            own = math.exp(l.value * h) * own + local
            state = step.state
            size = max(size, norm(dense(state.Y)))
            slack = math.exp(max(l.value, 0.0) * h) * slack + rounding(state.Y, size, norm(F0) * h)
            measured.append(((k + 1) * h, error, own, slack))
        for t, err, _, sl in measured:
            k = round(t / h)
            growth = k * h if l.value == 0 else h * math.expm1(l.value * t) / math.expm1(l.value * h)
            terms = a * worst["eps"] + (b * L * worst["B"] + c * Lt.value) * h + worst["theta"] / h
            bounds.append((t, err, math.exp(l.value * t) * delta + growth * terms, sl))
        if failed:
            bounds[-1] = measured[-1]
        found = [
            series("bound of the theorem", "t", bounds, "measured error", "bound"),
            series("bound, step by step", "t", measured, "measured error", "bound"),
        ]
        numbers = {
            "h": Constant(h, "t_end / steps"),
            "L": Constant(L, "Lipschitz constant of the problem"),
            "l": l,
            "L_t": Lt,
            "a": Constant(a, f"local error of {kind or 'GeoLoRA'} with {name} steps"),
            "b": Constant(b, "as a"),
            "c": Constant(c, "as a"),
            "delta": Constant(delta, "error at the start"),
            "eps": Constant(worst["eps"], "largest normal component of the run, in the bases of the steps"),
            "B": Constant(worst["B"], "largest (||F|| + L_t h) e^{p L h} of the run, p = 1 or 3"),
            "theta": Constant(worst["theta"], "largest truncation error of the run"),
        }
        return self.certificate(integrator, problem, hypotheses, found, numbers, [failed] if failed else [])

    # -- how the terms scale ---------------------------------------------------------------------------------------

    def scaling(self, integrator, full: bool = False) -> Certificate:
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
        fall with h, because they follow another flow; their local error is what P^ predicts (see
        ``local_prediction``).

        Only the comparisons with the bound are rounding-only; the slopes are measured, with the tolerances stated here.
        """
        found: list = []
        notes: list[str] = []
        kind = kind_of(integrator)
        manifold = bool(kind) or integrator.manifold
        for flow in (True, False) if manifold else (True,):
            found += self._over_sigma(integrator, flow, full)
        found += self._over_h(integrator, not manifold, full)
        if kind and kind != "FullRank":
            found += self._over_eps(integrator, full)
        if integrator.rank_adaptive and kind:
            found += self._over_theta(integrator, full)
        if isinstance(integrator, (LoRA, SVDLoRA)):
            found += self.local_prediction(integrator)
        hypotheses = [
            plain_descent(integrator),
            Hypothesis("Euler steps or exact sub-flows", substep_name(integrator) != "other", substep_name(integrator)),
        ]
        return self.certificate(integrator, "scaling of the terms", hypotheses, found, notes=notes)

    def _end(self, integrator, problem, steps, t_end, rank=None):
        """Last error and bound of a run, slack, and its largest eps and theta."""
        c = self.check(integrator, problem, steps=steps, t_end=t_end, rank=rank)
        s = c.series[0]
        return s.left[-1], s.right[-1], s.slack[-1], c.constants["eps"].value, c.constants["theta"].value

    def _over_sigma(self, integrator, flow, full):
        sigmas = 10.0 ** -np.arange(1, 15) if full else np.array([1e-1, 1e-4, 1e-9, 1e-14])
        rows = []
        for sigma in sigmas:
            problem, t_end = (_gradient_flow(sigma), 1.0) if flow else (_nonlinear(sigma), 0.4)
            error, bound, slack, *_ = self._end(integrator, problem, 160 if full else 60, t_end)
            rows.append((sigma, error, bound, slack))
        name = "gradient flow" if flow else "nonlinear problem"
        growth = [(sigma, error, 2 * rows[0][1], 0.0) for sigma, error, *_ in rows]
        return [
            series(f"error over sigma_min, {name}", "sigma_min", rows, "measured error", "bound"),
            series(f"error free of sigma_min, {name}", "sigma_min", growth, "error", "twice that at 1e-1"),
        ]

    def _over_h(self, integrator, flow, full):
        problem, t_end = (_gradient_flow(0.1), 1.0) if flow else (_nonlinear(None), 0.4)
        counts = (10, 20, 40, 80, 160, 320) if full else (10, 20, 40, 80)
        rows = [(t_end / n, *self._end(integrator, problem, n, t_end)[:3]) for n in counts]
        h, e = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
        found = [series("error over h", "h", rows, "measured error", "bound")]
        slope = float(np.polyfit(np.log(h), np.log(e), 1)[0]) if np.all(np.isfinite(e)) else math.nan
        found.append(series("slope over h", "h", [(h[-1], 1.0 - slope, 0.25, 0.0)], "1 - measured slope", "0.25"))
        if not flow:
            problem = rotating(np.random.default_rng(11), (16, 14))
            rows = [(1.0 / n, *self._end(integrator, problem, n, 1.0)[:3]) for n in (5, *counts)]
            found.append(series("error over h, with plateau", "h", rows, "measured error", "bound"))
        return found

    def _over_eps(self, integrator, full):
        base = rotating(np.random.default_rng(10), (16, 14), rank=4)
        exact = hasattr(integrator, "substep")
        method = with_truncation(with_substep(integrator, Exact()) if exact else integrator, FixedRank(3))
        rows, eps = [], []
        for eta in (1e-1, 3e-2, 1e-2, 1e-3) if full else (1e-1, 3e-2, 1e-2):
            problem = Rotating(base.W1, base.W2, np.array([1.0, 0.6, 0.4, eta]))
            error, bound, slack, normal, _ = self._end(method, problem, 200 if full else 60, 1.0, 3)
            rows.append((normal, error, bound, slack))
            eps.append(normal)
        found = [series("error over eps", "eps", rows, "measured error", "bound")]
        if exact and kind_of(integrator) != "ParallelBUG":
            slope = float(np.polyfit(np.log(eps[:3]), np.log([r[1] for r in rows[:3]]), 1)[0])
            label = "|measured slope - 1|"
            found.append(series("slope over eps", "eps", [(eps[-1], abs(slope - 1), 0.25, 0.0)], label, "0.25"))
        return found

    def _over_theta(self, integrator, full):
        rng = np.random.default_rng(11)
        target = synthetic((16, 14), (8.0, 6.0, 4.0, 2.0), rng)
        problem = MatrixRegression(target, synthetic((16, 14), (1.0, 0.5), rng))
        method = with_truncation(integrator, Tolerance(absolute=0.05))
        counts = (5, 10, 20, 40, 80, 160, 320, 640) if full else (5, 10, 40, 160)
        rows = [(1.0 / n, *self._end(method, problem, n, 1.0, 2)[:3]) for n in counts]
        least = 1.25 * min(r[1] for r in rows)
        label = "1.25 times the smallest error"
        return [
            series("error over h at fixed tolerance", "h", rows, "measured error", "bound"),
            series(
                "a tolerance beside small h",
                "h",
                [(rows[-1][0], least, rows[-1][1], 0.0)],
                label,
                "error at the smallest h",
            ),
        ]

    def local_prediction(self, integrator):
        r"""One step of simultaneous descent against the exact flow: ``h ||F - P^ F||`` up to explicit terms of second
        order.

        With factors ``X_1 X_2 ...`` moved by ``h D_i`` the product is exactly ``W + h P^ F + h^2 R``, R computed from
        the factors; the flow is ``W + h F + q``, ``||q|| <= (L ||F|| + L_t) h^2 e^{L h} / 2``. So the local error
        lies within ``h^2 ||R|| + ||q||`` of ``h ||F - P^ F||``, and does not vanish with h relative to h, unless P^ F
        = F.
        """
        found = []
        families: dict[str, Callable] = {"sigma_min": _nonlinear, "sigma_1": _scaled_flow}
        for parameter, family in families.items():
            rows = []
            for sigma in (1e-1, 1e-2, 1e-4, 1e-8, 1e-14) if parameter == "sigma_min" else (0.1, 1.0, 10.0, 100.0):
                h = 1e-3 if parameter == "sigma_min" else 1e-3 / max(1.0, sigma**2)
                problem = family(sigma)
                state = integrator.init(start_of(problem, 4, np.random.default_rng(self.seed)))
                U, S, V = (np.asarray(x) for x in (state.Y.U, state.Y.S, state.Y.V))
                F, W = field_at(problem, 0.0, state.Y), dense(state.Y)
                moved = F @ V @ S.T @ S @ V.T + U @ S @ S.T @ U.T @ F  # B = U S, A = V^T has S = I here
                if isinstance(integrator, SVDLoRA):
                    moved = moved + U @ (U.T @ F @ V) @ V.T
                after = dense(integrator.step(problem.field, 0.0, state, h).state.Y)
                second = norm(after - W - h * moved)
                L, Lt = lipschitz(problem), time_lipschitz(problem, 0.0, h)
                q = 0.5 * (L * norm(F) + (Lt.value if Lt else 0.0)) * h**2 * math.exp(L * h)
                error = norm(after - problem.reference(h))
                rows.append((sigma, abs(error - h * norm(F - moved)), second + q, rounding(state.Y, norm(W))))
            label = "|error - h ||F - P^ F|| |"
            found.append(series(f"local error over {parameter}", parameter, rows, label, "second-order terms"))
        return found


def _nonlinear(smallest: float | None):
    """A nonlinear equation with a given solution of rank 4; its last singular value may be chosen."""
    return given_solution(np.random.default_rng(9), (14, 12), 4, smallest=smallest)


def _gradient_flow(smallest: float):
    """Regression from a start of rank 4 with the last singular value given, towards the same matrix turned."""
    d = np.array([1.0, 0.5, 0.25, 0.125])
    whole = rotating(np.random.default_rng(12), (14, 12), rank=4)
    target = Rotating(whole.W1, whole.W2, d).reference(0.5)
    d[-1] = smallest
    return MatrixRegression(target, Rotating(whole.W1, whole.W2, d).reference(0.0))


def _scaled_flow(largest: float):
    """Regression whose start has the largest singular value given."""
    whole = rotating(np.random.default_rng(12), (14, 12), rank=4)
    d = np.array([1.0, 0.5, 0.25, 0.125])
    target = Rotating(whole.W1, whole.W2, d).reference(0.5)
    return MatrixRegression(target, Rotating(whole.W1, whole.W2, largest * d).reference(0.0))


def _seen(problem, points: list) -> Callable:
    """The problem's field, which notes the points where it is asked for."""

    def field(t: float, Y: LowRank):
        points.append(Y)
        return problem.field(t, Y)

    return field


def _means(problem, t: float, h: float, F0: np.ndarray, kind: str) -> list[np.ndarray]:
    """Mean of the field at Y_0 over a step (over each half of it for Strang), for each pair of bases."""
    if lipschitz(problem) > 0:  # then it does not depend on t
        return [F0, F0]
    times = (t, t + h / 2, t + h) if kind == "Strang" else (t, t + h, t)
    A = [problem.reference(s) for s in times]
    return [(b - a) / (s - r) for a, b, r, s in zip(A, A[1:], times, times[1:], strict=False)]


def _pairs(kind: str, points: list, step) -> list[tuple[np.ndarray, np.ndarray]]:
    """The pairs of bases with respect to which the normal component of a step is taken."""
    U0, V0 = bases(points[0])
    end = step.augmented
    if kind in ("BUG", "AugmentedBUG"):
        return [(basis(end.U), V0), (U0, basis(end.V))]
    if kind == "Lie":
        return [(basis(end.U), V0)]
    if kind == "Strang":
        U1 = basis(next(p.U for p in points[1:] if _orthonormal(p.U) and p.U is not points[0].U))
        return [(U1, V0), (U1, basis(end.V))]
    return [(U0, V0)]


def _orthonormal(U) -> bool:
    return norm(U.conj().T @ U - np.eye(U.shape[1])) < 1e-6
