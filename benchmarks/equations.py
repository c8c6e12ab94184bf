"""Steps on a large matrix equation: ``OMP_NUM_THREADS=1 python -m benchmarks.equations [--write]``.

The problem is a Lyapunov equation with a sparse operator, rank 20, float64, the rank held. Two tables:

- methods with RK4 sub-steps beside the algorithm of B. Carrel's public toolbox (github.com/BenjaminCarrel, the
  repository randomized-dynamical-low-rank), which projects the coefficients on the bases once per sub-flow, restated
  below in plain numpy and scipy for this one equation. The two take turns, a step each; the ratio is the median over
  the rounds, with the quartiles. That both do the same is checked.
- the time of a step of every method by size, and the slope of its logarithm over that of n by least squares. A single
  pass over an n x 20 array, ``X + 0.5 X``, is the peer: its slope is not 1 either, as caches end.

Times are those of the processor. With ``--write`` the tables are written into ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scipy.linalg

from integrators import (
    BUG,
    INTEGRATORS,
    RK4,
    AugmentedBUG,
    FixedRank,
    Integrator,
    LowRank,
    ProjectorSplitting,
    Tolerance,
)
from problems import Sylvester, lyapunov

from .tables import write

RANK, H = 20, 1e-3
SIZES = (1000, 3000, 10_000, 20_000, 50_000)
LEFT_OUT = ("full-rank", "adalora")
"""The dense matrix; a method whose cost is set by its budget."""


# -- the toolbox's algorithm ---------------------------------------------------------------------------------------


def flow(A, X, b, c, sign=1.0):
    """RK4 for ``X' = sign (A X + X b + c)``."""

    def F(X):
        return A @ X + X @ b + c

    h = sign * H
    k1 = F(X)
    k2 = F(X + (h / 2) * k1)
    k3 = F(X + (h / 2) * k2)
    k4 = F(X + h * k3)
    return X + (h / 6) * (k1 + 2 * k2 + 2 * k3 + k4)


def K_flow(p: Sylvester, K, V):
    """K over H with V fixed."""
    return flow(p.A, K, V.T @ (p.B @ V), p.C[0] @ (p.C[1].T @ V))


def L_flow(p: Sylvester, L, U):
    """L over H with U fixed."""
    return flow(p.B.T, L, (U.T @ (p.A @ U)).T, p.C[1] @ (p.C[0].T @ U))


def S_flow(p: Sylvester, U, S, V, sign=1.0):
    """S over H with U and V fixed."""
    return flow(U.T @ (p.A @ U), S, V.T @ (p.B @ V), (U.T @ p.C[0]) @ (p.C[1].T @ V), sign)


def orthonormal(X):
    """Q and R by scipy, as in the toolbox; numpy takes up to twice as long."""
    return scipy.linalg.qr(X, mode="economic", check_finite=False)


def bug(p: Sylvester, U, S, V):
    """One step of BUG."""
    U1, _ = orthonormal(K_flow(p, U @ S, V))
    V1, _ = orthonormal(L_flow(p, V @ S.T, U))
    return U1, S_flow(p, U1, (U1.T @ U) @ S @ (V.T @ V1), V1), V1


def augmented_bug(p: Sylvester, U, S, V):
    """One step of augmented BUG, cut back to the rank of the start."""
    U1, _ = orthonormal(np.hstack([U, K_flow(p, U @ S, V)]))
    V1, _ = orthonormal(np.hstack([V, L_flow(p, V @ S.T, U)]))
    P, d, Q_T = np.linalg.svd(S_flow(p, U1, (U1.T @ U) @ S @ (V.T @ V1), V1))
    r = len(S)
    return U1 @ P[:, :r], np.diag(d[:r]), V1 @ Q_T[:r].T


def projector_splitting(p: Sylvester, U, S, V):
    """One step of the Lie splitting."""
    U, S = orthonormal(K_flow(p, U @ S, V))
    S = S_flow(p, U, S, V, -1.0)
    V, R = orthonormal(L_flow(p, V @ S.T, U))
    return U, R.T, V


PEERS: dict[str, tuple[Integrator, Callable]] = {
    "BUG": (BUG(substep=RK4()), bug),
    "augmented BUG": (AugmentedBUG(substep=RK4(), truncation=FixedRank(RANK)), augmented_bug),
    "projector splitting": (ProjectorSplitting(substep=RK4()), projector_splitting),
}


