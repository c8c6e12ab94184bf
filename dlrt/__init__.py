"""Run, compare and plot dynamical low-rank integrators."""

from .solve import solve
from .trajectory import Record, Trajectory

__all__ = ["Record", "Trajectory", "solve"]
__version__ = "0.1.0"
