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
# # Verifying the theorems
#
# The theorems on low-rank integrators are inequalities with constants: the Lipschitz constant $L$ of the gradient, a
# bound $B$ of its norm, the size $\varepsilon$ of what the tangent space misses, the truncation $\vartheta$. Where a
# problem knows its constants, an inequality can be *computed*: both sides, at every step, with nothing fitted.
#
# `dlrt.theorems` does this for any integrator and problem. A check returns a *certificate*: the hypotheses, the
# constants and where they come from, both sides, and a verdict, `holds`, `violated` or `not applicable`. A violation
# is a failure where theory promises the statement for the method, and a finding where it does not.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

from dlrt import plots
from dlrt.theorems import THEOREMS, Convergence, Descent, ErrorBound, RiemannianStep, resting_point
from integrators import BUG, AugmentedBUG, FixedRank, GeoLoRA, LoRA, ParallelBUG, ProjectorSplitting, SVDLoRA, Tolerance
from problems import LinearLeastSquares, MatrixRegression, rotating, synthetic

QUICK = "DLRT_QUICK" in os.environ  # the tests run smaller problems
plt.rcParams.update(
    plots.STYLE | {"figure.dpi": 150, "figure.figsize": (3.3, 2.4), "figure.constrained_layout.use": True}
)
rng = np.random.default_rng(0)
problem = MatrixRegression(synthetic((16, 12), 2.0 ** -np.arange(12), rng))  # f(W) = ||W - A||^2 / 2, L = 1
geolora = GeoLoRA(truncation=Tolerance(relative=0.05))

# %% [markdown]
# ## 1. One step is a Riemannian gradient step
#
# Without truncation a step of GeoLoRA is $\hat W = W - \lambda P(W)\, G$, for every $S$. The check makes one step
# from points with a smallest singular value from 1 to 0 and compares $\|\hat W - (W - \lambda P G)\|_F$ with
# rounding, in units of $\lambda \|G\|_F$. SVD-LoRA moves by $\hat P G$ instead; nothing is promised for it.

# %%
certificate = RiemannianStep().check(geolora, problem)
print(certificate.line())
assert certificate.promised and certificate.verdict == "holds"

other = RiemannianStep().check(SVDLoRA(), problem)
print(other.line())
assert other.verdict == "violated" and not other.failed

# %% [markdown]
# ## 2. Theorem 1: the loss goes down
#
# For an $L$-smooth loss and $0 < \lambda < 2 / L$,
#
# $$ f(\hat W) \le f(W) - \lambda \Bigl(1 - \frac{L \lambda}{2}\Bigr) \|P(W)\, G\|_F^2, \qquad
#    f(W_1) \le f(\hat W) + B\, \vartheta, \qquad \vartheta = \|W_1 - \hat W\|_F . $$
#
# The first needs only that $W - \hat W = \lambda P G$ with an *orthogonal* projector:
# $f(W + D) \le f(W) + \langle G, D \rangle + \frac L2 \|D\|^2$ and $\langle G, P G \rangle = \|P G\|^2$. For the
# regression loss it is an equality. The certificate knows all constants and their origin.

# %%
certificate = Descent(step_size=0.5, steps=30).check(geolora, problem)
print(certificate.line())
for name, constant in certificate.constants.items():
    print(f"  {name} = {constant.value:.4g}: {constant.source}")
assert certificate.verdict == "holds"
first = certificate.series[0]
assert np.allclose(first.left, first.right, rtol=1e-6, atol=1e-14)  # promised = measured: equality

axes = certificate.plot(plt.subplots(figsize=(3.3, 2.6))[1])
axes.set_title("GeoLoRA, step by step", loc="left", fontsize=8)
plt.show()
# Picture: Measured and promised decrease of the loss in 30 steps of GeoLoRA: the marks lie on each other from 0.5
# down to 1e-10.

# %% [markdown]
# Simultaneous descent has no such bound: at the same step size there are steps in which the loss falls by less than a
# tenth of what the projected gradient promises. At a point of rest (notebook 2) it does not move at all.

# %%
other = Descent(step_size=0.5, steps=30).check(SVDLoRA(), problem)
print(other.verdict, "-", other.reason)
assert other.verdict == "violated" and not other.promised
s = other.series[0]
assert min(np.array(s.right) / np.array(s.left)) < 0.1

Y, regression = resting_point("column")
G = regression.gradient(Y).full()
print(f"at the point of rest: ||P G|| = {Y.project(G).norm()}")
certificates = {m: THEOREMS["stationary-points"].check(m()) for m in (GeoLoRA, SVDLoRA)}
print(certificates[SVDLoRA].notes[0])
assert [c.verdict for c in certificates.values()] == ["holds", "violated"]

