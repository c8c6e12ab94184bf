"""The figures and tables by name."""

from __future__ import annotations

from .item import Item

_NETWORKS = ("torch", "transformers", "peft")

FIGURES: dict[str, Item] = {
    "1": Item(
        "figure",
        "1",
        "flows.figure1",
        "Figure 1: simultaneous against Riemannian gradient flow on the cone of rank 1",
    ),
    "2": Item(
        "figure",
        "2",
        "adapters.start_ranks",
        "Figure 2: start ranks of GeoLoRA; accuracy over budget and learning rate, and AdaLoRA",
        packages=_NETWORKS,
    ),
    "3": Item(
        "figure",
        "3",
        "adapters.allocations",
        "Figure 3: rank of each layer after training, GeoLoRA and AdaLoRA",
        settings={"lr": 1e-3},
        packages=_NETWORKS,
    ),
    "4": Item(
        "figure",
        "4",
        "adapters.allocations",
        "Figure 4: rank of each layer, at ten times the learning rate of Figure 3",
        settings={"lr": 1e-2},
        packages=_NETWORKS,
    ),
    "5": Item(
        "figure",
        "5",
        "regression.figure5",
        "Figure 5: stable step sizes and the entries of S in matrix regression",
    ),
    "losses": Item(
        "figure",
        "losses",
        "regression.losses",
        "Losses of all methods on the regression of Figure 5, each at its best rate",
    ),
    "rank-recovery": Item(
        "figure",
        "rank-recovery",
        "regression.rank_recovery",
        "Premature rank loss of GeoLoRA and its cure by a spare direction",
    ),
}
TABLES: dict[str, Item] = {
    "1": Item(
        "table",
        "1",
        "costs.table1",
        "Table 1: work, memory, gradient tapes and guarantees of each method, measured",
        packages=("torch",),
    ),
    "2": Item(
        "table",
        "2",
        "adapters.accuracy_table",
        "Table 2: all methods on sentences, MiniLM on movie reviews",
        settings={"task": "sentences"},
        packages=_NETWORKS,
    ),
    "3": Item(
        "table",
        "3",
        "adapters.accuracy_table",
        "Table 3: all methods on images, ViT-S/14 on Fashion-MNIST",
        settings={"task": "images"},
        packages=_NETWORKS,
    ),
    "4": Item(
        "table",
        "4",
        "adapters.table4",
        "Table 4: all methods on a diffusion model, a small U-Net on Fashion-MNIST",
        packages=("torch", "diffusers", "peft"),
    ),
}