# -- measurements --------------------------------------------------------------------------------------------------


def start(p: Sylvester, method: Integrator):
    """The state after two steps from the problem's start of rank 20."""
    state = method.init(p.initial(RANK, np.random.default_rng(1)))
    for _ in range(2):
        state = method.step(p.field, 0.0, state, H).state
    return state


def seconds(call: Callable) -> float:
    """Processor time."""
    begin = time.process_time()
    call()
    return time.process_time() - begin


def beside_the_toolbox(n: int, name: str, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of a step of the method and of the restated one, in turn, after a check that their results agree."""
    p, (method, peer) = lyapunov(n, np.random.default_rng(0)), PEERS[name]
    state = start(p, method)
    ours, theirs = method.step(p.field, 0.0, state, H).state.Y, LowRank(*peer(p, *state.Y))
    difference = ours.S - (ours.U.T @ theirs.U) @ theirs.S @ (theirs.V.T @ ours.V)
    assert np.linalg.norm(difference) < 1e-9 * np.linalg.norm(ours.S)
    times = [
        (seconds(lambda: method.step(p.field, 0.0, state, H)), seconds(lambda: peer(p, *state.Y)))
        for _ in range(rounds)
    ]
    return tuple(np.array(times).T)


def methods() -> dict[str, Integrator]:
    """All methods, and those with sub-steps with RK4 too, each at rank 20."""
    held: dict[str, Integrator] = {}
    for name, method in INTEGRATORS.items():
        if name in LEFT_OUT:
            continue
        if isinstance(method.truncation, Tolerance):
            exact = getattr(method, "rejection", None) is not None  # rejection compares with a tolerance
            rule = Tolerance(absolute=0.0, max_rank=RANK) if exact else FixedRank(RANK)
            method = replace(method, truncation=rule)
        held[name] = method
        if hasattr(method, "substep"):
            held[f"{name}, RK4"] = replace(method, substep=RK4())
    return held


def by_size(rounds: int) -> dict[str, np.ndarray]:
    """Median seconds of a step for each method and size; the methods take turns."""
    times: dict[str, list] = {}
    for n in SIZES:
        p, calls = lyapunov(n, np.random.default_rng(0)), {}
        X = np.random.default_rng(2).standard_normal((n, RANK))
        calls["one pass, X + 0.5 X"] = lambda X=X: X + 0.5 * X
        for name, method in methods().items():
            state = start(p, method)
            calls[name] = lambda p=p, m=method, s=state: m.step(p.field, 0.0, s, H)
        for call in calls.values():
            call()
        found = [[seconds(call) for call in calls.values()] for _ in range(rounds)]
        for name, median in zip(calls, np.median(found, axis=0), strict=True):
            times.setdefault(name, []).append(median)
    return {name: np.array(row) for name, row in times.items()}


# -- tables --------------------------------------------------------------------------------------------------------


def tables(rounds: int) -> str:
    """Both tables in Markdown."""
    np.ones(31 * 2**17)  # a freed block of this size makes the allocator keep memory, as it does in a longer run
    sizes = (1000, 20_000, 50_000)
    lines = [
        "| RK4 sub-steps, ms (restated toolbox), ratio | " + " | ".join(f"n = {n:,}" for n in sizes) + " |",
        "|---" * (1 + len(sizes)) + "|",
    ]
    for name in PEERS:
        cells = []
        for n in sizes:
            ours, theirs = beside_the_toolbox(n, name, rounds)
            low, middle, high = np.quantile(ours / theirs, [0.25, 0.5, 0.75])
            times = f"{1e3 * np.median(ours):.1f} ({1e3 * np.median(theirs):.1f})"
            cells.append(f"{times}, {middle:.2f} ({low:.2f} to {high:.2f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "| ms per step | " + " | ".join(f"n = {n:,}" for n in SIZES) + " | slope |"]
    lines.append("|---" * (2 + len(SIZES)) + "|")
    for name, row in by_size(max(5, rounds // 3)).items():
        slope = np.polyfit(np.log(SIZES), np.log(row), 1)[0]
        lines.append(f"| {name} | " + " | ".join(f"{1e3 * x:.3g}" for x in row) + f" | {slope:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--write", action="store_true", help="write the tables into benchmarks/README.md")
    options = parser.parse_args()
    found = tables(options.rounds)
    print(found)
    if options.write:
        write("equations", found)


if __name__ == "__main__":
    main()
