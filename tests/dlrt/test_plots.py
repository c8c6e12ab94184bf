"""Pictures: what is drawn, that files are equal for equal runs, and that no global state is touched."""

import sys

import numpy as np
import pytest

import problems
from dlrt import Case, plots, sweep
from integrators import BUG, FullRank, LoRA, SVDLoRA

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
