"""The examples for Trainer, accelerate, Lightning and TRL run, and do what a plain loop in one process does."""

import functools
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dlrt.nn import LowRankOptimizer, ranks
from integrators import Adam, AugmentedBUG, FixedRank, GeoLoRA, Tolerance

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "tests" / "example_clients"
BUG = AugmentedBUG(truncation=Tolerance(relative=0.1))
GEOLORA = GeoLoRA(truncation=Tolerance(relative=0.1, spare=1), optimizer=Adam())


def example(name):
    """An example as a module; the test is skipped where its library is not installed."""
    pytest.importorskip({"with_trainer": "transformers"}.get(name, name.removeprefix("with_")))
    return importlib.import_module(f"tests.example_clients.{name}")


def run(*command):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, *map(str, command)], env=environment, check=True, capture_output=True)


def matrices(state):
    """U S V^T of each layer, by name."""
    names = [name.removesuffix(".S") for name in state if name.endswith(".S")]
    return {name: state[f"{name}.U"] @ state[f"{name}.S"] @ state[f"{name}.V"].T for name in names}


def assert_same_function(first, second):
    """Equal matrices and other parameters, in single precision over 24 steps."""
    first, second = ({**state, **matrices(state)} for state in (first, second))
    names = [name for name in first if name.rpartition(".")[2] not in "USV"]
    assert any(first[name].ndim == 2 for name in names)
    for name in names:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-4, msg=name)


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


# -- transformers, TRL -------------------------------------------------------------------------------------------------


def test_trainer(tmp_path):
    """It learns, and stock PEFT serves what it has saved."""
    from peft import PeftModel

    with_trainer = example("with_trainer")
    trainer = with_trainer.main(str(tmp_path), use_cpu=True, disable_tqdm=True)
    assert losses(trainer)[-1] < losses(trainer)[0]
    served = PeftModel.from_pretrained(with_trainer.network(), tmp_path).eval()
    x = torch.stack([text["input_ids"] for text in with_trainer.texts()])
    with torch.no_grad():
        torch.testing.assert_close(served(x).logits, trainer.model.eval()(x).logits, rtol=1e-4, atol=1e-5)


def test_readme_shows_the_example():
    """Whatever its comparison with LoRA adds is in the example."""
    readme, text = ((path).read_text(encoding="utf-8") for path in (ROOT / "README.md", EXAMPLES / "with_trainer.py"))
    (block,) = re.findall(r"```diff\n(.*?)```", readme, re.DOTALL)
    added = [line[1:].strip() for line in block.splitlines() if line.startswith("+")]
    assert len(added) >= 3
    for line in added:
        assert line in text, line


@pytest.mark.parametrize("integrator", [GEOLORA, BUG], ids=["one tape", "two tapes"])
def test_trl(integrator, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with_trl = example("with_trl")
    trainer = with_trl.main(str(tmp_path), integrator, use_cpu=True, disable_tqdm=True, save_strategy="no")
    assert losses(trainer)[-1] < losses(trainer)[0]
    assert "mean_token_accuracy" in trainer.state.log_history[0] and "max_rank" in trainer.state.log_history[0]
    assert (tmp_path / "adapter_config.json").is_file()


# -- Lightning ---------------------------------------------------------------------------------------------------------


def in_a_plain_loop(module, integrator, trainable="4", batch=32):
    """The classifier of the example after 24 steps."""
    model = module.Classifier(integrator, trainable)
    optimizer = LowRankOptimizer(model, integrator, lr=0.5)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 24)
    for _ in range(24 * batch // 128):
        for x, y in torch.utils.data.DataLoader(module.examples(), batch_size=batch):

            def closure(x=x, y=y):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model.network(x), y)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                return loss.detach()

            optimizer.step(closure)
            schedule.step()
    return model


@pytest.mark.parametrize("integrator", [GEOLORA, BUG], ids=["one tape", "two tapes"])
def test_lightning_takes_the_steps_of_a_plain_loop_and_goes_on(integrator, tmp_path):
    """Bit for bit, also from a checkpoint at another rank."""
    with_lightning = example("with_lightning")
    expected = in_a_plain_loop(with_lightning, integrator).state_dict()
    found = with_lightning.fit(tmp_path, integrator, enable_checkpointing=False).model.state_dict()
    half = with_lightning.fit(tmp_path, integrator, max_epochs=3)
    half.save_checkpoint(tmp_path / "half.ckpt")
    assert set(ranks(half.model).values()) != {4}
    whole = with_lightning.fit(tmp_path, integrator, checkpoint=tmp_path / "half.ckpt").model.state_dict()
    for name, X in expected.items():
        assert torch.equal(found[name], X) and torch.equal(whole[name], X), name


