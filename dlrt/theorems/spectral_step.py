"""The spectral step: descent in the nuclear norm of the projected gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from integrators import SGD, FixedRank, GeoLoRA, Integrator, LowRank, ParallelBUG, Spectral, count_evaluations
from integrators.linalg import SIGN_FROM, SIGN_STEPS, dagger, on_host, quintics, smooth_sign
from problems import LinearLeastSquares, MatrixRegression, completion, synthetic

from ..registry import with_options
from .certificate import Constant, Hypothesis, Series
from .descent import stochastic
from .hypotheses import euler_steps, lipschitz_gradient, no_rejection
from .measure import (
    attempt,
    bases,
    dense,
    eps_of,
    failed,
    gradient_at,
    norm,
    nuclear,
    rounding,
    start_of,
    tangent_core,
    truncated,
)
from .spare import UPPER
from .theorem import FACTORS, SEQUENTIAL, Measured, Theorem, with_truncation


@dataclass(frozen=True)
class SpectralStep(Theorem):
    r"""A spectral step descends by the nuclear norm of the projected gradient, whatever the singular values.

    Let f have an L-Lipschitz gradient G, let ``W = U S V^H`` have rank r (S arbitrary, 0 included), and let
    ``P = P(W)``, ``msign(X) = A B^H`` for ``X = A diag(d) B^H`` with d > 0. For the step

    .. math:: \hat W = W - \eta D, \qquad D = P\, \mathrm{msign}(P G),

    with the nuclear norm :math:`\|X\|_* = \sum d_i`:

    .. math::
        \langle G, D \rangle &= \|P G\|_*, \qquad \|D\|_F^2 \le \mathrm{rank}(P G) \le 2 r, \qquad
        1 \le \|D\|_2 \le 2 / \sqrt 3 \quad (P G \ne 0), \\
        f(\hat W) &\le f(W) - \eta \|P G\|_* + \tfrac{L}{2} \eta^2 \|D\|_F^2 .

    So f falls for ``0 < eta < ||P G||_* / (L r)``, and K steps from W_0 with constant eta, each followed by a
    truncation with error theta_k and a bound B_k of ``||G||`` on the way (:class:`~dlrt.theorems.Descent`), have

    .. math:: \min_{k<K} \|P G_k\|_* \le \frac{f(W_0) - f_{inf} + \sum_k B_k \vartheta_k}{K \eta} + L r \eta .

    Without truncation, and with :math:`\eta = \sqrt{(f(W_0) - f_{inf}) / (K L r)}`, the right side is
    :math:`2 \sqrt{L r (f(W_0) - f_{inf}) / K}`.

    Hypotheses: a loss with known L; one field per step, by which K, L and S move together; ``Spectral(beta=0)``.

    **Proof of the equality.** Write ``<X, Z> = Re tr(X^H Z)`` and T = P G. P is an orthogonal projector, and D is in
    its range, so ``<G, D> = <G, P msign(T)> = <P G, msign(T)> = <T, msign(T)>``: P is moved to the other side, where it
    has nothing left to do. With ``T = A diag(d) B^H`` the last is ``tr(B diag(d) A^H A B^H) = sum d_i``. *No inequality
    has been used*, although P changes msign(T): what it takes away is orthogonal to T.

    **The last block.** In orthonormal bases ``U^ = [U | Ut]``, ``V^ = [V | Vt]`` that contain the ranges of G V and
    G^H U, ``T = U^ C V^^H`` with ``C = [[U^H G V, U^H G Vt], [Ut^H G V, 0]]``, hence ``msign(T) = U^ X V^^H`` with
    ``X = msign(C)``, and P sets the last block of X to zero: ``P(Ut X_22 Vt^H) = 0``, the other three are tangent
    vectors. X_22 is not zero although C_22 is. Were it kept, ``<G, msign(T)> = ||T||_* + <Ut^H G Vt, X_22>``: the first
    factor is the *normal* part of the gradient, on which C, and so X_22, does not depend. Reversing it reverses the
    term, and stretching it makes the step an ascent. For r = 1, ``C = [[a, b], [c, 0]]`` with positive entries and
    ``Ut^H G Vt = g``: ``||T||_* = s`` with ``s^2 = a^2 + (b + c)^2``, ``X = [[a, b + c], [b + c, -a]] / s``, and
    ``<G, msign(T)> = s - a g / s < 0`` for ``g > s^2 / a`` (:func:`dlrt.theorems.symbolic.dropped_block`).

    **Proof of the sizes.** P does not increase the Frobenius norm, ``||msign(T)||_F^2 = rank(T)``, and T has the r rows
    and r columns of C's blocks: rank at most 2 r. As ``||msign(T)||_2 = 1``, ``||T||_* = <T, D> <= ||T||_* ||D||_2``
    gives the lower bound. For the upper one let ``[[a, b], [c, 0]]`` be the core of D, part of a contraction. Then ``b
    = (I - a a^H)^{1/2} b'``, ``c = c' (I - a^H a)^{1/2}`` with contractions b', c'; by the singular vectors of a the
    matrix without b', c' is a direct sum of ``[[x, y], [y, 0]]`` with ``x^2 + y^2 = 1``, of norm ``(x + (4 - 3
    x^2)^{1/2}) / 2 <= 2 / sqrt(3)``. So eta is the length of the step in the spectral norm, up to 15 %, and no tangent
    direction Z descends by much more for its length: ``<G, Z> <= ||P G||_* ||Z||_2``, of which D/||D||_2 attains
    ``sqrt(3) / 2`` at least.

    **Proof of descent and rate.** ``f(W - eta D) <= f(W) - eta <G, D> + L/2 eta^2 ||D||^2``; summed over k with
    ``||D||^2 <= 2 r`` and ``f(W_{k+1}) <= f(W^_k) + B_k theta_k``. With ranks that change, r is their mean.

    **Mini-batches and momentum.** Let the step be along ``P msign(M)`` for another tangent vector M, such as the
    projection of a mini-batch gradient g. Then ``<G, P msign(M)> = <P G, msign(M)> = ||M||_* + <P G - M, msign(M)> >=
    ||M||_* - ||P G - M||_* >= ||P G||_* - 2 ||P G - M||_*``, for every M, not only in the mean: the descent loses up to
    ``2 eta ||P (g - G)||_*`` and the rate has twice the mean of these as a further term, which no eta makes small. The
    direction has forgotten how large M is; noise is averaged before it is orthogonalised (momentum, batches) or not at
    all.

    **Truncation.** W^ has rank 2 r, and going back to rank r costs, with ``sigma_r`` of W,

    .. math:: \vartheta \le \eta \sqrt r \min\Bigl(1, \frac{\eta}{\sigma_r - \eta}\Bigr) \quad (\eta < \sigma_r),
        \qquad \vartheta \le \eta \sqrt r \text{ else.}

    Proof. The best approximation is as near as any. Without its last r rows the core of W^ has rank r, and they are
    ``-eta X_21``, of Frobenius norm at most ``eta sqrt(r)``. Where ``E = S - eta X_11`` is invertible,
    ``[[E, -eta X_12], [-eta X_21, eta^2 X_21 E^{-1} X_12]]`` has rank r too. *Here* the singular values enter: for
    ``eta`` far below sigma_r the terms ``B theta / eta`` of the rate vanish with eta, above it they are of order one.

    **Newton-Schulz instead of a singular value decomposition.** An iteration ``X <- X p(X^H X)`` with polynomials p
    from ``C / ||C||_F`` keeps the singular vectors: ``X = A diag(s) B^H``, ``s_i = phi(d_i / ||C||_F)``, phi an odd
    polynomial. The same proof gives ``<G, D> = sum_i s_i d_i`` and ``||D||_F^2 <= sum_i s_i^2``: while phi >= 0 every
    direction helps, small ones less. With ``|phi(x) - 1| <= delta`` for ``x >= l`` and ``(1 - delta) x / l <= phi(x) <=
    1 + delta`` below, as of :func:`integrators.linalg.smooth_sign`,

    .. math:: \langle G, D \rangle \ge (1 - \delta) (\|P G\|_* - \tfrac{l r}{2} \|P G\|_F) \ge q\, \|P G\|_*,
        \qquad q = (1 - \delta) (1 - \tfrac{l r}{2}),

    as ``x - x^2 / l <= l / 4`` for each of at most 2 r small values. Sizes grow by the factor ``1 + delta``, and the
    rate becomes ``1 / q`` times that with ``L r eta (1 + delta)^2``. (Muon's five quintic steps have 0.68 <= phi <=
    1.21 for x >= 2e-3.)

    What is compared. One step from points with a smallest singular value from 1 to 0: its direction with D, ``<G, D>``
    with ``sum_i s_i d_i`` and with the nuclear norm, D with the bounds of its size. Along a run (by default with the
    eta above): the promised decrease with the measured one, before and after truncation; the running minimum with the
    rate; the distance of W^ from rank r with its bound. On a problem with mini-batches the run is along those. Slack:
    rounding of the step; for the direction times the condition of C, by which msign multiplies errors, and for
    polynomials all of these times their largest slope (5791 of ``smooth_sign``, at x = 1).

    Source: derived. The step is that of Riemannion, arXiv:2507.12142.
    """

    rank: int = 4
    steps: int = 25
    step_size: float | None = None
    seed: int = 0
    method: str = "svd"
    singular_values: tuple[float, ...] = (1.0, 1e-4, 1e-8, 1e-16, 0.0)

    name = "spectral-step"
    statement = "f(W^) <= f(W) - eta ||P G||_* + L/2 eta^2 ||D||^2, ||D||^2 <= 2 r, for W^ = W - eta P msign(P G)"
    source = "derived; the step of Riemannion (arXiv:2507.12142)"

    few = 2
    promised = dict.fromkeys((GeoLoRA, ParallelBUG), "K, L and S move together along P msign(P G)")
    doubts = dict.fromkeys(SEQUENTIAL, "K, L and S do not move together") | dict.fromkeys(
        FACTORS, "its factors have no tangent vector"
    )

    def configured(self, integrator):
        """Spectral steps without momentum, at fixed rank, where the method has moving bases."""
        method = super().configured(integrator)
        if not method.manifold:
            return method
        spectral = Spectral(beta=0.0, method=self.method)
        return with_options(with_truncation(method, FixedRank(self.rank)), optimizer=spectral)

    def problems(self):
        """Regression (descent is an equality: L = 1 everywhere), mini-batches, completion; complex and single."""
        rng = np.random.default_rng(6)
        A = synthetic((16, 12), [2.0**-j for j in range(12)], rng)
        X = rng.standard_normal((40, 8))
        Y = X @ rng.standard_normal((8, 10)) + 0.1 * rng.standard_normal((40, 10))
        return {
            "matrix-regression": MatrixRegression(A),
            "mini-batches": LinearLeastSquares(X, Y, batch_size=20),
            "completion": completion(rng, A, 0.5),
            "complex": MatrixRegression(A + 1j * synthetic((16, 12), [1.0, 0.5, 0.25], rng)),
            "float32": MatrixRegression(A.astype(np.float32)),
        }

    def settings(self, full):
        """The step size of the best rate, by both ways to the sign; with ``full`` also other step sizes."""
        for _, problem in super().settings(full):
            for method in ("svd", "newton-schulz"):
                for step_size in (None, 1e-3, 1.0) if full else (None,):
                    yield replace(self, step_size=step_size, method=method), problem

    def hypotheses(self, integrator, problem):
        """A loss with known L, spectral steps without momentum, one field by which all moves."""
        yield lipschitz_gradient(problem)
        optimizer = integrator.optimizer
        plain = isinstance(optimizer, Spectral) and optimizer == Spectral(beta=0.0, method=optimizer.method)
        yield Hypothesis("spectral steps without momentum", plain, f"the optimiser is {optimizer!r}")
        sees = type(integrator).memory is Integrator.memory
        yield Hypothesis("the optimiser sees K, L and S", sees, "" if sees else "it sees other blocks")
        yield from (euler_steps(integrator), no_rejection(integrator))
        count = count_evaluations(with_options(integrator, optimizer=SGD()))
        yield Hypothesis("one field per step", count == 1, f"{count} fields")

    def measure(self, integrator, problem):
        """One step from each of a list of points, and a run."""
        series, constants, notes = self.run(integrator, problem)
        return Measured([*series, *self.one_step(integrator, problem)], constants, notes)

    def one_step(self, integrator, problem) -> list[Series]:
        """The direction of a step, and its size, for several smallest singular values."""
        eta, sign = float(self.step_size or 0.5), Sign.of(integrator.optimizer, problem.like)
        rows: tuple[list, ...] = ([], [], [], [], [], [])
        for smallest in self.singular_values:
            rng = np.random.default_rng(self.seed)
            values = np.geomspace(1.0, max(smallest, 1e-300), self.rank)
            values[-1] = smallest
            state = integrator.init(LowRank.random(problem.shape, self.rank, rng, problem.like, values))
            Y, G = state.Y, gradient_at(problem, state.Y)
            D, d, s = direction(G, *bases(Y), lambda d, Y=Y: sign(d, 100 * eps_of(Y)))
            step = attempt(integrator, problem.field, state, eta / scale(Y))
            if step is None:
                rows[0].append(failed(smallest))
                continue
            found = (dense(Y) - dense(step.augmented)) / eta
            unit = rounding(Y, norm(dense(Y)) / eta, norm(D)) / norm(D)
            r, T, gain = max(Y.S.shape), float(np.sum(d)), float(s @ d)
            condition = sign.slope or float(d[0] / d[s > 0][-1])
            rows[0].append((smallest, norm(found - D) / norm(D), 0.0, unit * condition))
            unit *= 1 + sign.slope
            along, largest = float(np.real(np.vdot(G, found))), float(np.linalg.norm(found, 2))
            slack = unit * norm(G) * norm(D) + 200 * r * eps_of(Y) * T  # of values that count as zero
            rows[1].append((smallest, abs(along / gain - 1), 0.0, slack / gain))
            rows[2].append((smallest, (1 - sign.delta) * (T - sign.lower * r / 2 * norm(d)), along, slack))
            rows[3].append((smallest, norm(found) ** 2, 2 * r * (1 + sign.delta) ** 2, unit * norm(D) ** 2))
            rows[4].append((smallest, largest, UPPER * (1 + sign.delta), unit * norm(D)))
            rows[5].append((smallest, along / T, largest, unit * norm(D) + slack / T))
        at = "smallest singular value"
        return [
            Series.of("one step", at, rows[0], "||(W - W^) / eta - D|| / ||D||", "0"),
            Series.of("gain of the step", at, rows[1], "| <G, D> / sum s_i d_i - 1 |", "0"),
            Series.of("gain and nuclear norm", at, rows[2], "(1 - delta) (||P G||_* - l r/2 ||P G||_F)", "<G, D>"),
            Series.of("squared length", at, rows[3], "||D||_F^2", "2 r (1 + delta)^2"),
            Series.of("longest in the spectral norm", at, rows[4], "||D||_2", "2 / sqrt(3) (1 + delta)"),
            Series.of("shortest in the spectral norm", at, rows[5], "<G, D> / ||P G||_*", "||D||_2"),
        ]

    def run(self, integrator, problem) -> tuple[list[Series], dict[str, Constant], list[str]]:
        """Descent, rate and truncation along a run from the problem's start."""
        L, rng, sign = problem.lipschitz, np.random.default_rng(self.seed), Sign.of(integrator.optimizer, problem.like)
        state = integrator.init(start_of(problem, self.rank, rng, norm=1.0))
        gap = problem.loss(state.Y) - problem.minimum()
        eta = float(self.step_size or math.sqrt(gap / (self.steps * L * state.Y.rank)))
        before, after, rate, back, notes = [], [], [], [], []
        least, cut, ranks, noise = math.inf, 0.0, 0.0, 0.0
        for k in range(1, self.steps + 1):
            Y, batch = state.Y, problem.minibatch(rng) if stochastic(problem) else problem
            W, G, g, f0 = dense(Y), gradient_at(problem, Y), gradient_at(batch, Y), problem.loss(Y)
            step = attempt(integrator, batch.field, state, eta / scale(Y))
            if step is None:
                before.append(failed(k))
                notes.append(f"diverged at step {k}")
                break
            r, T, e = max(Y.S.shape), *(nuclear(tangent_core(X, *bases(Y))[1]) for X in (G, g - G))
            _, d, s = direction(g, *bases(Y), sign)
            size, long = norm(W - dense(step.augmented)), eta * (1 + sign.delta)
            promised = eta * float(s @ d) - long * e - 0.5 * L * size**2
            unit = rounding(Y, norm(W), size, sign.slope * size)
            slack = unit * (norm(G) + L * size) + 100 * eps_of(Y) * abs(f0)
            theta, B = truncated(problem, step, L)
            before.append((k, promised, f0 - problem.loss(step.augmented), slack))
            after.append((k, promised, f0 - problem.loss(step.state.Y) + B * theta, slack))
            least, cut, ranks, noise = min(least, T), cut + B * theta, ranks + r, noise + e
            q = (1 - sign.delta) * (1 - sign.lower * r / 2)
            noisy = (q + 1 + sign.delta) * noise / k
            right = ((gap + cut) / (k * eta) + L * long**2 / eta * ranks / k + noisy) / q
            rate.append((k, least, right, 1000 * eps_of(Y) * right))
            tail = norm(np.linalg.svd(dense(step.augmented), compute_uv=False)[r:])
            smallest = float(np.linalg.svd(W, compute_uv=False)[min(r, *W.shape) - 1])
            factor = min(1.0, long / (smallest - long)) if smallest > long else 1.0
            back.append((k, tail, long * math.sqrt(r) * factor, unit))
            state = step.state
        if stochastic(problem):
            notes.append("along mini-batches: less ||P (g - G)||_* in the descent, and 2 ||P (g - G)||_* in the rate")
        found = [
            Series.of("descent before truncation", "step", before, "promised decrease", "measured decrease"),
            Series.of("descent after truncation", "step", after, "promised decrease", "measured decrease + B theta"),
            Series.of(
                "running minimum", "K", rate, "min ||P G||_*", "(f(W0) - f_inf + sum B theta) / (K eta) + L r eta"
            ),
            Series.of(
                "back to rank r", "step", back, "distance from rank r", "eta sqrt(r) min(1, eta / (sigma_r - eta))"
            ),
        ]
        constants = {
            "L": Constant(L, f"{type(problem).__name__}.lipschitz"),
            "eta": Constant(eta, "step size of the check, in the spectral norm"),
            "f(W0) - f_inf": Constant(gap, f"loss at the start, {type(problem).__name__}.minimum()"),
            "sum B theta": Constant(cut, "measured; B as in the descent theorem"),
            "2 mean ||P (g - G)||_*": Constant(2 * noise / max(1, len(rate)), "measured along the run"),
        }
        return found, constants, notes


