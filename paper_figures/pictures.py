"""What pictures share: one look for each method, shades for the values of a parameter, bands."""

from __future__ import annotations

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
_HALVES = {"geolora-spectral": "right", "geolora-spectral-budget": "top"}
"""The half of the marker that is filled."""


def look(method: str) -> dict:
    """Colour, line style and marker of a method by its name in the results.

    Those of PEFT, and GeoLoRA with spectral steps, have half a marker.
    """
    ours = style(*_VARIANTS.get(method.removeprefix("peft-"), (method.removeprefix("peft-"), 0)))
    half = "left" if method.startswith("peft-") else _HALVES.get(method)
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
