"""One script per figure or table of the GeoLoRA paper (arXiv:2410.18720), and the paper's reference numbers."""

FIGURES: dict[str, tuple[str, str]] = {
    "1": ("paper_figures.figure1", "Figure 1: simultaneous against Riemannian gradient flow on the cone of rank 1"),
    "2": (
        "paper_figures.figure2",
        "Figure 2: start ranks of GeoLoRA; accuracy over budget and learning rate, and AdaLoRA",
    ),
    "3": ("paper_figures.figure3", "Figure 3: rank of each layer after training, GeoLoRA and AdaLoRA"),
    "4": ("paper_figures.figure4", "Figure 4: rank of each layer, at ten times the learning rate of Figure 3"),
    "5": ("paper_figures.figure5", "Figure 5: stable step sizes and the entries of S in matrix regression"),
    "losses": ("paper_figures.losses", "Losses of all methods on the regression of Figure 5, each at its best rate"),
    "rank-recovery": (
        "paper_figures.rank_recovery",
        "Premature rank loss of GeoLoRA and its cure by a spare direction",
    ),
}
TABLES: dict[str, tuple[str, str]] = {
    "1": ("paper_figures.table1", "Table 1: work, memory, gradient tapes and guarantees of each method, measured"),
    "2": ("paper_figures.table2", "Table 2: all methods on sentences, MiniLM on movie reviews"),
    "3": ("paper_figures.table3", "Table 3: all methods on images, ViT-S/14 on Fashion-MNIST"),
    "4": ("paper_figures.table4", "Table 4: all methods on a diffusion model, a small U-Net on Fashion-MNIST"),
}
"""Name to (module, description). Each module has ``run(out, quick=False, jobs=1, progress=None) -> dict``; those that
fine-tune a pretrained network take ``model`` and ``data`` too. Of a table the result has ``rows``."""
