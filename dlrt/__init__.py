"""Run, compare and plot dynamical low-rank integrators.

`solve` runs one integrator on one problem and returns a `Trajectory`; `convergence` estimates an order; `sweep` runs
many `Case`s in parallel and can be interrupted; `plots` draws what came out; the command line is `dlrt --help`.

For torch: low-rank layers and adapters, `adapt` to put them into a model, and `LowRankOptimizer` to train them by
any integrator. Torch is imported when one of these names is first used.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

from .convergence import Convergence, convergence
from .results import read_results, write_results
from .solve import solve
from .sweep import Case, Result, sweep
from .trajectory import Record, Trajectory

if _TYPE_CHECKING:
    from .nn import (
        Conv2dAdapter,
        EmbeddingAdapter,
        LinearAdapter,
        LowRankConv2d,
        LowRankEmbedding,
        LowRankLayer,
        LowRankLinear,
        adapt,
        load_low_rank,
        low_rank_layers,
        low_rank_state_dict,
        merge,
        parameter_report,
        ranks,
        save_low_rank,
        to_lora,
    )
    from .nn.distributed import distributed
    from .nn.optimizer import LowRankOptimizer

__all__ = [
    "Case",
    "Conv2dAdapter",
    "Convergence",
    "EmbeddingAdapter",
    "LinearAdapter",
    "LowRankConv2d",
    "LowRankEmbedding",
    "LowRankLayer",
    "LowRankLinear",
    "LowRankOptimizer",
    "Record",
    "Result",
    "Trajectory",
    "adapt",
    "convergence",
    "distributed",
    "load_low_rank",
    "low_rank_layers",
    "low_rank_state_dict",
    "merge",
    "parameter_report",
    "ranks",
    "read_results",
    "save_low_rank",
    "solve",
    "sweep",
    "to_lora",
    "write_results",
]
__version__ = "0.1.0"
_HOMES = {"LowRankOptimizer": "nn.optimizer", "distributed": "nn.distributed"}
_TORCH = {name for name in __all__ if name not in globals()}


def __getattr__(name):
    if name in _TORCH:
        return getattr(_import_module(f".{_HOMES.get(name, 'nn')}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_TORCH})
