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
# # Writing your own integrator
#
# An integrator here is a frozen dataclass with one generator, `stages`. It *yields* each point at which it wants the
# field and *is sent* the field there, seen through the point's own bases:
#
# $$ \texttt{f.K} = F V, \qquad \texttt{f.L} = F^H U, \qquad \texttt{f.S} = U^H F V . $$
#
# Who answers is none of its business: a formula, or the backward pass of a network. The number of yields is the
# number of field evaluations; nobody counts by hand. We write two methods, run them, train a network by one of them,
# and check them as the tests check all others. Nothing in the library is edited for that.

# %%
import os
import tempfile
from dataclasses import dataclass, field

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from dlrt import Trajectory, convergence, plots, solve
from dlrt.nn import LowRankOptimizer, adapt, ranks
from dlrt.testing import Contract
from dlrt.theorems import verify
from integrators import (
    BUG,
    FixedRank,
    GeoLoRA,
    Heun,
    Integrator,
    LowRank,
    ProjectorSplitting,
    State,
    Tolerance,
    Truncation,
    combine,
    count_evaluations,
    tangent,
)
from problems import MatrixRegression, given_solution, synthetic

QUICK = "DLRT_QUICK" in os.environ  # the tests run smaller problems
plt.rcParams.update(
    plots.STYLE | {"figure.dpi": 150, "figure.figsize": (3.3, 2.4), "figure.constrained_layout.use": True}
)

# %% [markdown]
# ## 1. Projected Euler
#
# The simplest method on the manifold of rank-$r$ matrices: a step along the projected field, and back to rank $r$ by a
# truncated singular value decomposition $\mathcal T_r$, a *retraction*,
#
# $$ \hat Y = Y_0 + h\, P(Y_0) F(t_0, Y_0), \qquad Y_1 = \mathcal T_r(\hat Y), \qquad
#    P(Y) F = (F V) V^H + U (F^H U)^H - U (U^H F V) V^H . $$
#
# `tangent` makes the matrix $P(Y) F$ of rank $2r$ from `f.K`, `f.L`, `f.S`. `combine` adds low-rank matrices: the sum
# has longer factors, and two QR decompositions make its bases orthonormal, which the truncation asks for. The
# truncation itself is not done in `stages` but given as a field of the class: so the matrix before it is there to look
# at, and for several matrices (the layers of a network) it can be decided together.
#
# Both functions take numpy and torch arrays alike, and so does the method.


# %%
@dataclass(frozen=True, kw_only=True)
class ProjectedEuler(Integrator):
    """One Euler step along the projected field, then a truncated singular value decomposition."""

    truncation: Truncation = field(default_factory=lambda: FixedRank(4))

    order = 1
    robust = True
    rank_adaptive = True  # with another truncation than FixedRank

    def stages(self, t, state, h):
        Y = state.Y
        f = yield t, Y
        return combine([(1.0, Y), (h, tangent(Y, f))])


problem = given_solution(np.random.default_rng(5), (16, 12), rank=4)
run = solve(ProjectedEuler(), problem, step_size=0.01, steps=100, rank=4)
print(run)
assert run.status == "finished" and run.evaluations[-1] == 100

# %% [markdown]
# That is all: `solve`, `convergence`, `sweep`, saving and continuing work with it. Is it new? The untruncated step of
# GeoLoRA is $W - \lambda P(W) G$ with $G = -F$. With the same truncation the two are one method, written in two ways.

# %%
start = problem.initial(4, np.random.default_rng(0))
ends = [
    solve(method, problem, step_size=0.01, steps=100, start=start).Y.full()
    for method in (ProjectedEuler(), GeoLoRA(truncation=FixedRank(4)))
]
print(f"difference after 100 steps: {np.linalg.norm(ends[0] - ends[1]):.1e}")
assert np.linalg.norm(ends[0] - ends[1]) < 1e-11

