"""Dynamical low-rank integrators on plain matrices, numpy or torch alike: one method per file, one interface."""

from .adalora import AdaLoRA
from .augmented_bug import AugmentedBUG
from .bug import BUG
from .full_rank import FullRank
from .geolora import GeoLoRA
from .integrator import Integrator, Proposal, State, Step, conclude, stack, unstack
from .lora import LoRA
from .lowrank import LowRank, tangent
from .optimizers import SGD, Adam, Carried, Momentum, Optimizer
from .parallel_bug import ParallelBUG
from .projector_splitting import ProjectorSplitting
from .substeps import RK4, Euler, Exact, Heun, Repeated, Substep
from .svd_lora import SVDLoRA
from .truncation import FixedRank, GlobalBudget, ImportanceBudget, Tolerance, Truncation

__all__ = [
    "BUG", "RK4", "SGD", "AdaLoRA", "Adam", "AugmentedBUG", "Carried", "Euler", "Exact", "FixedRank", "FullRank",
    "GeoLoRA", "GlobalBudget", "Heun", "ImportanceBudget", "Integrator", "LoRA", "LowRank", "Momentum", "Optimizer",
    "ParallelBUG", "ProjectorSplitting", "Proposal", "Repeated", "SVDLoRA", "State", "Step", "Substep", "Tolerance",
    "Truncation", "conclude", "stack", "tangent", "unstack",
]  # fmt: skip
