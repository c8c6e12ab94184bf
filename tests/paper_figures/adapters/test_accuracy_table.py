"""Counterparts of Tables 2 and 3: the references, and a small run of all methods."""

from paper_figures.adapters.accuracy_table import COMPARED
from tests.paper_figures.contract import ItemContract

ITEMS = ["table2", "table3"]


class TestItem(ItemContract):
    """Of Tables 2 and 3."""


def test_reference_is_a_full_run_of_all_methods(reference):
    assert [m["method"] for m in reference["methods"]] == list(COMPARED)
    assert all(len(m["runs"]) == reference["settings"]["seeds"] == 3 for m in reference["methods"])


def test_rates_are_the_best_ones_tried(reference):
    """On validation data, and not at an end of those tried."""
    for m in reference["methods"]:
        scores = {lr: accuracy for lr, accuracy, _ in m["tried"] if accuracy is not None}
        assert scores[m["lr"]] == max(scores.values())
        rates = [lr for lr, _, _ in m["tried"]]
        assert min(rates) < m["lr"] < max(rates)


def test_small_run(fresh):
    assert [m["method"] for m in fresh["methods"]] == list(COMPARED)
    for m in fresh["methods"]:
        assert m["diverged"] == 0 and m["seconds"]["median"] > 0
    counts = {m["method"]: m["parameters"] for m in fresh["methods"]}
    assert counts["probe"] == 0
    # r (m + n) over the linear layers of the blocks: four of 384 x 384 and two of 384 x 1536 each
    blocks = {"sentences": 6, "images": 12}[fresh["settings"]["task"]["task"]]
    assert counts["lora"] == counts["peft-lora"] == 8 * blocks * (4 * (384 + 384) + 2 * (384 + 1536))
