"""The methods by name, as data: everything that goes over methods reads this table."""

from __future__ import annotations

from .adalora import AdaLoRA
from .augmented_bug import AugmentedBUG
from .bug import BUG
from .full_rank import FullRank
from .geolora import GeoLoRA
from .integrator import Integrator
from .lora import LoRA
from .lora_muon import LoRAMuon
from .parallel_bug import ParallelBUG
from .projector_splitting import ProjectorSplitting
from .riemannian_lora import RiemannianLoRA
from .stella import StelLA
from .stiefel_adamw import StiefelAdamW
from .substeps import Heun
from .svd_lora import SVDLoRA

__all__ = [
    "BUG", "INTEGRATORS", "AdaLoRA", "AugmentedBUG", "FullRank", "GeoLoRA", "LoRA", "LoRAMuon", "ParallelBUG",
    "ProjectorSplitting", "RiemannianLoRA", "SVDLoRA", "StelLA", "StiefelAdamW",
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
}
