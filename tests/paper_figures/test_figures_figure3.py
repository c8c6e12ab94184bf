"""Figure 3: the statements against made-up ranks, the picture, and a fresh small run."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import paper_figures
from paper_figures import figure3

FIGURE = "figure3"
REFERENCE = Path(paper_figures.__file__).parent / "reference"


def test_the_quick_run_writes_what_it_should(out, fresh):
    for kind, start in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        assert (out / f"figure3.{kind}").read_bytes().startswith(start)
    assert len(fresh["layers"]) == 72 and len(fresh["runs"]) == 4
    assert fresh["settings"]["lr"] == figure3.LR
    blocks, positions = zip(*map(figure3.place, fresh["layers"]), strict=True)
    assert set(blocks) == set(range(12))
    assert set(positions) == set(figure3.POSITIONS.values())


def test_a_second_run_finds_everything_done(out, fresh):
    calls = []
    assert figure3.run(out, quick=True, progress=lambda *args: calls.append(args)) == fresh
    assert not calls


def test_both_methods_keep_to_their_budget(fresh):
    for run in fresh["runs"]:
        assert sum(run["ranks"]) == fresh["settings"]["budget"]


@pytest.mark.parametrize(
    "layer, where",
    [
        ("dinov2.encoder.layer.11.attention.q_proj", (11, "query")),
        ("vit.layers.0.mlp.fc2", (0, "fc2")),
        ("model.layers.3.blocks.1.own.linear", (3, "blocks.1.own.linear")),
    ],
)
def test_places(layer, where):
    assert figure3.place(layer) == where


def test_alike_is_the_rank_correlation():
    assert figure3.alike(np.array([1, 2, 3.0]), np.array([2, 5, 9.0])) == pytest.approx(1)
    assert figure3.alike(np.array([1, 2, 3.0]), np.array([3, 2, 1.0])) == pytest.approx(-1)
    assert math.isnan(figure3.alike(np.ones(3), np.array([3, 2, 1.0])))
    assert math.isnan(figure3.alike(np.full(3, np.nan), np.array([3, 2, 1.0])))


@pytest.fixture
def made_up():
    """Four layers and a budget of 10; one run of AdaLoRA diverged, and GeoLoRA gives the MLP most."""
    ranks = {"geolora-budget": ([1, 2, 3, 4], [1, 2, 4, 3]), "adalora": ([5, 3, 2, 1], None)}
    return {
        "title": "made up",
        "settings": {"task": {"test": 1000}, "chance": 0.1, "budget": 10, "lr": 0.001},
        "layers": [f"net.{block}.{position}" for block in range(2) for position in ("attention.q_proj", "mlp.fc1")],
        "runs": [
            {"method": method, "seed": seed, "status": "diverged at step 1" if r is None else "finished",
             "test": None if r is None else 0.8, "ranks": r}
            for method, both in ranks.items() for seed, r in enumerate(both)
        ],
    }  # fmt: skip


def test_statements_say_what_the_ranks_say(made_up):
    held = {s["claim"]: (s["holds"], s["of"]) for s in figure3._statements(made_up)}

    def of(start):
        [one] = [outcome for claim, outcome in held.items() if claim.startswith(start)]
        return one

    assert of("GeoLoRA at rate") == (2, 2)
    assert of("AdaLoRA at rate") == (1, 2)
    assert of("GeoLoRA: the ranks") == (2, 2)
    assert of("AdaLoRA: the ranks") == (0, 2)
    assert of("GeoLoRA: two seeds") == (1, 1)
    assert of("AdaLoRA: two seeds") == (0, 1)
    assert of("GeoLoRA and AdaLoRA") == (0, 2)
    assert of("GeoLoRA gives") == (1, 2)  # 6 of 10, and 5 of 10 which is no more than half
    assert of("AdaLoRA gives") == (0, 2)


def test_the_picture_has_each_rank_in_its_place(made_up):
    geolora, adalora, _ = figure3.draw(made_up).axes
    assert {t.get_position(): t.get_text() for t in geolora.texts} == {
        (0, 0): "1", (1, 0): "2", (0, 1): "3", (1, 1): "4"
    }  # fmt: skip
    assert [t.get_text() for t in geolora.get_xticklabels()] == ["query", "fc1"]
    made_up["runs"][2]["ranks"] = None
    assert [t.get_text() for t in figure3.draw(made_up).axes[1].texts] == ["diverged"]
    assert len(adalora.texts) == 4


# -- the reference -----------------------------------------------------------------------------------------------------


def test_reference_is_a_full_run(reference):
    assert not reference["quick"]
    assert reference["settings"]["budget"] == figure3.BUDGET and reference["settings"]["lr"] == figure3.LR


def test_reference_says_what_its_ranks_say(reference):
    assert figure3._statements(reference) == reference["statements"]


@pytest.mark.parametrize("name", ["figure3", "figure4"])
def test_references_of_figures_2_to_4_are_the_same_runs(name):
    two, other = (json.loads((REFERENCE / f"{n}.json").read_text(encoding="utf-8")) for n in ("figure2", name))
    assert two["settings"]["task"] == other["settings"]["task"]
    cells = {(c["method"], c["budget"], c["lr"]): c for c in two["cells"]}
    for run in other["runs"]:
        if run["seed"] == 0:
            cell = cells[run["method"], other["settings"]["budget"], other["settings"]["lr"]]
            assert (run["status"], run["test"]) == (cell["status"], cell.get("test"))
            if run["ranks"]:
                assert sum(run["ranks"]) == cell["looks"][-1]["columns"]
