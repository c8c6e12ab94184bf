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
# # Five LoRA optimisers, one tangent vector
#
# LoRA trains the factors of $W = B A^T$, $B$ of size $m \times r$ and $A$ of size $n \times r$, and sees their
# gradients $g_B = G A$ and $g_A = G^T B$ only. What to do with them? With $R_X = (X^T X)^{-1/2}$ and
# $\mathrm{msign}(X) = P Q^T$ for $X = P\, \mathrm{diag}(d)\, Q^T$:
#
# | method | moves $B$ by $-\lambda$ times |
# |---|---|
# | LoRA-Muon, [arXiv:2606.12921](https://arxiv.org/abs/2606.12921) | $\frac12 \mathrm{msign}(g_B R_A)\, R_A$ |
# | Riemannian preconditioned LoRA, [2402.02347](https://arxiv.org/abs/2402.02347) | $g_B (A^T A)^{-1}$ |
# | LoRA-Pro, [2407.18242](https://arxiv.org/abs/2407.18242) | $(I - B (B^T B)^{-1} B^T)\, g_B (A^T A)^{-1} - B X$ |
# | LoRA-RITE, [2410.20625](https://arxiv.org/abs/2410.20625) | $\bar g\, v^{-1/2} R_A$ with $\bar g = g_B R_A$ |
# | Riemannion, [2507.12142](https://arxiv.org/abs/2507.12142) | such that $W$ moves by $P\, \mathrm{msign}(P G)$ |
#
# and $A$ alike; $X$ is from a Sylvester equation, $v$ a mean of $\bar g^T \bar g$. Five papers, five formulas. But
# every pair of factors is $B = U M$, $A = V S^T M^{-T}$ with orthonormal $U$ and $V$ and an invertible $M$, and to
# first order $W$ moves by $dB\, A^T + B\, dA^T$. Insert, and $M$ and $S$ cancel, each time. What is left are
# functions of one *tangent vector* at $W = U S V^T$, the projected gradient
#
# $$ P G = K V^T + U L^T - U (U^T G V) V^T, \qquad K = G V, \quad L = G^T U : $$
#
# | method | moves $W$ by $-\lambda$ times |
# |---|---|
# | (a) LoRA-Muon | $\frac12 (\mathrm{msign}(K)\, V^T + U\, \mathrm{msign}(L)^T)$ |
# | (b) preconditioned | $K V^T + U L^T$ |
# | (c) LoRA-Pro | $P G$ |
# | (d) LoRA-RITE | its $\bar g$ are $K$ and $L$; its first step is twice (a) |
# | (e) Riemannion | $P\, \mathrm{msign}(P G)$ |
#
# These are steps of `GeoLoRA` before its truncation: (c) is its published step, (a) is `optimizer=Muon()`, (e) is
# `optimizer=Spectral()`.

# %%
import os
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

from dlrt import plots
from dlrt.theorems import SpectralStep, one_frame
from dlrt.theorems.frame import FACTOR_FORMS, frame_forms, moved
from integrators import FixedRank, GeoLoRA, LoRAMuon, LowRank, Muon, Projections, Spectral
from problems import MatrixRegression, synthetic

QUICK = "DLRT_QUICK" in os.environ  # the tests run smaller problems
plt.rcParams.update(
    plots.STYLE | {"figure.dpi": 150, "figure.figsize": (6.4, 2.7), "figure.constrained_layout.use": True}
)

m, n, r = 60, 40, 4
rng = np.random.default_rng(0)
G = synthetic((m, n), 2.0 ** -np.arange(12.0), rng)  # a few large singular values, as of a network
Y = LowRank.random((m, n), r, rng, singular_values=[1.0, 0.7, 0.5, 0.3])
U, S, V = Y

# %% [markdown]
# ## 1. They are the same
#
# Random factors of one $W$, well and badly conditioned: the direction of $W$ from the published formulas against that
# from $K$ and $L$, relative to its size. All agree to rounding, which the Gram matrices of the factors multiply by
# their squared condition. Plain LoRA, $dB = g_B$, $dA = g_A$, moves $W$ differently for each pair of factors.