# %% [markdown]
# ## 2. Projected Heun: two stages
#
# Now one that the library does not have. Heun's method with projected stages and a retraction after each of them is a
# *projected Runge–Kutta method* (Kieri, Vandereycken 2019), of order 2:
#
# $$ \begin{aligned}
# Z_1 &= P(Y_0)\, F(t_0, Y_0), & Y_{1/2} &= \mathcal T_r (Y_0 + h Z_1), \\
# Z_2 &= P(Y_{1/2})\, F(t_0 + h, Y_{1/2}), & Y_1 &= \mathcal T_r \bigl(Y_0 + \tfrac h2 (Z_1 + Z_2)\bigr) .
# \end{aligned} $$
#
# The inner truncation is a part of the method, so it is done in `stages`, to the rank of $Y_0$; a truncation is
# called with a list of states, one for each matrix. A second `yield` asks for the field at the second point, and
# only then is it evaluated there.
#
# The class declares its order, which the convergence study below confirms. It does not say how many evaluations a
# step needs: `count_evaluations` runs one and counts.


# %%
@dataclass(frozen=True, kw_only=True)
class ProjectedHeun(Integrator):
    """Heun's method with projected stages and truncated singular value decompositions."""

    truncation: Truncation = field(default_factory=lambda: FixedRank(4))

    order = 2
    robust = True
    rank_adaptive = True

    def stages(self, t, state, h):
        Y = state.Y
        f = yield t, Y
        Z1 = tangent(Y, f)
        [(middle, _error)] = FixedRank(Y.rank)([State(combine([(1.0, Y), (h, Z1)]))])
        f = yield t + h, middle
        Z2 = tangent(middle, f)
        return combine([(1.0, Y), (h / 2, Z1), (h / 2, Z2)])


steps = [32, 64, 128] if QUICK else [32, 64, 128, 256]
methods = {
    "projected Euler": ProjectedEuler(),
    "projected Heun": ProjectedHeun(),
    "BUG": BUG(),
    "Strang splitting": ProjectorSplitting(order=2, substep=Heun()),
}
fig, ax = plt.subplots(figsize=(3.3, 2.7))
for name, method in methods.items():
    study = convergence(method, problem, steps, rank=4)
    print(f"{name:<17} order {study.order:.2f}, {count_evaluations(method)} evaluations per step")
    assert abs(study.order - method.order) < 0.2
    ax.loglog(study.evaluations, study.errors, label=f"{name}: order {study.order:.1f}", **plots.style(method))
ax.set(xlabel="field evaluations", ylabel="error at $t = 1$")
fig.legend(frameon=False, loc="outside upper center", ncols=2, columnspacing=1.0)
plt.show()
# Picture: Error over field evaluations: projected Euler and BUG with order 1, projected Heun and Strang splitting
# with order 2; projected Heun needs the fewest evaluations.

# %% [markdown]
# ## 3. What every integrator must do
#
# `dlrt.testing` has a class of tests that every method of the library inherits, and yours can too. (It needs pytest,
# which the extra `test` installs.) These are the main ones, by hand for projected Heun. *Compare matrices, never
# factors*: the factors are determined up to rotations only.
#
# **Every array library and number type; orthonormal bases.**

# %%
method = ProjectedHeun(truncation=FixedRank(3))
A = synthetic((14, 9), [4.0, 2.0, 1.0, 0.5], np.random.default_rng(0), np.complex128)


def as_array(X, library, dtype):
    """X, or its real part, as an array of the library."""
    X = X if dtype == "complex128" else X.real
    return (torch.asarray if library == "torch" else np.asarray)(X.astype(dtype))


