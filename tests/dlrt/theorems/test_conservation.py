"""Norm and energy of the Schroedinger equation."""

import pytest

from dlrt.theorems import HOLDS, VIOLATED, Conservation
from integrators import BUG, AugmentedBUG


@pytest.mark.parametrize(("method", "verdict"), [(AugmentedBUG(), HOLDS), (BUG(), VIOLATED)])
def test_norm_and_energy(method, verdict):
    """Kept where the start is in the Galerkin space; BUG of fixed rank changes the bases in between."""
    claim = Conservation(steps=2)
    certificate = claim.check(claim.configured(method), claim.problems()["schroedinger"])
    assert certificate.verdict == verdict and not certificate.failed
