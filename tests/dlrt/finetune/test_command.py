"""Fine-tuning on the user's files: what comes out, that it goes on bit for bit, that what comes out fits."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dlrt.finetune import command
from dlrt.finetune.command import _keep_statistics, _place, finetune
from dlrt.finetune.files import picture, pictures
from dlrt.finetune.options import OFFERED, Options, work
from dlrt.nn import adapt, load_low_rank, low_rank_layers


@pytest.fixture
def options(text_model, reviews):
    return Options(str(text_model), "text", [reviews], epochs=2, rank=2, batch=8, lr=0.01)


def numbers(result):
    """All but times."""
    return {name: x for name, x in result.items() if name != "seconds"}


def test_it_writes_what_it_says(options, tmp_path):
    seen = []
    found = finetune(options, tmp_path, progress=lambda lr, record, steps: seen.append((len(record["losses"]), steps)))
    assert seen == [(k, 12) for k in range(13)]  # 54 examples, 6 steps an epoch
    assert json.loads((tmp_path / "metrics.json").read_text()) == found
    assert found["classes"] == ["negative", "positive"] and found["notes"]["train"] == 54
    assert found["status"] == "finished" and len(found["losses"]) == found["tapes"] == 12
    for look, losses in zip(found["looks"], (found["losses"][:6], found["losses"][6:]), strict=True):
        assert math.isclose(look["loss"], sum(losses) / 6) and look["total_rank"] == sum(look["ranks"].values())
    assert [look["epoch"] for look in found["looks"]] == [1, 2]
    names = {path.name for path in tmp_path.iterdir()}
    pictures = {f"{name}.{kind}" for name in ("learning", "ranks") for kind in ("png", "pdf")}
    assert names == {"adapter.safetensors", "lora", "metrics.json", *pictures}
    before = (tmp_path / "metrics.json").stat().st_mtime_ns
    assert finetune(options, tmp_path, progress=lambda *_: pytest.fail("trained again")) == found
    assert (tmp_path / "metrics.json").stat().st_mtime_ns == before


@pytest.mark.usefixtures("no_pictures")
def test_adapter_and_lora_are_the_network_that_was_measured(options, tmp_path):
    """The validation accuracy and loss once more, from the files, by this project and by PEFT."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    found = finetune(options, tmp_path)
    last = found["looks"][-1]

    def base():
        return AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=2)

    model = base()
    adapt(model, list(last["ranks"]), 1, trainable=["classifier", "pooler"])
    load_low_rank(model, tmp_path / "adapter.safetensors")
    measured = work(options).measure(model)
    assert measured["accuracy"] == last["accuracy"]
    assert measured["validation_loss"] == pytest.approx(last["validation_loss"], rel=1e-6)
    assert {name: layer.rank for name, layer in low_rank_layers(model).items()} == last["ranks"]
    served = PeftModel.from_pretrained(base(), tmp_path / "lora").eval()
    assert work(options).measure(served)["validation_loss"] == pytest.approx(last["validation_loss"], rel=1e-5)


def stopped(options, out, step, at=None):
    """A run that is left after a step, at a rate, before its state is saved."""

    def stop(lr, record, steps):
        if len(record["losses"]) == step and at in (None, lr):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(options, out, progress=stop)


@pytest.fixture
def no_pictures(monkeypatch):
    """They take longer than all else."""
    monkeypatch.setattr(command, "save_figure", lambda figure, path: None)


KILLED = """
import os, signal, sys
import torch
from dlrt.finetune import command
from dlrt.finetune.options import Options
command.SAVED_EVERY = 0.0
def progress(lr, record, steps):
    if len(record["losses"]) == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
command.finetune(Options(**{options}), {out!r}, progress=progress)
"""


