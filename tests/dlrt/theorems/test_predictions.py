"""What theory predicts for simultaneous descent."""

import pytest

from dlrt.theorems import HOLDS, NOT_APPLICABLE, factor_methods
from integrators import AdaLoRA, Adam, LoRA, SVDLoRA


@pytest.mark.parametrize("method", [LoRA(), SVDLoRA()], ids=lambda m: type(m).__name__)
def test_local_error_and_stable_step_are_as_predicted(method):
    certificate = factor_methods(method, sigmas=(3.0,))
    assert certificate.verdict == HOLDS and certificate.promised
    assert {s.name for s in certificate.series} >= {"local error over sigma_min", "prediction"}


@pytest.mark.parametrize(("method", "reason"), [(AdaLoRA(), "without a penalty"), (LoRA(optimizer=Adam()), "plain")])
def test_predictions_are_for_plain_descent_on_factors(method, reason):
    certificate = factor_methods(method)
    assert certificate.verdict == NOT_APPLICABLE and not certificate.failed
    assert reason in certificate.reason