def scale(Y: LowRank) -> float:
    """``sqrt((m + n) / 2)``, the factor by which :class:`integrators.Spectral` multiplies D."""
    return math.sqrt(sum(Y.shape) / 2)


def exact(d: np.ndarray, cut: float = 1e-12) -> np.ndarray:
    """1 for singular values above ``cut`` times the largest, else 0."""
    return np.where(d > cut * d[0], 1.0, 0.0)


def direction(G, U, V, sign: Callable = exact) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``D = P msign(P G)`` for orthonormal U and V, the singular values d of P G, and s = sign(d) in their place."""
    Uh, C, Vh = tangent_core(G, U, V)
    A, d, BH = np.linalg.svd(C, full_matrices=False)
    s = sign(d)
    X = A * s @ BH
    X[U.shape[1] :, V.shape[1] :] = 0.0
    return Uh @ X @ dagger(Vh), d, s


@dataclass(frozen=True)
class Sign:
    """What a method puts in the place of singular values d, and the bounds delta and l of the theorem.

    Parameters
    ----------
    delta, lower : float
        ``|s - 1| <= delta`` from ``lower ||d||_2`` on; 0 for a singular value decomposition.
    slope : float
        By how much it multiplies errors, the largest derivative; 0 where that depends on d.
    """

    delta: float = 0.0
    lower: float = 0.0
    slope: float = 0.0

    @classmethod
    def of(cls, optimizer: Spectral, like) -> Sign:
        """That of the optimiser for arrays like this one."""
        if optimizer.method == "svd" or (optimizer.method == "auto" and on_host(like)):
            return cls()
        polynomials, delta = quintics(SIGN_FROM, SIGN_STEPS)
        slopes = []
        for x in (0.0, 1.0):  # the derivative is largest at the ends
            slope = 1.0
            for a, b, c in polynomials:
                slope *= abs(a + 3 * b * x**2 + 5 * c * x**4)
                x = a * x + b * x**3 + c * x**5
            slopes.append(slope)
        return cls(delta, SIGN_FROM, max(slopes))

    def __call__(self, d: np.ndarray, cut: float = 1e-12) -> np.ndarray:
        """The values s."""
        return np.diag(smooth_sign(np.diag(d))) if self.lower else exact(d, cut)
