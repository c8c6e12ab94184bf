"""What the tables of fine-tuning share: paired differences, ranges of rates, and what is tried."""

import math
from pathlib import Path

import numpy as np
import pytest

from dlrt.finetune.data import Setting
from paper_figures.adapters.study import Study, better, paired, rate_range, standard_error, wider


class Pretended(Study):
    """Losses by a formula: best at the rate 10^-2.5 for LoRA, 10^-4 for the other; a decay of 0.1 helps it."""

    def run(self, arguments, steps=1, test=None):
        assert test == 1  # nothing of the test data is looked at
        self.journal.write_text(self.journal.read_text() + f"{len(arguments)} ")
        return [{"status": "finished", "validation": 0.5, "validation_loss": self.loss(**given)} for given in arguments]

    def loss(self, method, lr, weight_decay, rank, seed):
        where = {"lora": -2.5, "full": -4.0}[method]
        decayed = {"lora": 1.0, "full": abs(weight_decay - 0.1)}[method]
        return (math.log10(lr) - where) ** 2 + decayed + 100 * (seed - 101)  # the mean over 100 to 102


def study(tmp_path: Path, quick: bool = False) -> Study:
    journal = tmp_path / "journal"
    journal.write_text("")
    ranks = {"equal": 4, "half": 2}
    return Pretended(
        Setting("images"), ("full", "lora"), ranks, ("lora",), ("lora",), (100, 101, 102), journal, 1, None, quick
    )


def test_tuning_goes_on_until_the_best_rate_lies_inside_and_while_a_decay_pays(tmp_path):
    full, lora, half = study(tmp_path).tuned()
    assert [row["size"] for row in (full, lora, half)] == ["equal", "equal", "half"]
    assert full["lr"] == 1e-4 and lora["lr"] == half["lr"] == 3.16e-3
    assert min(rate for rate, *_ in full["rates"]) < 1e-4
    assert full["weight_decay"] == 0.1 and [decay for decay, *_ in full["decays"]] == [0.0, 0.1, 1.0]
    assert lora["weight_decay"] == 0.0 and [decay for decay, *_ in lora["decays"]] == [0.0, 0.1]
    assert full["decays"][1][1] == pytest.approx(0.0, abs=1e-4)  # mean over the three seeds


def test_longer_runs_are_tuned_half_a_decade_below_too(tmp_path):
    of = study(tmp_path)
    tuned = of.tuned()
    of.journal.write_text("")
    [row] = of.longer(tuned, ("full",), 3)
    assert row["lr"] == 1e-4 and of.journal.read_text() == "6 "  # two rates, three seeds


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


def test_lead_by_standard_errors_of_both_kinds():
    rows = [
        {"method": "lora", "size": "half", "against": {"full": {"difference": -0.01, "seeds": 0.02, "examples": 0.005}}}
    ]
    assert better(rows, "lora", "half", "full", -1)["holds"] == 1
    assert better(rows, "lora", "half", "full", -2)["holds"] == 2
    assert better(rows, "lora", "half", "full", 0)["holds"] == 0


def test_standard_error_of_a_mean_over_seeds():
    """Deviations 1 and 3 of two methods, one that diverged left out: sqrt((1 + 9) / 2 / 5)."""
    rows = [
        {"diverged": lost, "runs": [{"validation_loss": x} for x in losses]}
        for lost, losses in ((0, [1.0, 2.0, 3.0]), (0, [0.0, 3.0, 6.0]), (1, [5.0, None, 8.0]))
    ]
    assert standard_error(rows, 5) == pytest.approx(1.0)
    assert standard_error([], 5) is None


def test_wider_range_of_rates():
    flat, steep = ({"size": "equal", "rates": [[1e-3, x, 0], [1e-2, 1.0, 0], [1e-1, x, 0]]} for x in (1.1, 2.0))
    found = wider([flat | {"method": "a"}, steep | {"method": "b"}], 0.2, "a", "b")
    assert found["holds"] == 1 and found["found"] == "2.00 against 0.40"
