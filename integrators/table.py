"""The methods by name, as data: everything that goes over methods reads this table."""

from __future__ import annotations

from .adalora import AdaLoRA
from .augmented_bug import AugmentedBUG
from .backward_corrected_splitting import BackwardCorrectedSplitting
from .bug import BUG
from .drsvd import DRSVD
from .dynamical_nystroem import DynamicalNystroem
from .full_rank import FullRank
from .geolora import GeoLoRA
from .integrator import Integrator
from .lora import LoRA
from .lora_muon import LoRAMuon
from .merge_bug import MergeBUG
from .midpoint_bug import MidpointBUG
from .parallel_bug import ParallelBUG
from .prk_deim import PRKDEIM
from .projected_exponential import ProjectedExponential
from .projected_runge_kutta import ProjectedRungeKutta
from .projector_splitting import ProjectorSplitting
from .rand_rk4 import RandRK4
from .riemannian_descent import RiemannianDescent
from .riemannian_lora import RiemannianLoRA
from .runge_kutta_bug import RungeKuttaBUG
from .second_order_parallel_bug import SecondOrderParallelBUG
from .stella import StelLA
from .stiefel_adamw import StiefelAdamW
from .substeps import Heun
from .svd_lora import SVDLoRA
from .tdb_cur import TDBCUR

__all__ = [
    "BUG", "DRSVD", "INTEGRATORS", "PRKDEIM", "TDBCUR", "AdaLoRA", "AugmentedBUG", "BackwardCorrectedSplitting",
    "DynamicalNystroem", "FullRank", "GeoLoRA", "LoRA", "LoRAMuon", "MergeBUG", "MidpointBUG", "ParallelBUG",
    "ProjectedExponential", "ProjectedRungeKutta", "ProjectorSplitting", "RandRK4", "RiemannianDescent",
    "RiemannianLoRA", "RungeKuttaBUG", "SVDLoRA", "SecondOrderParallelBUG", "StelLA", "StiefelAdamW",
]  # fmt: skip

INTEGRATORS: dict[str, Integrator] = {
    "full-rank": FullRank(),
    "lora": LoRA(),
    "lora-muon": LoRAMuon(),
    "riemannian-lora": RiemannianLoRA(),
    "stiefel-adamw": StiefelAdamW(),
    "svd-lora": SVDLoRA(),
    "stella": StelLA(),
    "adalora": AdaLoRA(),
    "projector-splitting": ProjectorSplitting(),
    "projector-splitting-strang": ProjectorSplitting(order=2, substep=Heun()),
    "bug": BUG(),
    "augmented-bug": AugmentedBUG(),
    "parallel-bug": ParallelBUG(),
    "parallel-bug-rejection": ParallelBUG(rejection=10.0),
    "geolora": GeoLoRA(),
    "midpoint-bug": MidpointBUG(),
    "midpoint-bug-3r": MidpointBUG(columns=3),
    "second-order-parallel-bug": SecondOrderParallelBUG(),
    "runge-kutta-bug-2": RungeKuttaBUG(),
    "runge-kutta-bug-3": RungeKuttaBUG(order=3),
    "backward-corrected-splitting": BackwardCorrectedSplitting(),
    "projected-runge-kutta-1": ProjectedRungeKutta(),
    "projected-runge-kutta-2": ProjectedRungeKutta(order=2),
    "projected-runge-kutta-3": ProjectedRungeKutta(order=3),
    "drsvd": DRSVD(),
    "dynamical-nystroem": DynamicalNystroem(),
    "rand-rk4": RandRK4(),
    "merge-bug": MergeBUG(),
    "prk-deim-1": PRKDEIM(),
    "prk-deim-2": PRKDEIM(order=2),
    "prk-deim-3": PRKDEIM(order=3),
    "tdb-cur": TDBCUR(),
    "riemannian-descent": RiemannianDescent(),
    "projected-exponential-1": ProjectedExponential(),
    "projected-exponential-2": ProjectedExponential(order=2),
}
