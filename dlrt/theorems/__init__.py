r"""What the theory of low-rank integrators promises, checked with explicit constants on any problem and integrator.

Each theorem is an object with its statement, hypotheses, proof and source in the docstring, and a method
``check(integrator, problem) -> Certificate``: both sides of every inequality, slack for rounding, ratio, the
constants and where they come from, and a verdict: ``holds``, ``violated`` or ``not applicable``. A violation is a
failure where theory promises the statement for the method, and a finding where it does not. `symbolic` proves the
identities behind them by computer algebra.

>>> from integrators import GeoLoRA
>>> from problems import MatrixRegression, synthetic
>>> import numpy as np
>>> problem = MatrixRegression(synthetic((8, 6), [2.0, 1.0, 0.5], np.random.default_rng(0)))
>>> Descent().check(GeoLoRA(), problem, step_size=0.5, rank=2).verdict
'holds'
"""

from .certificate import HOLDS, NOT_APPLICABLE, VIOLATED, Certificate, Constant, Hypothesis, Series, worst_of
from .conservation import Conservation
from .convergence import Convergence, Polynomial
from .decay import Decay
from .descent import Descent
from .error_bound import ErrorBound
from .exactness import Exactness
from .factor_methods import FactorMethods
from .riemannian_step import RiemannianStep
from .spare import Spare
from .stationary import Stationary, resting_point
from .stiffness import Stiffness, predicted_rate
from .structure import LinearNetwork, Structure
from .symbolic import Proof, Symbolic
from .theorem import Theorem

THEOREMS: dict[str, Theorem] = {
    theorem.name: theorem
    for theorem in (
        RiemannianStep(),
        Descent(),
        Convergence(),
        ErrorBound(),
        Structure(),
        Stationary(),
        Stiffness(),
        FactorMethods(),
        Spare(),
        Exactness(),
        Conservation(),
        Decay(),
        Symbolic(),
    )
}

__all__ = [
    "HOLDS", "NOT_APPLICABLE", "THEOREMS", "VIOLATED", "Certificate", "Conservation", "Constant", "Convergence",
    "Decay", "Descent", "ErrorBound", "Exactness", "FactorMethods", "Hypothesis", "LinearNetwork", "Polynomial",
    "Proof", "RiemannianStep", "Series", "Spare", "Stationary", "Stiffness", "Structure", "Symbolic", "Theorem",
    "predicted_rate", "resting_point", "worst_of",
]  # fmt: skip
