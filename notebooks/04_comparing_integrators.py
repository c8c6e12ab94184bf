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
# # Comparing integrators on matrix differential equations
#
# Which low-rank integrator for which equation? We look at what theory distinguishes: order, work for a given accuracy,
# stiffness, conserved quantities, and a rank that changes.

# %%
import os
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import scipy.linalg
from IPython.display import display

from dlrt import Case, convergence, plots, solve, sweep
from integrators import (
    BUG,
    AugmentedBUG,
    Exact,
    FixedRank,
    Heun,
    LowRank,
    ParallelBUG,
    ProjectorSplitting,
    Tolerance,
    count_evaluations,
)
from problems import from_function, given_solution, lyapunov, schroedinger

QUICK = "DLRT_QUICK" in os.environ  # the tests run smaller problems
plt.rcParams.update(
    plots.STYLE | {"figure.dpi": 150, "figure.figsize": (3.3, 2.4), "figure.constrained_layout.use": True}
)


# %% [markdown]
# ## 1. Order
#
# The equation $Y' = A'(t) + N(Y) - N(A(t))$ with $N(Y) = M_1 Y + Y M_2 + \sin(2Y)$ is made to have the solution
# $A(t)$, of rank 4. With the rank 4 there is no modelling error, and the error at $t = 1$ shows the order alone.
# `dlrt.convergence` runs an integrator with several step sizes and measures the slope.
#
# K, L and S are advanced by Euler's method; for the Strang splitting, which is of order 2, by Heun's.

# %%
problem = given_solution(np.random.default_rng(5), (16, 12), rank=4)
methods = {
    "projector splitting": ProjectorSplitting(),
    "BUG": BUG(),
    "augmented BUG": AugmentedBUG(truncation=FixedRank(4)),
    "parallel BUG": ParallelBUG(truncation=FixedRank(4)),
    "Strang splitting": ProjectorSplitting(order=2, substep=Heun()),
}
steps = [16, 32, 64] if QUICK else [16, 32, 64, 128, 256]
studies = {name: convergence(method, problem, steps, rank=4) for name, method in methods.items()}

fig, ax = plt.subplots(figsize=(3.3, 2.8))
for name, study in studies.items():
    method = methods[name]
    print(f"{name:<20} order {study.order:.2f}, expected {method.order}")
    assert abs(study.order - method.order) < 0.2
    look = plots.style(method, variant=method.order - 1)
    ax.loglog(study.step_sizes, study.errors, label=f"{name}: {study.order:.2f}", **look)
h = studies["BUG"].step_sizes
ax.loglog(h, 30 * h, color="black", linewidth=0.6)
ax.loglog(h, 12 * h**2, color="black", linewidth=0.6)
ax.text(h[2], 40 * h[2], "slope 1", ha="right", fontsize=7)
ax.text(h[1], 8 * h[1] ** 2, "slope 2", va="top", fontsize=7)
ax.set(xlabel="step size", ylabel="error at $t = 1$")
ax.set_xticks([1 / n for n in steps], [f"1/{n}" for n in steps])
ax.set_xticks([], minor=True)
fig.legend(frameon=False, loc="outside upper center", ncols=2, columnspacing=1.0)
plt.show()
# Picture: Error over the step size, logarithmic. Projector splitting, BUG, augmented and parallel BUG lie along slope
# 1, Strang splitting along slope 2 and far below.

# %% [markdown]
# ## 2. Work
#
# The cost of a step is mostly that of the field, and the methods need it a different number of times. `dlrt.sweep`
# runs many cases (in parallel, if asked to), keeps each in a file, and does not repeat what is already there;
# `dlrt.plots` draws accuracy against the number of field evaluations. Parallel BUG takes K, L and S from *one*
# evaluation.

# %%
cases = [
    Case(integrator=method, problem=problem, step_size=1 / n, steps=n, rank=4, every=n, label=name)
    for name, method in methods.items()
    for n in steps
]
with tempfile.TemporaryDirectory() as folder:
    results = sweep(cases, out=folder)
    assert all(result.found for result in sweep(cases, out=folder))  # nothing is computed twice

