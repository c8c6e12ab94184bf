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
# # Why simultaneous descent goes wrong
#
# To train $W = U S V^T$ it is natural to take a gradient step on $U$, $S$ and $V$ at once, as LoRA does with its two
# factors. With the gradient $G = \nabla f(W)$ of the loss the factors move by
#
# $$ U' = -G V S^T, \qquad S' = -U^T G V, \qquad V' = -G^T U S, $$
#
# so that the matrix moves by
#
# $$ W' = -\hat P(W)\, G, \qquad \hat P(W)\, G = G V S^T S V^T + U U^T G V V^T + U S S^T U^T G . $$
#
# The best a matrix of rank $r$ can do is to move by the orthogonal projection of the gradient on the tangent space,
#
# $$ W' = -P(W)\, G, \qquad P(W)\, G = U U^T G + G V V^T - U U^T G V V^T . $$
#
# $\hat P$ is *not* a projector, and three things go wrong: it is stiff where singular values are large, slow where
# they are small, and at rest at points that are not critical. We see each of them, and that GeoLoRA, which follows
# $-P(W) G$, has none of them.

# %%
import os
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

from dlrt import plots, solve
from integrators import FixedRank, GeoLoRA, LoRA, LowRank, SVDLoRA
from problems import MatrixRegression, synthetic

QUICK = "DLRT_QUICK" in os.environ  # the tests run smaller problems
plt.rcParams.update(
    plots.STYLE | {"figure.dpi": 150, "figure.figsize": (3.3, 2.2), "figure.constrained_layout.use": True}
)


# %% [markdown]
# ## 1. Two operators
#
# With orthonormal $U$, $V$ and $S = \mathrm{diag}(\sigma_1, \dots, \sigma_r)$ both operators are diagonal in the
# basis $u_i v_j^T$ of the singular vectors, completed to orthonormal bases of the whole spaces (with $\sigma_i = 0$
# and no third term for $i > r$):
#
# | direction | eigenvalue of $P$ | eigenvalue of $\hat P$ |
# |---|---|---|
# | $u_i v_j^T$, both in the bases | 1 | $\sigma_i^2 + \sigma_j^2 + 1$ |
# | $u_i v_j^T$, only $u_i$ in the basis | 1 | $\sigma_i^2$ |
# | $u_i v_j^T$, only $v_j$ in the basis | 1 | $\sigma_j^2$ |
# | neither | 0 | 0 |
#
# $P$ treats all tangent directions alike. The speeds of $\hat P$ spread over as many decades as the squared singular
# values.


# %%
def P_hat(Y, G):
    """The direction in which simultaneous descent moves the matrix U S V^T."""
    U, S, V = Y.U, Y.S, Y.V
    return G @ V @ S.T @ S @ V.T + U @ U.T @ G @ V @ V.T + U @ S @ S.T @ U.T @ G


m, n, values = 9, 8, np.array([5.0, 1.0, 0.1])
Y = LowRank.random((m, n), 3, np.random.default_rng(0), singular_values=values)
units = np.eye(m * n).reshape(-1, m, n)
eigenvalues = {
    r"$\hat P$ (simultaneous)": np.linalg.eigvalsh([P_hat(Y, E).ravel() for E in units])[::-1],
    "$P$ (Riemannian)": np.linalg.eigvalsh([Y.project(E).full().ravel() for E in units])[::-1],
}
squares = values**2
expected = [a + b + 1 for a in squares for b in squares] + (m - 3) * [*squares] + (n - 3) * [*squares]
tangent_dimension = 3 * (m + n - 3)
hat, riemannian = eigenvalues.values()
assert np.allclose(hat[:tangent_dimension], sorted(expected, reverse=True))
assert np.allclose(riemannian[:tangent_dimension], 1)
assert np.allclose([hat[tangent_dimension:], riemannian[tangent_dimension:]], 0, atol=1e-12)

# the two steps of the methods really are these directions
problem = MatrixRegression(synthetic((m, n), [3.0, 2.0, 1.0], np.random.default_rng(1)))
G, h = problem.gradient(Y).full(), 1e-6
for method, direction in ((SVDLoRA(), P_hat(Y, G)), (GeoLoRA(), Y.project(G).full())):
    step = method.step(problem.field, 0.0, method.init(Y), h)
    moved = (step.augmented.full() - Y.full()) / h
    assert np.linalg.norm(moved + direction) < 1e-4 * np.linalg.norm(direction)

