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
PICTURES: dict[str, str] = {
    "figure1": (
        "The cone of symmetric matrices of rank 1 with two flows from one start. Seen from above, over the contours "
        "of the loss, the Riemannian flow ends at the optimum, the simultaneous one at the tip of the cone. There the "
        "simultaneous gradient has fallen to 1e-11, while the Riemannian gradient stays near 1."
    ),
    "figure2": (
        "From start ranks 2 to 64 GeoLoRA has nearly the same number of parameters after ten of 100 steps, and "
        "validation accuracies end at 0.82. Heat maps of test accuracy over budget and rate: GeoLoRA is best at rate "
        "0.001, 0.82, and has 0.75 to 0.79 at 0.0001; AdaLoRA is best at 0.01, 0.82, and has 0.68 at 0.0001; spectral "
        "steps have 0.80 to 0.82 at 0.0001, 0.78 to 0.80 at 0.001, and below 0.26 at 0.01; at 0.1 all are near chance."
    ),
    "figure3": (
        "Heat maps of the rank in each of 12 blocks and six positions at rate 0.001. GeoLoRA puts its rank into the "
        "layer fc1, and into fc2 of the lower blocks, up to 17; AdaLoRA spreads it, 5 to 10 nearly everywhere, with "
        "less in query and key and none there in the two lowest blocks; spectral steps put it into value, output and "
        "fc2 of the upper four blocks, up to 43, and keep 1 in most other layers."
    ),
    "figure4": (
        "Heat maps of the rank in each of 12 blocks and six positions at rate 0.01. GeoLoRA again puts most into fc1 "
        "and, in the lower blocks, fc2, up to 15; AdaLoRA has 5 to 10 in most layers and hardly any in query and key "
        "of the lowest three blocks; spectral steps put it into value, output and fc2 of the upper four, up to 44."
    ),
    "figure5": (
        "Entries of S over 1000 iterations: they go on oscillating for SVD-LoRA at rate 0.00178, creep for AdaLoRA at "
        "the same rate, and are at rest after about 100 for GeoLoRA at rate 0.1. Below, the losses: GeoLoRA and full "
        "rank fall together to 1e-9, LoRA at 0.01 lower still, SVD-LoRA stays above 0.1 and AdaLoRA near 0.1."
    ),
    "losses": (
        "Relative error over gradient evaluations. At their best rates full rank, GeoLoRA, the projector splitting "
        "and the BUG methods reach 2e-7 within a few evaluations, LoRA after 40, SVD-LoRA after 200; AdaLoRA stays "
        "above 1e-3. At rate 0.1 GeoLoRA and parallel BUG follow full rank to 1e-6 in about 130 evaluations, BUG and "
        "augmented BUG need twice as many, the projector splitting three times."
    ),
    "rank-recovery": (
        "Number of 15 runs that recover the rank, by singular values, tolerance and start. With one spare direction "
        "all 15 do everywhere. Without one few do at tolerance 0.1 from zero and most at 0.01; from a start as large "
        "as the matrix none but two sets of singular values at 0.01."
    ),
    "rank-recovery-noise": (
        "Rank found against noise over tolerance. With one spare direction it is the true 5 up to 1.2 and rises to 21 "
        "at 2.5; the published method finds 3 to 4 from a large start, and from zero mostly 5 up to 1.9, then 11."
    ),
    "table1": (
        "Operations of one step on logarithmic axes. Over n they grow like the square for full rank and linearly for "
        "all low-rank methods, which are about a hundredfold lower at n = 4096. Over the rank, up to 64, the methods "
        "with one tape, GeoLoRA among them, stay below the projector splitting and augmented BUG."
    ),
    "table2": (
        "Test accuracy against parameters of the adapters, MiniLM on movie reviews, with standard errors over five "
        "seeds. GeoLoRA with spectral steps and a budget has 0.81 with 165, 248 and 331 thousand, LoRA 0.80 to 0.81 "
        "with as many, LoRA-Muon 0.815; GeoLoRA with Adam 0.80 to 0.805, SVD-LoRA 0.79, AdaLoRA 0.78 to 0.79. Full "
        "fine-tuning is at 0.818."
    ),
    "table2-time": (
        "Test accuracy against seconds of training, MiniLM on movie reviews, 100 steps. LoRA, SVD-LoRA and LoRA-Muon "
        "take 38 to 39 s, GeoLoRA and AdaLoRA 40 to 44 s, full fine-tuning 57 s."
    ),
    "table2-rates": (
        "Learning rates within a standard error of the best, MiniLM on movie reviews. Half a decade to three quarters "
        "for GeoLoRA and AdaLoRA, a quarter for LoRA and LoRA-Muon; the best are 0.001 for spectral steps and "
        "LoRA-Muon, 0.003 for the others, 0.01 to 0.03 for AdaLoRA."
    ),
    "table3": (
        "Test accuracy against parameters of the adapters, ViT-S/14 on Fashion-MNIST, with standard errors over five "
        "seeds. GeoLoRA with spectral steps and a budget has 0.817, 0.818 and 0.826 with 332, 498 and 663 thousand, "
        "LoRA 0.816, 0.815 and 0.824 with as many, GeoLoRA with a tolerance 0.823 with 545, LoRA-Muon 0.822; SVD-LoRA "
        "and AdaLoRA have 0.80 to 0.81. Full fine-tuning is at 0.817."
    ),
    "table3-time": (
        "Test accuracy against seconds of training, ViT-S/14 on Fashion-MNIST, 100 steps. LoRA, SVD-LoRA and LoRA-Muon "
        "take 27 to 29 s, AdaLoRA and GeoLoRA with Adam 31 to 33 s, full fine-tuning 34 s, GeoLoRA with spectral steps "
        "and a budget 37 s."
    ),
    "table3-rates": (
        "Learning rates within a standard error of the best, ViT-S/14 on Fashion-MNIST. Those of spectral steps and of "
        "LoRA-Muon are around 0.0001 over nearly a decade, those of LoRA around 0.001 over half a decade, those of "
        "AdaLoRA around 0.01 over a decade; full fine-tuning has 0.00003."
    ),
    "table4": (
        "Test loss against trained parameters for a diffusion model. GeoLoRA has the lowest loss, 0.0692, with 260 "
        "thousand parameters, and 0.0695 with 97, about as LoRA with 175; AdaLoRA has the highest, 0.0708 with 148."
    ),
    "methods": (
        "For each method three dots. The measured order is within a tenth of 1, 2 or 3 as promised, 3.7 to 3.9 for "
        "rand-rk4. As the last singular value falls to 1e-14 errors stay within 25 % for all but the Runge-Kutta "
        "methods, up to twice, and rand-rk4, half. The largest stable step is near 2 / L, with exact sub-flows a "
        "thousandfold for the BUG methods, 50 to 100 for the projector splittings."
    ),
    "directions": (
        "Test accuracy against parameters of the adapters. On turned pictures GeoLoRA with spectral steps and a budget "
        "is above LoRA at all three sizes, and with the two forms of Muon near full fine-tuning at the largest. On "
        "shuffled pictures it is above LoRA at all sizes, and at the largest above all others."
    ),
    "directions-time": (
        "Test accuracy against seconds of training on turned pictures, 300 and 900 steps. GeoLoRA with spectral steps "
        "and a budget has 0.777 after 14 s, LoRA 0.756 after 11 s, the two forms of Muon 0.776 after 11 s. At 900 "
        "steps GeoLoRA has 0.798 after 41 s, LoRA-Muon 0.801 after 33 s, LoRA 0.793 after 32 s, full fine-tuning "
        "0.811 after 25 s."
    ),
    "directions-rates": (
        "Learning rates within a standard error of the best. GeoLoRA with spectral steps and a budget has them over "
        "0.4 decades on turned and 0.8 on shuffled pictures, around 0.003; most other methods over less than 0.2."
    ),
}
"""What each committed picture shows, by the stem of its file, for those who do not see it."""
