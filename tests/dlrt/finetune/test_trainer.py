"""The Trainer with low-rank layers: the steps of a plain loop, several tapes, going on, files, two processes."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from dlrt.finetune.trainer import LowRankTrainer
from dlrt.nn import Factor, LowRankOptimizer, adapt, low_rank_layers, parameter_report, ranks
from integrators import Adam, AugmentedBUG, GeoLoRA, Momentum, Tolerance

TAU = Tolerance(relative=0.2, spare=1, max_rank=6)
GEOLORA, BUG = GeoLoRA(optimizer=Adam(), truncation=TAU), AugmentedBUG(truncation=TAU)
TEXTS = [{"input_ids": text, "labels": text} for text in torch.randint(0, 40, (32, 8), generator=torch.Generator())]
SILENT = {"use_cpu": True, "report_to": "none", "disable_tqdm": True}


def gpt2(seed=0, trainable=("ln_f",), dropout=0.0):
    """A network of seconds in double precision, with adapters of rank 2."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=40, n_positions=8, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0,
        resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).double()
    model.loss_type = "ForCausalLM"  # transformers finds none for GPT-2, and then counts one label too many
    adapt(model, ["c_attn", "c_fc"], rank=2, trainable=trainable)
    return model


def trained(folder, model, integrator=None, *, resume=None, optimizers=(None, None), evaluate=None, **arguments):
    """A trainer that has trained: 32 texts, batches of 8, five steps, everything logged."""
    defaults = {"per_device_train_batch_size": 8, "max_steps": 5, "learning_rate": 0.05, "logging_steps": 1}
    args = TrainingArguments(str(folder), **SILENT, **(defaults | {"save_strategy": "no"} | arguments))
    trainer = LowRankTrainer(
        model, args, train_dataset=TEXTS, eval_dataset=evaluate, integrator=integrator, optimizers=optimizers
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if "loss" in entry]