for dtype, eps in (("float32", 1.2e-7), ("float64", 2.2e-16), ("complex128", 2.2e-16)):
    ends = []
    for library in ("numpy", "torch"):
        regression = MatrixRegression(as_array(A, library, dtype))
        Y = LowRank.random((14, 9), 3, np.random.default_rng(1), np.zeros((), dtype), [1.0, 0.5, 0.2])
        state = method.init(LowRank(*(as_array(X, library, dtype) for X in Y)))
        for _ in range(200):
            state = method.step(regression.field, 0.0, state, 0.1).state
        assert type(state.Y.S) is type(regression.target) and state.Y.dtype == regression.dtype
        U, V = np.asarray(state.Y.U.tolist()), np.asarray(state.Y.V.tolist())
        defect = max(np.linalg.norm(X.conj().T @ X - np.eye(3)) for X in (U, V))
        ends.append(np.asarray(state.Y.full().tolist()))
        print(f"{dtype:<10} {library:<5} ||U^H U - I|| = {defect:.1e}, shape {tuple(state.Y.shape)}")
        assert defect < 100 * eps
    assert np.linalg.norm(ends[0] - ends[1]) < 1e4 * eps

# %% [markdown]
# **Gauge invariance.** $(U A,\, A^H S B,\, V B)$ with unitary $A$, $B$ is the same matrix and must give the same
# matrix after a step, singular $S$ included. **A zero start** is a valid start.

# %%
regression = MatrixRegression(A.real.copy())
rng = np.random.default_rng(2)
for values in ([1.0, 0.5, 0.2], [1.0, 0.5, 0.0]):
    Y = LowRank.random((14, 9), 3, rng, singular_values=values)
    P, Q = (np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(2))
    rotated = LowRank(Y.U @ P, P.T @ Y.S @ Q, Y.V @ Q)
    one, other = (method.step(regression.field, 0.0, method.init(X), 0.1).state.Y.full() for X in (Y, rotated))
    print(f"singular values {values}: difference {np.linalg.norm(one - other):.1e}")
    assert np.linalg.norm(one - other) < 1e-13

run = solve(method, regression, step_size=0.5, steps=100, start=LowRank.zeros((14, 9), 3, rng))
best = regression.minimum(3)
print(f"from zero: loss {run.losses[0]:.3f} to {run.losses[-1]:.6f}; no matrix of rank 3 has less than {best:.6f}")
assert run.losses[-1] < best * (1 + 1e-6)

# %% [markdown]
# **Robust to small singular values.** The error must settle as the smallest singular value of the solution goes to
# zero.

# %%
exponents = [1, 4, 8, 12] if QUICK else [1, 2, 4, 6, 8, 10, 12, 14]
errors = []
for k in exponents:
    small = given_solution(np.random.default_rng(5), (16, 12), rank=4, smallest=10.0**-k)
    errors.append(solve(ProjectedHeun(), small, step_size=1 / 64, steps=64, rank=4, every=64).errors[-1])
print(" ".join(f"{error:.4f}" for error in errors))
assert max(errors) < 2.5 * errors[0]

# %% [markdown]
# **Counting and saving.** Every step asks for as many fields as the others. A run that is saved, loaded and continued
# gives the same bits as one that did not stop; all that changes lives in the state, nothing in the integrator.

# %%
step = method.step(regression.field, 0.0, method.init(Y), 0.1)
assert step.evaluations == count_evaluations(method) == 2

unbroken = solve(ProjectedHeun(), problem, step_size=0.05, steps=20, rank=4)
half = solve(ProjectedHeun(), problem, step_size=0.05, steps=10, rank=4)
with tempfile.TemporaryDirectory() as folder:
    loaded = Trajectory.load(half.save(f"{folder}/half.npz"))
continued = solve(ProjectedHeun(), problem, step_size=0.05, steps=10, start=loaded)
assert np.array_equal(unbroken.Y.full(), continued.Y.full())

# %% [markdown]
# **Divergence is a result.** A step that is too large ends the run with a status, not with an exception.

# %%
run = solve(ProjectedEuler(), regression, step_size=5.0, steps=2000, rank=4, every=100)
print(run.status)
assert run.diverged

# %% [markdown]
# **All of it.** In a file `test_projected_heun.py` the two lines of the class below are enough: pytest finds about
# ninety tests in it. Here two of them are called by hand.


# %%
class TestProjectedHeun(Contract):
    integrator = ProjectedHeun()


