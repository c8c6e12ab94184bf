"""Tasks where directions limit: the reference, and a small run of all methods."""

from dlrt.finetune.data import CHANGED
from paper_figures.adapters.directions import (
    AT_ALL_SIZES,
    COMPARED,
    CONFIRMED,
    LONGER,
    RANKS,
    TUNING,
)
from paper_figures.adapters.study import SEEDS
from paper_figures.statements import where
from tests.paper_figures.contract import ItemContract, assert_best_of_the_tried

ITEMS = ["directions"]


class TestItem(ItemContract):
    """Of the table."""


def test_reference_is_a_full_run_of_all_methods(reference):
    for task, methods in zip(reference["tasks"].values(), (COMPARED, CONFIRMED), strict=True):
        assert [row["method"] for row in where(task["tuned"], size="equal")] == list(methods)
        assert all([run["seed"] for run in row["runs"]] == list(SEEDS) for row in task["results"])
    assert reference["settings"]["task"] == CHANGED["turned"].json()


def test_rates_are_the_best_ones_tried(reference):
    for task in reference["tasks"].values():
        assert_best_of_the_tried(task["tuned"])


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