def assert_equal(first, second):
    """Bit for bit, also where tensors are deep inside."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for x, y in zip(first, second, strict=True):
            assert_equal(x, y)
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second


# -- steps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("integrator", [GEOLORA, BUG], ids=["one tape", "two tapes"])
@pytest.mark.parametrize("parts", [1, 2])
def test_steps_are_those_of_a_plain_loop(integrator, parts, tmp_path):
    """Clipping, weight decay, schedule and accumulation included: the same numbers to rounding."""
    trainer = trained(
        tmp_path, gpt2(), integrator, train_sampling_strategy="sequential", per_device_train_batch_size=8 // parts,
        gradient_accumulation_steps=parts, max_steps=4, weight_decay=0.1, max_grad_norm=0.02,
    )  # fmt: skip

    model = gpt2()
    names = {p: name for name, p in model.named_parameters()}

    def rest(parameters):
        decayed = [p for p in parameters if "bias" not in names[p] and "ln" not in names[p]]
        others = [p for p in parameters if all(p is not q for q in decayed)]
        return torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}], 0.05, weight_decay=0.1)

    optimizer = LowRankOptimizer(model, integrator, 0.05, weight_decay=0.1, rest=rest)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / 4)
    losses, norms = [], []
    for k in range(4):
        texts = torch.stack([text["input_ids"] for text in TEXTS[8 * k : 8 * k + 8]])
        seen = []

        def closure(texts=texts, seen=seen):
            optimizer.zero_grad()
            loss = model(input_ids=texts, labels=texts).loss
            loss.backward()
            seen.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.02)))
            return loss.detach()

        losses.append(float(optimizer.step(closure)))
        norms.append(seen[0])
        schedule.step()
    assert min(norms) > 0.02  # it has been clipped
    # the Trainer keeps losses in single precision
    torch.testing.assert_close(logged(trainer, "loss"), losses, rtol=1e-6, atol=0)
    torch.testing.assert_close(logged(trainer, "grad_norm"), norms, rtol=1e-9, atol=0)
    assert ranks(trainer.model) == ranks(model) and len(set(logged(trainer, "mean_rank"))) > 1
    for name, layer in low_rank_layers(model).items():
        W = low_rank_layers(trainer.model)[name].dense()
        assert (W - layer.dense()).norm() <= 1e-9 * W.norm()
    torch.testing.assert_close(trainer.model.transformer.ln_f.state_dict(), model.transformer.ln_f.state_dict())


def test_checkpointing_changes_nothing(tmp_path):
    expected, found = (trained(tmp_path, gpt2(), GEOLORA, activation_checkpointing=on) for on in (False, True))
    assert_equal(dict(found.model.state_dict()), dict(expected.model.state_dict()))


def test_data_parallel(tmp_path, monkeypatch):
    """Without GPUs there are no copies, and the loss is taken twice, which Adam does not see (but for its epsilon)."""
    expected = low_rank_layers(trained(tmp_path, gpt2(), GEOLORA, max_grad_norm=0.0).model)
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda args: 2))
    found = trained(tmp_path, gpt2(), GEOLORA, per_device_train_batch_size=4, max_grad_norm=0.0)
    assert isinstance(found.model_wrapped, nn.DataParallel)
    for name, layer in low_rank_layers(found.model).items():
        W = expected[name].dense()
        assert (layer.dense() - W).norm() <= 1e-4 * W.norm()


def test_a_search_over_hyper_parameters_makes_models_anew(tmp_path):
    args = TrainingArguments(str(tmp_path), **SILENT, max_steps=2, learning_rate=0.05, save_strategy="no")
    trainer = LowRankTrainer(model_init=lambda: gpt2(), args=args, train_dataset=TEXTS, integrator=BUG)
    trainer.train()
    first = dict(trainer.model.state_dict())
    trainer.train()
    assert_equal(dict(trainer.model.state_dict()), first)


def test_an_optimizer_of_ones_own(tmp_path):
    model = gpt2()
    optimizer = LowRankOptimizer(model, GEOLORA, 0.1, coefficient_steps=1, rest=None)
    trainer = trained(tmp_path, model, optimizers=(optimizer, None), max_steps=3)
    assert trainer.optimizer.optimizer is optimizer and optimizer.param_groups[0]["position"] == 1
    # also between steps on S alone, all factors count; without a rest the norm at the end of the network does not move
    assert logged(trainer, "trained_parameters")[-1] == sum(map(torch.numel, trained_parameters(model)))
    assert trainer.model.transformer.ln_f.weight.eq(1).all()


def trained_parameters(model):
    return [p for p in model.parameters() if isinstance(p, Factor) or p.requires_grad]


def test_the_log_says_what_has_become_of_the_ranks(tmp_path):
    """Of all layers but those that are frozen."""
    model = gpt2()
    frozen, *layers = low_rank_layers(model).values()
    frozen.requires_grad_(False)
    trainer = trained(tmp_path, model, GEOLORA)
    found = [layer.rank for layer in layers]
    last = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    assert last["mean_rank"] == sum(found) / len(found) and last["max_rank"] == max(found)
    errors = trainer.optimizer.optimizer.truncation_errors.values()
    assert last["truncation_error"] == math.sqrt(sum(error**2 for error in errors)) > 0
    assert last["trained_parameters"] == parameter_report(model).trained
    assert "mean_rank" not in trainer.state.log_history[-1]  # the summary at the end


# -- files -------------------------------------------------------------------------------------------------------------


def of_geolora(model):
    return {"integrator": GEOLORA}


def of_bug(model):
    return {"integrator": AugmentedBUG(truncation=TAU, optimizer=Momentum(0.5))}


def with_coefficient_steps(model):
    return {"optimizers": (LowRankOptimizer(model, GEOLORA, 0.05, coefficient_steps=2, truncate_after=1), None)}


@pytest.mark.parametrize("method", [of_geolora, of_bug, with_coefficient_steps])
def test_going_on_is_never_having_stopped(method, tmp_path):
    """At other ranks than those at the start, and with dropout: network, optimiser, schedule and log bit for bit."""
    options = {"save_strategy": "steps", "save_steps": 2, "warmup_steps": 2}
    whole = gpt2(dropout=0.1)
    first = trained(tmp_path / "whole", whole, **method(whole), **options)
    again = gpt2(dropout=0.1)
    second = trained(
        tmp_path / "again", again, **method(again), resume=str(tmp_path / "whole" / "checkpoint-2"), **options
    )
    saved = torch.load(tmp_path / "whole" / "checkpoint-2" / "optimizer.pt")
    assert any(entry.get("rank", 2) != 2 for entry in saved["state"].values())
    assert_equal(dict(second.model.state_dict()), dict(first.model.state_dict()))
    assert_equal(second.optimizer.state_dict(), first.optimizer.state_dict())
    assert_equal(second.lr_scheduler.state_dict(), first.lr_scheduler.state_dict())
    assert_equal(logged(second, "loss"), logged(first, "loss"))


def test_the_best_model_comes_back(tmp_path):
    trainer = trained(
        tmp_path, gpt2(), GEOLORA, evaluate=TEXTS, learning_rate=500.0, lr_scheduler_type="constant", max_grad_norm=0.0,
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, load_best_model_at_end=True,
    )  # fmt: skip
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.state.best_metric == min(losses) < losses[-1]
    assert trainer.evaluate()["eval_loss"] == min(losses)


def test_a_checkpoint_is_small_and_serves_as_lora(tmp_path):
    """Stock PEFT and transformers load it by the name of the base model; frozen weights are not in it."""
    base = gpt2()
    for layer in low_rank_layers(base).values():
        assert layer.S.eq(0).all()
    plain = GPT2LMHeadModel(base.config).double()
    plain.save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype="auto")
    adapt(model, ["c_attn", "c_fc"], rank=2, trainable="ln_f")
    trainer = trained(tmp_path, model, GEOLORA)
    trainer.save_model(str(tmp_path / "adapter"))
    x = TEXTS[0]["input_ids"][None]
    with torch.no_grad():
        expected = model.eval()(x).logits
        for served in (
            PeftModel.from_pretrained(
                AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype="auto"), tmp_path / "adapter"
            ),
            AutoModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype="auto"),
        ):
            # PEFT keeps its factors in single precision
            torch.testing.assert_close(served.eval()(x).logits, expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(AutoModelForCausalLM.from_pretrained(tmp_path / "base")(x).logits, expected, 1e-2)
    saved = trained_parameters(model)
    size = sum(p.numel() for p in saved) * 8
    assert (tmp_path / "adapter" / "model.safetensors").stat().st_size < size + 4096
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["peft_type"] == "LORA"


class Normalised(nn.Module):
    """No network of transformers: buffers that move, trained layers of low rank, dilated convolutions."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Conv1d(1, 8, 3, dilation=2), nn.BatchNorm1d(8), nn.Linear(32, 2)

    def forward(self, input_ids, labels):
        y = self.last(self.norm(self.first(input_ids[:, None].float() / 40)).flatten(1))
        return {"loss": nn.functional.cross_entropy(y, labels[:, 0] % 2), "logits": y}


