"""Pictures: what is drawn, one look per method, equal files for equal runs, and no global state is touched."""

import dataclasses
import sys

import numpy as np
import pytest
from matplotlib import rc_context, rcParams
from matplotlib.figure import Figure

import problems
from dlrt import Case, plots, sweep
from dlrt.results import PICTURES
from integrators import BUG, INTEGRATORS, FullRank, GeoLoRA, Integrator, LoRA, SVDLoRA

TARGET = problems.synthetic((10, 8), [4.0, 3.0, 2.0], np.random.default_rng(0))


def results(folder, problem, sizes, methods, seeds=1):
    return sweep(
        [
            Case(label=label, integrator=method, problem=problem, step_size=h, steps=20, rank=4, seed=seed)
            for label, method in methods.items()
            for h in sizes
            for seed in range(seeds)
        ],
        out=folder,
    )


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    methods = {"bug": BUG(), "lora": LoRA(), "svd-lora": SVDLoRA()}
    return results(tmp_path_factory.mktemp("losses"), problems.MatrixRegression(TARGET), [1.0, 0.05], methods, 3)


@pytest.fixture(scope="module")
def equations(tmp_path_factory):
    problem = problems.given_solution(np.random.default_rng(0), (10, 8), rank=2)
    return results(tmp_path_factory.mktemp("errors"), problem, [0.01, 0.05], {"bug": BUG(), "full-rank": FullRank()})


def test_losses(losses):
    figure = plots.values_figure(losses)
    assert figure.get_size_inches()[0] == plots.WIDTH
    assert [axes.get_title() for axes in figure.axes] == ["step size 1", "step size 0.05"]
    title = figure.legends[0].get_title().get_text()
    assert title == "matrix-regression, 10 × 8, start rank 4\nloss against iteration, median and range of 3 seeds"
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    for axes in figure.axes:
        assert axes.get_yscale() == "log" and axes.get_ylabel() == "loss"
        curves = [line for line in axes.lines if line.get_label() in ("bug", "lora", "svd-lora")]
        assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in curves}) == 3
        assert len(axes.collections) == 3  # bands
    assert figure.axes[-1].get_xlabel() == "iteration"
    diverging = figure.axes[0]
    start = max(result.trajectory.losses[0] for result in losses)
    assert diverging.get_ylim()[1] <= 10 * start
    lost = [text.get_text() for text in diverging.get_legend().get_texts()]
    assert [text.split(" diverged at step ")[0] for text in lost] == ["lora", "svd-lora"]
    assert [line.get_marker() for line in diverging.lines] == ["X", "", ""] and figure.axes[1].get_legend() is None
    assert all(handle.get_marker() != "" for handle in figure.legends[0].legend_handles)
    [median] = [line for line in figure.axes[1].lines if line.get_label() == "lora"]
    runs = [r.trajectory for r in losses if r.case.label == "lora" and r.case.step_size == 0.05]
    assert np.array_equal(median.get_ydata(), np.median([run.losses for run in runs], axis=0))


def test_ranks_and_work_of_losses(losses):
    ranks, work = plots.ranks_figure(losses), plots.work_figure(losses)
    assert ranks.axes[0].get_ylabel() == "rank" and ranks.axes[0].get_yscale() == "linear"
    assert work.axes[-1].get_xlabel() == "field evaluations"


def test_errors_of_equations(equations):
    figure = plots.values_figure(equations)
    assert figure.axes[-1].get_xlabel() == "time" and figure.axes[0].get_ylabel() == "relative error"
    [axes] = plots.work_figure(equations).axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    [bug, full] = [container.lines[0] for container in axes.containers]
    assert bug.get_xdata().tolist() == [40, 40] and full.get_xdata().tolist() == [20, 20]


def test_order_of_equations(tmp_path):
    """Errors at the end over the norm of the solution, lines of the promised orders, and what the rank allows."""
    problem = problems.given_solution(np.random.default_rng(0), (10, 8), rank=4)
    methods = {"bug": BUG(), "strang": INTEGRATORS["projector-splitting-strang"]}
    cases = [
        Case(label=label, integrator=method, problem=problem, step_size=1 / n, steps=n, rank=3)
        for label, method in methods.items()
        for n in (10, 20)
    ]
    runs = sweep(cases, out=tmp_path)
    [axes] = plots.order_figure(runs).axes
    exact = problem.reference(1.0)
    assert axes.get_xscale() == axes.get_yscale() == "log" and axes.get_xlabel() == "step size"
    for container, result in zip(axes.containers, runs[1::2], strict=True):
        x, y = container.lines[0].get_data()
        assert x.tolist() == [0.05, 0.1]
        assert y[0] == pytest.approx(result.trajectory.errors[-1] / np.linalg.norm(exact), rel=1e-12)
    slopes = [line.get_data() for line in axes.lines if line.get_color() == "0.4" and len(set(line.get_ydata())) == 2]
    found = [np.diff(np.log(y))[0] / np.diff(np.log(x))[0] for x, y in slopes]
    assert found == pytest.approx([1.0, 2.0]) and {text.get_text() for text in axes.texts} == {"order 1", "order 2"}
    [best] = [line.get_ydata()[0] for line in axes.lines if line.get_label() == "best of rank 3"]
    assert best == pytest.approx(np.linalg.svd(exact, compute_uv=False)[3] / np.linalg.norm(exact), rel=1e-9)
    assert {path.name for path in plots.save_figures(runs, tmp_path)} >= {"order.png", "error.png", "work.png"}
    with pytest.raises(ValueError, match="losses have no error at the end"):
        plots.order_figure(results(tmp_path, problems.MatrixRegression(TARGET), [0.1], {"bug": BUG()}))


