"""Matrix differential equations and losses with known constants and solutions, to run integrators on."""

from problems.base import DenseField, Field, FiniteSum, LossProblem, OperatorField, Problem
from problems.given_solution import GivenSolution, given_solution
from problems.regression import MatrixRegression
from problems.rotating import Rotating, rotating

__all__ = [
    "DenseField",
    "Field",
    "FiniteSum",
    "GivenSolution",
    "LossProblem",
    "MatrixRegression",
    "OperatorField",
    "Problem",
    "Rotating",
    "given_solution",
    "rotating",
]
