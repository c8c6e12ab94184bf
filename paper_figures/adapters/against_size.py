"""Picture of a mean over seeds against the parameters of the adapters: Tables 2 to 4."""

from __future__ import annotations

from matplotlib.figure import Figure

from dlrt.plots import column_figure, shared_legend

from ..pictures import look


def draw_against_size(
    methods: list[dict], key: str, *, levels: dict[str, str], ylabel: str, title: str, unit: float = 1.0
) -> Figure:
    """A mean over seeds and its standard deviation against the parameters of the adapters.

    Parameters
    ----------
    methods : list of dict
        With ``method``, ``label``, ``parameters``, ``deviation`` and the mean as `key`, None where all runs diverged.
    key : str
    levels : dict
        Methods without adapters and their labels: their means are drawn as lines.
    ylabel, title : str
    unit : float
        Of the axis of the means.
    """
    figure, (axes,) = column_figure(1)
    for m in (m for m in methods if m[key] is not None):
        looks = look(m["method"])
        if m["method"] in levels:
            label = levels[m["method"]]
            axes.axhline(m[key] / unit, color=looks["color"], linestyle=looks["linestyle"], label=label)
            continue
        axes.errorbar(
            m["parameters"] / 1000,
            m[key] / unit,
            (m["deviation"] or 0.0) / unit,
            **looks | {"linestyle": "none", "markersize": 5, "capsize": 2, "label": m["label"]},
        )
    axes.set(xlabel="trained parameters of the adapters (thousands)", ylabel=ylabel, title=title)
    return shared_legend(figure, [axes])
