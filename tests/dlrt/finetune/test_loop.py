"""The training loop on a tiny vision transformer with random weights: every method, repeatable; divergence; times."""

import math

import numpy as np
import pytest
import torch

from dlrt.finetune.loop import (
    accuracy,
    blank,
    examples,
    fine_tune,
    random_batches,
    steps,
    time_steps,
    warm_up_and_decay,
)
from dlrt.finetune.methods import METHODS


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_repeats(setting, method):
    first, again = (fine_tune(setting=setting.json(), method=method, lr=3e-3, seed=1, rank=4, looks=2) for _ in "ab")
    assert first["status"] == "finished" and len(first["losses"]) == 12
    assert [look["step"] for look in first["looks"]] == [6, 12]
    assert np.mean(first["losses"][-3:]) < np.mean(first["losses"][:3])
    assert {**first, "seconds": 0} == {**again, "seconds": 0}


def test_divergence_is_recorded(setting):
    found = fine_tune(setting=setting.json(), method="full", lr=1e30, seed=0)
    assert found["status"].startswith("diverged at step") and "test" not in found


def test_examples_of_which_the_class_was_found(setting):
    found = fine_tune(setting=setting.json(), method="full", lr=1e-2, seed=0)
    right = examples(found["right"], setting.test)
    assert right.dtype == bool and right.mean() == found["test"] and 0 < found["validation_loss"] < math.log(2)


def test_weight_decay_shrinks_what_is_trained(setting):
    """W by 1 - rate decay in each step: half of it at the full rate, so that less is learnt."""
    losses = {
        decay: fine_tune(setting=setting.json(), method="lora", lr=1e-3, seed=0, weight_decay=decay)["losses"]
        for decay in (0.0, 500.0)
    }
    assert losses[0.0][0] == losses[500.0][0] and losses[0.0][-1] < losses[500.0][-1]


def test_time_of_a_step(setting):
    found = time_steps(setting=setting.json(), rates={"lora": 1e-3, "geolora": 1e-3}, rounds=3, rank=4)
    assert list(found) == ["lora", "geolora"]
    assert all(0 < t["quartiles"][0] <= t["median"] <= t["quartiles"][1] for t in found.values())


def test_each_step_is_recorded():
    """Losses, backward passes, what follows a step, and the schedule; a loss that is not finite ends it."""
    x = torch.nn.Parameter(torch.tensor(1.0))
    optimizer = torch.optim.SGD([x], lr=0.5)
    record, seen = blank(seed=3), []
    losses = [lambda: x**2, lambda: 3 * x, lambda: x * math.inf, lambda: x]
    seconds = list(steps(optimizer, losses, record, warm_up_and_decay(optimizer, 20), seen.append))
    assert record == {"seed": 3, "status": "diverged at step 3", "losses": [1.0, 1.5], "tapes": 3}  # 1 - 0.25 * 2 = 0.5
    assert seen == [1, 2, 3] and len(seconds) == 2 and min(seconds) > 0
    assert optimizer.param_groups[0]["lr"] == 0.5  # warm: 2 of 20 steps


def test_batches_have_one_size_and_each_example_at_most_once_in_an_epoch():
    generator = random_batches(10, 4, seed=0)
    first, second, third = next(generator), next(generator), next(generator)
    assert len(first) == len(second) == len(third) == 4 and len({*first.tolist(), *second.tolist()}) == 8
    assert len(next(random_batches(3, 4, seed=0))) == 3


def test_accuracy_counts_right_answers():
    labels = torch.arange(250) % 3
    scores = torch.nn.functional.one_hot(torch.where(torch.arange(250) < 200, labels, (labels + 1) % 3))
    assert accuracy(lambda part: scores[part], labels) == 0.8
