"""Spare directions: how a rank that is too small is left."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from integrators import AugmentedBUG, FullRank, GeoLoRA, LoRA, LowRank, ParallelBUG, State, Tolerance
from integrators.linalg import haar
from problems import MatrixRegression

from .certificate import Constant, Hypothesis, Series
from .hypotheses import euler_steps, plain_descent
from .measure import FAILURES, dense, failed, norm, rounding
from .theorem import FACTORS, SEQUENTIAL, Measured, Theorem, with_truncation

UPPER = 2 / math.sqrt(3)
"""``||u u^H M + M v v^H - u u^H M v v^H||_2 <= 2/sqrt(3) ||M||_2`` for unit vectors u, v."""


@dataclass(frozen=True)
class Spare(Theorem):
    r"""A rank that is too small is a trap without spare directions and is left at once with them.

    Let ``W = U S V^H`` have rank r and let all of its gradient be normal, ``U^H G = 0``, ``G V = 0`` (so P(W) G = 0),
    ``G = N != 0``, with ``M = -N``, leading singular triple (sigma_1, x_1, y_1) of M. Truncation is by relative
    tolerance tau, and keeps W as it is: ``sigma_r > tau ||W||`` (else W is not at rest but loses rank). One step of
    GeoLoRA:

    **(a) Without spare directions W is a fixed point**, for every loss. Proof. ``G V = 0`` and ``G^H U = 0``:
    augmentation adds nothing, K, L and S do not move, and the rule keeps all r values.

    Now let the state carry one spare direction: bases ``[U, u]``, ``[V, v]``, coefficients ``diag(S, s)``, unit vectors
    ``u`` orthogonal to U and ``v`` to V, s >= 0 below the threshold of the rule.

    **(b) s = 0 is left in one step, for every loss:** ``s_1 >= lam max(||M v||, ||M^H u||)``.

    **(c) On the regression loss** ``||X - A||^2 / 2`` **with A = W + M**

    .. math::
        \|(1-\lambda) s_k u_k + \lambda M v_k\| \le s_{k+1}
        \le (1-\lambda) s_k + \tfrac{2}{\sqrt 3} \lambda \sigma_1,

    and the same lower bound with ``M^H u_k`` and v_k exchanged for ``M v_k`` and u_k. Proof of (b) and (c). The
    gradient at ``W + s u v^H`` is ``s u v^H - M``, which is again normal to U and V: the block of S rests and the
    rest moves by itself, ``X^ = (1 - lam) s u v^H + lam (u u^H M + M v v^H - u u^H M v v^H)`` (Riemannian step),
    and ``s_1 = ||X^||_2``. Applied to v this is ``(1 - lam) s u + lam M v``: the lower bound (s = 0: for every
    loss, as G is evaluated at W only). For the upper one let ``||M||_2 = 1``: the bracket is ``[[a, b], [c, 0]]``
    with ``|b|^2, |c|^2 <= 1 - a^2``, of norm at most ``(a + (4 - 3 a^2)^{1/2}) / 2 <= 2 / sqrt(3)``.

    **(d) Aligned,** u = x_1, v = y_1: X^ has rank one, the direction stays, and

    .. math:: s_k = \sigma_1 - (1-\lambda)^k (\sigma_1 - s_0), \qquad
        k^* = \Big\lceil \frac{\log(1 - \theta/\sigma_1) - \log(1 - s_0/\sigma_1)}{\log(1-\lambda)} \Big\rceil, \quad
        \theta = \frac{\tau \|S\|}{\sqrt{1-\tau^2}},

    is the number of steps until the rule counts the direction (``s > tau (||S||^2 + s^2)^{1/2}``), never if
    ``sigma_1 <= theta``. The growth is by an *increment* ``lam (sigma_1 - s)``, not by a factor: it does not matter
    how small s is.

    **(e) Misaligned,** s > 0 in a direction on which M vanishes, with overlaps ``alpha = x_1^H u``,
    ``beta = y_1^H v`` small: to first order ``alpha' = alpha + lam sigma_1 beta / ((1 - lam) s)`` and vice versa,
    so the sum of the overlaps grows by the factor ``1 + lam sigma_1 / ((1 - lam) s)`` per step, the faster the
    smaller s is: every spare direction but x_1 y_1^H is linearly unstable. Proof.
    ``X^ = (1 - lam) s u v^H + lam sigma_1 (alpha u y_1^H + beta x_1 v^H)`` up to second order; first-order
    perturbation of a singular pair of a matrix of rank one.

    **(f) Descent on factors, compared.** LoRA with a balanced spare column, ``b = beta x_1``, ``a = beta y_1``, has
    ``beta_1 = beta (1 + lam (sigma_1 - beta^2))``: growth by the factor ``1 + lam sigma_1(N)``, exponential from
    small values, and none from 0. (The field on b is ``M a - (a^H a) b`` as the other columns are orthogonal to it.)

    What is compared: (a) movement with 0; (b), (c) both bounds per step from random u, v and s = 0; (d) measured
    s_k and k* with the formulas; (e), (f) measured with predicted factor. Slack: rounding; in (e) also 100 (alpha
    factor)^2 for the terms of second order (alpha = 1e-5). In exact arithmetic (a) holds for the augmented BUG
    integrator too; it is not measured there: ``G V`` is of the size of rounding, new directions are made of it, and
    this method looks at the gradient along them, which is not small. That may free it by chance.

    Source: derived here. The trap is a property of the published truncation (arXiv:2410.18720, algorithm 1).
    """

    step_size: float = 0.1
    steps: int = 12
    seed: int = 0
    singular_values: tuple[float, ...] = (8.0, 4.0)

    name = "spare-directions"
    statement = (
        "spare = 0: a fixed point; spare >= 1: s grows by lam (sigma_1(N) - s) per step until the tolerance is passed"
    )
    source = "derived"

    own_problem = "matrix-regression"
    promised = dict.fromkeys(
        (GeoLoRA, ParallelBUG, AugmentedBUG), "one gradient step on K, L, S, then truncation by tolerance"
    )
    doubts = dict.fromkeys((FullRank, *FACTORS, *SEQUENTIAL), "no truncation by tolerance")

    def configured(self, integrator):
        """The default tolerance with one spare direction."""
        return with_truncation(super().configured(integrator), Tolerance(relative=0.1, spare=1))

    def settings(self, full):
        """One step size, or several."""
        for lam in (0.01, 0.1, 0.5, 0.9) if full else (0.1,):
            yield replace(self, step_size=lam), None

    def hypotheses(self, integrator, problem):
        """A relative tolerance that keeps W, with spare directions; plain descent by Euler steps; lam < 1."""
        lam, rule = float(self.step_size), integrator.truncation
        tau = rule.relative if isinstance(rule, Tolerance) else None
        last, size = float(self.singular_values[-1]), norm(self.singular_values)
        kept = tau is not None and last > tau * size
        yield Hypothesis("truncation by a relative tolerance", tau is not None, f"truncation is {rule!r}")
        yield Hypothesis("spare >= 1", isinstance(rule, Tolerance) and rule.spare >= 1)
        yield Hypothesis("bases stay orthonormal", integrator.manifold)
        yield from (plain_descent(integrator), euler_steps(integrator))
        yield Hypothesis("0 < lam < 1", 0 < lam < 1, f"lam = {lam:.4g}")
        yield Hypothesis("truncation keeps W", kept, f"sigma_r = {last:.4g}, tau ||W|| = {(tau or 0) * size:.4g}")

    def measure(self, integrator, problem):
        """All parts, on a regression problem that is made here."""
        lam, tau = float(self.step_size), float(integrator.truncation.relative)
        scene = _Scene(np.array(self.singular_values, dtype=float), lam, self.seed)
        try:
            found = [
                self.aligned(integrator, scene),
                self.passing(integrator, scene),
                *self.random_spare(integrator, scene),
            ]
            if not isinstance(integrator, AugmentedBUG):
                found += [self.fixed_point(integrator, scene), self.overlap(integrator, scene)]
            found.append(self.factors(scene))
        except FAILURES as error:
            found = [Series.of("steps", "step", [failed(1)], f"failed: {error}", "0")]
        constants = {
            "lam": Constant(lam, "step size of the check"),
            "tau": Constant(tau, "relative tolerance"),
            "sigma_1(N)": Constant(scene.sigma, "largest singular value of the normal gradient"),
            "threshold": Constant(scene.threshold(tau), "tau ||S|| / (1 - tau^2)^(1/2)"),
        }
        return Measured(found, constants)

    def fixed_point(self, integrator, scene):
        """Part (a): without spare directions nothing moves."""
        bare = replace(integrator, truncation=replace(integrator.truncation, spare=0))
        state, rows = bare.init(scene.Y), []
        for k in range(self.steps):
            state = bare.step(scene.problem.field, 0.0, state, scene.lam).state
            size = norm(scene.W)
            rows.append((k + 1, norm(dense(state.Y) - scene.W) / size, 0.0, (k + 1) * rounding(scene.Y, 1.0, 1.0)))
        return Series.of("(a) fixed point without spare directions", "step", rows, "||W_k - W|| / ||W||", "0")

    def aligned(self, integrator, scene):
        """Part (d), growth of the aligned coefficient."""
        x, y, rows = scene.X[:, 0], scene.Z[:, 0], []
        for s0 in (0.0, 1e-6):
            state = integrator.init(scene.with_spare(x, y, s0))
            for k in range(self.steps):
                state = integrator.step(scene.problem.field, 0.0, state, scene.lam).state
                predicted = scene.sigma - (1 - scene.lam) ** (k + 1) * (scene.sigma - s0)
                measured = float(x @ dense(state.Y) @ y)
                slack = (k + 1) * rounding(scene.Y, norm(scene.W)) / scene.sigma
                rows.append((k + 1, abs(measured - predicted) / scene.sigma, 0.0, slack))
        return Series.of("(d) growth of the aligned coefficient", "step", rows, "|s_k - predicted| / sigma_1", "0")

    def passing(self, integrator, scene):
        """Part (d), the number of steps until the tolerance is passed."""
        x, y, lam = scene.X[:, 0], scene.Z[:, 0], scene.lam
        rows = []
        for factor in (0.05, 0.3, 0.6, 0.9):
            rule = replace(integrator.truncation, relative=scene.tolerance(factor))
            if scene.d[-1] <= rule.relative * norm(scene.d):
                continue
            method = replace(integrator, truncation=rule)
            state, count = method.init(scene.with_spare(x, y, 0.0)), 0
            predicted = math.ceil(math.log(1 - factor) / math.log(1 - lam))
            while count <= 2 * predicted + 5:
                state, count = method.step(scene.problem.field, 0.0, state, lam).state, count + 1
                if rule.ranks([np.linalg.svd(dense(state.Y), compute_uv=False)])[0] > len(scene.d):
                    break
            rows.append((factor, abs(count - predicted), 0.0, 0.0))
        return Series.of("(d) steps until the tolerance is passed", "threshold / sigma_1", rows, "|steps - k*|", "0")

    def random_spare(self, integrator, scene):
        """Parts (b) and (c): growth in a random direction."""
        lower, upper = [], []
        rng = np.random.default_rng(self.seed + 1)
        u, v = (scene.normal(side, rng) for side in (0, 1))
        state = integrator.init(scene.with_spare(u, v, 0.0))
        s = 0.0
        for k in range(self.steps):
            state = integrator.step(scene.problem.field, 0.0, state, scene.lam).state
            bound = max(
                norm((1 - scene.lam) * s * u + scene.lam * scene.M @ v),
                norm((1 - scene.lam) * s * v + scene.lam * u @ scene.M),
            )
            top = (1 - scene.lam) * s + UPPER * scene.lam * scene.sigma
            left, values, right = np.linalg.svd(scene.rest(dense(state.Y)))
            slack = (k + 1) * rounding(scene.Y, norm(scene.W))
            lower.append((k + 1, bound, float(values[0]), slack))
            upper.append((k + 1, float(values[0]), top, slack))
            u, v, s = left[:, 0], right[0].conj(), float(values[0])
        return [
            Series.of(
                "(b, c) growth from s = 0, random direction", "step", lower, "||(1-lam) s u + lam M v||", "measured s"
            ),
            Series.of("(c) upper bound", "step", upper, "measured s", "(1-lam) s + 2/sqrt(3) lam sigma_1"),
        ]

    def overlap(self, integrator, scene):
        """Part (e): growth of the overlap."""
        rows, alpha = [], 1e-5
        for s in (0.5, 1.0, 2.0):
            u, v = scene.X[:, -1] + alpha * scene.X[:, 0], scene.Z[:, -1] + alpha * scene.Z[:, 0]
            state = integrator.init(scene.with_spare(u / norm(u), v / norm(v), s))
            state = integrator.step(scene.problem.field, 0.0, state, scene.lam).state
            left, _, right = np.linalg.svd(scene.rest(dense(state.Y)))
            measured = (abs(left[:, 0] @ scene.X[:, 0]) + abs(right[0] @ scene.Z[:, 0])) / (2 * alpha)
            predicted = 1 + scene.lam * scene.sigma / ((1 - scene.lam) * s)
            slack = 100 * (alpha * predicted) ** 2 + rounding(scene.Y, norm(scene.W)) / alpha
            rows.append((s, abs(measured / predicted - 1), 0.0, slack))
        return Series.of("(e) growth of the overlap", "s", rows, "|factor / predicted - 1|", "0")

    def factors(self, scene):
        """Part (f): the factors of LoRA, for comparison."""
        rows, lora = [], LoRA()
        for beta in (1e-6, 1e-3, 0.1, 0.5):
            B = np.hstack([scene.Y.U * scene.d, beta * scene.X[:, :1]])
            state = State(LowRank(B, np.eye(B.shape[1]), np.hstack([scene.Y.V, beta * scene.Z[:, :1]])))
            after = lora.step(scene.problem.field, 0.0, state, scene.lam).state
            measured = norm(after.Y.U[:, -1]) / beta
            predicted = 1 + scene.lam * (scene.sigma - beta**2)
            rows.append((beta, abs(measured / predicted - 1), 0.0, rounding(scene.Y, norm(scene.W))))
        return Series.of(
            "(f) LoRA's factor, for comparison", "beta", rows, "|factor / (1+lam(sigma_1-beta^2)) - 1|", "0"
        )


class _Scene:
    """W of rank r with a purely normal gradient -M, and the bases it was made from."""

    def __init__(self, d, lam, seed, shape=(20, 16), normal_values=(2.0, 1.0, 0.5)):
        rng = np.random.default_rng(seed)
        r, p = len(d), len(normal_values) + 1  # one more direction, on which M vanishes
        P, Q = haar(shape[0], r + p, rng), haar(shape[1], r + p, rng)
        self.d, self.lam, self.sigma = d, lam, float(normal_values[0])
        self.Y = LowRank(P[:, :r], np.diag(d), Q[:, :r])
        self.X, self.Z = P[:, r:], Q[:, r:]
        self.M = (self.X[:, :-1] * np.array(normal_values)) @ self.Z[:, :-1].T
        self.W = dense(self.Y)
        self.problem = MatrixRegression(self.W + self.M)

    def threshold(self, tau):
        """The value from which on the rule counts a further direction."""
        return tau * norm(self.d) / math.sqrt(1 - tau**2)

    def tolerance(self, factor):
        """tau whose threshold is ``factor sigma_1``, a little below so that rounding does not decide."""
        q = factor * self.sigma * (1 - 1e-9) / norm(self.d)
        return q / math.sqrt(1 + q * q)

    def with_spare(self, u, v, s):
        """W with the spare direction (u, v) of coefficient s."""
        r = len(self.d)
        S = np.zeros((r + 1, r + 1))
        S[:r, :r], S[r, r] = np.diag(self.d), s
        return LowRank(np.column_stack([self.Y.U, u]), S, np.column_stack([self.Y.V, v]))

    def normal(self, side, rng):
        """Random unit vector orthogonal to U or V."""
        Q = self.Y.V if side else self.Y.U
        x = rng.standard_normal(len(Q))
        x -= Q @ (Q.T @ x)
        x -= Q @ (Q.T @ x)
        return x / norm(x)

    def rest(self, W):
        """(I - U U^H) W (I - V V^H)."""
        W = W - self.Y.U @ (self.Y.U.T @ W)
        return W - (W @ self.Y.V) @ self.Y.V.T