print(f"nonzero eigenvalues of P^ from {hat[tangent_dimension - 1]:.2g} to {hat[0]:.3g}; of P: all 1")
fig, ax = plt.subplots()
for method, (name, found) in zip((SVDLoRA(), GeoLoRA()), eigenvalues.items()):
    look = plots.style(method)
    ax.semilogy(np.arange(1, tangent_dimension + 1), found[:tangent_dimension], label=name, **look)
ax.set(xlabel="tangent direction", ylabel="eigenvalue")
ax.legend(frameon=False)
plt.show()
# Picture: Eigenvalues over the tangent directions: those of P are all 1, those of P^ go from 50 and 25 over 1 down to
# 0.01.

# %% [markdown]
# ## 2. Stiff: the largest stable step shrinks as $\sigma_1$ grows
#
# Take $f(W) = \frac12 \|W - A\|_F^2$ with $\|A\|_2 = \sigma_1$. At a minimiser $U S V^T = A$ the Hessian in the
# factors has the same nonzero eigenvalues as $\hat P$. The smallest that its largest eigenvalue can be is
# $3 \sigma_1^{4/3}$, at balanced factors $U = P D^{1/3}$, $S = D^{1/3}$, $V = Q D^{1/3}$ with $A = P D Q^T$. Gradient
# descent is unstable above 2 over the largest curvature: at *every* minimiser above
#
# $$ \lambda_{\max} = \frac{2}{3\, \sigma_1^{4/3}}. $$
#
# Below this is first checked at many other minimisers, $(U B, B^{-1} S C^{-T}, V C)$ with random $B$ and $C$.
#
# A Riemannian step has the limit $2 / L$, with the Lipschitz constant $L = 1$ of the gradient, whatever $\sigma_1$
# is. We start almost at a minimiser, with balanced factors, and find by bisection the largest step that does not lead
# away.


# %%
def stays(method, problem, start, rate):
    """Whether descent with this step size stays near the minimiser at which it starts."""
    state = method.init(start)
    if isinstance(method, SVDLoRA):  # the same matrix, balanced factors
        root = np.cbrt(np.diag(start.S))
        state = replace(state, Y=LowRank(start.U * root, np.diag(root), start.V * root))
    first = problem.loss(state.Y)
    with np.errstate(all="ignore"):
        for _ in range(150):
            try:
                state = method.step(problem.field, 0.0, state, rate).state
            except FloatingPointError:
                return False
        return problem.loss(state.Y) <= first


def largest_step(method, sigma):
    """Bisection to 1 %."""
    A = LowRank.random((8, 8), 2, np.random.default_rng(2), singular_values=[sigma, sigma / 2])
    problem = MatrixRegression(A.full())
    start = LowRank(A.U, A.S * (1 + 1e-6), A.V)
    low, high = 1e-6, 4.0
    while high > 1.01 * low:
        middle = np.sqrt(low * high)
        low, high = (middle, high) if stays(method, problem, start, middle) else (low, middle)
    return low


rng = np.random.default_rng(4)
A = LowRank.random((8, 8), 2, rng, singular_values=[10.0, 5.0])
root = np.cbrt(np.diag(A.S))
units = np.eye(64).reshape(-1, 8, 8)


def curvature(Y):
    """The largest eigenvalue of the Hessian at a minimiser."""
    return np.linalg.eigvalsh([P_hat(Y, E).ravel() for E in units])[-1]


limit = 3 * 10 ** (4 / 3)
assert np.isclose(curvature(LowRank(A.U * root, np.diag(root), A.V * root)), limit)
for _ in range(20 if QUICK else 200):
    B, C = (np.diag(root) + 0.3 * rng.standard_normal((2, 2)) for _ in range(2))
    other = LowRank(A.U @ B, np.linalg.solve(B, A.S) @ np.linalg.inv(C).T, A.V @ C)
    assert np.allclose(other.full(), A.full()) and curvature(other) >= limit * (1 - 1e-10)