def kill(options, out, step):
    """The command in another process, which is killed before the state after this step is saved."""
    code = KILLED.format(step=step, options=options.json(), out=str(out))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_it_goes_on_after_kill_9_bit_for_bit(options, tmp_path):
    once, twice = tmp_path / "once", tmp_path / "twice"
    whole = finetune(options, once)
    kill(options, twice, 9)
    steps = []
    found = finetune(options, twice, progress=lambda lr, record, total: steps.append(len(record["losses"])))
    assert steps == [8, 9, 10, 11, 12]
    assert numbers(found) == numbers(whole)
    for name in ("adapter.safetensors", "lora/adapter_model.safetensors", "lora/adapter_config.json", "ranks.png"):
        assert (once / name).read_bytes() == (twice / name).read_bytes()


@pytest.mark.parametrize("method", OFFERED)
@pytest.mark.usefixtures("no_pictures")
def test_every_method_goes_on(method, options, tmp_path, monkeypatch):
    """Stopped at a checkpoint in the midst of an epoch: dropout, memory, schedule and ranks go on."""
    wanted = replace(options, method=method, epochs=1)
    whole = finetune(wanted, tmp_path / "once")
    assert whole["status"] == "finished", whole["status"]
    monkeypatch.setattr(command, "SAVED_EVERY", 0.0)
    stopped(wanted, tmp_path / "twice", 4)
    found = finetune(wanted, tmp_path / "twice")
    assert numbers(found) == numbers(whole)
    ours, theirs = (load_file(tmp_path / part / "adapter.safetensors") for part in ("once", "twice"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.usefixtures("no_pictures")
def test_search_keeps_the_rate_with_the_least_validation_loss(options, tmp_path, monkeypatch):
    wanted = replace(options, lr="search", epochs=1)
    monkeypatch.setattr(command, "SAVED_EVERY", 0.0)
    stopped(wanted, tmp_path, 3, at=1e-3)  # in the second run of the search
    first = []
    found = finetune(wanted, tmp_path, progress=lambda lr, record, _: first.append((lr, len(record["losses"]))))
    assert first[0] == (3.16e-4, 6)  # finished before
    assert dict(found["tried"])[found["lr"]] == min(loss for _, loss in found["tried"] if loss is not None)
    assert len(found["tried"]) >= 3 and found["looks"][-1]["validation_loss"] == dict(found["tried"])[found["lr"]]
    alone = finetune(replace(wanted, lr=found["lr"]), tmp_path / "alone")
    assert alone["losses"] == found["losses"]
    assert (tmp_path / "alone/adapter.safetensors").read_bytes() == (tmp_path / "adapter.safetensors").read_bytes()


@pytest.mark.usefixtures("no_pictures")
def test_divergence_is_a_result_without_an_adapter(options, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "FIRST", (60, 61))
    monkeypatch.setattr(command, "ENDS", (60, 61))
    found = finetune(replace(options, lr="search"), tmp_path)
    assert found["status"].startswith("diverged at step") and not (tmp_path / "adapter.safetensors").exists()
    assert [loss for _, loss in found["tried"]] == [None, None]


@pytest.mark.usefixtures("no_pictures")
def test_a_folder_with_another_run_is_refused(options, tmp_path, reviews):
    finetune(options, tmp_path)
    with pytest.raises(ValueError, match=r"out has another run \(rank 2, not 3\)"):
        finetune(replace(options, rank=3), tmp_path)
    data = tmp_path / "other.jsonl"
    data.write_text(reviews.read_text().replace("bad", "poor"))
    with pytest.raises(ValueError, match=r"out has another run \(other data\)"):
        finetune(replace(options, data=[data]), tmp_path)
    data.write_text(reviews.read_text())
    finetune(replace(options, data=[data]), tmp_path)  # the same in another place
    found = finetune(replace(options, rank=3), tmp_path, fresh=True)
    assert found["settings"]["rank"] == 3
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match=r"metrics.json is damaged"):
        finetune(options, tmp_path)


@pytest.mark.usefixtures("no_pictures")
def test_an_unfinished_run_with_other_options_is_refused(options, tmp_path):
    stopped(options, tmp_path, 0)
    with pytest.raises(ValueError, match=r"out has another run \(lr 0.01, not 0.1\)"):
        finetune(replace(options, lr=0.1), tmp_path)


def test_pictures(setting, tmp_path):
    """The same numbers from a folder of classes and from files of MNIST's format."""
    folder = Path(setting.data) / "train"
    given = {"epochs": 4, "rank": 2, "batch": 8, "lr": 0.01}
    found = finetune(Options(setting.model, "image", [folder], **given), tmp_path / "a")
    assert found["looks"][-1]["accuracy"] > 0.8 and found["classes"] == ["bright", "dark"]
    examples = pictures([folder])
    images = np.stack([picture(example.content, 14, 1)[0].numpy() for example in examples])
    numbers = np.array([example.label == "dark" for example in examples], np.uint8)
    for name, array in (("images", images), ("labels", numbers)):
        head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        (tmp_path / name).write_bytes(head + array.tobytes())
    found = finetune(
        Options(setting.model, "image", [tmp_path / "images", tmp_path / "labels"], **given), tmp_path / "b"
    )
    assert found["looks"][-1]["accuracy"] > 0.8 and found["classes"] == ["0", "1"]


@pytest.mark.usefixtures("no_pictures")
def test_next_token(language_model, tmp_path):
    """A text that repeats itself is learnt, and PEFT serves what was learnt; the tied head stays as it is."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    (tmp_path / "text.txt").write_text("the film was good and the story was fine but the actors was dull " * 40)
    given = {"epochs": 8, "rank": 4, "batch": 4, "length": 16, "lr": 0.05}
    found = finetune(Options(str(language_model), "causal-lm", [tmp_path / "text.txt"], **given), tmp_path / "out")
    looks = found["looks"]
    assert looks[0]["perplexity"] == pytest.approx(math.exp(looks[0]["validation_loss"]))
    assert looks[-1]["perplexity"] < 0.6 * looks[0]["perplexity"] and found["classes"] is None
    saved = load_file(tmp_path / "out/adapter.safetensors")
    assert {name.rsplit(".", 1)[1] for name in saved} == {"U", "S", "V"}
    assert {name.rsplit(".", 2)[1] for name in saved} == {"c_attn", "c_proj", "c_fc"}
    base = AutoModelForCausalLM.from_pretrained(language_model)
    served = PeftModel.from_pretrained(base, tmp_path / "out/lora")
    measured = work(Options(str(language_model), "causal-lm", [tmp_path / "text.txt"], **given)).measure(served)
    assert measured["validation_loss"] == pytest.approx(looks[-1]["validation_loss"], rel=1e-5)


def test_statistics_of_batch_normalisation_stay():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    x, before = torch.randn(8, 3), model[1].running_mean.clone()
    expected = model.eval()(x)
    _keep_statistics(model)
    assert torch.equal(model.train()(x), expected) and torch.equal(model[1].running_mean, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tau": 0.1}, "tau must not be given for geolora-spectral-budget"),
        ({"method": "geolora", "budget": 30}, "budget must not be given for geolora"),
        ({"budget": 5}, "budget must be at least 1 for each of the 12 layers, got 5"),
        ({"rank": 40}, "rank must suit geolora-spectral-budget and the layers, got 40"),
        ({"method": "geolora-budget", "rank": 1}, "got 1: its budget of 12 columns must be at least 24"),
        ({"method": "lora", "rank": 40}, "adapters start at rank 40, and the smallest layer has rank 16"),
    ],
)
@pytest.mark.usefixtures("no_pictures")
def test_options_that_do_not_fit(changes, message, options, tmp_path):
    with pytest.raises(ValueError, match=message):
        finetune(replace(options, **changes), tmp_path)


@pytest.mark.usefixtures("no_pictures")
def test_a_budget_is_the_total_rank(options, tmp_path):
    found = finetune(replace(options, method="geolora-budget", budget=40), tmp_path)
    assert found["looks"][-1]["total_rank"] == 40


def test_places():
    assert _place("bert.encoder.layer.3.attention.self.query") == ("3", "attention.self.query")
    assert _place("layers.0.blocks.1.mlp.0") == ("0.1", "mlp.0")
    assert _place("0.query") == ("0", "query")