def test_lightning_accumulates_for_methods_of_one_tape_alone(tmp_path):
    with_lightning = example("with_lightning")
    options = {"batch": 16, "accumulate_grad_batches": 2, "max_epochs": 1, "enable_checkpointing": False}
    with pytest.raises(ValueError, match="AugmentedBUG needs 2 backward passes per step, each over the whole batch"):
        with_lightning.fit(tmp_path, BUG, **options)
    with_lightning.fit(tmp_path, GEOLORA, **options)


def test_average_of_lightning(tmp_path, monkeypatch):
    """With bases that are kept aligned, that of the factors is that of the matrices: to second order, at fixed rank.

    From the ninth step on, since the bases of an adapter turn at once into directions of the first gradients.
    """
    with_lightning = example("with_lightning")
    from lightning.pytorch.callbacks import Callback, EMAWeightAveraging

    path = []

    class Path(Callback):
        def on_train_batch_end(self, trainer, module, *args):
            path.append(module.network[2].dense().detach())

    errors = {}
    for align in (False, True):

        def slow(model, integrator, lr, align=align):
            return LowRankOptimizer(model, integrator, 0.1 * lr, align=align)

        monkeypatch.setattr(with_lightning, "LowRankOptimizer", slow)
        path.clear()
        callbacks = [Path(), EMAWeightAveraging(decay=0.9, update_starting_at_step=8)]
        trainer = with_lightning.fit(
            tmp_path, GeoLoRA(truncation=FixedRank(4)), callbacks=callbacks, enable_checkpointing=False
        )
        expected = functools.reduce(lambda mean, W: 0.9 * mean + 0.1 * W, path[8:])
        errors[align] = float((trainer.lightning_module.network[2].dense() - expected).norm())
    assert len(path) == 24
    assert errors[True] < 0.1 * float((path[-1] - expected).norm()) < 0.1 * errors[False]


@pytest.mark.slow
@pytest.mark.parametrize("trainable", [["4"], []], ids=["with a head", "adapters alone"])
def test_lightning_in_two_processes(trainable, tmp_path):
    """All examples in each step, since Lightning shuffles them for several processes."""
    with_lightning = example("with_lightning")
    run(EXAMPLES / "with_lightning.py", tmp_path, *trainable)
    found = torch.load(tmp_path / "two processes.ckpt", weights_only=False)["state_dict"]
    assert_same_function(found, in_a_plain_loop(with_lightning, BUG, trainable, batch=128).state_dict())


# -- accelerate --------------------------------------------------------------------------------------------------------


def test_accelerate_goes_on(tmp_path):
    """From what ``save_state`` has written, at other ranks: bit for bit."""
    accelerate, with_accelerate = pytest.importorskip("accelerate"), example("with_accelerate")
    x, y = with_accelerate.examples().tensors

    def train(first, last):
        accelerator = accelerate.Accelerator(cpu=True)
        model = with_accelerate.network()
        with_accelerate.adapt(model, "2", rank=4, trainable="4")
        optimizer = LowRankOptimizer(model, GEOLORA, lr=0.05)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 6)
        model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
        if first:
            accelerator.load_state(tmp_path / "state")
        for step in range(first, last):
            optimizer.zero_grad()
            accelerator.backward(nn.functional.cross_entropy(model(x), y))
            optimizer.step()
            schedule.step()
            if step == 2 and first == 0:
                accelerator.save_state(tmp_path / "state")
                assert ranks(model) != {"2": 4}
        return model.state_dict()

    whole, again = train(0, 6), train(3, 6)
    assert all(torch.equal(again[name], X) for name, X in whole.items())


@pytest.mark.slow
def test_accelerate(tmp_path):
    """By `accelerate launch`, in one process and in two."""
    example("with_accelerate")
    launch = ("-m", "accelerate.commands.launch", "--mixed_precision=no", "--dynamo_backend=no", "--num_machines=1")
    for number, kind in ((1, "--cpu"), (2, "--multi_gpu")):  # the latter without GPUs means two processes
        script, file = EXAMPLES / "with_accelerate.py", tmp_path / f"{number}.safetensors"
        run(*launch, f"--num_processes={number}", kind, script, file)
    assert_same_function(*(load_file(tmp_path / f"{number}.safetensors") for number in (1, 2)))
