"""Several matrices as one."""

from dlrt.theorems import HOLDS, NOT_APPLICABLE, VIOLATED, Structure
from integrators import AdaLoRA, GeoLoRA, ImportanceBudget


def test_adalora_breaks_the_structure_where_it_masks():
    """Importance is a mean over rows, which zero blocks dilute."""
    budget = ImportanceBudget(initial=9, final=2, total_steps=8)
    problem = Structure().problems()["linear-network"]
    masked = Structure().check(AdaLoRA(truncation=budget), problem)
    assert masked.verdict == VIOLATED and not masked.failed
    assert Structure().check(AdaLoRA(), problem).verdict == HOLDS


def test_structure_is_not_applicable_where_a_block_would_vanish():
    claim = Structure(budget=3, steps=6, step_size=0.3)
    certificate = claim.check(GeoLoRA(), claim.problems()["linear-network"])
    assert certificate.verdict in (HOLDS, NOT_APPLICABLE)
    assert any(h.name == "every block keeps a direction" for h in certificate.hypotheses)
