# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Low-rank integrators in ten minutes
#
# A matrix differential equation $Y'(t) = F(t, Y(t))$, $Y(t) \in \mathbb{C}^{m \times n}$, whose solution has rapidly
# decaying singular values can be followed by matrices of low rank
#
# $$ Y = U S V^H, \qquad U^H U = I, \quad V^H V = I, \qquad U: m \times r, \quad S: r \times r, \quad V: n \times r . $$
#
# This notebook shows what that means, why the obvious way to do it fails, and what an integrator does instead.
# Every statement is checked by an `assert` in the cell below it.

# %%
import os
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np

from dlrt import plots, solve
from integrators import BUG, RK4, AugmentedBUG, Exact, GeoLoRA, Integrator, LowRank, ProjectorSplitting, Tolerance
from problems import MatrixRegression, given_solution, lyapunov, rotating, synthetic

QUICK = "DLRT_QUICK" in os.environ  # the tests run smaller problems
plt.rcParams.update(
    plots.STYLE | {"figure.dpi": 150, "figure.figsize": (3.3, 2.2), "figure.constrained_layout.use": True}
)


def style(i):
    """Colour, line style and marker of the i-th curve that is no method; `plots.style` has those of a method."""
    return plots.LineStyle(i).keywords()


# %% [markdown]
# ## 1. Low rank
#
# The matrix $A(t) = e^{t W_1} e^t D e^{t W_2}$ with skew-symmetric $W_1, W_2$ and $D = \mathrm{diag}(2^{-j})$ rotates
# and grows. Its singular values are $e^t 2^{-j}$. By the Eckart–Young theorem the best approximation of rank $r$ has
# the error $\bigl(\sum_{j>r} \sigma_j^2\bigr)^{1/2}$, here about $e^t\, 2^{-r} / \sqrt 3$, and needs $r (m + n + r)$
# numbers instead of $m n$.

# %%
n = 40 if QUICK else 100
problem = rotating(np.random.default_rng(0), (n, n))
A = problem.reference(1.0)
sigma = np.linalg.svd(A, compute_uv=False)
ranks = np.arange(1, 26)
best = [np.linalg.norm(A - LowRank.from_dense(A, rank=r).full()) for r in ranks]

assert np.allclose(sigma[:30], np.e * 2.0 ** -np.arange(1, 31), rtol=1e-5)
assert np.allclose(best, np.e * 2.0**-ranks / np.sqrt(3), rtol=1e-3)

r = 8
print(f"rank {r}: {r * (2 * n + r)} numbers instead of {n * n}, relative error {best[r - 1] / np.linalg.norm(A):.1e}")

fig, ax = plt.subplots()
ax.semilogy(np.arange(1, 26), sigma[:25], label=r"singular values $\sigma_j$", **style(4))
ax.semilogy(ranks, best, label="error of the best rank-$j$ matrix", **style(5))
ax.set(xlabel="$j$", ylabel="size")
ax.legend(frameon=False)
plt.show()
# Picture: The singular values fall from 1 to 1e-7 over 25 indices, a straight line on the logarithmic axis; the error
# of the best matrix of rank j falls in parallel just below.

# %% [markdown]
# ## 2. The tangent space
#
# Matrices of rank $r$ form a manifold $\mathcal M_r$ of dimension $r (m + n - r)$. The orthogonal projector on its
# tangent space at $Y = U S V^H$ is
#
# $$ P(Y) Z = U U^H Z + Z V V^H - U U^H Z V V^H . $$
#
# It depends on the ranges of $U$ and $V$ alone: the singular values do not enter. `LowRank.project` applies it
# without ever forming an $m \times m$ matrix. The dimension of the tangent space is the trace of the projector.

# %%
rng = np.random.default_rng(1)
m_, n_, r_ = 7, 6, 2
Y = LowRank.random((m_, n_), r_, rng)
units = np.eye(m_ * n_).reshape(-1, m_, n_)
P = np.array([Y.project(E).full().ravel() for E in units]).T  # the projector as a matrix on vec(Z)

assert np.allclose(P, P.T) and np.allclose(P @ P, P)
assert np.isclose(np.trace(P), r_ * (m_ + n_ - r_))
print(f"dimension of the tangent space: {np.trace(P):.0f} of {m_ * n_}")

