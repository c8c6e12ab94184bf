"""Spare directions."""

import numpy as np

from integrators import GeoLoRA, LowRank, Tolerance
from problems import MatrixRegression, synthetic


def test_published_truncation_is_trapped_and_a_spare_direction_frees_it():
    """Three spectra on which the published rule stays at too small a rank for good."""
    for values in ([20.0, 16, 12, 8, 4], [20.0, 10, 5, 4, 3], list(np.linspace(20, 5, 10))):
        problem = MatrixRegression(synthetic((60, 60), values, np.random.default_rng(1)))
        ranks = {}
        for spare in (0, 1):
            method = GeoLoRA(truncation=Tolerance(relative=0.1, spare=spare))
            state = method.init(LowRank(*problem.initial(4, np.random.default_rng(0), 1.0)))
            for _ in range(250):
                state = method.step(problem.field, 0.0, state, 0.1).state
            found = np.linalg.svd(state.Y.full(), compute_uv=False)
            ranks[spare] = int(np.sum(found > 1e-3))
        assert ranks[0] < len(values) == ranks[1]
