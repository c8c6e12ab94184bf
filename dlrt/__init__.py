"""Run, compare and plot dynamical low-rank integrators.

`solve` runs one integrator on one problem and returns a `Trajectory`; `convergence` estimates an order; `sweep` runs
many `Case`s in parallel and can be interrupted; `plots` draws what came out; the command line is `dlrt --help`.
"""

from .convergence import Convergence, convergence
from .results import read_results, write_results
from .solve import solve
from .sweep import Case, Result, sweep
from .trajectory import Record, Trajectory

__all__ = [
    "Case",
    "Convergence",
    "Record",
    "Result",
    "Trajectory",
    "convergence",
    "read_results",
    "solve",
    "sweep",
    "write_results",
]
__version__ = "0.1.0"