# %% [markdown]
# *Dynamical low-rank approximation* replaces the equation by its projection, the Dirac–Frenkel principle
# $Y' = P(Y)\, F(t, Y)$: the derivative nearest to $F$ among those that keep the rank.
#
# ## 3. The obvious way, and why it fails
#
# Written for the factors, with the gauge $U^H U' = 0$, $V^H V' = 0$, this reads
#
# $$ U' = (I - U U^H)\, F V S^{-1}, \qquad S' = U^H F V, \qquad V' = (I - V V^H)\, F^H U S^{-H} . $$
#
# The inverse of $S$ is the trouble: a good approximation has *small* singular values by its very purpose, and Euler's
# method for these equations needs a step size below the smallest of them. A *robust* integrator solves the same
# projected equation without inverting $S$. Both are compared on a nonlinear problem whose solution has rank 4 and a
# smallest singular value $\sigma_4$ of our choice; a cross marks the last run before those that diverge.


# %%
@dataclass(frozen=True, kw_only=True)
class EulerOnFactors(Integrator):
    """Explicit Euler for the differential equations of U, S and V."""

    def stages(self, t, state, h):
        Y = state.Y
        f = yield t, Y  # f.K = F V, f.L = F^H U, f.S = U^H F V
        inverse = np.linalg.inv(Y.S)
        dU, dV = (f.K - Y.U @ f.S) @ inverse, (f.L - Y.V @ f.S.T) @ inverse.T
        return LowRank(Y.U + h * dU, Y.S + h * f.S, Y.V + h * dV)


exponents = np.arange(0, 10.5, 2 if QUICK else 0.5)
errors = {}
for method in (EulerOnFactors(), BUG()):
    for steps in (50, 200):
        row = errors[method, steps] = []
        for k in exponents:
            small = given_solution(np.random.default_rng(2), (30, 24), rank=4, smallest=10.0**-k)
            run = solve(method, small, step_size=1 / steps, steps=steps, rank=4, every=steps)
            row.append(np.nan if run.diverged else run.errors[-1] / np.linalg.norm(small.reference(1.0)))

sigma = 10.0**-exponents
for steps in (50, 200):
    broken = np.isnan(errors[EulerOnFactors(), steps])
    # it breaks where sigma is about h
    assert not broken[sigma >= 5 / steps].any() and broken[sigma <= 0.2 / steps].all()
    assert max(errors[BUG(), steps]) < 1.3 * min(errors[BUG(), steps])

fig, ax = plt.subplots(figsize=(3.3, 2.7))
for (method, steps), values in errors.items():
    name = type(method).__name__.replace("EulerOnFactors", "Euler on factors")
    look = plots.style(method, variant=steps == 200)
    ax.loglog(sigma, values, label=f"{name}, $h = 1/{steps}$", **look | {"markersize": 3})
    last = np.flatnonzero(np.isfinite(values))[-1]
    if last + 1 < len(values):
        ax.plot(sigma[last], values[last], "x", color=look["color"], markersize=8, markeredgewidth=2)
ax.invert_xaxis()
ax.set(xlabel=r"smallest singular value $\sigma_4$", ylabel="relative error at $t = 1$", ylim=(4e-3, 0.1))
fig.legend(frameon=False, loc="outside upper center", ncols=2, columnspacing=1.0)
plt.show()
# Picture: Relative error over the smallest singular value, from 1 down to 1e-10. BUG keeps the same error throughout,
# 0.05 and 0.012 for the two step sizes; Euler on the factors breaks down between 0.1 and 0.01.

# %% [markdown]
# ## 4. One step of a robust integrator
#
# The *basis update & Galerkin* (BUG) integrator freezes one basis at a time. With $V_0$ frozen, $Y = K V_0^H$ moves
# by $K' = F(t, K V_0^H) V_0$, which needs no inverse; likewise $L$ with $U_0$ frozen; the new bases are those of $K$
# and $L$, and $S$ follows from a Galerkin step in them:
#
# $$ \begin{aligned}
# K' &= F(t, K V_0^H)\, V_0, & K(t_0) &= U_0 S_0, & U_1 &= \mathrm{orth}\, K(t_1), \\
# L' &= F(t, U_0 L^H)^H U_0, & L(t_0) &= V_0 S_0^H, & V_1 &= \mathrm{orth}\, L(t_1), \\
# S' &= U_1^H F(t, U_1 S V_1^H)\, V_1, & S(t_0) &= U_1^H U_0 S_0 V_0^H V_1 .
# \end{aligned} $$
#
# Here it is by hand, with one Euler step for each of K, L and S, beside the one of the library. Only the *matrix* is
# compared: the factors are determined up to rotations.

