"""The table of theorems, and all of them for one method."""

from __future__ import annotations

from collections.abc import Iterable

from integrators import Integrator

from ..registry import lookup
from .certificate import Certificate
from .conservation import Conservation
from .convergence import Convergence
from .cross_terms import CrossTerms
from .decay import Decay
from .descent import Descent
from .error_bound import ErrorBound
from .exactness import Exactness
from .moments import Moments
from .riemannian_step import RiemannianStep
from .second_order import SecondOrder
from .spare import Spare
from .spectral_step import SpectralStep
from .stationary import Stationary
from .stiffness import Stiffness
from .structure import Structure
from .theorem import Theorem

THEOREMS: dict[str, Theorem] = {
    theorem.name: theorem
    for theorem in (
        RiemannianStep(),
        Descent(),
        Convergence(),
        SpectralStep(),
        ErrorBound(),
        Structure(),
        Stationary(),
        Stiffness(),
        Spare(),
        Exactness(),
        Conservation(),
        Moments(),
        Decay(),
        SecondOrder(),
        CrossTerms(),
    )
}
"""All theorems by name."""


def verify(integrator: Integrator, theorems: Iterable[str] | None = None, full: bool = False) -> list[Certificate]:
    """All certificates of a method: what theory promises for it, and what merely holds or does not.

    Parameters
    ----------
    integrator : Integrator
        Any method, also one that is not in the registry; it need not declare anything.
    theorems : iterable of str, optional
        Names in :data:`THEOREMS`; all by default.
    full : bool
        The large sweep, minutes instead of seconds, instead of the small cases.

    Raises
    ------
    ValueError
        A theorem is unknown.
    """
    chosen = [lookup("theorem", name, THEOREMS) for name in (THEOREMS if theorems is None else theorems)]
    return [certificate for theorem in chosen for certificate in theorem.cases(integrator, full)]