TestProjectedHeun().test_order()
TestProjectedHeun().test_robust_to_small_singular_values()

# %% [markdown]
# **What theory promises.** `verify` checks all theorems of the library that apply to a method, with explicit constants.
# What nobody has proved for it is *not promised*: such a statement may hold on the cases that are run, or be violated,
# and neither is a failure.

# %%
certificates = verify(ProjectedHeun(), ["descent", "structure", "stationary-points"] if QUICK else None)
for c in certificates:
    if c.verdict != "not applicable":
        print(f"{c.theorem:<18} {'promised' if c.promised else 'not promised':<13} {c.verdict:<9} {c.problem}")
assert not any(c.promised for c in certificates)

# %% [markdown]
# ## 4. Training, with the rank left open
#
# A loss is a differential equation whose field is minus the gradient, so the same class trains. With another
# truncation it finds the rank: nothing in `stages` has to change.

# %%
target = synthetic((40, 30), [20.0, 10.0, 5.0, 4.0, 3.0], np.random.default_rng(3))
descent = ProjectedEuler(truncation=Tolerance(relative=0.1, spare=1))
run = solve(descent, MatrixRegression(target), step_size=0.5, steps=60, rank=2)
print(run)
assert run.numerical_ranks[-1] == 5 and run.losses[-1] < 1e-20

fig, (top, bottom) = plt.subplots(2, 1, sharex=True, figsize=(3.3, 3.0))
colour = plots.style(descent)["color"]
top.semilogy(run.steps, run.losses, color=colour)
top.set(ylabel="loss")
bottom.step(run.steps, run.ranks, where="post", color=colour)
bottom.set(xlabel="iteration", ylabel="rank (with the spare one)", ylim=(0, None))
plt.show()
# Picture: The loss falls to 1e-25 in 48 iterations; the rank goes from 2 over 5 to 6, with the spare direction.

# %% [markdown]
# A network is trained in the same way, all its layers together: projected Heun needs two backward passes per step, for
# the whole network and not for each layer, so `step` is given a closure. Two of the layers here have equal shapes.

# %%
torch.manual_seed(0)
x = torch.randn(200, 20)
y = torch.tanh(x[:, :2] @ torch.randn(2, 5))
network = nn.Sequential(nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 5))
adapt(network, ["0", "2"], rank=6, kind="train")
method = ProjectedHeun(truncation=Tolerance(relative=0.05, spare=1))
optimizer = LowRankOptimizer(network, method, lr=0.2, rest=lambda parameters: torch.optim.SGD(parameters, lr=0.2))
passes = 0


def closure():
    """The loss and its gradients."""
    global passes
    passes += 1
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(network(x), y)
    loss.backward()
    return loss


losses = [optimizer.step(closure).item() for _ in range(50 if QUICK else 300)]
print(f"loss {losses[0]:.3f} to {losses[-1]:.4f} with ranks {ranks(network)}, {passes / len(losses):g} passes per step")
assert passes == 2 * len(losses) and losses[-1] < (0.7 if QUICK else 0.3) * losses[0]

# %% [markdown]
# ## 5. Into the library
#
# Everything above was done from outside. To give a method to all others takes
#
# 1. its file in `integrators/`;
# 2. a line in `INTEGRATORS` of `integrators/table.py`, with its import;
# 3. the two lines of its contract class in `tests/integrators/test_<method>.py`.
#
# Nothing else: the command line, `dlrt verify`, the sweeps and the tables of the README take it from there, see
# `CONTRIBUTING.md`.
#
# A method that remembers (momentum, averages) returns a `State` with its new memory, and with `origin`, the point whose
# tangent space a remembered tangent vector belongs to: so it is carried to the truncated bases. For a method with a
# memory of its own look at `integrators/adalora.py`.
#
# Reference: Kieri, Vandereycken (2019), Projection methods for dynamical low-rank approximation of high-dimensional
# problems, [doi](https://doi.org/10.1515/cmam-2018-0029).
