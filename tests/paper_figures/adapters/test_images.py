"""What Figures 2 to 4 share."""

import math

import pytest
import torch

from paper_figures.adapters.images import above_chance, chance, setting_of, title


def test_model_and_data_of_the_user_are_named():
    setting = setting_of(True, model="google/vit-base-patch16-224-in21k", data="/data/cifar-10")
    assert title(setting) == "vit-base-patch16-224-in21k, cifar-10"


def test_chance_is_the_share_of_the_largest_class():
    class Digits:
        splits = {"test": (None, torch.tensor([0, 1, 1, 2]))}

    assert chance(Digits()) == 0.5


def test_above_chance_by_three_standard_deviations():
    assert above_chance({"chance": 0.1, "task": {"test": 1000}}) == pytest.approx(0.1 + 3 * math.sqrt(0.09 / 1000))
