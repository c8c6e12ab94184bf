"""Pictures of premature rank loss: success rates, mechanism, time, many small values, noise, single runs."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from dlrt.plots import number_map

from ..pictures import band, legend_above, look, shades
from ..statements import grouped, where
from .rank_experiments import NOISE_TOLERANCE, noise_of_iterate, steps_to_count


def draw(data):
    """All of them, by the suffix of the file."""
    pictures = {
        "": _draw_success(data["success"]),
        "-mechanism": _draw_mechanism(data["one_step"]),
        "-time": _draw_growth([r for r in data["growth"] if r["predicted"] is not None]),
        "-tail": _draw_tail(data["tail"], data["settings"]["tails"]),
        "-noise": _draw_noise(data["noisy"]),
    }
    return pictures | ({"-example": _draw_example(data["example"])} if data.get("example") else {})


def _spare(spare, **changes):
    """Look of GeoLoRA with a spare direction, and as published."""
    return look("geolora" if spare else "geolora-published") | changes


def _figure(width=3.3, height=2.6, columns=1):
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _draw_success(table):
    """Success rates, spectrum by tolerance and spare directions, one panel for each start."""
    names = list(dict.fromkeys(r["spectrum"] for r in table))
    columns = list(dict.fromkeys((r["tau"], r["spare"]) for r in table))
    figure, panels = _figure(6.8, 0.9 + 0.28 * len(names), 2)
    for axes, start, title in zip(panels, ("zero", "large"), ("start at W = 0", "start as large as A"), strict=True):
        cells = {(r["spectrum"], r["tau"], r["spare"]): (r["recovered"], r["of"]) for r in where(table, start=start)}
        counts = np.array([[cells[(name, *column)] for column in columns] for name in names])
        rate = counts[..., 0] / counts[..., 1]
        texts = [[f"{recovered}/{of}" for recovered, of in row] for row in counts]
        number_map(axes, rate, texts, dark=rate > 0.6, fontsize=7, cmap="Blues", vmax=1)
        axes.set_xticks(range(len(columns)), [f"{spare}" for _, spare in columns])
        axes.set_yticks(range(len(names)), names if start == "zero" else [])
        for j in range(0, len(columns), 2):
            axes.text(j + 0.5, -0.62, f"τ = {columns[j][0]:g}", ha="center", va="bottom", fontsize=7)
            if j:
                axes.axvline(j - 0.5, color="white", linewidth=3)
        axes.set_title(title, pad=16)
        axes.set_xlabel("spare directions")
    panels[0].set_ylabel("singular values of A")
    return figure


def _draw_example(rows):
    """Error of single runs, without and with a spare direction."""
    figure, [axes] = _figure()
    for spare, label in ((0, "published (no spare)"), (1, "one spare direction")):
        for i, r in enumerate(r for r in rows if r["spare"] == spare):  # one entry in the legend for all
            looks = _spare(spare, marker="", linewidth=0.9, label=None if i else label)
            axes.semilogy(r["step"], r["error"], **looks)
    axes.axhline(0.1, color="black", linestyle=":", label="tolerance τ = 0.1")
    axes.set(xlabel="step", ylabel="relative error of W", xlim=(0, 300))
    legend_above(figure)
    return figure


def _draw_mechanism(rows):
    """The value with which a new direction enters, against the step size."""
    figure, [axes] = _figure()
    rates = np.array(sorted({r["rate"] for r in rows}))
    for key, label, power in (("spare", "with a spare column", 1), ("plain", "published", 2)):
        chosen = _spare(power == 1)
        axes.loglog([r["rate"] for r in rows], [r[key] for r in rows], **chosen | {"linestyle": "none"}, label=label)
        anchor = np.median([r[key] for r in rows if r["rate"] == rates[0]])
        slope = chosen | {"marker": "", "linewidth": 0.8, "label": f"slope {power}"}
        axes.loglog(rates, anchor * (rates / rates[0]) ** power, **slope)
    axes.set(xlabel="step size λ", ylabel="value of the new direction")
    legend_above(figure)
    return figure


def _draw_growth(rows):
    """Steps until a missing value counts, against its size relative to the tolerance."""
    figure, [axes] = _figure()
    threshold = 0.1 * 20 / math.sqrt(1 - 0.01)
    sigma = threshold * np.geomspace(1.003, 5.5, 200)
    for rate, shade in zip((0.03, 0.1), shades(2), strict=True):
        formula = shade | {"marker": "", "label": f"formula, λ = {rate:g}"}
        axes.plot(sigma / threshold, [steps_to_count(x, 20.0, 0.1, rate) for x in sigma], **formula)
        points = [r for r in rows if r["rate"] == rate and r["measured"] is not None]
        measured = shade | {"linestyle": "none", "markerfacecolor": "none", "label": "measured"}
        axes.plot([r["sigma"] / threshold for r in points], [r["measured"] for r in points], **measured)
    axes.set(xscale="log", yscale="log", xlabel="missing value / tolerance", ylabel="steps until it counts")
    axes.set_xticks([1, 2, 5], ["1", "2", "5"])
    axes.set_xticks([], minor=True)
    legend_above(figure)
    return figure


def _draw_tail(rows, tails):
    """Rank found, against the number of spare directions, where many small values exceed the tolerance together."""
    names = {tuple(values): name for name, values in tails.items()}
    figure, [axes] = _figure(height=3.0)
    spectra = grouped([r | {"spectrum": tuple(r["spectrum"])} for r in rows], "spectrum")
    for shade, ((spectrum,), group) in zip(shades(len(spectra)), spectra.items(), strict=True):
        spares = sorted({r["spare"] for r in group})
        predicted = [next(r["predicted"] for r in group if r["spare"] == p) for p in spares]
        axes.plot(spares, predicted, **shade | {"marker": ""}, label=names[spectrum])
        found = shade | {"linestyle": "none", "markerfacecolor": "none"}
        axes.plot([r["spare"] for r in group], [r["counted"] for r in group], **found)
        axes.axhline(group[0]["rule_rank"], color=shade["color"], linestyle=":", linewidth=0.8)
    axes.plot([], [], ":", color="black", linewidth=0.8, label="the rule applied to A")
    axes.set(xlabel="spare directions p", ylabel="rank found (lines: formula)")
    legend_above(figure, ncols=1)
    return figure


def _draw_noise(rows):
    """Rank against the noise of the gradient, without and with a spare direction."""
    figure, [axes] = _figure()
    for spare, start, chosen, label in (
        (1, "large", _spare(1), "one spare direction"),
        (0, "large", _spare(0), "published"),
        (0, "zero", _spare(0, linestyle=":", marker="v"), "published, start at W = 0"),
    ):
        group = where(rows, spare=spare, start=start)
        if not group:
            continue
        levels = sorted({r["level"] for r in group})
        x = [noise_of_iterate(level) / NOISE_TOLERANCE for level in levels]
        ranks = [[r["counted"] for r in where(group, level=level)] for level in levels]
        low, middle, high = ([of(r) for r in ranks] for of in (min, np.median, max))
        band(axes, x, low, middle, high, alpha=0.2, label=label, **chosen)
    axes.axhline(5, color="black", linewidth=0.8, label="rank of A")
    axes.set(yscale="log", xlabel="noise of the iterate / tolerance", ylabel="rank found")
    axes.set_yticks([3, 5, 10, 20, 40], ["3", "5", "10", "20", "40"])
    axes.set_yticks([], minor=True)
    legend_above(figure)
    return figure
