"""Pictures of a sweep: loss or error, rank, and work against accuracy, for columns of 3.3 inches.

A method looks the same in every picture, see `style`. Colours are those of Okabe and Ito (with grey for their yellow,
too pale for lines) and some of the muted ones of Tol, told apart by every kind of colour vision; markers differ too, so
that the pictures survive grey print. Nothing here touches pyplot or its global state.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context, rc_params_from_file
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from integrators import INTEGRATORS, FullRank

from .runs import write_atomically

WIDTH = 3.3
"""Width of a column in inches."""
STYLE = dict(rc_params_from_file(Path(__file__).with_name("dlrt.mplstyle"), use_default_template=False))
"""Settings of matplotlib used for every picture, from `dlrt.mplstyle`, as a dict for `matplotlib.rc_context`."""
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#7F7F7F")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")

_METHODS = {
    "FullRank": ("#000000", "s"),
    "LoRA": ("#D55E00", "^"),
    "SVDLoRA": ("#E69F00", "D"),
    "AdaLoRA": ("#CC79A7", "v"),
    "ProjectorSplitting": ("#882255", "P"),
    "BUG": ("#7F7F7F", "X"),
    "AugmentedBUG": ("#009E73", "<"),
    "ParallelBUG": ("#56B4E9", ">"),
    "GeoLoRA": ("#0072B2", "o"),
}
_OUTSIDE = [(colour, marker) for marker in ("*", "p", "h", "d", "8") for colour in ("#332288", "#117733", "#999933")]


def style(method, variant=0):
    """Colour, line style and marker of a method, as keywords of ``Axes.plot``: the same in every picture.

    A method from outside the project gets a colour and a marker that none of the project's has. They are drawn by a
    hash of the name of its class, not by order of use, so that they are the same in every picture and every process
    too. (Two such classes share both with probability 1/15.)

    Parameters
    ----------
    method : integrators.Integrator or str
        The method, the name of its class, or a name or label that begins with a name in `INTEGRATORS`
        (``"geolora-budget"``, ``"LoRA, rank 4"``).
    variant : int
        Curves of the same class differ in line style, and the markers of odd ones are hollow.

    Returns
    -------
    dict
    """
    name = _class_name(method)
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    colour, marker = _METHODS.get(name) or _OUTSIDE[int.from_bytes(digest, "big") % len(_OUTSIDE)]
    keywords = {"color": colour, "linestyle": LINES[variant % len(LINES)], "marker": marker}
    return keywords | {"markerfacecolor": "white"} if variant % 2 else keywords


def _class_name(method):
    """Name of the class of a method; of a label, that of the longest name in `INTEGRATORS` it begins with."""
    if not isinstance(method, str):
        return type(method).__name__
    label = method.lower().replace(" ", "-")
    names = [name for name in INTEGRATORS if re.match(rf"{name}(?![a-z0-9])", label)]
    if method in _METHODS or not names:
        return method
    return type(INTEGRATORS[max(names, key=len)]).__name__


@dataclass(frozen=True)
class LineStyle:
    """Colour, line style and marker of the i-th curve that is no method, as keywords of ``Axes.plot``; see `style`."""

    index: int

    def keywords(self):
        """The keywords. Seven line styles, eight colours and nine markers: no pair in common before the 56th curve."""
        i = self.index
        return {"color": COLOURS[i % 8], "linestyle": LINES[i % 7], "marker": MARKERS[i % 9]}


def values_figure(results):
    """Loss (or error) against the iteration (differential equations: time), one panel for each step size.

    Curves are medians over the seeds, bands reach from minimum to maximum; a cross ends a curve that diverged. Errors
    leave out the start, where they are mostly rounding.

    Parameters
    ----------
    results : list of Result
        What `sweep` returned, for one problem.

    Returns
    -------
    matplotlib.figure.Figure
    """
    measure = _known_measure(results)
    first = 0 if measure == "loss" else 1
    return _panels(results, _position(results), lambda run: run.values, measure, log=True, first=first)


def ranks_figure(results):
    """Numerical rank against the iteration (differential equations: time); otherwise as `values_figure`.

    The full-rank reference is left out where there are other methods: its rank says nothing and sets the scale.
    """
    return _panels(results, _position(results), lambda run: run.numerical_ranks, "rank", log=False)


def work_figure(results):
    """Accuracy against work, the number of field evaluations.

    For losses it shows the way of every run, one panel for each step size; for differential equations the error at the
    end, one point for each step size.
    """
    if _known_measure(results) == "loss":
        return _panels(
            results, ("field evaluations", lambda run: run.evaluations), lambda run: run.values, "loss", True
        )
    with rc_context(STYLE):
        figure, (axes,) = column_figure(1)
        styles = _styles(results)
        for label, group in _grouped(results, lambda result: result.case.label).items():
            points = []
            for _, same in sorted(
                _grouped(group, lambda result: _size(result.case)).items(), key=lambda item: str(item[0])
            ):
                runs = [result.trajectory for result in same if not result.trajectory.diverged]
                if runs:
                    work = np.median([run.evaluations[-1] for run in runs])
                    points.append((work, *np.quantile([run.values[-1] for run in runs], [0.5, 0, 1])))
            if points:
                work, middle, low, high = np.array(sorted(points)).T
                axes.errorbar(work, middle, [middle - low, high - middle], label=label, capsize=2, **styles[label])
        axes.set(xscale="log", yscale="log", xlabel="field evaluations", ylabel="error at the end")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        return shared_legend(figure, [axes])


def save_figure(figure, stem):
    """Write a figure as ``stem.png`` (300 dpi) and ``stem.pdf``, atomically; returns both paths."""
    stem = Path(stem)
    paths = []
    for kind, metadata in (("png", None), ("pdf", {"CreationDate": None})):  # no date: equal pictures, equal files

        def write(file, kind=kind, metadata=metadata):
            with rc_context(STYLE):
                figure.savefig(file, format=kind, dpi=300, metadata=metadata)

        paths.append(write_atomically(stem.with_name(f"{stem.name}.{kind}"), write))
    return paths


def save_figures(results, out):
    """Write ``loss`` (or ``error``), ``rank`` and ``work`` of a sweep to the folder `out`; returns the paths.

    Of a problem with neither a loss nor a reference only ``rank``.
    """
    out, measure = Path(out), _measure(results)
    pictures = {"rank": ranks_figure}
    if measure is not None:
        pictures |= {measure: values_figure, "work": work_figure}
    return [path for name, draw in pictures.items() for path in save_figure(draw(results), out / name)]


def _panels(results, position, values, label, log, first=0):
    name, x = position
    styles = _styles(results)
    if not log:  # ranks
        results = [result for result in results if not _is_full(result)] or results
    sizes = _grouped(results, lambda result: _size(result.case))
    top = np.inf
    if log:  # curves that diverge leave the picture; they do not set its scale
        top = 10 * max(
            max(values(result.trajectory)[: 1 if result.trajectory.diverged else None]) for result in results
        )
    with rc_context(STYLE):
        figure, panels = column_figure(len(sizes))
        for axes, (size, group) in zip(panels, sizes.items(), strict=True):
            for i, (method, same) in enumerate(_grouped(group, lambda result: result.case.label).items()):
                runs = [result.trajectory for result in same]
                _curve(axes, runs, x, values, method, styles[method], i / len(styles), top, first)
            if len(sizes) > 1:
                axes.set_title(f"step size {size}")
            if log:
                axes.set_yscale("log", nonpositive="mask")
                axes.set_ylim(_bottom(group, values, first), min(axes.get_ylim()[1], top))
            else:
                axes.yaxis.get_major_locator().set_params(integer=True)
            axes.set_ylabel(label)
        panels[-1].set_xlabel(name)
        return shared_legend(figure, panels)


def _bottom(group, values, first):
    """A tenth of the least value of the low-rank methods: below it only the full-rank reference would go on."""
    low_rank = [values(result.trajectory)[first:] for result in group if not _is_full(result)]
    least = min((np.min(v[v > 0], initial=np.inf) for v in low_rank), default=np.inf)
    return 0.1 * least if len(low_rank) < len(group) and np.isfinite(least) else None


def _is_full(result):
    return isinstance(result.case.integrator, FullRank)


def _curve(axes, runs, x, values, label, style, offset, top, first):
    """Median and band over the runs at every step that one of them recorded, up to somewhat above `top`."""
    at: dict[int, list] = {}
    for run in runs:
        for step, position, value in list(zip(run.steps, x(run), values(run), strict=True))[first:]:
            at.setdefault(int(step), []).append((position, min(value, 10 * top)))
    stacked = [np.array(at[step], dtype=float) for step in sorted(at)]
    if not stacked:  # diverged before the second record
        return
    position = np.array([np.median(points[:, 0]) for points in stacked])
    middle, low, high = (
        np.array([reduce(points[:, 1]) for points in stacked]) for reduce in (np.median, np.min, np.max)
    )
    n = len(position)
    every = max(1, n // 6)
    axes.plot(position, middle, label=label, markevery=(int(offset * every), every), **style)
    if len(runs) > 1:
        axes.fill_between(position, low, high, color=style["color"], alpha=0.2, linewidth=0)
    for run in runs:
        if run.diverged:
            end = min(values(run)[-1], top)
            axes.plot(x(run)[-1], end, marker="x", markersize=6, color=style["color"], linestyle="none", clip_on=False)


def column_figure(panels):
    """A figure of column width with panels above each other."""
    figure = Figure(figsize=(WIDTH, 0.5 + 1.7 * panels), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])


def shared_legend(figure, panels):
    """One legend for all panels, above them."""
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.set_figheight(figure.get_figheight() + 0.15 * ((len(handles) + 1) // 2))
        figure.legend(
            handles.values(), handles.keys(), loc="outside upper center", ncols=2, frameon=False, handlelength=3
        )
    return figure


def _measure(results):
    if not results:
        raise ValueError("results must hold at least one result of a sweep, got none")
    measures = {result.trajectory.measure for result in results}
    if len(measures) > 1:
        raise ValueError("results must all have a loss, or all an error: draw one problem at a time")
    return measures.pop()


def _known_measure(results):
    measure = _measure(results)
    if measure is None:
        raise ValueError("results must have a loss or an error: this problem has no reference solution")
    return measure


def _position(results):
    if _measure(results) == "loss":
        return "iteration", lambda run: run.steps
    return "time", lambda run: run.times


def _styles(results):
    """The style of each label; labels of the same class are variants of it, in order."""
    styles: dict[str, dict] = {}
    count: Counter[str] = Counter()
    for case in [result.case for result in results]:
        if case.label not in styles:
            name = type(case.integrator).__name__
            styles[case.label] = style(name, count[name])
            count[name] += 1
    return styles


def _size(case):
    return f"{case.step_size:g}" if isinstance(case.step_size, float) else str(case.step_size)


def _grouped(results, key):
    groups: dict = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return groups
