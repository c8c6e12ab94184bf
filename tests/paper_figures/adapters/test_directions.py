"""Tasks where directions limit: the reference, a small run of all methods, paired differences, ranges of rates."""

import math

import numpy as np
import pytest

from dlrt.finetune.data import CHANGED
from paper_figures.adapters.directions import (
    AT_ALL_SIZES,
    COMPARED,
    CONFIRMED,
    LONGER,
    RANKS,
    SEEDS,
    TUNING,
    paired,
    rate_range,
)
from paper_figures.statements import where
from tests.paper_figures.contract import ItemContract

ITEMS = ["directions"]


class TestItem(ItemContract):
    """Of the table."""


def test_reference_is_a_full_run_of_all_methods(reference):
    for task, methods in zip(reference["tasks"].values(), (COMPARED, CONFIRMED), strict=True):
        assert [row["method"] for row in where(task["tuned"], size="equal")] == list(methods)
        assert all([run["seed"] for run in row["runs"]] == list(SEEDS) for row in task["results"])
    assert reference["settings"]["task"] == CHANGED["turned"].json()


def test_rates_are_the_best_ones_tried(reference):
    """By the validation loss, and not at an end of those tried; of the decays at that rate the best one."""
    for task in reference["tasks"].values():
        for row in task["tuned"]:
            losses = {lr: loss for lr, loss, _ in row["rates"] if loss is not None}
            assert losses[row["lr"]] == min(losses.values())
            rates = [lr for lr, *_ in row["rates"]]
            assert min(rates) < row["lr"] < max(rates)
            decays = {decay: loss for decay, loss, _ in row["decays"] if loss is not None}
            assert decays[row["weight_decay"]] == min(decays.values()) and decays[0] == losses[row["lr"]]


def test_small_run(fresh):
    assert list(fresh["tasks"]) == ["turned", "shuffled"]
    for task, methods in zip(fresh["tasks"].values(), (COMPARED, CONFIRMED), strict=True):
        assert [row["method"] for row in where(task["tuned"], size="equal")] == list(methods)
        rows = {(row["method"], row["size"]): row for row in task["results"]}
        assert len(rows) == len(methods) + 2 * len(AT_ALL_SIZES)
        assert all(row["diverged"] == 0 and len(row["runs"]) == 2 for row in rows.values())
        # width 16, two blocks of four layers 16 x 16 and two of 16 x 64
        for size, rank in RANKS.items():
            assert rows["lora", size]["parameters"] == rank * 2 * (4 * 32 + 2 * 80)
        assert rows["lora", "equal"]["against"]["lora"] == {"difference": 0, "seeds": 0, "examples": 0}
    assert [row["method"] for row in fresh["tasks"]["turned"]["longer"]] == list(LONGER)
    assert [row["method"] for row in fresh["tasks"]["turned"]["longest"]] == ["full"]
    assert list(fresh["seconds"]) == list(COMPARED)


def test_seeds_of_the_tuning_are_not_those_of_the_results():
    assert not set(TUNING) & set(SEEDS)


def test_paired_differences():
    """Two seeds, eight examples: by seed 1/4 and 1/2, by example (1, 1, 1, 0, 0, 0, 0, 0) and halves."""

    def run(*right):
        return {"status": "finished", "right": np.packbits(right).tobytes().hex()}

    one = [run(1, 1, 1, 1, 0, 0, 0, 0), run(1, 1, 1, 1, 1, 0, 0, 0)]
    other = [run(1, 1, 0, 0, 0, 0, 0, 0), run(1, 0, 0, 0, 0, 0, 0, 0)]
    found = paired(one, other, 8)
    assert found["difference"] == pytest.approx(3 / 8)
    assert found["seeds"] == pytest.approx(1 / 8)
    by_example = [0, 0.5, 1, 1, 0.5, 0, 0, 0]
    assert found["examples"] == pytest.approx(np.std(by_example, ddof=1) / math.sqrt(8))
    assert paired([{"status": "diverged at step 3"}], other[:1], 8) is None


def test_rates_within_an_error_of_the_best():
    """Between those tried by straight lines in the logarithm; those that diverged left out."""
    tuned = {
        "rates": [[1e-3, 2.0, None, None], [1e-2, 1.0, None, None], [1e-1, 1.5, None, None], [1, None, None, None]]
    }
    low, high = rate_range(tuned, 0.25)
    assert low == pytest.approx(10**-2.25, rel=0.01) and high == pytest.approx(10**-1.5, rel=0.01)
    assert rate_range({"rates": []}, 0.25) is None and rate_range(tuned, None) is None
