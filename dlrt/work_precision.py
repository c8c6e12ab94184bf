"""Work against precision: all methods on an equation at many step sizes and tolerances, and what to choose of them.

`cases` says what is run, `summary` keeps of a sweep what the picture and the tables need (strict JSON), `picture` draws
it, and `page` writes which method reaches which error with the least work, for one equation and for several.
"""

from __future__ import annotations

import math
import textwrap
import time as clock
from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from threadpoolctl import threadpool_limits

from integrators.checks import check_positive, check_rank

from .accuracy import Solution, ended
from .layout import markdown_table
from .plots import STYLE, style
from .sweep import Case

__all__ = ["cases", "cheapest", "choice", "failures", "page", "picture", "sufficient_rank", "summary"]

STEPS = (10, 20, 40, 80, 160)
RTOL = (1e-1, 1e-2, 1e-3)
QUICK_STEPS, QUICK_RTOL = (8, 16), (1e-1,)
LIMIT = 2000
"""Steps after which a run with step-size control is given up."""
PLATEAU = 1e-4
"""Relative error of the best approximation that the rank allows, unless a rank is given."""
TARGETS = (1e-1, 1e-2, 1e-3)
"""Relative errors for which a method is named."""
AS_FAST = 1.2
"""Times that differ by less are taken for equal."""
REPEATS = 3


