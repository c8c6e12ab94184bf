"""Run, compare and plot dynamical low-rank integrators.

`solve` runs one integrator on one problem and returns a `Trajectory`; `convergence` estimates an order; `sweep` runs
many `Case`s in parallel and can be interrupted; `plots` draws what came out; the command line is `dlrt --help`.

For torch, `dlrt.nn` has low-rank layers and adapters, `adapt` to put them into a model, and `LowRankOptimizer` to train
them by any integrator.
"""

from .convergence import Convergence, convergence
from .results import read_results, write_results
from .solve import solve
from .sweep import Case, Result, sweep
from .trajectory import Record, Trajectory
from .version import __version__

__all__ = [
    "Case",
    "Convergence",
    "Record",
    "Result",
    "Trajectory",
    "__version__",
    "convergence",
    "read_results",
    "solve",
    "sweep",
    "write_results",
]
