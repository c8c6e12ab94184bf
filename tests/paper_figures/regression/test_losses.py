"""Losses of all methods: tuning by one rule, the reference against fresh runs, the quick run."""

import math

import pytest

from paper_figures.regression import losses
from paper_figures.regression.losses import METHODS, SINGLE, descend
from tests.paper_figures.contract import ItemContract

ITEMS = ["losses"]


class TestItem(ItemContract):
    """Of the losses."""


def test_reference_is_a_full_run(reference):
    assert [m["method"] for m in reference["methods"]] == list(METHODS)
    assert all(len(m["runs"]) == losses.SEEDS for m in reference["methods"])
    assert not set(reference["settings"]["seeds"]) & set(reference["settings"]["tuning_seeds"])


def test_rates_are_the_best_ones_tried(reference):
    for m in reference["methods"]:
        best = min(m["tried"], key=lambda row: row[1:])
        assert m["rate"] == best[0]
        assert m["at_the_end_of_the_grid"] == (best in (m["tried"][0], m["tried"][-1]))


@pytest.mark.parametrize("method", METHODS)
def test_a_run_of_the_reference_again(reference, method):
    """Float32 and other versions of LAPACK: the same verdicts, and the same count of gradients within a tenth."""
    [m] = [m for m in reference["methods"] if m["method"] == method]
    fresh = descend(method=method, quarter=math.log10(m["rate"]), seed=0)
    assert fresh["diverged"] == m["runs"][0]["diverged"]
    assert (fresh["end"] < SINGLE) == (m["runs"][0]["end"] < SINGLE)
    if m["runs"][0]["near"] is not None:
        assert fresh["near"] == pytest.approx(m["runs"][0]["near"], rel=0.1, abs=m["evaluations"])


def test_small_run(fresh):
    assert fresh["quick"] and [m["method"] for m in fresh["methods"]] == list(METHODS)
    for m in fresh["methods"]:
        for key in ("quartiles", "quartiles_at_same_rate"):
            low, middle, high = m[key]
            assert len(low) == len(middle) == len(high) > 1
            assert all(a <= b <= c for a, b, c in zip(low, middle, high, strict=True))
