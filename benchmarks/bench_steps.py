"""Time and memory of one step of each integrator on a large structured problem.

The Lyapunov equation with a sparse operator, n = 20000, rank 20, float64, rank held: no array of size n x n fits the
memory of the methods, let alone their time. The peer in the same run is the QR factorisation of two n x r matrices,
which no method with orthonormal bases can do without. From the root of a checkout, for example on one core:

    OMP_NUM_THREADS=1 pytest benchmarks/bench_steps.py -o "python_functions=bench_*" --benchmark-columns=median,iqr
"""

import tracemalloc

import numpy as np
import pytest

from integrators import BUG, AugmentedBUG, FixedRank, GeoLoRA, LoRA, ParallelBUG, ProjectorSplitting, SVDLoRA
from problems import lyapunov

N, RANK = 20_000, 20
METHODS = {
    "lora": LoRA(),
    "svd-lora": SVDLoRA(),
    "projector-splitting": ProjectorSplitting(),
    "bug": BUG(),
    "augmented-bug": AugmentedBUG(truncation=FixedRank(RANK)),
    "parallel-bug": ParallelBUG(truncation=FixedRank(RANK)),
    "geolora": GeoLoRA(truncation=FixedRank(RANK)),
}


@pytest.fixture(scope="module")
def problem():
    return lyapunov(N, np.random.default_rng(0))


@pytest.fixture(scope="module")
def start(problem):
    return problem.initial(RANK, np.random.default_rng(1))


def bench_two_qr(benchmark, start):
    """The peer: orthonormal bases of two n x r matrices."""
    K, L = start.K + 1.0, start.L + 1.0
    benchmark(lambda: (np.linalg.qr(K), np.linalg.qr(L)))


@pytest.mark.parametrize("name", METHODS)
def bench_step(benchmark, problem, start, name):
    """One step of size 1e-3 from a state of rank 20; peak memory in units of one n x r array goes to extra_info."""
    method = METHODS[name]
    state = method.step(problem.field, 0.0, method.init(start), 1e-3).state
    tracemalloc.start()
    after = method.step(problem.field, 0.0, state, 1e-3)
    peak = tracemalloc.get_traced_memory()[1] / (N * RANK * 8)
    tracemalloc.stop()
    assert after.state.Y.rank == RANK
    benchmark.extra_info |= {"peak memory / (n r)": round(peak, 1), "evaluations": after.evaluations}
    benchmark.pedantic(method.step, (problem.field, 0.0, state, 1e-3), rounds=7, warmup_rounds=1)