def test_adapters_of_peft(tmp_path):
    """Training goes on bit for bit; what is saved is what PEFT saves."""
    peft = pytest.importorskip("dlrt.finetune.peft")

    def make():
        torch.manual_seed(0)
        config = peft.GeoloraConfig(r=2, target_modules=["c_attn", "c_fc"], modules_to_save=["ln_f"])
        return get_peft_model(GPT2LMHeadModel(gpt2().config).double(), config)

    model = make()
    first = trained(tmp_path, model, GEOLORA, save_strategy="steps", save_steps=2)
    second = trained(tmp_path, make(), GEOLORA, resume=str(tmp_path / "checkpoint-2"))
    assert_equal(dict(second.model.state_dict()), dict(model.state_dict()))
    first.save_model(str(tmp_path / "adapter"))
    torch.manual_seed(0)
    served = PeftModel.from_pretrained(GPT2LMHeadModel(gpt2().config).double(), tmp_path / "adapter")
    assert ranks(served) == ranks(model)
    x = TEXTS[0]["input_ids"][None]
    torch.testing.assert_close(served.eval()(x).logits, model.eval()(x).logits)


@pytest.mark.parametrize("kind", ["train", "adapter"])
def test_any_network_goes_on_with_its_buffers(kind, tmp_path, caplog):
    """LoRA's files have no place for it, which is no reason to stop."""

    def make():
        torch.manual_seed(0)
        model = Normalised()
        adapt(model, ["first", "last"], 2, kind)
        return model

    options = {"save_strategy": "steps", "save_steps": 2}
    first = trained(tmp_path, make(), GEOLORA, **options)
    second = trained(tmp_path, make(), GEOLORA, resume=str(tmp_path / "checkpoint-2"), **options)
    assert_equal(dict(second.model.state_dict()), dict(first.model.state_dict()))
    assert not (tmp_path / "checkpoint-2" / "adapter_config.json").exists()
    assert ("has no LoRA adapter: first" in caplog.text) == (kind == "adapter")


