"""Counterparts of Tables 2 and 3: the references, and a small run of all methods."""

import pytest

from paper_figures.adapters.accuracy_table import AT_ALL_SIZES, COMPARED, RANKS, TUNING
from paper_figures.adapters.study import SEEDS
from paper_figures.statements import where
from tests.paper_figures.contract import ItemContract, assert_best_of_the_tried

ITEMS = ["table2", "table3"]


class TestItem(ItemContract):
    """Of Tables 2 and 3."""


def test_reference_is_a_full_run_of_all_methods(reference):
    assert [row["method"] for row in where(reference["tuned"], size="equal")] == list(COMPARED)
    assert all([run["seed"] for run in row["runs"]] == list(SEEDS) for row in reference["results"])
    assert not set(TUNING) & set(SEEDS)


def test_rates_are_the_best_ones_tried(reference):
    assert_best_of_the_tried(reference["tuned"])


def test_small_run(fresh):
    rows = {(row["method"], row["size"]): row for row in fresh["results"]}
    assert len(rows) == len(COMPARED) + 2 * len(AT_ALL_SIZES)
    assert all(row["diverged"] == 0 and len(row["runs"]) == 2 for row in rows.values())
    assert list(fresh["seconds"]) == list(COMPARED) and all(found["median"] > 0 for found in fresh["seconds"].values())
    assert rows["probe", "equal"]["parameters"] == 0
    # r (m + n) over the linear layers of the blocks: four of 384 x 384 and two of 384 x 1536 each
    blocks = {"sentences": 6, "images": 12}[fresh["settings"]["task"]["task"]]
    direction = blocks * (4 * (384 + 384) + 2 * (384 + 1536))
    for size, rank in RANKS.items():
        assert rows["lora", size]["parameters"] == rank * direction
        # all layers of the budget together have no more than LoRA
        assert rows["geolora-spectral-budget", size]["parameters"] <= rank * direction
    assert rows["peft-lora", "equal"]["parameters"] == RANKS["equal"] * direction
    memory = fresh["bytes"]
    assert list(memory) == list(COMPARED)
    # with a gradient and two moments for each parameter there are four numbers of 4 bytes
    full = memory["full"]
    assert full["kept"] == pytest.approx(full["network"] + 12 * rows["full", "equal"]["parameters"], rel=1e-3)
    # LoRA here has S = I besides
    for method, S in (("peft-lora", 0), ("lora", 6 * blocks * RANKS["equal"] ** 2)):
        more = memory[method]["kept"] - memory["probe"]["kept"]
        assert more == pytest.approx(16 * rows[method, "equal"]["parameters"] + 4 * S, rel=1e-3)
    assert all(of["network"] < of["kept"] < of["peak"] for of in memory.values())
