"""Pictures: what is drawn, one look per method, equal files for equal runs, and no global state is touched."""

import sys

import numpy as np
import pytest
from matplotlib import rc_context, rcParams

import problems
from dlrt import Case, plots, sweep
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
    for axes in figure.axes:
        assert axes.get_yscale() == "log" and axes.get_ylabel() == "loss"
        curves = [line for line in axes.lines if line.get_label() in ("bug", "lora", "svd-lora")]
        assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in curves}) == 3
        assert len(axes.collections) == 3  # bands
    assert figure.axes[-1].get_xlabel() == "iteration"
    diverging = figure.axes[0]
    start = max(result.trajectory.losses[0] for result in losses)
    assert diverging.get_ylim()[1] <= 10 * start
    assert sum(line.get_marker() == "x" for line in diverging.lines) == 6
    [median] = [line for line in figure.axes[1].lines if line.get_label() == "lora"]
    runs = [r.trajectory for r in losses if r.case.label == "lora" and r.case.step_size == 0.05]
    assert np.array_equal(median.get_ydata(), np.median([run.losses for run in runs], axis=0))


def test_ranks_and_work_of_losses(losses):
    ranks, work = plots.ranks_figure(losses), plots.work_figure(losses)
    assert ranks.axes[0].get_ylabel() == "rank" and ranks.axes[0].get_yscale() == "linear"
    assert work.axes[-1].get_xlabel() == "field evaluations"


def test_errors_of_equations(equations):
    assert plots.values_figure(equations).axes[-1].get_xlabel() == "time"
    [axes] = plots.work_figure(equations).axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    [bug, full] = [container.lines[0] for container in axes.containers]
    assert bug.get_xdata().tolist() == [40, 40] and full.get_xdata().tolist() == [20, 20]


def test_runs_that_all_diverge_at_once_can_be_drawn(tmp_path):
    problem = problems.lyapunov(10, np.random.default_rng(0))
    everything = results(tmp_path, problem, [1e300], {"bug": BUG()})
    assert everything[0].trajectory.status == "diverged at step 1"
    plots.save_figures(everything, tmp_path)


def test_files(losses, tmp_path):
    paths = plots.save_figures(losses, tmp_path / "one")
    assert sorted(path.name for path in paths) == sorted(
        f"{name}.{kind}" for name in ("loss", "rank", "work") for kind in ("png", "pdf")
    )
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
