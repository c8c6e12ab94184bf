"""The figures and tables by name: module, description, and settings where a module serves several."""

from __future__ import annotations

from .item import Item

_FIGURES: dict[str, tuple] = {
    "1": ("flows.figure1", "Figure 1: simultaneous against Riemannian gradient flow on the cone of rank 1"),
    "2": ("adapters.start_ranks", "Figure 2: start ranks of GeoLoRA; accuracy over budget and rate, and AdaLoRA"),
    "3": ("adapters.allocations", "Figure 3: rank of each layer after training, GeoLoRA and AdaLoRA", {"lr": 1e-3}),
    "4": ("adapters.allocations", "Figure 4: rank of each layer, at ten times the rate of Figure 3", {"lr": 1e-2}),
    "5": ("regression.figure5", "Figure 5: stable step sizes and the entries of S in matrix regression"),
    "losses": ("regression.losses", "Losses of all methods on the regression of Figure 5, each at its best rate"),
    "rank-recovery": ("regression.rank_recovery", "Premature rank loss of GeoLoRA and its cure by a spare direction"),
}
_ACCURACIES = "adapters.accuracy_table"
_TABLES: dict[str, tuple] = {
    "1": ("costs.table1", "Table 1: work, memory, gradient tapes and guarantees of each method, measured"),
    "2": (_ACCURACIES, "Table 2: all methods on sentences, MiniLM on movie reviews", {"task": "sentences"}),
    "3": (_ACCURACIES, "Table 3: all methods on images, ViT-S/14 on Fashion-MNIST", {"task": "images"}),
    "4": ("adapters.table4", "Table 4: all methods on a diffusion model, a small U-Net on Fashion-MNIST"),
    "directions": ("adapters.directions", "Tasks where directions limit: all methods at three numbers of parameters"),
    "methods": (
        "equations.methods",
        "Methods on equations: order, small singular values, plateau, stable steps, measured",
    ),
}
FIGURES = {name: Item("figure", name, *about) for name, about in _FIGURES.items()}
TABLES = {name: Item("table", name, *about) for name, about in _TABLES.items()}
