"""Dynamical low-rank integrators on plain matrices, numpy or torch alike: one method per file, one interface."""

from .fields import Projections, combine, tangent
from .integrator import Integrator, Step, conclude, count_evaluations
from .lowrank import LowRank
from .optimizers import SGD, Adam, Momentum, Optimizer
from .state import State, stack, unstack
from .substeps import RK4, Euler, Exact, Heun, Repeated, Substep
from .table import (
    BUG,
    INTEGRATORS,
    AdaLoRA,
    AugmentedBUG,
    FullRank,
    GeoLoRA,
    LoRA,
    ParallelBUG,
    ProjectorSplitting,
    SVDLoRA,
)
from .truncation import FixedRank, GlobalBudget, ImportanceBudget, Tolerance, Truncation

__all__ = [
    "BUG",
    "INTEGRATORS",
    "RK4",
    "SGD",
    "AdaLoRA",
    "Adam",
    "AugmentedBUG",
    "Euler",
    "Exact",
    "FixedRank",
    "FullRank",
    "GeoLoRA",
    "GlobalBudget",
    "Heun",
    "ImportanceBudget",
    "Integrator",
    "LoRA",
    "LowRank",
    "Momentum",
    "Optimizer",
    "ParallelBUG",
    "Projections",
    "ProjectorSplitting",
    "Repeated",
    "SVDLoRA",
    "State",
    "Step",
    "Substep",
    "Tolerance",
    "Truncation",
    "combine",
    "conclude",
    "count_evaluations",
    "stack",
    "tangent",
    "unstack",
]  # fmt: skip