sigmas = np.array([1.0, 10.0, 100.0] if QUICK else [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0])
svd_lora = np.array([largest_step(SVDLoRA(), sigma) for sigma in sigmas])
geolora = np.array([largest_step(GeoLoRA(truncation=FixedRank(2)), sigma) for sigma in sigmas])
assert np.allclose(svd_lora, 2 / (3 * sigmas ** (4 / 3)), rtol=0.02)
assert np.allclose(geolora, 2.0, rtol=0.02)

fig, ax = plt.subplots()
ax.loglog(sigmas, geolora, label="GeoLoRA", **plots.style(GeoLoRA()))
ax.loglog(sigmas, svd_lora, label="SVD-LoRA", **plots.style(SVDLoRA()) | {"linestyle": ""})
ax.loglog(sigmas, 2 / (3 * sigmas ** (4 / 3)), color="black", label=r"$2 / (3 \sigma_1^{4/3})$")
ax.set(xlabel=r"$\sigma_1$", ylabel="largest stable step")
ax.legend(frameon=False)
plt.show()
# Picture: The largest stable step over the largest singular value, both logarithmic: GeoLoRA stays at 2, SVD-LoRA
# falls along 2/(3 sigma^(4/3)) to 0.0015.

# %% [markdown]
# ## 3. Slow: small singular values take forever
#
# The step must suit the largest singular value, but the singular vectors of the smallest move with the speed
# $\sigma_r^2$ (or $\sigma_r^{4/3}$ for balanced factors). Below, the target has the singular values 20, 4, 0.8, 0.16
# and every method starts at $W = 0$. LoRA and SVD-LoRA have the rate of a grid of powers of 2 with the least loss at
# the end. GeoLoRA has the rate $1/2$, with which the error is halved in each step near the minimiser.

# %%
target = synthetic((30, 20), [20.0, 4.0, 0.8, 0.16], np.random.default_rng(3))
problem = MatrixRegression(target)
steps = 200 if QUICK else 400


def best_run(method, rates):
    """The rate with the least loss at the end, and the run."""
    ends = {rate: solve(method, problem, step_size=rate, steps=steps, rank=4, every=steps) for rate in rates}
    rate = min((rate for rate in rates if not ends[rate].diverged), key=lambda rate: ends[rate].losses[-1])
    return rate, solve(method, problem, step_size=rate, steps=steps, rank=4)


rates = 2.0 ** np.arange(-9, -2)
runs = {
    "LoRA": best_run(LoRA(), rates),
    "SVD-LoRA": best_run(SVDLoRA(), rates),
    "GeoLoRA": best_run(GeoLoRA(truncation=FixedRank(4)), [0.5]),
}
for name, (rate, run) in runs.items():
    print(f"{name:<9} rate {rate:.4f}: loss {run.losses[-1]:.1e} after {steps} iterations")
assert all(rates[0] < runs[name][0] < rates[-1] for name in ("LoRA", "SVD-LoRA"))  # not at the end of the grid
losses = runs["GeoLoRA"][1].losses
assert losses[50] < 1e-20 and np.isclose(losses[20] / losses[19], 0.25, rtol=1e-3)
assert min(runs[name][1].losses[-1] for name in ("LoRA", "SVD-LoRA")) > 1e-6

fig, ax = plt.subplots(figsize=(3.3, 2.5))
for name, (rate, run) in runs.items():
    ax.semilogy(run.steps, run.losses, label=f"{name}, rate {rate:.2g}", **plots.style(name) | {"marker": ""})
ax.axhline(0.5 * 0.16**2, color="black", linewidth=0.8, linestyle=":")
ax.text(steps, 0.6 * 0.16**2, r"$\sigma_4^2 / 2$", ha="right", va="bottom", fontsize=7)
ax.set(xlabel="iteration", ylabel="loss", ylim=(1e-12, 1e3))
fig.legend(frameon=False, loc="outside upper center", ncols=2)
plt.show()
# Picture: Loss over the iteration: GeoLoRA falls to 1e-12 in 25 iterations, LoRA creeps for 400 and ends near
# sigma_4^2/2, SVD-LoRA waits on plateaus at 100 and 10.

