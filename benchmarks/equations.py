"""Steps on a large matrix equation: ``OMP_NUM_THREADS=1 python -m benchmarks.equations [--write]``.

The problem is a Lyapunov equation with a sparse operator, rank 20, float64, the rank held. Three tables:

- methods with RK4 sub-steps beside the algorithm of B. Carrel's public toolbox (github.com/BenjaminCarrel, the
  repository randomized-dynamical-low-rank), which projects the coefficients on the bases once per sub-flow, restated
  below in plain numpy and scipy for this one equation. The two take turns, a step each; the ratio is the median over
  the rounds, with the quartiles. That both do the same is checked.
- the time of a step of every method by size, and the slope of its logarithm over that of n by least squares. A single
  pass over an n x 20 array, ``X + 0.5 X``, is the peer: its slope is not 1 either, as caches end;
- the most memory that a step takes beyond what is there before it, in n x 20 arrays, as tracemalloc counts numpy's
  arrays (LAPACK's workspaces are not among them).

``--sizes 500 1000`` is for a try. Times are those of the processor. With ``--write`` the tables are written into
``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable, Sequence
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
SIZES = (500, 1000, 3000, 10_000, 20_000, 50_000)
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


def peak(call: Callable) -> float:
    """Bytes that a call takes at most, beyond those allocated before."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def by_size(sizes: Sequence[int], rounds: int) -> tuple[dict[str, list], dict[str, list], dict[str, str]]:
    """Median seconds and peak bytes of a step for each method and size, which take turns; why others have none."""
    times: dict[str, list] = {}
    bytes_: dict[str, list] = {}
    unfit: dict[str, str] = {}
    for n in sizes:
        p, calls = lyapunov(n, np.random.default_rng(0)), {}
        X = np.random.default_rng(2).standard_normal((n, RANK))
        calls["one pass, X + 0.5 X"] = lambda X=X: X + 0.5 * X
        for name, method in methods().items():
            try:
                state = start(p, method)
            except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
                unfit[name] = str(error)
                continue
            calls[name] = lambda p=p, m=method, s=state: m.step(p.field, 0.0, s, H)
        for name, call in calls.items():
            call()
            bytes_.setdefault(name, []).append(peak(call))
        found = [[seconds(call) for call in calls.values()] for _ in range(rounds)]
        for name, median in zip(calls, np.median(found, axis=0), strict=True):
            times.setdefault(name, []).append(median)
    return times, bytes_, unfit


# -- tables --------------------------------------------------------------------------------------------------------


def tables(sizes: Sequence[int], rounds: int) -> str:
    """The tables in Markdown."""
    np.ones(31 * 2**17)  # a freed block of this size makes the allocator keep memory, as it does in a longer run
    few = [n for n in (1000, 20_000, 50_000) if n in sizes]
    lines = [_heading("RK4 sub-steps, ms (restated toolbox), ratio", few)] if few else []
    for name in PEERS if few else ():
        cells = []
        for n in few:
            ours, theirs = beside_the_toolbox(n, name, rounds)
            low, middle, high = np.quantile(ours / theirs, [0.25, 0.5, 0.75])
            times = f"{1e3 * np.median(ours):.1f} ({1e3 * np.median(theirs):.1f})"
            cells.append(f"{times}, {middle:.2f} ({low:.2f} to {high:.2f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    times, bytes_, unfit = by_size(sizes, max(5, rounds // 3))
    lines += ["", _heading("ms per step", sizes, "slope")]
    for name, row in times.items():
        lines.append(f"| {name} | " + " | ".join(f"{1e3 * x:.3g}" for x in row) + f" | {_slope(sizes, row):.2f} |")
    lines += ["", _heading("peak memory, n x 20 arrays", sizes, "MiB at the last", "slope")]
    for name, row in bytes_.items():
        cells = [f"{x / (8 * n * RANK):.1f}" for n, x in zip(sizes, row, strict=True)]
        cells += [f"{row[-1] / 2**20:.0f}", f"{_slope(sizes, row):.2f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [line for name, text in unfit.items() for line in ("", f"{name} does not apply: {text}.")]
    return "\n".join(lines)


def _heading(first: str, sizes: Sequence[int], *last: str) -> str:
    heads = [first, *(f"n = {n:,}" for n in sizes), *last]
    return "| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|"


def _slope(sizes: Sequence[int], row: list) -> float:
    """Of the logarithms, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(row), 1)[0])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="ascending, two or more")
    parser.add_argument("--write", action="store_true", help="write the tables into benchmarks/README.md")
    options = parser.parse_args()
    found = tables(options.sizes, options.rounds)
    print(found)
    if options.write:
        write("equations", found)


if __name__ == "__main__":
    main()
