"""The small diffusion model: its pictures and noise, runs of seconds by each method, divergence."""

import numpy as np
import pytest
import torch

from dlrt.finetune.diffusion import (
    FULL,
    QUICK,
    SCHEDULE,
    Examples,
    Network,
    adaptable,
    fine_tune,
    pictures,
    pretrain,
    subject,
)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """The arguments of a run on a network pretrained for four steps."""
    file = str(tmp_path_factory.mktemp("pretrained") / "network.safetensors")
    found = pretrain(setting=QUICK.json(), file=file)
    assert all(np.isfinite(list(found.values())))
    return {"setting": QUICK.json(), "file": file, "seed": 1}


@pytest.mark.parametrize("method", ["full", "lora-half", "adalora", "geolora"])
def test_runs_repeat_and_count_parameters(given, method):
    first, again = (fine_tune(**given, method=method, lr=1e-3) for _ in "ab")
    assert first == again and first["status"] == "finished" and len(first["losses"]) == QUICK.steps
    network = Network(QUICK.channels)
    shapes = {name: (len(m.weight), m.weight[0].numel()) for name, m in adaptable(network, QUICK.rank)[0].items()}
    by_hand = {
        "full": sum(p.numel() for p in network.parameters()),
        "lora-half": sum(4 * (m + n) for m, n in shapes.values()),
        "geolora": sum(r * (sum(shapes[name]) + r) for name, r in first["ranks"].items()),
    }
    if method == "adalora":  # some of the 12 triplets of each layer are masked
        assert first["parameters"] < sum(12 * (m + n + 1) for m, n in shapes.values())
    else:
        assert first["parameters"] == by_hand[method]
    assert set(first["ranks"]) == (set() if method == "full" else set(shapes))


def test_divergence_is_recorded(given):
    found = fine_tune(**given, method="svd-lora", lr=1e30)
    assert found["status"].startswith("diverged at step") and found["training"] is None and "test" not in found


def test_examples_are_pictures_with_noise_of_their_times():
    """sqrt(a) x + sqrt(1 - a) e, a falling from nearly 1 to nearly 0 over the 1000 times."""
    x = torch.rand(50, 1, 16, 16) * 2 - 1
    examples = Examples.draw(x, torch.zeros(50, dtype=torch.int64), torch.Generator().manual_seed(0))
    a = SCHEDULE.alphas_cumprod[examples.times].reshape(-1, 1, 1, 1)
    torch.testing.assert_close(examples.noisy, a.sqrt() * x + (1 - a).sqrt() * examples.noise)
    assert SCHEDULE.alphas_cumprod[0] > 0.999 and SCHEDULE.alphas_cumprod[-1] < 1e-4
    assert torch.equal(torch.cat([part.noisy for part in examples.split(7)]), examples.noisy)


def test_pictures_to_train_on_and_held_out_ones_are_different():
    x, _ = pictures("train", lambda labels: np.arange(3))
    assert x.shape == (3, 1, 16, 16) and float(x.min()) == -1 and float(x.max()) <= 1
    (train, labels), held_out = subject(FULL)
    assert len(train) == FULL.train and set(labels.tolist()) == {FULL.subject}
    for name, number in (("validation", FULL.validation), ("test", FULL.test)):
        examples = held_out[name]
        assert len(examples.times) == number * FULL.draws and set(examples.labels.tolist()) == {FULL.subject}
        assert torch.equal(subject(FULL)[1][name].noisy, examples.noisy)  # the same at each call
        a = SCHEDULE.alphas_cumprod[examples.times].reshape(-1, 1, 1, 1)
        clean = ((examples.noisy - (1 - a).sqrt() * examples.noise) / a.sqrt())[a.flatten() > 0.5]
        assert float(torch.cdist(clean.flatten(1), train.flatten(1)).min()) > 0.1  # rounding is below 1e-5