per_step = {result.case.label: result.trajectory.evaluations[-1] / result.case.steps for result in results}
print("field evaluations per step:", *(f"{name} {count:g}," for name, count in per_step.items()))
assert all(per_step[name] == count_evaluations(method) for name, method in methods.items())
figure = plots.work_figure(results)
figure.set_dpi(150)
display(figure)
# Picture: Relative error over field evaluations. Of the methods of order 1 parallel BUG needs the fewest for the same
# error, then BUG and augmented BUG, then the projector splitting; Strang splitting falls twice as steeply to 3e-5.

# %% [markdown]
# ## 3. A stiff equation: the backward step
#
# Projector splitting goes *backward* in its S-step, $S' = -U_1^H F(U_1 S V_0^H) V_0$. For a dissipative field that is
# a heat equation run backward: solved exactly, it still amplifies by up to $e^{2 h \|A\|_2}$, rounding errors
# included. The BUG integrators have no backward step.
#
# We take $X' = A X + X A^T + C$ with the heat operator on the unit interval,
# $A = (n+1)^2\, \mathrm{tridiag}(1, -2, 1)$, exact sub-flows for all methods, and let the step size grow. The
# splitting is by far the best for small $h \|A\|_2$ and useless for large; the BUG integrators never do worse than
# 100 %, but with few steps they are slow to turn the random directions that fill up the start, of rank 1, to rank 10.

# %%
n = 32 if QUICK else 50
stiff = lyapunov(n, np.random.default_rng(1), stiff=True)
stiffness = np.linalg.norm(stiff.A, 2)
t_end = 0.01
numbers = [1, 4, 16, 64] if QUICK else [1, 2, 4, 8, 16, 32, 64]
exact = {
    "projector splitting": ProjectorSplitting(substep=Exact()),
    "BUG": BUG(substep=Exact()),
    "augmented BUG": AugmentedBUG(substep=Exact(), truncation=FixedRank(10)),
}
size = np.linalg.norm(stiff.reference(t_end))
fig, ax = plt.subplots(figsize=(3.3, 2.7))
errors = {}
for name, method in exact.items():
    runs = [solve(method, stiff, step_size=t_end / k, steps=k, rank=10, every=k) for k in numbers]
    errors[name] = np.array([np.nan if run.diverged else run.errors[-1] / size for run in runs])
    ax.loglog(t_end / np.array(numbers) * stiffness, errors[name], label=name, **plots.style(method))
    print(f"{name:<20}", " ".join(f"{error:8.1e}" for error in errors[name]))
assert errors["projector splitting"][0] > 1e10 and errors["projector splitting"][-1] < 2e-3
assert max(errors["BUG"]) < 1 and max(errors["augmented BUG"]) < 1
ax.axhline(1, color="black", linewidth=0.6)
ax.set(xlabel=r"$h\, \|A\|_2$", ylim=(1e-4, 1e4), ylabel=f"relative error at $t = {t_end}$")
fig.legend(frameon=False, loc="outside upper center", ncols=2)
plt.show()
# Picture: Relative error over step size times norm of A. The projector splitting has 1e-3 up to 13 and explodes above
# 26; augmented BUG rises from 0.01 to 1, BUG stays near 0.4 and ends at 1, neither explodes.

# %% [markdown]
# ## 4. Norm and energy
#
# For the Schrödinger equation $i Y' = H[Y]$ with a self-adjoint $H$ the norm $\|Y\|_F$ and the energy
# $\langle Y, H[Y] \rangle$ are conserved. The augmented BUG integrator has its start *in* the space of its Galerkin
# step. So with an exact sub-flow each step keeps the norm before truncation, and truncation at $\vartheta$ changes
# the squared norm by at most $\vartheta^2$: here $\vartheta = 10^{-8}$, so nothing is seen. The splitting is a
# composition of norm-preserving flows. Fixed-rank BUG first projects the start on new bases and loses norm; parallel
# BUG has no Galerkin step and drifts.

# %%
wave = schroedinger(np.random.default_rng(2), 24 if QUICK else 40)
steps = 10 if QUICK else 20
truncation = Tolerance(absolute=1e-8)
waves = {
    "projector splitting": ProjectorSplitting(substep=Exact()),
    "BUG": BUG(substep=Exact()),
    "augmented BUG": AugmentedBUG(substep=Exact(), truncation=truncation),
    "parallel BUG": ParallelBUG(substep=Exact(), truncation=truncation),
}
start = wave.initial(4, np.random.default_rng(3))
drift = {}
fig, ax = plt.subplots(figsize=(3.3, 2.7))
for name, method in waves.items():
    history = [(wave.norm(start), wave.energy(start))]

    def note(record, history=history):
        history.append((wave.norm(record.state.Y), wave.energy(record.state.Y)))

    run = solve(method, wave, step_size=1 / steps, steps=steps, start=start, callback=note)
    norm, energy = abs(np.array(history) - history[0]).T
    print(f"{name:<20} norm changes by {norm[-1]:.1e}, energy by {energy[-1]:.1e}")
    drift[name] = norm[1:]
    ax.semilogy(run.times[1:], np.maximum(drift[name], 1e-17), label=name, **plots.style(method))
