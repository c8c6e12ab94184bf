"""The table of local errors."""

from dlrt.theorems import ErrorBound
from dlrt.theorems.local_error import LOCAL, kind_of
from integrators import LoRA, ProjectorSplitting


def test_every_promised_method_has_constants():
    """And a method of unknown kind has none."""
    names = {"Lie", "Strang"} | {m.__name__ for m in ErrorBound.promised if m is not ProjectorSplitting}
    assert {kind for kind, _ in LOCAL} == names
    assert kind_of(ProjectorSplitting()) == "Lie" and kind_of(ProjectorSplitting(order=2)) == "Strang"
    assert kind_of(LoRA()) == ""
