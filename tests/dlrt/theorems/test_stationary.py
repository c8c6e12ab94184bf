"""Points of rest."""

from dlrt.theorems import VIOLATED, Stationary
from integrators import LoRA, SVDLoRA


def test_resting_points_are_exact():
    """Not a bit moves."""
    for method in (SVDLoRA(), LoRA()):
        certificate = Stationary().check(method)
        assert certificate.verdict == VIOLATED
        assert any("rests exactly" in note for note in certificate.notes)
