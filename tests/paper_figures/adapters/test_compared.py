"""What Tables 2 to 4 share."""

from paper_figures.adapters.compared import draw_against_size
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
