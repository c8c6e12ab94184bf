"""Counterparts of Figures 3 and 4: the statements against made-up ranks, the picture, and a fresh small run."""

import math

import numpy as np
import pytest

from dlrt.finetune.data import Setting
from paper_figures import FIGURES
from paper_figures.adapters import allocations, start_ranks
from paper_figures.adapters.images import COLUMNS, METHODS
from tests.paper_figures.contract import ItemContract

ITEMS = ["figure3", "figure4"]


class TestItem(ItemContract):
    """Of Figures 3 and 4."""


def test_figure_4_has_ten_times_the_rate_of_figure_3():
    assert FIGURES["4"].settings["lr"] == 10 * FIGURES["3"].settings["lr"]


@pytest.mark.parametrize("figure", ["3", "4"])
def test_runs_of_the_first_seed_are_shared_with_figure_2(figure):
    setting = Setting("images")
    shared = [task for task in allocations.tasks(setting, False, **FIGURES[figure].settings) if task[1]["seed"] == 0]
    assert len(shared) == len(METHODS)
    assert all(task in start_ranks.tasks(setting, False) for task in shared)


def test_the_quick_run_has_what_it_should(item, fresh):
    assert len(fresh["layers"]) == 72 and len(fresh["runs"]) == 2 * len(METHODS)
    assert fresh["settings"]["lr"] == item.settings["lr"]
    blocks, positions = zip(*map(allocations.place, fresh["layers"]), strict=True)
    assert set(blocks) == set(range(12))
    assert set(positions) == set(allocations.POSITIONS.values())


def test_all_methods_keep_to_their_budget(fresh):
    for run in fresh["runs"]:
        if run["method"] in [METHODS[label] for label in COLUMNS]:
            assert sum(run["ranks"]) == fresh["settings"]["budget"]
        else:
            assert 0.9 * fresh["settings"]["parameters"] < run["parameters"] <= fresh["settings"]["parameters"]


@pytest.mark.parametrize(
    "layer, where",
    [
        ("dinov2.encoder.layer.11.attention.q_proj", (11, "query")),
        ("vit.layers.0.mlp.fc2", (0, "fc2")),
        ("model.layers.3.blocks.1.own.linear", (3, "blocks.1.own.linear")),
    ],
)
def test_places(layer, where):
    assert allocations.place(layer) == where


def test_alike_is_the_rank_correlation():
    assert allocations.alike(np.array([1, 2, 3.0]), np.array([2, 5, 9.0])) == pytest.approx(1)
    assert allocations.alike(np.array([1, 2, 3.0]), np.array([3, 2, 1.0])) == pytest.approx(-1)
    assert math.isnan(allocations.alike(np.ones(3), np.array([3, 2, 1.0])))
    assert math.isnan(allocations.alike(np.full(3, np.nan), np.array([3, 2, 1.0])))


@pytest.fixture
def made_up():
    """Four layers and a budget of 10; one run of AdaLoRA diverged, and GeoLoRA gives the MLP most.

    GeoLoRA with spectral steps spreads it as GeoLoRA does, once with too many parameters.
    """
    ranks = {
        "geolora-budget": ([1, 2, 3, 4], [1, 2, 4, 3]),
        "adalora": ([5, 3, 2, 1], None),
        "geolora-spectral-budget": ([1, 2, 3, 4], [2, 3, 5, 4]),
    }
    return {
        "title": "made up",
        "settings": {"task": {"test": 1000}, "chance": 0.1, "budget": 10, "parameters": 1000.0, "lr": 0.001},
        "layers": [f"net.{block}.{position}" for block in range(2) for position in ("attention.q_proj", "mlp.fc1")],
        "runs": [
            {"method": method, "seed": seed, "status": "diverged at step 1" if r is None else "finished",
             "test": None if r is None else 0.8, "ranks": r, "parameters": None if r is None else 100 * sum(r)}
            for method, both in ranks.items() for seed, r in enumerate(both)
        ],
    }  # fmt: skip


def test_statements_say_what_the_ranks_say(made_up):
    held = {claim: (s["holds"], s["of"]) for claim, s in allocations.statements(made_up).items()}

    def of(start):
        [one] = [outcome for claim, outcome in held.items() if claim.startswith(start)]
        return one

    assert of("GeoLoRA at rate") == (2, 2)
    assert of("AdaLoRA at rate") == (1, 2)
    assert of("GeoLoRA: the ranks") == (2, 2)
    assert of("AdaLoRA: the ranks") == (0, 2)
    assert of("GeoLoRA: two seeds") == (1, 1)
    assert of("AdaLoRA: two seeds") == (0, 1)
    assert of("spectral: no more parameters") == (1, 2)
    assert of("GeoLoRA and AdaLoRA") == (0, 2)
    assert of("GeoLoRA and spectral") == (2, 2)
    assert of("GeoLoRA gives") == (1, 2)  # 6 of 10, and 5 of 10 which is no more than half
    assert of("AdaLoRA gives") == (0, 2)


def test_the_picture_has_each_rank_in_its_place(made_up):
    geolora, adalora, spectral, _ = allocations.draw(made_up).axes
    assert {t.get_position(): t.get_text() for t in geolora.texts} == {
        (0, 0): "1", (1, 0): "2", (0, 1): "3", (1, 1): "4"
    }  # fmt: skip
    assert [t.get_text() for t in geolora.get_xticklabels()] == ["query", "fc1"]
    made_up["runs"][2]["ranks"] = None
    assert [t.get_text() for t in allocations.draw(made_up).axes[1].texts] == ["diverged"]
    assert len(adalora.texts) == len(spectral.texts) == 4


# -- the reference -----------------------------------------------------------------------------------------------------


def test_reference_is_a_full_run(item, reference):
    assert reference["settings"]["budget"] == allocations.BUDGET
    assert reference["settings"]["lr"] == item.settings["lr"]


def test_runs_of_the_reference_are_those_of_figure_2(reference):
    two, other = FIGURES["2"].reference(), reference
    assert two["settings"]["task"] == other["settings"]["task"]
    cells = {(c["method"], c["budget"], c["lr"]): c for c in two["cells"]}
    for run in other["runs"]:
        if run["seed"] == 0:
            cell = cells[run["method"], other["settings"]["budget"], other["settings"]["lr"]]
            assert (run["status"], run["test"]) == (cell["status"], cell.get("test"))
            if run["ranks"]:
                assert sum(run["ranks"]) == cell["looks"][-1]["columns"]