# %%
frame = frame_forms(G, U, V)


def factors(condition):
    """Some B and A with B A^T = W."""
    P, Q = (np.linalg.qr(rng.standard_normal((r, r)))[0] for _ in range(2))
    M = P * np.geomspace(1, 1 / condition, r) @ Q
    return U @ M, V @ S.T @ np.linalg.inv(M).T


conditions = [1.0, 1e2, 1e4]
print(f"{'condition of M':<28}" + "".join(f"{c:>12.0e}" for c in conditions))
pairs = [factors(c) for c in conditions]
for name, form in FACTOR_FORMS.items():
    errors = [np.linalg.norm(form(B, A, G @ A, G.T @ B) - frame[name]) / np.linalg.norm(frame[name]) for B, A in pairs]
    assert all(e < 1e-12 * c**2 for e, c in zip(errors, conditions))
    print(f"{name:<28}" + "".join(f"{e:>12.1e}" for e in errors))
lora = [moved(B, A, G @ A, G.T @ B) for B, A in pairs]
print(f"{'plain LoRA, from the first':<28}" + "".join(f"{np.linalg.norm(D - lora[0]):>12.1e}" for D in lora))
assert np.linalg.norm(lora[1] - lora[0]) > 0.1

certificate = one_frame()
identities = [s for s in certificate.series if s.equality]
worst = max(s.ratio.max() for s in identities)
print(f"dlrt verify one-frame: {len(identities)} identities, largest deviation {worst:.2f} of what rounding explains")
assert certificate.verdict == "holds"

# %% [markdown]
# ## 2. What they do to the spectrum, and what the factors add
#
# *Left*: the singular values of the five directions (each divided by its largest). (b) and (c) inherit those of the
# gradient: few of the $2 r$ directions that the tangent space offers are moved. (a) and (e) move all of them.
#
# *Right*: a method on factors moves $W$ by the product of the new factors. With $dB\, A^T = Z V^T$ and
# $B\, dA^T = U X^T$ the term of second order is
#
# $$ dB\, dA^T = Z S^{-1} X^T, $$
#
# for all factors of $W$: here, and only here, $S$ is divided by. The step of LoRA-Muon is off its own direction as soon
# as $\lambda$ is comparable with the smallest singular value $\sigma_r$. On the tangent space a step is
# $W - \lambda D$ exactly, and the way back to rank $r$, by a truncated singular value decomposition, is never longer
# than $\lambda \sqrt r$.

# %%
field = lambda t, Y: Projections.of(-G, Y)  # noqa: E731
h = 0.05 / np.sqrt((m + n) / 2)  # steps of spectral norm .05: the optimisers have the scale sqrt((m + n) / 2)
smallest = np.geomspace(1, 1e-6, 7 if QUICK else 25)
beyond = {"LoRA-Muon, factors": [], "LoRA-Muon, tangent": [], "Riemannion, tangent": []}
for sigma in smallest:
    point = LowRank.random((m, n), r, np.random.default_rng(1), singular_values=[1.0, 1.0, 1.0, sigma])
    D = frame_forms(G, point.U, point.V)
    root = np.sqrt(point.S)
    balanced = LowRank(point.U @ root, np.eye(r), point.V @ root)
    for name, method, start, form in (
        ("LoRA-Muon, factors", LoRAMuon(), balanced, "(a) LoRA-Muon"),
        ("LoRA-Muon, tangent", GeoLoRA(optimizer=Muon(), truncation=FixedRank(r)), point, "(a) LoRA-Muon"),
        ("Riemannion, tangent", GeoLoRA(optimizer=Spectral(), truncation=FixedRank(r)), point, "(e) Riemannion"),
    ):
        step = method.step(field, 0.0, method.init(start), h)
        beyond[name].append(np.linalg.norm(step.state.Y.full() - (point.full() - 0.05 * D[form])) / 0.05)