def sufficient_rank(problem, plateau=PLATEAU):
    """Least rank whose best approximation of the solution has this relative error at start, middle and end.

    At most half of the rows or columns. ValueError where no solution is known.
    """
    if problem.reference(0.0) is None:
        raise ValueError(f"work against precision needs a reference solution, and {problem.name} has none")
    needed, limit = 1, max(1, min(problem.shape) // 2)
    for t in (0.0, problem.t_end / 2, problem.t_end):
        solution = Solution.at(problem, t)
        needed = max(needed, next((r for r in range(1, limit) if solution.best(r) <= plateau), limit))
    return needed


def cases(problem, methods, *, step_sizes=None, rtol=None, atol=None, rank, quick=False):
    """One case for each method and step size, and one for each method and tolerance, to the end of the horizon.

    Parameters
    ----------
    problem : problems.Problem
    methods : dict of str to integrators.Integrator
    step_sizes, rtol : list of float, optional
        By default the horizon over `STEPS`, and `RTOL`; an empty list leaves out that kind of run.
    atol : float, optional
    rank : int
        Of all starts.
    quick : bool
        The defaults are `QUICK_STEPS` and `QUICK_RTOL`.
    """
    t_end, rank = float(problem.t_end), check_rank(rank, problem.shape)
    counts: Sequence[int] = QUICK_STEPS if quick else STEPS
    if step_sizes is not None:
        counts = [max(1, round(t_end / check_positive("step size", h))) for h in step_sizes]
    if rtol is None:
        rtol = QUICK_RTOL if quick else RTOL
    common = {"problem": problem, "rank": rank, "every": 10**9}  # the ends alone: references may cost more than steps
    found = []
    for name, method in methods.items():
        if method.order is None:
            raise ValueError(f"work against precision is for methods with an order, and {name} has none")
        found += [
            Case(label=name, integrator=method.for_run(n, rank), step_size=t_end / n, steps=n, **common)
            for n in sorted(set(counts))
        ]
        found += [
            Case(label=name, integrator=method, t_span=(0.0, t_end), rtol=tol, atol=atol, steps=LIMIT, **common)
            for tol in dict.fromkeys(check_positive("rtol", tol) for tol in rtol)
        ]
    return found


def summary(name, results):
    """What the runs of one equation found, as JSON values.

    Parameters
    ----------
    name : str
        Of the equation.
    results : list of Result
        Of a sweep over `cases`.

    Returns
    -------
    dict
        ``problem``, ``shape``, ``rank``, ``t_end``, ``best`` (relative error of the best approximation of this rank at
        the end), ``methods`` (class, order and settings by name) and ``runs``: method, ``kind`` ("step size" or
        "rtol") and its ``value``, steps, evaluations, rank at the end, ``error`` relative to the solution (None unless
        the run came to the end), status, and ``time``: seconds of the processor, see `seconds_per_step` (None with
        "rtol", or an error above 1).
    """
    problem, rank = results[0].case.problem, results[0].case.rank
    solution = Solution.at(problem, problem.t_end)
    methods = {case.label: case.integrator for case, _, _ in results}
    return {
        "problem": name,
        "shape": list(problem.shape),
        "rank": rank,
        "t_end": float(problem.t_end),
        "best": solution.best(rank),
        "methods": {
            label: {"class": type(method).__name__, "order": method.order, "settings": repr(method)}
            for label, method in methods.items()
        },
        "runs": [_row(case, run, solution) for case, run, _ in results],
    }


def _row(case, run, solution):
    kind, value = case.setting
    there = ended(run) and math.isclose(run.times[-1], case.problem.t_end)
    error = float(solution.relative(run.errors[-1])) if there else math.inf
    timed = kind == "step size" and error <= 1  # beyond, a further step may overflow
    return {
        "method": case.label,
        "kind": kind,
        "value": value,
        "steps": int(run.steps[-1]),
        "evaluations": int(run.evaluations[-1]),
        "time": float(f"{run.steps[-1] * seconds_per_step(case, run):.3g}") if timed else None,
        "rank": int(run.numerical_ranks[-1]),
        "error": error if math.isfinite(error) else None,
        "status": run.status,
    }


def seconds_per_step(case, run):
    """Processor time of a step from the last state of a run: the least of `REPEATS`, after one that does not count.

    Unlike the time that the run took it does not depend on what else the machine does, or on the number of jobs.
    """
    t, times = case.problem.t_end - case.step_size, []
    with threadpool_limits(1):
        for _ in range(1 + REPEATS):
            began = clock.process_time()
            case.integrator.step(case.problem.field, t, run.state, case.step_size)
            times.append(clock.process_time() - began)
    return min(times[1:])


def cheapest(equation, target, cost, kind=None, method=None):
    """The runs with an error of at most `target`, each with the least ``cost`` of its method, ascending in it.

    Parameters
    ----------
    equation : dict
        A `summary`.
    target : float
        Relative error.
    cost : str
        ``evaluations`` or ``time``.
    kind, method : str, optional
        Only runs of this kind ("step size" or "rtol"), or of this method.
    """
    least: dict[str, dict] = {}
    for run in sorted((run for run in equation["runs"] if run[cost] is not None), key=lambda run: run[cost]):
        wanted = kind in (None, run["kind"]) and method in (None, run["method"])
        if wanted and run["error"] is not None and run["error"] <= target:
            least.setdefault(run["method"], run)
    return list(least.values())


def failures(equation):
    """The methods of which every run failed by an exception, with its text."""
    texts: dict[str, list] = {}
    for run in equation["runs"]:
        texts.setdefault(run["method"], []).append(run["status"] if run["status"].startswith("failed") else None)
    return {name: found[0].split(": ", 1)[1] for name, found in texts.items() if all(found)}


# -- picture -------------------------------------------------------------------------------------------------------

COLUMNS = (
    ("step size", "evaluations", "steps of given size", "field evaluations"),
    ("step size", "time", "the same", "processor time [s]"),
    ("rtol", "evaluations", "step-size control", "field evaluations"),
)
"""Kind of run, what is across, heading, axis label."""


def picture(equation):
    """Relative error at the end against work: a row for each order, so that its methods stay apart.

    Left and middle are runs with steps of given size, against evaluations of the field and against time; on the right
    those with step-size control. The grey line is the least error that any method has at this cost, the same in all
    rows. Dashed is the slope of the order, dotted the error of the best approximation of the rank. Hollow markers tell
    apart methods of one class. Runs with errors above 1 are left out.

    Parameters
    ----------
    equation : dict
        A `summary`.

    Returns
    -------
    matplotlib.figure.Figure
        As wide as a page, 7 inches.
    """
    groups = _families(equation["methods"])
    looks = _looks(equation["methods"])
    errors = [run["error"] for run in equation["runs"] if run["error"] is not None and 0 < run["error"] <= 1]
    top = min(1.5, 3 * max(errors, default=0.5))
    bottom = max(min(errors, default=0.1), (equation["best"] or 0.0) / 3, 1e-10) / 2
    with rc_context(STYLE):
        height = 0.7 + sum(max(1.5, 0.15 * len(names) + 0.35) for names in groups.values())
        figure = Figure(figsize=(7.0, height), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(
            len(groups), 3, sharex="col", sharey=True, squeeze=False,
            height_ratios=[max(1.5, 0.15 * len(names) + 0.35) for names in groups.values()],
        )  # fmt: skip
        for row, (order, names) in zip(panels, groups.items(), strict=True):
            for axes, (kind, cost, _, _) in zip(row, COLUMNS, strict=True):
                _panel(axes, equation, names, looks, kind, cost)
                if kind == "step size":
                    _slope(axes, equation, names, cost, min(equation["methods"][name]["order"] for name in names))
            row[0].set(xscale="log", yscale="log", ylim=(bottom, top), ylabel=f"{order}\nrelative error")
            row[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=6.5, handlelength=2)
        for axes, last, (_, _, heading, label) in zip(panels[0], panels[-1], COLUMNS, strict=True):
            axes.set_title(heading)
            axes.set(xscale="log")
            last.set_xlabel(label)
            axes.xaxis.set_major_locator(LogLocator())
            axes.xaxis.set_minor_formatter(NullFormatter())
        m, n = equation["shape"]
        figure.suptitle(f"{equation['problem']}, {m} × {n}, rank {equation['rank']}", fontsize=9)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out: each of the files would do it twice more
    return figure


def _families(methods):
    """Names of the methods by order, 3 and more together."""
    families: dict[str, list] = {}
    for name, about in sorted(methods.items(), key=lambda item: item[1]["order"]):
        families.setdefault(f"order {about['order']}" if about["order"] < 3 else "order 3, 4", []).append(name)
    return families


def _looks(methods):
    """Colour, marker and line of each method; of one class they differ in line and filling."""
    count: Counter[str] = Counter()
    looks = {}
    for name, about in methods.items():
        looks[name] = style(about["class"], count[about["class"]]) | {"markersize": 3.0, "linewidth": 0.9}
        count[about["class"]] += 1
    return looks


def _points(equation, method, kind, cost):
    """Cost and error of the runs of a method with errors in the picture, in the order of the setting."""
    runs = [run for run in equation["runs"] if (run["method"], run["kind"]) == (method, kind)]
    runs.sort(key=lambda run: -run["value"])
    return [(run[cost], run["error"]) for run in runs if run["error"] is not None and 0 < run["error"] <= 1]


def _panel(axes, equation, names, looks, kind, cost):
    every = sorted(point for name in equation["methods"] for point in _points(equation, name, kind, cost))
    if not every:
        axes.set_xlim(1, 10)  # a logarithmic axis needs something positive
    else:
        x, y = np.array(every).T
        axes.step(
            x, np.minimum.accumulate(y), where="post", color="0.8", linewidth=3.0, zorder=1, solid_capstyle="butt"
        )
    for name in names:
        points = np.array(_points(equation, name, kind, cost)).reshape(-1, 2)
        axes.plot(*points.T, label=name, **looks[name])
    if equation["best"]:
        axes.axhline(equation["best"], color="0.4", linewidth=0.8, linestyle=":", zorder=1)
    axes.tick_params(which="both", labelleft=axes.get_subplotspec().is_first_col())


def _slope(axes, equation, names, cost, order):
    """A dashed line of the slope of the order over a decade of work, below the best of these methods."""
    every = [point for name in names for point in _points(equation, name, "step size", cost)]
    every = [(x, y) for x, y in every if y > 3 * (equation["best"] or 0.0)]
    if not every:
        return
    x0, y0 = min(every, key=lambda point: point[1] * point[0] ** order)
    x = np.array([x0 / 3, 3 * x0])
    axes.plot(x, 0.3 * y0 * (x / x0) ** -float(order), color="0.3", linewidth=0.8, linestyle=(0, (4, 2)), zorder=2)


# -- page ----------------------------------------------------------------------------------------------------------


HOW = f"""\
All methods follow the same equations from the same starts at the same rank, the least one whose best approximation has
a relative error of {PLATEAU:g}; methods whose rank adapts may use fewer directions. Errors are those at the end, in the
Frobenius norm, relative to the solution. *Evaluations* are those of the field F; a method that needs few of them may
spend more time on its own linear algebra. *Time* is that of the processor for a step at the end of a run, times the
number of steps: methods within 20 % of the fastest are named together, three at most. With step-size control the error
is estimated by step doubling and the result extrapolated, which raises the order by one and triples the evaluations.
Each method has its own substep, or that which `dlrt compare` takes for the equation."""
OVERVIEW = """\
The first number is with the best of the step sizes, the second with the best of the tolerances; a dash: not reached.
Bold: the least of the column. *At most*: over all equations, the first number over the least one."""


def page(data):
    """The how-to-choose page as Markdown: for each equation and error the methods with the least work.

    Parameters
    ----------
    data : dict
        ``equations``, a list of `summary`; ``command``, what wrote it.
    """
    equations = data["equations"]
    names = list(dict.fromkeys(name for equation in equations for name in equation["methods"]))
    lines = [
        "# How to choose: work against precision",
        "",
        f"Written by `{data['command']}`; numbers in `work-precision.json`.",
        "",
        *textwrap.wrap(HOW, 120),
        "",
        "## Evaluations to an error of 1e-2",
        "",
        *textwrap.wrap(OVERVIEW, 120),
        "",
        *_overview(equations, names),
    ]
    for equation in equations:
        lines += ["", *_section(equation)]
    return "\n".join(lines) + "\n"


def _overview(equations, names, target=1e-2):
    def cells(equation, kind):
        found = {run["method"]: run["evaluations"] for run in cheapest(equation, target, "evaluations", kind)}
        least = min(found.values(), default=0)
        return {name: f"**{n}**" if n == least else f"{n}" for name, n in found.items()}

    found = [(cells(equation, "step size"), cells(equation, "rtol")) for equation in equations]
    rows = []
    for name in names:
        order = next(equation["methods"][name]["order"] for equation in equations if name in equation["methods"])
        shown = [f"{fixed.get(name, '–')}, {controlled.get(name, '–')}" for fixed, controlled in found]
        numbers = dict(zip([equation["problem"] for equation in equations], shown, strict=True))
        rows.append({"method": name, "order": f"{order}", **numbers, "at most": _most(equations, name, target)})
    return markdown_table(rows)


def _most(equations, name, target):
    """Over the equations: how many times the evaluations of the best method this one needs at most, at given steps."""
    ratios = []
    for equation in equations:
        found = {run["method"]: run["evaluations"] for run in cheapest(equation, target, "evaluations", "step size")}
        if name not in found:
            return "–"
        ratios.append(found[name] / min(found.values()))
    return f"{max(ratios):.2g} ×"


def choice(equation):
    """The methods with the least work for each of the errors `TARGETS`: rows by their headings."""
    return [
        {
            "error": f"{target:g}",
            "fewest evaluations": _fewest(equation, target, "step size"),
            "least time": _fastest(equation, target),
            "fewest evaluations with step-size control": _fewest(equation, target, "rtol"),
        }
        for target in TARGETS
    ]


def _section(equation):
    m, n = equation["shape"]
    best = "" if equation["best"] is None else f", whose best approximation has the error {equation['best']:.1e}"
    lines = [f"## {equation['problem']}", ""]
    lines += [f"{m} × {n}, to t = {equation['t_end']:g}, rank {equation['rank']}{best}.", ""]
    lines += markdown_table(choice(equation))
    lines += ["", f"![Error against work on {equation['problem']}]({equation['problem']}.png)"]
    for name, text in failures(equation).items():
        lines += ["", f"`{name}` does not apply: {text}."]
    return lines


def _fewest(equation, target, kind):
    runs = cheapest(equation, target, "evaluations", kind)
    runs = [run for run in runs if run["evaluations"] == runs[0]["evaluations"]]
    return f"{_setting(runs)}: {runs[0]['evaluations']}" if runs else "–"


def _fastest(equation, target):
    runs = cheapest(equation, target, "time", "step size")
    runs = [run for run in runs[:3] if run["time"] <= AS_FAST * runs[0]["time"]]
    return f"{_setting(runs)}: {1e3 * runs[0]['time']:.2g} ms" if runs else "–"


def _setting(runs):
    """The methods, and their setting where it is the same for all."""
    names = ", ".join(run["method"] for run in runs)
    settings = {f"rtol {run['value']:g}" if run["kind"] == "rtol" else f"{run['steps']} steps" for run in runs}
    return f"{names} ({settings.pop()})" if len(settings) == 1 else names
