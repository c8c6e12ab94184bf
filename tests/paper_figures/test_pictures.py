"""One colour for each method."""

import pytest

from dlrt.plots import style
from paper_figures.pictures import look, shades


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
