"""Pictures of methods, and their words."""

import re

import pytest

from docs.pictures import LOSSES, ORDER, picture
from integrators import INTEGRATORS


@pytest.mark.parametrize("name", ["projected-runge-kutta-3", "geolora"])
def test_order_and_robustness(name):
    png, words, caption = picture({name: INTEGRATORS[name]})
    slope, change = map(float, re.search(r"slope (\S+), .* at most (\S+) times", words).groups())
    assert png.startswith(b"\x89PNG") and caption == ORDER
    assert abs(slope - INTEGRATORS[name].order) <= 0.2 and change < 1.5


def test_losses():
    png, words, caption = picture({"svd-lora": INTEGRATORS["svd-lora"]})
    assert png.startswith(b"\x89PNG") and caption == LOSSES
    first, _, last = map(float, re.findall(r"ends at ([\d.e+-]+\d)", words))
    assert last < 1e-10 < 1 < first