# %%
problem = given_solution(np.random.default_rng(2), (30, 24), rank=4)
Y0 = problem.initial(4, rng)
h = 0.02

f = problem.field(0.0, Y0)
U1 = np.linalg.qr(Y0.U @ Y0.S + h * f.K)[0]
V1 = np.linalg.qr(Y0.V @ Y0.S.T + h * f.L)[0]
projected = Y0.embed(U1, V1)  # U1 U1^H Y0 V1 V1^H
by_hand = LowRank(U1, projected.S + h * problem.field(0.0, projected).S, V1)

method = BUG()
step = method.step(problem.field, 0.0, method.init(Y0), h)
difference = np.linalg.norm(step.state.Y.full() - by_hand.full())
print(f"difference {difference:.1e}, field evaluations {step.evaluations}")
assert difference < 1e-12 and step.evaluations == 2

# %% [markdown]
# Two properties tell a good integrator of this kind. It is **exact** when $F = A'(t)$ is the derivative of a given
# matrix of rank $r$ and the equations for K, L and S are solved exactly, however large the step. And it is
# **robust**, as seen above.

# %%
given = rotating(np.random.default_rng(3), (n, n), rank=8)
for method in (BUG(substep=Exact()), ProjectorSplitting(substep=Exact())):
    run = solve(method, given, step_size=0.25, steps=4, rank=8)
    print(f"{type(method).__name__:<20} error after 4 steps of 1/4: {run.errors[-1]:.1e}")
    assert run.errors[-1] < 1e-12

# %% [markdown]
# ## 5. The rank need not be known
#
# The *augmented* BUG integrator keeps the old bases too, $\hat U = \mathrm{orth}[K(t_1) \mid U_0]$ and
# $\hat V = \mathrm{orth}[L(t_1) \mid V_0]$, makes the Galerkin step in these $2r$ directions, and truncates the
# result: it drops the smallest singular values, as many as fit into a tolerance $\vartheta$. Here for the Lyapunov
# equation $X' = A X + X A^T + C$ with a start of rank 1: how many directions does the integrator keep, and how many
# does the exact solution need for an error of at most $\vartheta$?
#
# A direction that grows by less than $\vartheta$ in one step is cut in every step, so the rank lags behind. One *spare*
# direction beyond those that the tolerance asks for mends it: there the direction can grow over several steps until it
# counts. The error that remains is that of a time step of first order: half the step, half the error.

# %%
problem = lyapunov(40, np.random.default_rng(4))
tolerance = 1e-5


