"""Given matrix functions of exact rank."""

from dlrt.theorems import HOLDS, VIOLATED, Exactness
from integrators import BUG, ParallelBUG


def test_parallel_bug_is_not_exact():
    """It leaves out one block; so nothing is promised."""
    claim = Exactness()
    problem = claim.problems()["rotating"]
    certificate = claim.check(claim.configured(ParallelBUG()), problem)
    assert certificate.verdict == VIOLATED and not certificate.failed
    assert claim.check(claim.configured(BUG()), problem).verdict == HOLDS
