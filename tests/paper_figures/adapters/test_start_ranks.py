"""Counterpart of Figure 2: the statements against made-up records, the picture, and a fresh small run."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from dlrt.finetune.data import Setting
from dlrt.finetune.methods import prepare, size
from paper_figures.adapters import start_ranks
from paper_figures.adapters.images import above_chance
from tests.paper_figures.contract import ItemContract

ITEMS = ["figure2"]


class TestItem(ItemContract):
    """Of Figure 2."""


# -- the runs ----------------------------------------------------------------------------------------------------------


def test_the_quick_run_has_what_it_should(fresh):
    assert fresh["title"] == "ViT-S/14, Fashion-MNIST"
    assert len(fresh["ranks"]) == 2 and len(fresh["cells"]) == 12
    for record in fresh["ranks"]:
        assert [look["step"] for look in record["looks"]] == [2, 4, 6, 8]
        assert record["validation"] == record["looks"][-1]["validation"]


def test_geolora_keeps_to_its_budget(fresh):
    for record in fresh["cells"]:
        if record["method"] == "geolora-budget":
            assert record["looks"][-1]["columns"] == record["budget"]


@pytest.mark.parametrize("quick", [True, False])
def test_tasks_are_different_runs(quick):
    tasks = start_ranks.tasks(Setting("images"), quick)
    assert len({repr(arguments) for _, arguments in tasks}) == len(tasks) == (14 if quick else 42)


@pytest.mark.parametrize("rank", [1, 3])
def test_parameters_before_the_first_step(rank):
    from transformers import Dinov2Config, Dinov2ForImageClassification

    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=28, patch_size=14
    )
    network = Dinov2ForImageClassification(config)
    expected = start_ranks.start_parameters(network, rank)
    found = size(prepare(network, "geolora", 1e-3, rank=rank, tau=0.3, budget=None, steps=1, seed=0))
    assert found["parameters"] - found["head"] == expected == 2 * (4 * rank * 32 + 2 * rank * 48 + 6 * rank**2)


# -- the statements ----------------------------------------------------------------------------------------------------


@pytest.fixture
def made_up():
    """Two start ranks that end at 100 and 120 parameters; 2 x 2 cells with known accuracies."""
    looks = {2: [(50, 0.5), (100, 0.80)], 4: [(200, 0.6), (120, 0.82)]}
    found = {"geolora-budget": [[0.7, 0.8], [0.82, 0.1]], "adalora": [[0.6, 0.79], [None, 0.5]]}
    found["geolora-spectral-budget"] = [[0.75, 0.6], [0.81, None]]
    return {
        "title": "made up",
        "settings": {
            "task": {"validation": 500, "test": 1000},
            "start_ranks": [2, 4],
            "seeds": [0],
            "budgets": [150, 300],
            "rates": [0.001, 0.1],
            "chance": 0.1,
        },
        "ranks": [
            {
                "rank": rank,
                "seed": 0,
                "start": 1000 * rank,
                "status": "finished",
                "looks": [{"step": i, "parameters": p, "validation": v} for i, (p, v) in enumerate(values, 1)],
            }
            for rank, values in looks.items()
        ],
        "cells": [
            {"method": method, "budget": budget, "lr": lr}
            | ({"status": "diverged at step 3"} if value is None else {"status": "finished", "test": value})
            for method, table in found.items()
            for budget, row in zip((150, 300), table, strict=True)
            for lr, value in zip((0.001, 0.1), row, strict=True)
        ],
    }


def held(data, start):
    [one] = [s for claim, s in start_ranks.statements(data).items() if claim.startswith(start)]
    return one["holds"], one["of"], one["found"]


def test_statements_say_what_the_records_say(made_up):
    assert held(made_up, "(a)") == (1, 1, "1.20; 2.0 at the start")
    assert held(made_up, "(b)")[:2] == (1, 1)
    assert held(made_up, "(c, d, e) GeoLoRA: training")[:2] == (4, 4)
    assert held(made_up, "(c, d, e) GeoLoRA: training")[2].startswith("0 nan; 1 at chance")
    assert held(made_up, "(c, d, e) AdaLoRA: training")[:2] == (3, 4)
    assert held(made_up, "(c, d, e) AdaLoRA: training")[2].startswith("1 nan; 0 at chance")
    assert held(made_up, "(c, d, e) GeoLoRA is within")[:2] == (1, 1)  # two cells against none
    assert held(made_up, "(c, d, e) spectral is within")[:2] == (1, 1)  # one against none
    assert held(made_up, "(c, e) spectral steps") == (0, 2, "0.750 to 0.810 against 0.800 to 0.820")
    assert held(made_up, "(c, d) at rate 0.001") == (2, 2, "0.700 to 0.820 against 0.600 to 0.600 and nan")
    assert held(made_up, "(c, d) at rate 0.1")[:2] == (1, 2)


def test_start_ranks_that_do_not_meet_are_told(made_up):
    made_up["ranks"][1]["looks"][-1] = {"step": 2, "parameters": 126, "validation": 0.9}
    assert held(made_up, "(a)")[0] == 0
    assert held(made_up, "(b)")[0] == 0


def test_a_start_rank_that_diverged_meets_none(made_up):
    made_up["ranks"][1] |= {"status": "diverged at step 2", "looks": made_up["ranks"][1]["looks"][:1]}
    assert held(made_up, "(a)")[::2] == (0, "inf; 2.0 at the start")
    assert held(made_up, "(b)")[0] == 0
    assert isinstance(start_ranks.draw(made_up), Figure)


def test_cells_are_where_they_belong(made_up):
    np.testing.assert_array_equal(start_ranks.accuracies(made_up, "adalora"), [[0.6, 0.79], [math.nan, 0.5]])
    assert above_chance(made_up["settings"]) == pytest.approx(0.1 + 3 * math.sqrt(0.09 / 1000))


def test_the_picture_marks_what_diverged_and_what_learned_nothing(made_up):
    panels = {axes.get_title(): axes for axes in start_ranks.draw(made_up).axes}
    assert sorted(t.get_text() for t in panels["(d) AdaLoRA"].texts) == [".500", ".600", ".790", "nan"]
    frames = [len(panels[title].patches) for title in ("(c) GeoLoRA", "(d) AdaLoRA", "(e) spectral")]
    assert frames == [1, 0, 0]


# -- the reference -----------------------------------------------------------------------------------------------------


def test_reference_is_a_full_run(reference):
    assert reference["settings"]["start_ranks"] == list(start_ranks.RANKS)
    assert len(reference["ranks"]) == 6 and len(reference["cells"]) == 36