assert beyond["LoRA-Muon, factors"][-1] > 1e3
assert max(beyond["Riemannion, tangent"]) <= np.sqrt(r)

fig, (left, right) = plt.subplots(1, 2)
looks = {"(a) LoRA-Muon": "C2^-", "(b) scaled gradient": "C1s-", "(c) LoRA-Pro": "C0o-", "(e) Riemannion": "C3D-"}
for name, look in looks.items():
    d = np.linalg.svd(frame[name], compute_uv=False)[: 2 * r]
    left.semilogy(range(1, 2 * r + 1), d / d[0], look, ms=3.5, mfc="none", label=name)
left.set(xlabel="index", ylabel="singular value / largest", title="directions of $W$")
left.legend(frameon=False)
for (name, lengths), look in zip(beyond.items(), ("C2^-", "C2^:", "C3D:")):
    right.loglog(smallest, lengths, look, ms=3, mfc="none", markevery=1 if QUICK else 4, label=name)
right.axhline(np.sqrt(r), color="black", lw=0.8)
right.text(1e-6, 1.1 * np.sqrt(r), r"$\sqrt{r}$", ha="right", va="bottom")
right.invert_xaxis()
right.set(xlabel=r"$\sigma_r$", ylabel=r"$\|W_1 - (W - \lambda D)\| / \lambda$", title=r"one step, $\lambda = 0.05$")
right.legend(frameon=False, fontsize=6.5)
plt.show()
# Picture: Left: singular values of the four directions over their index; those of Riemannion stay near 1, those of
# LoRA-Muon fall to 0.4, those of the scaled gradient and LoRA-Pro to 0.03. Right: distance of a step from the
# straight line over the smallest singular value; for LoRA-Muon on factors it grows like its inverse to 1e4, on the
# tangent space it stays below the square root of r.

# %% [markdown]
# ## 3. How far down
#
# On a loss $f$ with an $L$-Lipschitz gradient $f(W - \lambda D) \le f(W) - \lambda \langle G, D \rangle + \frac L2
# \lambda^2 \|D\|_F^2$, so what counts is $\langle G, D \rangle$ for the length of $D$. With the nuclear norm
# $\|X\|_* = \sum_i d_i$:
#
# | direction | $\langle G, D \rangle$ | length |
# |---|---|---|
# | (c) | $\lVert P G \rVert_F^2$ | $\lVert D \rVert_F^2 = \lVert P G \rVert_F^2$ |
# | (b) | $\lVert K \rVert_F^2 + \lVert L \rVert_F^2$ | one part twice: largest stable step $1 / L$, not $2 / L$ |
# | (a) | $\frac12 (\lVert K \rVert_* + \lVert L \rVert_*)$ | $\lVert D \rVert_2 \le 1$ |
# | (e) | $\lVert P G \rVert_*$ | $1 \le \lVert D \rVert_2 \le 2 / \sqrt 3$, $\lVert D \rVert_F^2 \le 2 r$ |
#
# For (a) it is between half of $\|P G\|_*$ and all of it. No tangent direction of spectral norm 1 has a larger
# $\langle G, D \rangle$ than $\|P G\|_*$. That (e) attains it, being longer by 15 % at most, is not obvious, since
# $P$ changes $\mathrm{msign}(P G)$. But what $P$ takes away is orthogonal to $P G$: in bases $[U | \tilde U]$, $[V |
# \tilde V]$
#
# $$ P G \leftrightarrow C = \begin{pmatrix} U^T G V & L^T \tilde V \\ \tilde U^T K & 0 \end{pmatrix}, $$
#
# and $P$ sets the last block of $\mathrm{msign}(C)$ to zero, where $C$ is zero. Kept, this block would meet the
# *normal* part $\tilde U^T G \tilde V$ of the gradient, of which $C$ knows nothing: a term of either sign, which can
# turn the step into an ascent.

