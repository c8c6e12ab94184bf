"""One script per figure or table of the GeoLoRA paper (arXiv:2410.18720), and the paper's reference numbers."""

FIGURES: dict[str, tuple[str, str]] = {
    "1": ("paper_figures.figure1", "Figure 1: simultaneous against Riemannian gradient flow on the cone of rank 1"),
    "5": ("paper_figures.figure5", "Figure 5: stable step sizes and the entries of S in matrix regression"),
    "rank-recovery": (
        "paper_figures.rank_recovery",
        "Premature rank loss of GeoLoRA and its cure by a spare direction",
    ),
}
"""Name to (module, description). Each module has ``run(out, quick=False, jobs=1, progress=None) -> dict``."""
