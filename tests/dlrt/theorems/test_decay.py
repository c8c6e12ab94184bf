"""Decrease of the loss with exact sub-flows."""

from dlrt.theorems import HOLDS, VIOLATED, Decay
from integrators import AugmentedBUG, ParallelBUG


def test_every_step_size_decreases_the_loss():
    """Far beyond 2 / L too; parallel BUG promises nothing, and does not."""
    claim = Decay(step_size=20.0)
    problem = claim.problems()["matrix-regression"]
    assert claim.check(claim.configured(AugmentedBUG()), problem).verdict == HOLDS
    other = claim.check(claim.configured(ParallelBUG()), problem)
    assert other.verdict == VIOLATED and not other.failed
