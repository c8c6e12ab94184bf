"""Low-rank layers and adapters for torch, whole models of them, and `LowRankOptimizer` to train them."""

from .adapters import Adapter, Conv2dAdapter, EmbeddingAdapter, LinearAdapter
from .average import AveragedModel
from .distributed import distributed, prepare_distributed
from .factors import Factor, assign
from .functional import low_rank_conv2d, low_rank_embedding, low_rank_linear
from .layers import LowRankConv2d, LowRankEmbedding, LowRankLayer, LowRankLinear, TrainedLayer
from .model import (
    LayerReport,
    LoRAFactors,
    ParameterReport,
    adapt,
    load_low_rank,
    low_rank_layers,
    low_rank_state_dict,
    matches,
    merge,
    parameter_report,
    ranks,
    save_low_rank,
    to_lora,
)
from .optimizer import LowRankOptimizer

__all__ = [
    "Adapter", "AveragedModel", "Conv2dAdapter", "EmbeddingAdapter", "Factor", "LayerReport", "LinearAdapter",
    "LoRAFactors", "LowRankConv2d", "LowRankEmbedding", "LowRankLayer", "LowRankLinear", "LowRankOptimizer",
    "ParameterReport", "TrainedLayer", "adapt", "assign", "distributed", "load_low_rank", "low_rank_conv2d",
    "low_rank_embedding", "low_rank_layers", "low_rank_linear", "low_rank_state_dict", "matches", "merge",
    "parameter_report", "prepare_distributed", "ranks", "save_low_rank", "to_lora",
]  # fmt: skip
