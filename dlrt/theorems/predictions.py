"""What theory predicts for simultaneous descent on factors: its local error and its stable step size."""

from __future__ import annotations

from integrators import Integrator, LoRA, SVDLoRA

from .certificate import Certificate, Hypothesis
from .hypotheses import plain_descent
from .local_error import simultaneous_descent
from .stiffness import Stiffness
from .theorem import label


def factor_methods(integrator: Integrator, sigmas: tuple[float, ...] = Stiffness.sigmas) -> Certificate:
    r"""Simultaneous descent follows P^ F, with the local error and the stiffness that follow from it.

    - Local error of a step h against the flow of F: ``h ||F - P^ F||`` up to explicit terms of second order, for
      sigma_min from 1e-1 to 1e-14 and for sigma_1 from 0.1 to 100: it falls like h only, not like h^2, so the global
      error does not vanish with h, and it grows like ``sigma_1^2``
      (:func:`~dlrt.theorems.local_error.simultaneous_descent`);
    - largest stable step size ``2 / (2 sigma_1^2 + 1)`` for SVD-LoRA from orthonormal U, V, ``2 / (3 sigma_1^{4/3})``
      from balanced factors; ``2 / (sigma_1^2 + 1)`` and ``1 / sigma_1`` for LoRA (:class:`~dlrt.theorems.Stiffness`),
      within the resolution of the measurement, 1 %.

    Hypotheses: plain descent; LoRA or SVD-LoRA (AdaLoRA has a penalty besides).

    Source: derived; the statements are those of Schotthöfer et al. (2025), arXiv:2410.18720, section 3.

    Parameters
    ----------
    integrator : Integrator
    sigmas : tuple of float
        Values of sigma_1 for the step sizes.
    """
    ours = isinstance(integrator, (LoRA, SVDLoRA))
    hypotheses = (Hypothesis("descent on factors without a penalty", ours), plain_descent(integrator))
    found = []
    if all(h.met for h in hypotheses):
        stiffness = Stiffness(sigmas=sigmas).check(integrator).series
        found = [*simultaneous_descent(integrator), *(s for s in stiffness if s.name.startswith("prediction"))]
    return Certificate(
        theorem="factor-methods",
        statement="simultaneous descent: local error h ||F - P^ F||, stable up to 2 / (2 sigma_1^2 + 1) and the like",
        source="derived",
        integrator=label(integrator),
        problem="several",
        hypotheses=hypotheses,
        series=tuple(found),
        promised=ours,
        promise="simultaneous descent on the factors" if ours else "no method of factors without a penalty",
    )