assert max(drift["projector splitting"]) < 1e-13 and max(drift["augmented BUG"]) < 1e-13
assert min(drift["BUG"][-1], drift["parallel BUG"][-1]) > 1e-7
ax.set(xlabel="time", ylabel="change of the norm")
fig.legend(frameon=False, loc="outside upper center", ncols=2, columnspacing=1.0)
plt.show()
# Picture: Change of the norm over time: 1e-15 for projector splitting and augmented BUG, 1e-3 to 1e-2 for parallel
# BUG and BUG.

# %% [markdown]
# ## 5. An equation of your own
#
# A plain function `f(t, Y)` is an equation too: `problems.from_function` makes a problem of it, which everything here
# accepts. The function is given the point as a `LowRank`, with `Y.U`, `Y.S` and `Y.V`, and returns the derivative as a
# dense matrix (`Y.full()` is the dense point) or, as here, as a list of low-rank matrices whose sum is meant. Then
# nothing of size $n \times n$ is ever formed.
#
# The Riccati equation of optimal control, $Y' = A Y + Y A^T + B B^T - Y C^T C Y$ from $Y(0) = 0$, has solutions whose
# singular values fall fast. With $H = \begin{pmatrix} -A^T & C^T C \\ B B^T & A \end{pmatrix}$ and the first block
# column $(X_1, X_2)$ of $e^{t H}$ it is solved by $Y = X_2 X_1^{-1}$, which serves as the reference.

# %%
n = 30 if QUICK else 60
rng = np.random.default_rng(4)
A = 10 * (np.eye(n, k=1) - 2 * np.eye(n) + np.eye(n, k=-1))
B, C, one = rng.standard_normal((n, 2)), rng.standard_normal((2, n)), np.eye(2)


def riccati(t, Y):
    return [
        LowRank(A @ Y.U, Y.S, Y.V),  # A Y
        LowRank(Y.U, Y.S, A @ Y.V),  # Y A^T
        LowRank(B, one, B),
        LowRank(Y.K @ (C @ Y.V).T, -one, Y.L @ (C @ Y.U).T),  # - (Y C^T) (C Y)
    ]


def solution(t):
    X = scipy.linalg.expm(t * np.block([[-A.T, C.T @ C], [B @ B.T, A]]))[:, :n]
    return X[n:] @ np.linalg.inv(X[:n])


control = from_function((n, n), riccati, initial=np.zeros((n, n)), reference=solution)
adaptive = AugmentedBUG(substep=Heun(), truncation=Tolerance(relative=1e-6))
run = solve(adaptive, control, step_size=0.005, steps=100, rank=2, every=10)
relative = run.errors[-1] / np.linalg.norm(solution(run.times[-1]))
print(run, f"relative error {relative:.1e}", f"ranks {run.ranks.tolist()}", sep="\n")
assert run.status == "finished" and relative < 1e-4 and run.ranks[-1] < n / 2

# %% [markdown]
# ## 6. What to take
#
# | the equation | take | because |
# |---|---|---|
# | known rank, not stiff | `ProjectorSplitting(order=2)` | order 2, exact sub-flows keep the norm |
# | known rank, dissipative | `BUG` | no backward step |
# | unknown rank, conserved quantities | `AugmentedBUG` | rank by tolerance, keeps norm and energy up to it |
# | the field is expensive | `ParallelBUG`, `GeoLoRA` | one evaluation per step |
#
# References: Lubich, Oseledets (2014), [doi](https://doi.org/10.1007/s10543-013-0454-0); Ceruti, Lubich (2022),
# [doi](https://doi.org/10.1007/s10543-021-00873-0); Ceruti, Kusch, Lubich (2022),
# [doi](https://doi.org/10.1007/s10543-021-00907-7); Ceruti, Kusch, Lubich (2024),
# [doi](https://doi.org/10.1137/23M1565103).
