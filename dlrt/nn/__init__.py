"""Low-rank layers and adapters for torch, whole models of them, and `LowRankOptimizer` to train them."""

from .adapters import Adapter, Conv2dAdapter, EmbeddingAdapter, LinearAdapter
from .distributed import distributed
from .factors import Factor, assign
from .functional import low_rank_conv, low_rank_conv_transpose, low_rank_embedding, low_rank_linear
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
    "Adapter",
    "Conv2dAdapter",
    "EmbeddingAdapter",
    "Factor",
    "LayerReport",
    "LinearAdapter",
    "LoRAFactors",
    "LowRankConv2d",
    "LowRankEmbedding",
    "LowRankLayer",
    "LowRankLinear",
    "LowRankOptimizer",
    "ParameterReport",
    "TrainedLayer",
    "adapt",
    "assign",
    "distributed",
    "load_low_rank",
    "low_rank_conv",
    "low_rank_conv_transpose",
    "low_rank_embedding",
    "low_rank_layers",
    "low_rank_linear",
    "low_rank_state_dict",
    "matches",
    "merge",
    "parameter_report",
    "ranks",
    "save_low_rank",
    "to_lora",
]
