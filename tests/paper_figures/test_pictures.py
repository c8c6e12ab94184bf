"""One colour for each method, bands, maps with numbers."""

import pytest
from matplotlib.figure import Figure

from dlrt.plots import style
from paper_figures.pictures import band, look, shades


@pytest.mark.parametrize("name", ["geolora", "geolora-budget", "geolora-coarse", "geolora-published"])
def test_geolora_has_one_colour(name):
    assert look(name)["color"] == style("geolora")["color"]
    assert (look(name) == look("geolora")) == (name == "geolora")


@pytest.mark.parametrize(
    "name, registered",
    [("full", "full-rank"), ("probe", "full-rank"), ("splitting", "projector-splitting"), ("lora-half", "lora"),
     ("peft-lora", "lora"), ("peft-adalora", "adalora")],
)  # fmt: skip
def test_names_in_results_are_those_of_methods(name, registered):
    for key in ("color", "marker"):
        assert look(name)[key] == style(registered)[key]


def test_shades_differ():
    assert len({shade["color"] for shade in shades(6)}) == 6 and len(shades(1)) == 1


def test_a_band_has_the_colour_of_its_curve():
    axes = Figure().subplots()
    band(axes, [0, 1], [1, 1], [2, 2], [3, 3], color="#ff0000")
    assert axes.lines[0].get_color() == "#ff0000"
    assert axes.collections[0].get_facecolor()[0].tolist() == [1, 0, 0, 0.15]
