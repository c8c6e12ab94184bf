"""Matrix differential equations and losses with known constants and solutions, to run integrators on."""

from problems.completion import MatrixCompletion, completion
from problems.given_solution import GivenSolution, given_solution
from problems.least_squares import LinearLeastSquares
from problems.manufactured import Manufactured, manufactured
from problems.problem import DenseField, Field, FiniteSum, LossProblem, OperatorField, Problem
from problems.regression import MatrixRegression
from problems.rotating import Rotating, rotating
from problems.schroedinger import Schroedinger, schroedinger
from problems.sylvester import Sylvester, lyapunov
from problems.targets import load_target, synthetic

__all__ = [
    "DenseField",
    "Field",
    "FiniteSum",
    "GivenSolution",
    "LinearLeastSquares",
    "LossProblem",
    "Manufactured",
    "MatrixCompletion",
    "MatrixRegression",
    "OperatorField",
    "Problem",
    "Rotating",
    "Schroedinger",
    "Sylvester",
    "completion",
    "given_solution",
    "load_target",
    "lyapunov",
    "manufactured",
    "rotating",
    "schroedinger",
    "synthetic",
]