# %% [markdown]
# ## 3. Theorem 2: convergence with mini-batches
#
# Summed over the steps, with unbiased mini-batch gradients of variance $\mathrm{Var}_t$,
#
# $$ \sum_{t<T} \lambda_t \Bigl(1 - \frac{L \lambda_t}{2}\Bigr) E \|P(W_t) G_t\|^2 \le
#    f(W_0) - f_{\inf} + \sum_{t<T} E[B_t \vartheta_t] + \frac L2 \sum_{t<T} \lambda_t^2\, E\, \mathrm{Var}_t . $$
#
# With Robbins–Monro step sizes ($\sum \lambda_t = \infty$, $\sum \lambda_t^2 < \infty$) and summable truncation the
# right side stays bounded, so $\liminf E \|P G\|^2 = 0$. For a least-squares problem with three samples and batches
# of two the expectation is not sampled: the check runs over *all* sequences of mini-batches.

# %%
X = rng.standard_normal((3, 4))
samples = LinearLeastSquares(X, X @ rng.standard_normal((4, 5)) + 0.1 * rng.standard_normal((3, 5)), batch_size=2)
certificate = Convergence(max_nodes=300 if QUICK else 1500).check(geolora, samples)
print(certificate.line())
assert certificate.verdict == "holds"

s = certificate.series[0]
fig, ax = plt.subplots()
ax.plot(s.values, s.right, label="right side", color="black", linestyle=":")
left = r"$\sum \lambda_t (1 - L \lambda_t / 2)\, E \|P G_t\|^2$"
ax.plot(s.values, s.left, label=left, **plots.style(geolora))
ax.set(xlabel="number of steps $T$", ylabel="both sides", ylim=(0, None))
ax.legend(frameon=False)
plt.show()
# Picture: Both sides over the number of steps: the sum of squared gradients rises from 4 to 7, below the right side,
# which rises from 7.8 to 8.3.

# %% [markdown]
# ## 4. Theorem 3: a bound free of singular values
#
# The distance from the *full* flow is bounded by
#
# $$ \|Y_k - W(t_k)\| \le e^{\ell t} \delta_0 + h\, \frac{e^{\ell t} - 1}{e^{\ell h} - 1}
#    \Bigl( a\, \varepsilon + (b\, L B + c\, L_t)\, h + \frac{\vartheta}{h} \Bigr), $$
#
# with the initial error $\delta_0$, the one-sided Lipschitz constant $\ell$, and numbers $a, b, c$ that depend on the
# method alone. No singular value enters. Here for $Y' = A'(t)$ with singular values $2^{-j}$ and rank 4:
# $\varepsilon$ is then the size of the fifth.

# %%
moving = rotating(np.random.default_rng(8), (24, 20))
fig, ax = plt.subplots(figsize=(3.3, 2.8))
methods = {"parallel BUG": ParallelBUG(truncation=FixedRank(4)), "BUG": BUG(), "splitting": ProjectorSplitting()}
for name, method in methods.items():
    certificate = ErrorBound(steps=20).check(method, moving)
    assert certificate.promised and certificate.verdict == "holds"
    s = certificate.series[0]
    kwargs = plots.style(method) | {"linestyle": "-", "markevery": 4}
    ax.semilogy(s.values, s.left, label=f"{name}: error", **kwargs)
    ax.semilogy(s.values, s.right, label=f"{name}: bound", **kwargs | {"linestyle": ":", "markerfacecolor": "none"})
    print(f"{name:<13} largest error / bound: {certificate.tightest:.2f}")
ax.set(xlabel="time $t$", ylabel="distance from the full flow")
fig.legend(frameon=False, loc="outside upper center", ncols=2, columnspacing=1.0)
plt.show()
# Picture: Distance from the full flow over time, with bounds. Errors of parallel BUG, BUG and the splitting lie on
# each other, 0.04 to 0.1; the bounds are above, those of parallel BUG and the splitting up to 0.4, that of BUG up to
# 1.

# %% [markdown]
# ## 5. Who promises what, and who keeps it
#
# All methods against the quick checks. A dot means *not applicable*, brackets mean *not promised*. `dlrt verify`
# prints such a table for all theorems.

# %%
names = ["riemannian-step", "descent", "structure", "stationary-points", "exactness", "conservation", "decay"]
columns = {"GeoLoRA": GeoLoRA(), "AugmentedBUG": AugmentedBUG(), "BUG": BUG(), "SVDLoRA": SVDLoRA(), "LoRA": LoRA()}


def cell(theorem, method):
    """The verdict over the small cases of a theorem."""
    found = [c for c in theorem.cases(method) if c.verdict != "not applicable"]
    assert not any(c.failed for c in found)  # never violated where promised
    if not found:
        return "."
    verdict = "violated" if any(c.verdict == "violated" for c in found) else "holds"
    return verdict if found[0].promised else f"({verdict})"


print(" " * 18 + "".join(f"{name:>14}" for name in columns))
table = {name: [cell(THEOREMS[name], method) for method in columns.values()] for name in names}
for name, row in table.items():
    print(f"{name:<18}" + "".join(f"{entry:>14}" for entry in row))
assert table["riemannian-step"][0] == table["descent"][0] == "holds"

# %% [markdown]
# The statements, with hypotheses and proofs, are in the docstrings of `dlrt/theorems/`; the identities behind them
# are proved by computer algebra in `dlrt.theorems.symbolic`.
#
# Reference: Schotthöfer, Zangrando, Ceruti, Tudisco, Kusch (2025),
# [arXiv:2410.18720](https://arxiv.org/abs/2410.18720), Theorems 1 to 3.
