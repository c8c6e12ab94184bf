"""Pictures of a sweep: loss or error, order, rank, and work against accuracy, for columns of 3.3 inches.

A method looks the same in every picture, see `style`. Colours are those of Okabe and Ito (with grey for their yellow,
too pale for lines) and some of the muted ones of Tol, told apart by every kind of colour vision as far as they reach;
markers differ too, so that the pictures survive grey print. Nothing here touches pyplot or its global state.
"""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context, rc_params_from_file
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator

from integrators import INTEGRATORS, FullRank

from .accuracy import ended, lost, solutions
from .runs import write_atomically

WIDTH = 3.3
"""Width of a column in inches."""
STYLE = dict(rc_params_from_file(Path(__file__).with_name("dlrt.mplstyle"), use_default_template=False))
"""Settings of matplotlib used for every picture, from `dlrt.mplstyle`, as a dict for `matplotlib.rc_context`."""
TOP = 10.0
"""Largest relative error in a picture: what is above has nothing in common with the solution."""
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#7F7F7F")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")

_METHODS = {
    "FullRank": ("#000000", "s"),
    "LoRA": ("#D55E00", "^"),
    "LoRAMuon": ("#661100", "H"),
    "RiemannianLoRA": ("#44AA99", (4, 1, 0)),
    "StiefelAdamW": ("#AA4499", (6, 1, 0)),
    "SVDLoRA": ("#E69F00", "D"),
    "StelLA": ("#DDCC77", (3, 1, 0)),
    "AdaLoRA": ("#CC79A7", "v"),
    "ProjectorSplitting": ("#882255", "P"),
    "BUG": ("#7F7F7F", "X"),
    "AugmentedBUG": ("#009E73", "<"),
    "ParallelBUG": ("#56B4E9", ">"),
    "GeoLoRA": ("#0072B2", "o"),
    "MidpointBUG": ("#4B6043", (10, 1, 0)),
    "SecondOrderParallelBUG": ("#004488", (5, 0, 180)),
    "RungeKuttaBUG": ("#8856A7", (7, 1, 0)),
    "BackwardCorrectedSplitting": ("#CC6677", (4, 1, 45)),
    "ProjectedRungeKutta": ("#997700", (5, 1, 180)),
    "DRSVD": ("#8C510A", (8, 1, 0)),
    "DynamicalNystroem": ("#6699CC", (7, 0, 0)),
    "RandRK4": ("#EE3377", (3, 1, 180)),
    "MergeBUG": ("#B35900", (11, 1, 0)),
    "PRKDEIM": ("#A50026", (9, 0, 0)),
    "TDBCUR": ("#1B7837", (12, 1, 0)),
    "RiemannianDescent": ("#5E3C99", (13, 1, 0)),
    "ProjectedExponential": ("#225522", (9, 1, 0)),
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
    name = class_name(method)
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    colour, marker = _METHODS.get(name) or _OUTSIDE[int.from_bytes(digest, "big") % len(_OUTSIDE)]
    keywords = {"color": colour, "linestyle": LINES[variant % len(LINES)], "marker": marker}
    return keywords | {"markerfacecolor": "white"} if variant % 2 else keywords


def class_name(method):
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
    """Loss against the iteration, or relative error against time, one panel for each step size, all with equal axes.

    Curves are medians over the seeds, bands reach from minimum to maximum. Methods of which runs diverged leave the
    picture, and are named in its panel. Errors are relative to the solution at the end; they leave out the start,
    where they are mostly rounding.

    Parameters
    ----------
    results : list of Result
        What `sweep` returned, for one problem.

    Returns
    -------
    matplotlib.figure.Figure
    """
    if _known_measure(results) == "loss":
        return _panels(results, _position(results), lambda run: run.losses, "loss", log=True)
    scale = max((solution.norm for solution in solutions(results).values()), default=1.0) or 1.0
    return _panels(results, _position(results), lambda run: run.errors / scale, "relative error", log=True, first=1)


def ranks_figure(results):
    """Numerical rank against the iteration (differential equations: time); otherwise as `values_figure`.

    The full-rank reference is left out where there are other methods: its rank says nothing and sets the scale.
    """
    return _panels(results, _position(results), lambda run: run.numerical_ranks, "rank", log=False)


def order_figure(results):
    """Relative error at the end against the step size (with step-size control: rtol), for differential equations.

    Dashed lines have the slopes of the orders that the methods promise; a dotted one is the error of the best
    approximation of the start's rank, below which no method of that rank can be.
    """
    return _errors_at_the_end(results, results[0].case.setting[0], lambda result: result.case.setting[1])


def work_figure(results):
    """Accuracy against work, the number of field evaluations.

    For losses it shows the way of every run, one panel for each step size; for differential equations the relative
    error at the end, one point for each step size.
    """
    if _known_measure(results) == "loss":
        position = "field evaluations", lambda run: run.evaluations
        return _panels(results, position, lambda run: run.losses, "loss", log=True)
    return _errors_at_the_end(results, "field evaluations", lambda result: result.trajectory.evaluations[-1])


def _errors_at_the_end(results, name, x):
    """Relative error at the end, a point for each method and step size: median, and range over the seeds."""
    if _known_measure(results) == "loss":
        raise ValueError("results must be those of a differential equation: losses have no error at the end")
    exact, styles = solutions(results), _styles(results)
    orders: dict[int, list] = {}
    with rc_context(STYLE):
        figure, (axes,) = column_figure(1)
        for label, group in _grouped(results, lambda result: result.case.label).items():
            points, unstable = [], []
            for size, same in _grouped(group, lambda result: _size(result.case)).items():
                done = [result for result in same if ended(result.trajectory)]
                errors = [exact[run.times[-1]].relative(run.errors[-1]) for _, run, _ in done]
                if len(done) < len(same) or max(errors) > TOP:
                    unstable.append(size)
                else:
                    points.append((np.median([x(result) for result in done]), *np.quantile(errors, [0.5, 0, 1])))
            shown = label + (f",\nunstable at {results[0].case.setting[0]} {', '.join(unstable)}" if unstable else "")
            shown = shown if points else f"{label} (unstable)"
            at, middle, low, high = np.array(sorted(points)).reshape(-1, 4).T
            spread = [middle - low, high - middle] if np.any(low < high) else None
            axes.errorbar(at, middle, spread, label=shown, capsize=2, **styles[label])
            if points and group[0].case.integrator.order:
                orders.setdefault(group[0].case.integrator.order, []).append((at[-1], middle[-1]))
        axes.set(xscale="log", yscale="log", xlabel=name, ylabel="relative error at the end")
        if not any(line.get_xdata().size for line in axes.lines):  # a logarithmic axis needs something positive
            taken = [max(x(result), 1e-9) for result in results]
            axes.set(xlim=(0.5 * min(taken), 2 * max(taken)), ylim=(0.1 * TOP, TOP))
        if name == "step size":
            sizes = sorted({result.case.setting[1] for result in results})
            _slopes(axes, orders, 0.92 * sizes[0])
            axes.set_xlim(0.9 * sizes[0], 1.1 * sizes[-1])
            axes.xaxis.set_major_locator(FixedLocator(sizes))
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter("{x:g}")
        _best_line(axes, results, exact)
        return shared_legend(figure, [axes], _title(results, f"error against {name}"))


_NOTE = {"textcoords": "offset points", "color": "0.3", "fontsize": 6}


def _slopes(axes, orders, start):
    """A dashed line for each order, half below the best error of the methods that promise it at their largest step."""
    for order, found in orders.items():
        h, error = min(found, key=lambda point: point[1])
        at = np.array([start, h])
        line = 0.5 * error * (at / h) ** order
        axes.plot(at, line, color="0.4", linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
        axes.annotate(f"order {order}", (at[0], line[0]), (1, -2), va="top", **_NOTE)
        axes.set_ylim(min(0.3 * line[0], axes.get_ylim()[0]))


def _best_line(axes, results, exact):
    """A dotted line at the least error that the start's rank allows, where that is near the errors."""
    rank = results[0].case.rank
    best = max((solution.best(rank) or 0.0 for solution in exact.values()), default=0.0)
    low, high = axes.get_ylim()
    if low / 100 < best < high:
        axes.axhline(best, color="0.4", linewidth=0.8, linestyle=":", zorder=1, label=f"best of rank {rank}")


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
    """Write ``loss``, ``rank`` and ``work`` of a sweep to the folder `out`; returns the paths.

    Of a differential equation ``error`` instead of ``loss``, and ``order`` where there are several step sizes; of one
    without a reference solution ``rank`` alone.
    """
    out, measure = Path(out), _measure(results)
    pictures = {"rank": ranks_figure}
    if measure is not None:
        pictures |= {measure: values_figure, "work": work_figure}
    if measure == "error" and len({result.case.setting for result in results}) > 1:
        pictures["order"] = order_figure
    return [path for name, draw in pictures.items() for path in save_figure(draw(results), out / name)]


def _panels(results, position, values, label, log, first=0):
    name, x = position
    styles = _styles(results)
    if not log:  # ranks
        results = [result for result in results if not _is_full(result)] or results
    sizes = _grouped(results, lambda result: _size(result.case))
    top = np.inf
    if log:  # curves that diverge leave the picture; they do not set its scale
        kept = [values(run)[: None if ended(run) else 1] for _, run, _ in results]
        top = min(10 * max(map(max, kept)), np.inf if label == "loss" else TOP)
    with rc_context(STYLE):
        figure, panels = column_figure(len(sizes), equal=True)
        for axes, (size, group) in zip(panels, sizes.items(), strict=True):
            lost = []
            for i, (method, same) in enumerate(_grouped(group, lambda result: result.case.label).items()):
                runs, look = [result.trajectory for result in same], styles[method]
                text = _lost(runs)
                if not text and log and min(values(run)[-1] for run in runs) > top:
                    text = f"above {top:g}"
                if not any(map(ended, runs)):  # short: markers would lie in a heap
                    look = look | {"marker": "", "linewidth": 0.8}
                _curve(axes, runs, x, values, method, look, i / len(styles), top, first)
                if text:
                    lost.append(Line2D([], [], label=f"{method} {text}", **look))
            if lost:
                axes.legend(handles=lost, fontsize=6, handlelength=2, framealpha=0.8, borderpad=0.3, labelspacing=0.2)
            axes.set_title(f"{results[0].case.setting[0]} {size}")
            axes.set_ylabel(label)
        if log:
            panels[0].set_yscale("log", nonpositive="mask")
            low, high = panels[0].get_ylim()
            bottom = _bottom(results, values, first) or min(low, 0.1 * top)
            panels[0].set_ylim(bottom, min(high, top) if high > bottom else top)
        else:
            panels[0].yaxis.get_major_locator().set_params(integer=True)
        panels[-1].set_xlabel(name)
        return shared_legend(figure, panels, _title(results, f"{label} against {name}"))


def _lost(runs):
    """What became of the runs that did not end, for a legend; an empty text where all did."""
    texts = []
    for kind, steps in lost(runs).items():
        share = f"({len(steps)} of {len(runs)} runs) " if len(steps) < len(runs) else ""
        last = f" to {steps[-1]}" if steps[-1] > steps[0] else ""
        texts.append(f"{share}{kind} at step {steps[0]}{last}")
    return ", ".join(texts)


def _title(results, shown):
    """Problem and start in the first line, what is shown below."""
    problem, (m, n) = results[0].case.problem, results[0].case.problem.shape
    seeds = len({result.case.seed for result in results})
    many = f", median and range of {seeds} seeds" if seeds > 1 else ""
    name = getattr(problem, "name", type(problem).__name__)
    first = f"{name}, {m} × {n}, start rank {results[0].case.rank}"
    return "\n".join([first, *textwrap.wrap(shown + many, 60)])


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


def column_figure(panels, *, equal=False):
    """A figure of column width with panels above each other, on wish with equal vertical axes."""
    figure = Figure(figsize=(WIDTH, 0.5 + 1.7 * panels), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(panels, 1, sharex=True, sharey=equal, squeeze=False)[:, 0])


def shared_legend(figure, panels, title=None):
    """One legend for all panels, above them, below the title of the figure."""
    handles: dict = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label not in handles or handles[label].get_marker() in ("", "None"):  # one with a marker says more
                handles[label] = handle
    if handles:
        lengths = [max(map(len, label.split("\n"))) for label in handles]
        half = (len(handles) + 1) // 2
        wide = max(lengths[:half]) + max(lengths[half:], default=0)
        columns = 2 if wide <= 50 else 1  # as many letters as a figure's width holds
        lines = -(-sum(label.count("\n") + 1 for label in handles) // columns) + (title.count("\n") + 1 if title else 0)
        figure.set_figheight(figure.get_figheight() + 0.15 * lines)
        figure.legend(
            handles.values(),
            handles.keys(),
            loc="outside upper center",
            ncols=columns,
            frameon=False,
            handlelength=3 if wide <= 44 or columns == 1 else 2,
            columnspacing=1.5,
            title=title,
            title_fontsize=7,
        )
    elif title:
        figure.suptitle(title, fontsize=7)
    return figure


def number_map(axes, table, texts, dark, fontsize, **options):
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
    value = case.setting[1]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _grouped(results, key):
    groups: dict = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return groups
