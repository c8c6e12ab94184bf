"""All theorems for one method, also for one from outside."""

import pytest

from dlrt.theorems import HOLDS, NOT_APPLICABLE, THEOREMS, verify
from integrators import GeoLoRA, Integrator
from integrators.parallel_bug import augmented


class Undeclared(Integrator):
    """A method of somebody else's: stages, and nothing declared."""

    def stages(self, t, state, h):
        f = yield t, state.Y
        return augmented(state.Y, h * f.K, h * f.L, h * f.S)


def test_a_method_from_outside_is_verified_and_promised_nothing():
    found = verify(Undeclared(), [name for name in THEOREMS if name not in ("error-bound", "convergence", "stiffness")])
    verdicts = {name: {c.verdict for c in found if c.theorem == name} for name in THEOREMS}
    assert not any(c.promised or c.failed for c in found)
    assert verdicts["riemannian-step"] == {HOLDS}  # it is the Riemannian gradient step, though nobody has said so
    assert verdicts["exactness"] == {NOT_APPLICABLE}
    assert all(c.integrator.startswith("Undeclared(") for c in found)


@pytest.mark.slow
def test_all_theorems_for_a_method_from_outside():
    found = verify(Undeclared())
    assert {c.theorem for c in found} == set(THEOREMS)
    assert not any(c.failed for c in found)


def test_unknown_theorems_are_refused():
    with pytest.raises(ValueError, match="did you mean 'descent'"):
        verify(GeoLoRA(), ["descend"])
