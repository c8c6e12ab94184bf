"""Matrix differential equations and losses with known constants and solutions, to run integrators on."""

from .allen_cahn import AllenCahn, allen_cahn
from .completion import MatrixCompletion, completion
from .cross_terms import LinearTerms, anisotropic_diffusion, solid_body_rotation
from .fields import DenseField, Field, LinearField, NonlinearField, OperatorField
from .fokker_planck import FokkerPlanck, fokker_planck
from .function import FunctionProblem, from_function
from .given_solution import GivenSolution, given_solution
from .klein_gordon import KleinGordon, klein_gordon
from .least_squares import LinearLeastSquares
from .linear_part import LinearPart
from .manufactured import Manufactured, manufactured
from .nonlinear_schroedinger import NonlinearSchroedinger, nonlinear_schroedinger
from .problem import FiniteSum, LossProblem, Problem
from .radiative_transfer import RadiativeTransfer, plane_source
from .regression import MatrixRegression
from .riccati import Riccati, riccati
from .rotating import Rotating, rotating
from .schroedinger import Schroedinger, schroedinger
from .second_order import SecondOrder
from .stochastic_burgers import StochasticBurgers, stochastic_burgers
from .sylvester import Sylvester, lyapunov
from .targets import load_target, synthetic
from .toggle_switch import toggle_switch
from .vlasov import Vlasov, landau, two_stream

__all__ = [
    "AllenCahn", "DenseField", "Field", "FiniteSum", "FokkerPlanck", "FunctionProblem", "GivenSolution",
    "KleinGordon", "LinearField", "LinearLeastSquares", "LinearPart", "LinearTerms", "LossProblem", "Manufactured",
    "MatrixCompletion", "MatrixRegression", "NonlinearField", "NonlinearSchroedinger", "OperatorField", "Problem",
    "RadiativeTransfer", "Riccati", "Rotating", "Schroedinger", "SecondOrder", "StochasticBurgers", "Sylvester",
    "Vlasov", "allen_cahn", "anisotropic_diffusion", "completion", "fokker_planck", "from_function",
    "given_solution", "klein_gordon", "landau", "load_target", "lyapunov", "manufactured",
    "nonlinear_schroedinger", "plane_source", "riccati", "rotating", "schroedinger", "solid_body_rotation",
    "stochastic_burgers", "synthetic", "toggle_switch", "two_stream",
]  # fmt: skip
