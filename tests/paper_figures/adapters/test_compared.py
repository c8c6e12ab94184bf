"""How Table 4 compares methods."""

import math
import operator

from dlrt.finetune.methods import METHODS
from paper_figures import TABLES
from paper_figures.adapters import table4
from paper_figures.adapters.compared import against, draw_against_size, mean_text, seed_by_seed, summary
from paper_figures.pictures import look


def test_methods_are_points_or_lines_in_their_colours():
    row = {"deviation": 0.1, "parameters": 2000.0}
    methods = [
        {"method": "full", "label": "full", "mean": 0.9, **row},
        {"method": "geolora", "label": "ours", "mean": 0.8, **row},
        {"method": "adalora", "label": "diverged", "mean": None, **row},
    ]
    figure = draw_against_size(methods, "mean", levels={"full": "all"}, ylabel="mean", title="made up", unit=0.1)
    [axes] = figure.axes
    handles, labels = axes.get_legend_handles_labels()
    assert labels == ["all", "ours"]
    [point] = [handle for handle in handles if hasattr(handle, "has_yerr")]
    line = point.lines[0]
    assert (line.get_xdata()[0], line.get_ydata()[0]) == (2.0, 8.0)
    assert line.get_color() == look("geolora")["color"]
    assert axes.get_xlabel() and axes.get_ylabel() == "mean"


def test_a_summary_of_the_runs_of_the_reference():
    for m in TABLES["4"].reference()["methods"]:
        assert summary(m, table4.METHODS, m["runs"], **{key: key for key in table4.MEANS}) == m


def test_methods_of_which_a_run_diverged():
    runs = [{"status": "finished", "test": 0.5}, {"status": "diverged at step 2", "test": None}]
    one = summary({"method": "lora", "lr": 1e-3, "tried": []}, METHODS, runs, mean="test")
    none = summary({"method": "lora", "lr": 1e-3, "tried": []}, METHODS, runs[1:], mean="test")
    assert (one["mean"], one["deviation"], one["diverged"], none["mean"]) == (0.5, None, 1, None)
    assert mean_text(one, "mean", ".1f") == "0.5" and mean_text(one | {"deviation": 0.2}, "mean", ".1f") == "0.5 ± 0.2"
    assert against((one, none), "mean", ".0f", 0.1, "diverged") == "5 against diverged"
    assert seed_by_seed((one, one), "test", math.inf, operator.lt) == [False, False]
    assert seed_by_seed((none, one | {"runs": runs[:1]}), "test", -math.inf, operator.ge) == [False]
