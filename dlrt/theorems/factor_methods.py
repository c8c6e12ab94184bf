"""What theory predicts for simultaneous descent on factors: its local error and its stable step size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from integrators import LoRA, SVDLoRA

from .certificate import Certificate, Hypothesis
from .error_bound import ErrorBound
from .stiffness import Stiffness
from .theorem import Theorem, plain_descent


@dataclass(frozen=True)
class FactorMethods(Theorem):
    r"""Simultaneous descent follows P^ F, with the local error and the stiffness that follow from it.

    - Local error of a step h against the flow of F: ``h ||F - P^ F||`` up to explicit terms of second order, for
      sigma_min from 1e-1 to 1e-14 and for sigma_1 from 0.1 to 100 (:class:`~dlrt.theorems.ErrorBound`): it falls like
      h only, not like h^2, so the global error does not vanish with h, and it grows like ``sigma_1^2``;
    - largest stable step size ``2 / (2 sigma_1^2 + 1)`` for SVD-LoRA from orthonormal U, V, ``2 / (3 sigma_1^{4/3})``
      from balanced factors; ``2 / (sigma_1^2 + 1)`` and ``1 / sigma_1`` for LoRA (:class:`~dlrt.theorems.Stiffness`),
      within the resolution of the measurement, 1 %.

    Hypotheses: plain descent; LoRA or SVD-LoRA (AdaLoRA has a penalty besides).

    Source: derived; the statements are those of Schotthöfer et al. (2025), arXiv:2410.18720, section 3.
    """

    name = "factor-methods"
    statement = "simultaneous descent: local error h ||F - P^ F||, stable up to 2 / (2 sigma_1^2 + 1) and the like"
    source = "derived"

    def promises(self, integrator):
        """LoRA and SVD-LoRA."""
        ours = isinstance(integrator, (LoRA, SVDLoRA))
        return ours, "simultaneous descent on the factors" if ours else "no method of factors without a penalty"

    @np.errstate(all="ignore")
    def check(self, integrator, problem=None, *, sigmas=(1.0, 10.0, 100.0)) -> Certificate:
        """Both predictions, on problems that are made here."""
        hypotheses = [
            Hypothesis("descent on factors without a penalty", isinstance(integrator, (LoRA, SVDLoRA))),
            plain_descent(integrator),
        ]
        found = []
        if all(h.met for h in hypotheses):
            found = ErrorBound().local_prediction(integrator)
            stiffness = Stiffness().check(integrator, sigmas=sigmas)
            found += [s for s in stiffness.series if s.name.startswith("prediction")]
        return self.certificate(integrator, "several", hypotheses, found)

    def cases(self, integrator, full=False):
        """Three values of sigma_1, or seven."""
        yield self.check(integrator, sigmas=Stiffness.all_sigmas if full else (1.0, 10.0, 100.0))
