"""What pictures share: one look for each method, shades for the values of a parameter, bands, maps with numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps

from dlrt.plots import LINES, MARKERS, style

_VARIANTS = {
    "full": ("full-rank", 0),
    "probe": ("full-rank", 1),
    "splitting": ("projector-splitting", 0),
    "lora-half": ("lora", 1),
    "geolora-budget": ("geolora", 1),
    "geolora-coarse": ("geolora", 1),
    "geolora-published": ("geolora", 1),
    "geolora-spectral": ("geolora", 0),
    "lora-plus": ("lora", 1),
    "lora-factor-muon": ("lora-muon", 1),
}
"""Methods whose names in the results are not those of the registry, with the variant of that one."""


def look(method: str) -> dict:
    """Colour, line style and marker of a method by its name in the results.

    Those of PEFT, and GeoLoRA with spectral steps at a fixed rank, have half a marker.
    """
    ours = style(*_VARIANTS.get(method.removeprefix("peft-"), (method.removeprefix("peft-"), 0)))
    half = "left" if method.startswith("peft-") else "bottom" if method == "geolora-spectral" else None
    return ours | {"fillstyle": half, "markerfacecoloralt": "white"} if half else ours


def shades(number: int) -> list[dict]:
    """Looks of curves of one method for rising values of a parameter, from dark to light."""
    colours = colormaps["viridis"]
    return [
        {"color": colours(0.9 * i / max(1, number - 1)), "linestyle": LINES[i % 7], "marker": MARKERS[i % 9]}
        for i in range(number)
    ]


def band(axes, x, low, middle, high, alpha: float = 0.15, **looks) -> None:
    """A curve with the range about it in its colour."""
    axes.plot(x, middle, **looks)
    axes.fill_between(x, low, high, color=looks["color"], alpha=alpha, linewidth=0)


def legend_above(figure, axes=None, ncols: int = 2) -> None:
    """A legend above all panels, of what is in one of them (by default in all)."""
    entries = () if axes is None else axes.get_legend_handles_labels()
    figure.legend(*entries, loc="outside upper center", ncols=ncols, frameon=False)


def number_map(axes, table, texts: Sequence[Sequence[str]], dark, fontsize: float, **options):
    """A map of a table with text in its cells; the image, for a colour bar.

    Parameters
    ----------
    axes : Axes
    table : array
    texts : sequence of sequences of str
        By row and column.
    dark : array of bool
        Where the colour is dark, so that the text is white.
    fontsize : float
    options
        Of ``Axes.imshow``.
    """
    image = axes.imshow(table, aspect="auto", vmin=0, **options)
    axes.grid(False)
    for (i, j), white in np.ndenumerate(dark):
        if texts[i][j]:
            colour = "white" if white else "black"
            axes.text(j, i, texts[i][j], ha="center", va="center", fontsize=fontsize, color=colour)
    return image
