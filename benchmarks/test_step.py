"""Single methods under pytest-benchmark: ``pytest benchmarks``. For ratios use ``python -m benchmarks``."""

import pytest

from benchmarks.step import METHODS, make


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", ["transformer", "768x768"])
def test_step(benchmark, method, network):
    """A full training step at rank 16 with 1024 tokens."""
    step = make(method, network, 16, 1024)
    benchmark.pedantic(step, rounds=11, warmup_rounds=2)