# %%
nuclear = lambda X: np.linalg.norm(X, "nuc")  # noqa: E731
PG = frame["(c) LoRA-Pro"]
for name in looks:
    D = frame[name]
    along, spectral = np.vdot(G, D), np.linalg.norm(D, 2)
    print(f"{name:<22} <G, D> / ||D||_2 = {along / spectral:.3f}, of at most ||P G||_* = {nuclear(PG):.3f}")
    assert along / spectral <= nuclear(PG)
assert np.isclose(np.vdot(G, frame["(e) Riemannion"]), nuclear(PG))
assert nuclear(PG) / 2 <= np.vdot(G, frame["(a) LoRA-Muon"]) <= nuclear(PG)

print("rank one, C = [[1, 1], [1, 0]], normal part g: <G, D> with the block and without")
A, _, BT = np.linalg.svd([[1.0, 1.0], [1.0, 0.0]])
kept = A @ BT
for g in (-10.0, 0.0, 10.0):
    G1 = np.array([[1.0, 1.0], [1.0, g]])
    dropped = kept * [[1, 1], [1, 0]]
    print(f"  g = {g:>5}: {np.vdot(G1, kept):>7.3f} {np.vdot(G1, dropped):>7.3f}")
    assert np.isclose(np.vdot(G1, dropped), np.sqrt(5))
assert np.vdot(G1, kept) < 0  # against the gradient

problem = MatrixRegression(synthetic((16, 12), 2.0 ** -np.arange(12.0), rng))
theorem = replace(SpectralStep(), steps=10 if QUICK else 25)
certificate = theorem.check(theorem.configured(GeoLoRA()), problem)
print(certificate.line())
assert certificate.verdict == "holds"

# %% [markdown]
# ## 4. What follows
#
# | | from the factors | from $K$, $L$, $U^T G V$ |
# |---|---|---|
# | at the usual start $B = 0$ | no $(B^T B)^{-1}$: pseudo-inverses or damping | $S = 0$ is a point like others |
# | choice of the factors | no direction depends on it; Adam or momentum on factors do | there is none |
# | conditioning | errors grow like $\kappa(B)^2 + \kappa(A)^2$ | rounding |
# | step beyond first order | $Z S^{-1} X^T$ | at most $\lambda \sqrt r$, whatever $S$ |
# | momentum | $(m + n) r$, but the factors turn under it | $(m + n) r + r^2$, moved with the bases |
# | beside products | roots or inverses of $r \times r$ matrices | QR of two bases, for (e) an SVD of $2 r \times 2 r$ |
#
# - What is proved for one is known for another: LoRA-Pro with plain descent descends as GeoLoRA does
#   (`dlrt verify descent`), up to the term $dB\, dA^T$. LoRA-RITE without memory is LoRA-Muon with twice the rate. The
#   spectral step has a descent inequality and a rate with explicit constants (`dlrt verify spectral-step`).
# - The frame says what to vary: a function of the core $C$ (gradient, sign, anything between), the memory, the way
#   back to rank $r$. An optimiser of this library sees $K$, $L$ and $S$ and returns a direction of the same form.
# - It also says what does not matter. In practice these methods differ by the function of $C$, by their memory and by
#   the way back to rank $r$, not by their coordinates.
#
# The derivations are in `dlrt/theorems/frame.py` and `dlrt/theorems/spectral_step.py`; `dlrt verify one-frame` measures
# all identities, for well and badly conditioned factors, real and complex.

# %%
zero = LowRank.zeros((m, n), r, rng)  # S = 0
for optimizer in (Muon(), Spectral()):
    method = GeoLoRA(optimizer=optimizer, truncation=FixedRank(r))
    step = method.step(field, 0.0, method.init(zero), h)
    d = step.state.Y.singular_values()
    print(f"{type(optimizer).__name__:<9} from W = 0: singular values / lambda", np.round(d / 0.05, 3))
    assert d[-1] > 0.1 * d[0]
