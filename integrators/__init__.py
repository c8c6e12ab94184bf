"""Dynamical low-rank integrators on plain matrices, numpy or torch alike: one method per file, one interface."""

from . import table
from .adam import Adam, AlignedAdam, FactoredAdam
from .bibliography import citation
from .factor_optimizers import LoRAPlus, Muon
from .fields import Projections, combine, tangent
from .integrator import Integrator, Step, conclude, count_evaluations
from .lowrank import LowRank
from .optimizers import SGD, Momentum, Normalised, Optimizer
from .spectral import Spectral
from .state import State, stack, unstack
from .substeps import RK4, Euler, Exact, Exponential, Heun, Implicit, Repeated, Substep
from .table import *  # noqa: F403  the methods
from .truncation import Conservative, FixedRank, GlobalBudget, ImportanceBudget, Tolerance, Truncation

__all__ = [
    "RK4", "SGD", "Adam", "AlignedAdam", "Conservative", "Euler", "Exact", "Exponential", "FactoredAdam", "FixedRank",
    "GlobalBudget", "Heun", "Implicit", "ImportanceBudget", "Integrator", "LoRAPlus", "LowRank", "Momentum", "Muon",
    "Normalised", "Optimizer", "Projections", "Repeated", "Spectral", "State", "Step", "Substep", "Tolerance",
    "Truncation", "citation", "combine", "conclude", "count_evaluations", "stack", "tangent", "unstack",
]  # fmt: skip
__all__ += table.__all__