def test_lost_runs_are_named_and_set_no_scale(tmp_path):
    """One that diverged, one that failed, and one that came to its end far from the solution."""
    problem = problems.given_solution(np.random.default_rng(0), (10, 8), rank=2)
    runs = results(tmp_path, problem, [0.01, 0.05], {"bug": BUG(), "geolora": GeoLoRA(), "full-rank": FullRank()})

    def lost(result, **changes):
        return result._replace(trajectory=dataclasses.replace(result.trajectory, **changes))

    runs[0] = lost(runs[0], status="diverged at step 7")
    runs[2] = lost(runs[2], status="failed at step 9: ZeroDivisionError: division by zero")
    runs[4] = lost(runs[4], errors=runs[4].trajectory.errors * 1e100)
    figure = plots.values_figure(runs)
    shown = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert shown == ["bug diverged at step 7", "geolora failed at step 9", "full-rank above 10"]
    assert figure.axes[0].get_ylim()[1] <= 10
    [axes] = plots.order_figure(runs).axes
    assert axes.get_ylim()[1] <= 10 and [len(c.lines[0].get_xdata()) for c in axes.containers] == [1, 1, 1]
    labels = [container.get_label() for container in axes.containers]
    assert labels == [f"{name},\nunstable at step size 0.01" for name in ("bug", "geolora", "full-rank")]


def test_runs_that_all_diverge_at_once_can_be_drawn(tmp_path):
    problem = problems.lyapunov(10, np.random.default_rng(0))
    everything = results(tmp_path, problem, [1e300], {"bug": BUG()})
    assert everything[0].trajectory.status == "diverged at step 1"
    plots.save_figures(everything, tmp_path)


def test_files(losses, equations, tmp_path):
    paths = plots.save_figures(losses, tmp_path / "one")
    assert sorted(path.name for path in paths) == sorted(
        f"{name}.{kind}" for name in ("loss", "rank", "work") for kind in ("png", "pdf")
    )
    made = [*paths, *plots.save_figures(equations, tmp_path / "three")]
    assert {path.stem for path in made} == set(PICTURES)  # what is moved with a comparison
    again = plots.save_figure(plots.ranks_figure(losses), tmp_path / "two" / "rank")
    assert [(tmp_path / "one" / path.name).read_bytes() for path in again] == [path.read_bytes() for path in again]
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_mixed_problems_are_refused(losses, equations):
    with pytest.raises(ValueError, match="draw one problem at a time"):
        plots.values_figure(losses + equations)
    with pytest.raises(ValueError, match="at least one result"):
        plots.ranks_figure([])


class Outsider(Integrator):
    """A method that is entered nowhere."""


def test_every_method_has_its_own_look():
    looks = {type(method).__name__: plots.style(method) for method in INTEGRATORS.values()}
    for key in ("color", "marker"):
        assert len({look[key] for look in looks.values()}) == len(looks)
    outside = plots.style(Outsider())
    assert outside == plots.style("Outsider")
    for key in ("color", "marker"):
        assert outside[key] not in {look[key] for look in looks.values()}


def test_names_labels_and_classes_mean_the_same_look():
    for name, method in INTEGRATORS.items():
        assert plots.style(name) == plots.style(method) == plots.style(type(method).__name__)
    for label, name in {
        "geolora-budget": "geolora",
        "lora-adam": "lora",
        "SVD-LoRA, rank 4": "svd-lora",
        "Parallel BUG": "parallel-bug",
        "parallel-bug-rejection": "parallel-bug",
    }.items():
        assert plots.style(label) == plots.style(name)
    assert plots.style("bugbear") not in [plots.style(name) for name in INTEGRATORS]


def test_variants_share_colour_and_marker():
    looks = [plots.style("geolora", variant) for variant in range(4)]
    assert len({(look["color"], look["marker"]) for look in looks}) == 1
    assert len({look["linestyle"] for look in looks}) == 4
    assert [look.get("markerfacecolor") for look in looks] == [None, "white", None, "white"]


def test_the_style_sheet_can_be_used_and_extended():
    assert plots.STYLE["font.size"] == 8 and type(plots.STYLE) is dict
    with rc_context(plots.STYLE | {"lines.markersize": 3}):
        assert rcParams["lines.markersize"] == 3 and rcParams["axes.grid"]


class Unknown(problems.Rotating):
    """An equation whose solution nobody knows."""

    def reference(self, t):
        return None


def test_a_problem_without_loss_and_reference(tmp_path):
    known = problems.rotating(np.random.default_rng(0), (10, 8), 2)
    everything = results(tmp_path, Unknown(**vars(known)), [0.05, 0.1], {"bug": BUG(), "geolora": GeoLoRA()})
    assert everything[0].trajectory.measure is None and everything[0].trajectory.values is None
    paths = plots.save_figures(everything, tmp_path)
    assert sorted(path.name for path in paths) == ["rank.pdf", "rank.png"]
    for draw in (plots.values_figure, plots.work_figure):
        with pytest.raises(ValueError, match="this problem has no reference solution"):
            draw(everything)


def test_a_map_has_its_texts_in_white_on_dark_cells():
    axes = Figure().subplots()
    table = np.array([[0.1, np.nan], [0.9, 0.2]])
    plots.number_map(axes, table, [["a", ""], ["b", "c"]], table < 0.15, 7, cmap="cividis")
    found = {text.get_position(): (text.get_text(), text.get_color()) for text in axes.texts}
    assert found == {(0, 0): ("a", "white"), (0, 1): ("b", "black"), (1, 1): ("c", "black")}
