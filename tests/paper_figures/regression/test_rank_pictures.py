"""Pictures of premature rank loss."""

import pytest

from paper_figures.pictures import look
from paper_figures.regression import rank_pictures

ITEMS = ["rank-recovery"]


@pytest.fixture(scope="module")
def pictures(reference):
    return rank_pictures.draw(reference)


def test_axes_are_labelled(pictures):
    for figure in pictures.values():
        assert all(axes.get_xlabel() for axes in figure.axes) and figure.axes[0].get_ylabel()


def test_every_rate_of_success_is_written(pictures, reference):
    cells = [text.get_text() for axes in pictures[""].axes for text in axes.texts if "/" in text.get_text()]
    assert len(cells) == len(reference["success"])


def test_curves_of_geolora_have_its_colour(pictures):
    colours = [line.get_color() for line in pictures["-noise"].axes[0].lines[:3]]
    assert colours == [look("geolora")["color"]] * 3
