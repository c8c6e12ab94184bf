r"""What the theory of low-rank integrators promises, checked with explicit constants on any problem and integrator.

Each theorem is an object with its statement, hypotheses, proof and source in the docstring, its settings as fields, and
a method ``check(integrator, problem) -> Certificate``: both sides of every inequality, slack for rounding, ratio, the
constants and where they come from, and a verdict: ``holds``, ``violated`` or ``not applicable``. A violation is a
failure where theory promises the statement for the method, and a finding where it does not. `verify` checks all of
them for one method; `factor_methods` compares LoRA and SVD-LoRA with what theory predicts for them, `one_frame` five
LoRA optimisers with functions of one tangent vector, and `prove` proves the identities behind the theorems by computer
algebra.

>>> from integrators import GeoLoRA
>>> from problems import MatrixRegression, synthetic
>>> import numpy as np
>>> problem = MatrixRegression(synthetic((8, 6), [2.0, 1.0, 0.5], np.random.default_rng(0)))
>>> Descent(step_size=0.5, rank=2).check(GeoLoRA(), problem).verdict
'holds'
"""

from .certificate import HOLDS, NOT_APPLICABLE, VIOLATED, Certificate, Constant, Hypothesis, Series, worst_of
from .conservation import Conservation
from .convergence import Convergence, Polynomial
from .cross_terms import CrossTerms
from .decay import Decay
from .descent import Descent
from .error_bound import ErrorBound, Scaling
from .exactness import Exactness
from .frame import one_frame
from .moments import Moments
from .predictions import factor_methods
from .riemannian_step import RiemannianStep
from .second_order import SecondOrder
from .spare import Spare
from .spectral_step import SpectralStep
from .stationary import Stationary, resting_point
from .stiffness import Stiffness, predicted_rate
from .structure import LinearNetwork, Structure
from .symbolic import Proof, prove
from .table import THEOREMS, verify
from .theorem import Measured, Theorem

__all__ = [
    "HOLDS", "NOT_APPLICABLE", "THEOREMS", "VIOLATED", "Certificate", "Conservation", "Constant", "Convergence",
    "CrossTerms", "Decay", "Descent", "ErrorBound", "Exactness", "Hypothesis", "LinearNetwork", "Measured",
    "Moments", "Polynomial", "Proof", "RiemannianStep", "Scaling", "SecondOrder", "Series", "Spare", "SpectralStep",
    "Stationary", "Stiffness", "Structure", "Theorem", "factor_methods", "one_frame", "predicted_rate", "prove",
    "resting_point", "verify", "worst_of",
]  # fmt: skip