def lyapunov_run(spare, steps):
    """Augmented BUG up to t = 1/2, recorded ten times."""
    method = AugmentedBUG(substep=RK4(), truncation=Tolerance(absolute=tolerance, spare=spare))
    return solve(method, problem, step_size=0.5 / steps, steps=steps, rank=1, every=steps // 10)


def rank_needed(A):
    """The least rank with an error of at most the tolerance."""
    sigma = np.linalg.svd(A, compute_uv=False)
    return sum(np.linalg.norm(sigma[r:]) > tolerance for r in range(len(sigma)))


published, with_spare, coarse = lyapunov_run(0, 100), lyapunov_run(1, 100), lyapunov_run(1, 50)
needed = np.array([rank_needed(problem.reference(t)) for t in with_spare.times])
counted = np.maximum(with_spare.ranks - 1, 1)  # without the spare one; the start has none

print(f"error at the end: {coarse.errors[-1]:.4f} with h = 1/100, {with_spare.errors[-1]:.4f} with h = 1/200")
assert 1.8 < coarse.errors[-1] / with_spare.errors[-1] < 2.2
assert max(abs(counted - needed)) <= 1
assert needed[-1] - published.ranks[-1] >= 2

fig, ax = plt.subplots()
ax.plot(
    with_spare.times, needed, label="needed for the exact solution", **style(0) | {"linestyle": "", "markersize": 6}
)
ax.plot(with_spare.times, counted, label="one spare direction (not counted)", **plots.style(AugmentedBUG()))
ax.plot(published.times, published.ranks, label="no spare direction", **plots.style(AugmentedBUG(), variant=1))
ax.set(xlabel="time", ylabel="rank", ylim=(0, None))
ax.legend(frameon=False, loc="lower right")
plt.show()
# Picture: Rank over time. With one spare direction it follows what the exact solution needs, from 1 up to 13; without
# one it stays behind at 8 to 10.

# %% [markdown]
# ## 6. Training is a differential equation, too
#
# Minimising a loss $f(W)$ over matrices of low rank is following the gradient flow $W' = -\nabla f(W)$ at low rank,
# and a learning rate $\lambda$ is a step size. **GeoLoRA** moves K, L and S together, by *one* gradient
# $G = \nabla f(W)$:
#
# $$ K_1 = U S - \lambda G V, \qquad L_1 = V S^H - \lambda G^H U, \qquad S_1 = S - \lambda U^H G V, $$
#
# augments the bases by $G V$ and $G^H U$, and truncates relative to the norm, $\vartheta = \tau \|W\|_F$. Before
# truncation its step is the Riemannian gradient step, $\hat W = W - \lambda P(W) G$, whatever the singular values
# are: even $S = 0$.

# %%
target = synthetic((n, n), [20.0, 10.0, 5.0, 4.0, 3.0], np.random.default_rng(5))
problem = MatrixRegression(target)  # f(W) = ||W - target||^2 / 2
method, rate = GeoLoRA(truncation=Tolerance(relative=0.1, spare=1)), 0.5

for values in ([3.0, 2.0, 1.0], [3.0, 1e-8, 0.0], [0.0, 0.0, 0.0]):
    W = LowRank.random(problem.shape, 3, np.random.default_rng(6), singular_values=values)
    G = problem.gradient(W).full()
    step = method.step(problem.field, 0.0, method.init(W), rate)
    difference = np.linalg.norm(step.augmented.full() - (W.full() - rate * W.project(G).full()))
    print(f"singular values {values}: difference {difference:.1e}")
    assert difference < 1e-12

# %% [markdown]
# A run finds the rank of the target, 5, from above and from below, again with one spare direction.

# %%
runs = {rank: solve(method, problem, step_size=rate, steps=80, rank=rank) for rank in (2, 12)}

fig, (top, bottom) = plt.subplots(2, 1, sharex=True, figsize=(3.3, 3.2))
for i, (rank, run) in enumerate(runs.items()):
    assert run.numerical_ranks[-1] == 5 and run.losses[-1] < 1e-20
    kwargs = plots.style(method, variant=i) | {"marker": ""}
    top.semilogy(run.steps, run.losses, label=f"start at rank {rank}", **kwargs)
    bottom.step(run.steps, run.ranks, where="post", **kwargs)
top.set(ylabel="loss")
top.legend(frameon=False)
bottom.axhline(5, color="black", linestyle=":")
bottom.text(79, 4.7, "rank of the target", ha="right", va="top", fontsize=7)
bottom.set(xlabel="iteration", ylabel="rank (with the spare one)")
plt.show()
# Picture: Losses from start ranks 2 and 12 fall together to 1e-25 in 48 iterations. Both ranks settle within ten
# iterations at 6, the 5 of the target and one spare direction.

# %% [markdown]
# ## Where to go on
#
# - Why not simply descend on the factors? `02_why_simultaneous_descent_goes_wrong`
# - Which integrator for which equation? `04_comparing_integrators`
# - A method of your own: `06_writing_your_own_integrator`
#
# References: Koch, Lubich (2007), [doi](https://doi.org/10.1137/050639703); Ceruti, Lubich (2022),
# [doi](https://doi.org/10.1007/s10543-021-00873-0); Ceruti, Kusch, Lubich (2022),
# [doi](https://doi.org/10.1007/s10543-021-00907-7); Schotthöfer et al. (2025),
# [arXiv:2410.18720](https://arxiv.org/abs/2410.18720).