def test_the_checkpoint_of_another_model_is_refused(tmp_path):
    trained(tmp_path, gpt2(), GEOLORA, max_steps=1, save_strategy="steps")
    other = gpt2(trainable=("ln_f", "wpe"))
    with pytest.raises(ValueError, match=r"belongs to another model: it lacks transformer\.wpe\.weight, and nothing"):
        trained(tmp_path, other, GEOLORA, resume=str(tmp_path / "checkpoint-1"))


# -- arguments ---------------------------------------------------------------------------------------------------------


def test_arguments(tmp_path, monkeypatch):
    model, args = gpt2(), TrainingArguments(str(tmp_path), **SILENT)
    with pytest.raises(TypeError, match=r"integrator must be .*GeoLoRA\(\)"):
        LowRankTrainer(model, args)
    optimizer = LowRankOptimizer(model, BUG, 0.1)
    with pytest.raises(ValueError, match="only one of integrator and optimizers"):
        LowRankTrainer(model, args, integrator=GEOLORA, optimizers=(optimizer, None))
    with pytest.raises(TypeError, match=r"optimizers\[0\] must be"):
        LowRankTrainer(model, args, optimizers=(torch.optim.SGD(model.parameters(), 0.1), None))
    trainer = LowRankTrainer(model, args, integrator=BUG)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(ValueError, match=r"AugmentedBUG needs 2 backward passes .* bf16=True"):
        trainer.create_optimizer()

    def sharded(self):
        create(self)
        self.is_fsdp_enabled = True

    create = Trainer.create_accelerator_and_postprocess
    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", sharded)
    with pytest.raises(ValueError, match="FSDP and DeepSpeed"):
        LowRankTrainer(model, args, integrator=GEOLORA)


# -- two processes -----------------------------------------------------------------------------------------------------

CASES = {
    "one tape, in parts, other parameters": (GeoLoRA(optimizer=Momentum(0.5), truncation=TAU), ("ln_f",), 2),
    "two tapes, factors alone": (BUG, (), 1),
    "two tapes, in parts, other parameters": (BUG, ("ln_f",), 2),
}


def process(folder):
    """What torchrun starts (or the test, alone): losses, norms, ranks, the network and the type around it."""
    index, number = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    found = {}
    for case, (integrator, trainable, parts) in CASES.items():
        options = {"gradient_accumulation_steps": parts, "per_device_train_batch_size": 8 // number // parts}
        options |= {"max_grad_norm": 0.02, "ddp_find_unused_parameters": False, "save_strategy": "steps"}
        runs, model, again = f"{folder}/{number}/{case}", *(gpt2(seed=index, trainable=trainable) for _ in range(2))
        trainer = trained(runs, model, integrator, save_steps=2, **options)
        trained(runs, again, integrator, save_steps=9, resume=f"{runs}/checkpoint-2", **options)
        assert_equal(dict(again.state_dict()), dict(model.state_dict()))
        numbers = [logged(trainer, name) for name in ("loss", "grad_norm", "mean_rank")]
        found[case] = *numbers, dict(model.state_dict()), type(trainer.model_wrapped).__name__
    torch.save(found, f"{folder}/{index} of {number}.pt")


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    """Started by torchrun from different models, each with half of the batch; they go on from a checkpoint, too."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    subprocess.run([*command, str(tmp_path)], env=environment, check=True, capture_output=True)
    process(str(tmp_path))
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("0 of 1", "0 of 2", "1 of 2"))
    for case, (losses, norms, mean_ranks, state, _) in one.items():
        assert_equal(first[case], second[case])
        others = CASES[case][1]
        assert first[case][-1] == ("DistributedDataParallel" if others else "GPT2LMHeadModel"), case
        torch.testing.assert_close(first[case][0], losses, rtol=1e-6, atol=0)  # kept in single precision
        torch.testing.assert_close(first[case][1], norms, rtol=1e-9, atol=0)
        assert first[case][2] == mean_ranks and len(set(mean_ranks)) > 1, (case, mean_ranks)
        for name, X in state.items():
            assert first[case][3][name].shape == X.shape, name
            if name.rpartition(".")[2] not in "USV":
                torch.testing.assert_close(first[case][3][name], X, rtol=1e-9, atol=1e-12)


if __name__ == "__main__":
    process(sys.argv[1])
