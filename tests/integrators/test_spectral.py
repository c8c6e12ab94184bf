"""Spectral steps: the contract, dense arithmetic, descent."""

from dlrt.testing import Contract
from integrators import BUG, AugmentedBUG, FixedRank, GeoLoRA, Spectral, Tolerance


class TestSpectral(Contract):
    integrator = GeoLoRA(optimizer=Spectral(), truncation=FixedRank(4))
    h = 0.01
    # follows another flow than the field's
    test_order = test_robust_to_small_singular_values = None


class TestSpectralBUG(Contract):
    integrator = BUG(optimizer=Spectral())
    h = 0.01
    test_order = test_robust_to_small_singular_values = None


class TestSpectralAugmentedBUG(Contract):
    # new singular values are all equal, so that where FixedRank cuts would be for rounding to say
    integrator = AugmentedBUG(optimizer=Spectral(), truncation=Tolerance(absolute=1e-8))
    h = 0.01
    test_order = test_robust_to_small_singular_values = None
