"""Low-rank layers and adapters for torch, and what is done with whole models of them."""

from .factors import Factor, assign
from .functional import low_rank_conv2d, low_rank_embedding, low_rank_linear
from .layers import (
    Conv2dAdapter,
    EmbeddingAdapter,
    LinearAdapter,
    LowRankConv2d,
    LowRankEmbedding,
    LowRankLayer,
    LowRankLinear,
)
from .model import (
    LoRAFactors,
    ParameterReport,
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

__all__ = [
    "Conv2dAdapter", "EmbeddingAdapter", "Factor", "LinearAdapter", "LoRAFactors", "LowRankConv2d", "LowRankEmbedding",
    "LowRankLayer", "LowRankLinear", "ParameterReport", "adapt", "assign", "load_low_rank", "low_rank_conv2d",
    "low_rank_embedding", "low_rank_layers", "low_rank_linear", "low_rank_state_dict", "merge", "parameter_report",
    "ranks", "save_low_rank", "to_lora",
]  # fmt: skip
