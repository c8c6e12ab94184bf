"""One look for each method in all pictures, and shades for the values of a parameter."""

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
}
"""Methods whose names in the results are not those of the registry, with the variant of that one."""


def look(method: str) -> dict:
    """Colour, line style and marker of a method by its name in the results; those of PEFT have half a marker."""
    ours = style(*_VARIANTS.get(method.removeprefix("peft-"), (method.removeprefix("peft-"), 0)))
    return ours | {"fillstyle": "left", "markerfacecoloralt": "white"} if method.startswith("peft-") else ours


def shades(number: int) -> list[dict]:
    """Looks of curves of one method for rising values of a parameter, from dark to light."""
    colours = colormaps["viridis"]
    return [
        {"color": colours(0.9 * i / max(1, number - 1)), "linestyle": LINES[i % 7], "marker": MARKERS[i % 9]}
        for i in range(number)
    ]