# %% [markdown]
# ## 4. At rest where it should not be
#
# For invertible $S$ the operators $\hat P$ and $P$ have the same kernel: simultaneous descent rests only where
# $P(W) G = 0$. For *singular* $S$ the kernel of $\hat P$ is larger. Take unit vectors $e_i$,
#
# $$ U = V = [e_1, e_2], \qquad S = \mathrm{diag}(1, 0), \qquad G = \tfrac12\, e_3 e_2^T . $$
#
# Then $G V S^T = \frac12 e_3 (S e_2)^T = 0$ and $U^T G = 0$, so $\hat P G = 0$, but $P G = G V V^T = G \ne 0$.
# Simultaneous descent cannot leave, to the last bit, although the loss could be lowered at once. A Riemannian step
# lowers it by the promised $\lambda (1 - L \lambda / 2) \|P G\|_F^2$.

# %%
e = np.eye(6)
rest = LowRank(e[:, :2], np.diag([1.0, 0.0]), e[:, :2])
G = 0.5 * np.outer(e[2], e[1])
problem = MatrixRegression(rest.full() - G)  # f(W) = ||W - A||^2 / 2 has the gradient W - A = G there
rate = 0.5

print(f"||P^ G|| = {np.linalg.norm(P_hat(rest, G))}, ||P G|| = {rest.project(G).norm()}")
assert np.linalg.norm(P_hat(rest, G)) == 0 and rest.project(G).norm() == 0.5

svd_lora, geolora = SVDLoRA(), GeoLoRA(truncation=FixedRank(2))
after = svd_lora.step(problem.field, 0.0, svd_lora.init(rest), rate).state.Y
assert all(np.array_equal(getattr(after, name), getattr(rest, name)) for name in "USV")
after = geolora.step(problem.field, 0.0, geolora.init(rest), rate).state.Y
decrease, promised = problem.loss(rest) - problem.loss(after), rate * (1 - rate / 2) * rest.project(G).norm() ** 2
print(f"GeoLoRA lowers the loss by {decrease:.6f}, promised {promised:.6f}")
assert np.isclose(decrease, promised)

# %% [markdown]
# One may object that nobody starts exactly there. But near such a point simultaneous descent stays for long. It is a
# saddle of the loss in the factors, whose unstable directions grow exponentially: from a distance $\varepsilon$ the
# time to leave grows like $\log(1 / \varepsilon)$. The Riemannian step does not notice the point at all.

# %%
epsilons = [1e-2, 1e-6] if QUICK else [1e-2, 1e-4, 1e-6, 1e-8]
leaving = []
fig, ax = plt.subplots(figsize=(3.3, 2.6))
for i, epsilon in enumerate(epsilons):
    near = LowRank(rest.U, np.diag([1.0, epsilon]), rest.V)
    run = solve(svd_lora, problem, step_size=0.1, steps=1500, start=near)
    leaving.append(int(run.steps[run.losses < 0.5 * run.losses[0]][0]))
    label = rf"SVD-LoRA, $\varepsilon = 10^{{{np.log10(epsilon):.0f}}}$"
    ax.plot(run.steps, run.losses, label=label, **plots.style(svd_lora, variant=i) | {"marker": ""})
    fast = solve(geolora, problem, step_size=0.1, steps=100, start=near)
    assert fast.steps[fast.losses < 0.5 * fast.losses[0]][0] <= 5
ax.plot(fast.steps, fast.losses, label="GeoLoRA, from each", **plots.style(geolora) | {"marker": ""})
ax.set(xlabel="iteration (rate 0.1)", ylabel="loss", xscale="log", xlim=(1, 1500))
fig.legend(frameon=False, ncols=2, loc="outside upper center")
plt.show()

print("iterations until the loss is halved:", dict(zip(epsilons, leaving)))
growth = np.diff(leaving) / np.diff(np.log10(1 / np.array(epsilons)))
assert np.all(growth > 0) and growth.max() < 1.3 * growth.min()  # as many iterations for each decade
# Picture: Loss over the iteration, logarithmic: GeoLoRA is down after 30 iterations from each start; SVD-LoRA rests
# at 0.125 for 200 to 900 iterations, the longer the nearer it starts to the saddle.

# %% [markdown]
# Reference: Schotthöfer, Zangrando, Ceruti, Tudisco, Kusch (2025),
# [arXiv:2410.18720](https://arxiv.org/abs/2410.18720), section 3 and Figures 1 and 5; both figures are redone by
# `dlrt figure 1` and `dlrt figure 5`.
