"""The tuner of PEFT: what PEFT asks of its own tuners on custom models, with ranks that change, and all methods."""

import copy
import itertools
import json
import pickle

import numpy as np
import peft
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from peft import PeftConfig, PeftModel, PeftType, get_model_status, get_peft_model
from peft.utils.hotswap import hotswap_adapter as hotswap_by_peft
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.pytorch_utils import Conv1D

import dlrt.nn
from dlrt.finetune.peft import (
    CHOICES,
    GEOLORA,
    GeoloraConfig,
    hotswap_adapter,
    integrator_of,
    make_optimizer,
    save_lora,
)
from dlrt.nn import Factor, LowRankOptimizer, adapt, low_rank_layers, low_rank_state_dict, prepare_distributed, ranks
from integrators import INTEGRATORS, GeoLoRA, GlobalBudget, LowRank, Spectral, count_evaluations
from tests.dlrt.groups import member_of_two

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]
INDEX = torch.tensor([[1, 2, 3, 4, 5, 1], [5, 6, 0, 0, 19, 7]])
NAMES = [
    "embedding", "blocks.0.0", "blocks.0.key", "blocks.1.0", "blocks.1.key", "key", "gpt", "lines", "conv", "head",
]  # fmt: skip


class Network(nn.Module):
    """Layers of all types, in lists and dictionaries, some of whose names end in those of others."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(20, 12, padding_idx=1)
        self.blocks = nn.ModuleList(nn.ModuleDict({"0": nn.Linear(12, 12), "key": nn.Linear(12, 12)}) for _ in range(2))
        self.norm = nn.LayerNorm(12)
        self.key = nn.Linear(12, 12)
        self.gpt = Conv1D(12, 12)
        self.lines = nn.Conv1d(12, 8, 3, stride=2, padding=1)
        self.conv = nn.Conv2d(4, 6, 3, padding="same")
        self.head = nn.Linear(6, 3)

    def forward(self, index):
        x = self.embedding(index)
        for block in self.blocks:
            x = x + torch.tanh(block["key"](torch.tanh(block["0"](x))))
        x = self.lines(torch.tanh(self.gpt(torch.tanh(self.key(self.norm(x))))).mT)
        x = self.conv(x.reshape(len(x), 4, 2, -1))
        return self.head(x.mean((2, 3)))


def config(**settings):
    return GeoloraConfig(**{"r": 2, "target_modules": NAMES, **settings})


def build(**settings):
    return get_peft_model(Network(), config(**settings)).eval()


def shake(model, seed=0):
    """As if it had been trained: other matrices, and ranks from 1 to 3 that differ."""
    for i, layer in enumerate(low_rank_layers(model).values()):
        rank = min(1 + (i + seed) % 3, *layer.shape)
        layer.Y = LowRank.random(layer.shape, rank, np.random.default_rng([seed, i]), like=layer.S.detach())
    return model


def loss(model):
    """Of enough pictures for gradients of full rank."""
    index = torch.randint(20, (32, 6), generator=torch.Generator().manual_seed(5))
    return torch.nn.functional.cross_entropy(model(index), index[:, 0] % 3)


def train(model, optimizer, steps):
    losses = []
    for _ in range(steps):

        def closure():
            optimizer.zero_grad()
            found = loss(model)
            found.backward()
            return found

        losses.append(float(optimizer.step(closure).detach()))
    return losses


# -- as PEFT tests its own tuners --------------------------------------------------------------------------------------


def test_registration():
    """A member of the enumeration like any other, and what PEFT finds by it."""
    assert GEOLORA is PeftType.GEOLORA is PeftType("GEOLORA") is PeftType["GEOLORA"]
    assert GEOLORA in PeftType and GEOLORA == "GEOLORA" == GEOLORA.value and list(PeftType)[-1] is GEOLORA
    assert pickle.loads(pickle.dumps(GEOLORA)) is copy.deepcopy(GEOLORA) is GEOLORA
    assert str(GEOLORA) == "PeftType.GEOLORA" and json.dumps({"type": GEOLORA}) == '{"type": "GEOLORA"}'
    made = peft.get_peft_config({"peft_type": "GEOLORA", "r": 3, "target_modules": ["key"]})
    assert isinstance(made, GeoloraConfig) and made.r == 3 and made.target_modules == {"key"}
    assert not made.is_prompt_learning


def test_start():
    """The function of the base; only the adapters are trained; counts are right before and after ranks change."""
    model = build()
    torch.testing.assert_close(model(INDEX), Network()(INDEX), rtol=0, atol=0)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(isinstance(p, Factor) and ".geolora_delta.default." in name for name, p in trained.items())
    assert list(ranks(model)) == NAMES and set(ranks(model).values()) == {2}
    for _ in range(2):
        expected = sum(layer.rank * (sum(layer.shape) + layer.rank) for layer in low_rank_layers(model).values())
        assert model.get_nb_trainable_parameters() == (expected, sum(p.numel() for p in model.parameters()))
        assert peft.PeftModel.get_nb_trainable_parameters(model)[0] == expected
        shake(model)


def test_names_are_those_of_adapt():
    """So memory, groups and files of `dlrt.nn` belong to both."""
    plain = Network()
    adapt(plain, NAMES, 2)
    assert low_rank_state_dict(plain).keys() == low_rank_state_dict(build()).keys()
    model = build()
    model.add_adapter("other", config())
    assert list(ranks(model))[:2] == ["embedding", "embedding.other"]
    rates = {"blocks.*.key": {"lr": 0.2}, "key": {"lr": 0.3}}
    groups = LowRankOptimizer(model, GeoLoRA(), 0.1, groups=rates).param_groups
    assert [group["layers"] for group in groups][1:] == [["blocks.0.key", "blocks.1.key"], ["key"]]


@pytest.mark.parametrize("name", NAMES)
def test_each_type_of_layer(name, tmp_path):
    """Adapted, switched off, merged, unmerged, unloaded and loaded again."""
    base, model = Network()(INDEX), shake(build(target_modules="^" + name.replace(".", r"\.")), 1)
    (layer,) = low_rank_layers(model).values()
    assert ranks(model) == {name: 2}
    dense = Network()
    with torch.no_grad():
        dense.get_submodule(name).weight += layer.dense()
    expected = model(INDEX)
    assert not torch.allclose(base, expected, atol=1e-4)
    torch.testing.assert_close(expected, dense(INDEX))
    with model.disable_adapter():
        torch.testing.assert_close(model(INDEX), base, rtol=0, atol=0)
    torch.testing.assert_close(model(INDEX), expected, rtol=0, atol=0)
    model.merge_adapter()
    torch.testing.assert_close(model(INDEX), expected)
    with model.disable_adapter():  # takes it out
        torch.testing.assert_close(model(INDEX), base)
    torch.testing.assert_close(model(INDEX), expected)
    model.save_pretrained(tmp_path)
    for quick in (False, True):
        loaded = PeftModel.from_pretrained(Network(), tmp_path, low_cpu_mem_usage=quick).eval()
        torch.testing.assert_close(loaded(INDEX), expected)
    torch.testing.assert_close(copy.deepcopy(model).unload()(INDEX), base)
    torch.testing.assert_close(pickle.loads(pickle.dumps(model))(INDEX), expected)
    merged = copy.deepcopy(model).merge_and_unload(safe_merge=True)
    torch.testing.assert_close(merged(INDEX), expected)
    assert [type(m) for m in merged.modules()] == [type(m) for m in Network().modules()]
    assert merged.state_dict().keys() == Network().state_dict().keys()


def test_all_layers_at_once(tmp_path):
    model = shake(build())
    expected, found = model(INDEX), ranks(model)
    assert len(set(found.values())) == 3
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["ranks"] == found
    for quick in (False, True):
        loaded = PeftModel.from_pretrained(Network(), tmp_path, low_cpu_mem_usage=quick).eval()
        assert ranks(loaded) == found and not any(p.requires_grad for p in loaded.parameters())
        assert all(isinstance(p, Factor) for layer in low_rank_layers(loaded).values() for p in layer.factors)
        torch.testing.assert_close(loaded(INDEX), expected, rtol=0, atol=0)
    again = PeftModel.from_pretrained(Network(), tmp_path, is_trainable=True)
    assert sum(p.requires_grad for p in again.parameters()) == 3 * len(NAMES)
    assert set(ranks(get_peft_model(Network(), model.peft_config["default"])).values()) == {2}, "a used configuration"
    plain = PeftModel.from_pretrained(Network(), tmp_path, config=PeftConfig.from_pretrained(tmp_path)).eval()
    torch.testing.assert_close(plain.merge_and_unload()(INDEX), expected)


def test_full_state_at_other_ranks():
    """What a checkpoint of the whole model restores."""
    model, other = shake(build()), build()
    other.load_state_dict(model.state_dict())
    assert ranks(other) == ranks(model)
    torch.testing.assert_close(other(INDEX), model(INDEX), rtol=0, atol=0)


def test_several_adapters(tmp_path):
    model = shake(build())
    first = model(INDEX)
    model.add_adapter("second", config(r=3, target_modules=["key", "conv", "norm.x"], lora_alpha=6))
    model.eval()
    torch.testing.assert_close(model(INDEX), first, rtol=0, atol=0)
    assert not any(p.requires_grad for name, p in model.named_parameters() if ".second." in name)
    for i, (name, layer) in enumerate(low_rank_layers(model).items()):
        if name.endswith(".second"):
            layer.Y = LowRank.random(layer.shape, 1, np.random.default_rng(i), like=layer.S.detach())
            assert layer.scale == 2
    model.set_adapter("second")
    assert all(p.requires_grad == (".second." in name) for name, p in model.named_parameters())
    second = model(INDEX)
    assert get_model_status(model).active_adapters == ["second"]
    model.base_model.set_adapter(["default", "second"])
    both = model(INDEX)
    found = torch.stack([first, second, both])
    assert all(torch.cdist(found.flatten(1), found.flatten(1))[i, j] > 1e-3 for i, j in ((0, 1), (0, 2), (1, 2)))
    model.merge_adapter(["second"])  # the other stays beside the merged one
    torch.testing.assert_close(model(INDEX), both)
    model.unmerge_adapter()
    torch.testing.assert_close(copy.deepcopy(model).merge_and_unload()(INDEX), both)
    torch.testing.assert_close(copy.deepcopy(model).merge_and_unload(adapter_names=["second"])(INDEX), second)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(Network(), tmp_path).eval()
    torch.testing.assert_close(loaded(INDEX), first)
    loaded.load_adapter(tmp_path / "second", "more")
    torch.testing.assert_close(loaded(INDEX), first)
    loaded.set_adapter("more")
    torch.testing.assert_close(loaded(INDEX), second)
    model.set_adapter("second")
    with pytest.warns(UserWarning, match="was active which is now deleted"):
        model.delete_adapter("second")
    torch.testing.assert_close(model(INDEX), first)
    assert list(ranks(model)) == NAMES and not any("second" in name for name in model.state_dict())
    model.merge_adapter()
    with pytest.raises(ValueError, match="while they are merged"):
        model.delete_adapter("default")


def test_adapters_that_are_merged_are_taken_out_first():
    model = shake(build())
    expected = model(INDEX)
    model.merge_adapter()
    with pytest.warns(UserWarning, match="already merged"):
        model.merge_adapter()
    torch.testing.assert_close(model(INDEX), expected)
    with pytest.warns(UserWarning, match="Unmerging the model first"):
        model.set_adapter("default")
    torch.testing.assert_close(model(INDEX), expected)
    with pytest.warns(UserWarning, match="Already unmerged"):
        model.unmerge_adapter()


def test_merged_adapters_are_not_loaded():
    """Other numbers would be taken out of the weight than were added to it."""
    model, state = shake(build()), build().state_dict()
    expected = model(INDEX)
    model.merge_adapter()
    with pytest.raises(RuntimeError, match=r"embedding.: adapter 'default' is merged: unmerge it before loading"):
        model.load_state_dict(state)
    model.unmerge_adapter()
    torch.testing.assert_close(model(INDEX), expected)
    with pytest.raises(TypeError, match=r"embedding.*: .* a layer that it does not own: merge that one"):
        dlrt.nn.merge(model)


def test_a_broken_adapter_is_not_merged():
    model = shake(build(target_modules=["key"]))
    layer = low_rank_layers(model)["key"]
    layer.Y = layer.Y.replace(S=layer.Y.S * torch.nan)
    before = model.base_model.model.key.weight.clone()
    with pytest.raises(ValueError, match="merged weight is not finite: adapter default"):
        model.merge_adapter(safe_merge=True)
    torch.testing.assert_close(model.base_model.model.key.weight, before, rtol=0, atol=0)


def test_modules_to_save(tmp_path):
    model = build(target_modules=["key"], modules_to_save=["head"])
    before = copy.deepcopy(model)
    train(model, make_optimizer(model, 0.1), 3)
    changed = {
        name for (name, p), q in zip(model.named_parameters(), before.parameters(), strict=True)
        if p.shape != q.shape or not torch.equal(p, q)
    }  # fmt: skip
    assert {name for name in changed if "geolora" not in name} == {
        f"base_model.model.head.modules_to_save.default.{name}" for name in ("weight", "bias")
    }
    model.save_pretrained(tmp_path / "own")
    save_lora(model, tmp_path / "lora")
    for folder in ("own", "lora"):
        loaded = PeftModel.from_pretrained(Network(), tmp_path / folder).eval()
        torch.testing.assert_close(loaded(INDEX), model(INDEX))


def test_biases(tmp_path):
    model = build(target_modules=["key", "lines"], bias="geolora_only")
    train(model, make_optimizer(model, 0.1, rest=torch.optim.Adam), 3)
    trained = {name for name, p in model.named_parameters() if p.requires_grad and not isinstance(p, Factor)}
    where = {f"base_model.model.{name}.base_layer.bias" for name in ("key", "blocks.0.key", "blocks.1.key", "lines")}
    assert trained == where
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(PeftModel.from_pretrained(Network(), tmp_path).eval()(INDEX), model(INDEX))
    with pytest.raises(ValueError, match="bias = 'geolora_only': save_lora writes no biases"):
        save_lora(model, tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_types(dtype, tmp_path):
    """Factors are single, or double, whatever the base is; outputs are of the type of the base."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    model = shake(get_peft_model(Network().to(dtype), config()).eval())
    assert {p.dtype for p in model.parameters() if isinstance(p, Factor)} == {wide}
    expected = model(INDEX)
    assert expected.dtype == dtype
    model.save_pretrained(tmp_path)
    for quick in (False, True):
        loaded = PeftModel.from_pretrained(Network().to(dtype), tmp_path, low_cpu_mem_usage=quick).eval()
        assert {p.dtype for p in loaded.parameters() if isinstance(p, Factor)} == {wide}
        torch.testing.assert_close(loaded(INDEX), expected, rtol=0, atol=0)
    later = shake(build()).to(dtype)
    assert {p.dtype for p in later.parameters() if isinstance(p, Factor)} == {wide}
    torch.testing.assert_close(later(INDEX), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"target_modules": "all-linear"}, {*NAMES} - {"embedding", "lines", "conv"}),
        ({"target_modules": ["key"]}, {"blocks.0.key", "blocks.1.key", "key"}),
        ({"target_modules": ["key"], "exclude_modules": r"blocks\.0\..*"}, {"blocks.1.key", "key"}),
        ({"target_modules": r"blocks\.\d\.0"}, {"blocks.0.0", "blocks.1.0"}),
        ({"target_modules": ["key", "head"], "modules_to_save": ["head"]}, {"blocks.0.key", "blocks.1.key", "key"}),
    ],
)  # fmt: skip
def test_targets(settings, names):
    model = build(**settings)
    assert ranks(model).keys() == names
    model.add_adapter("second", config(r=2, **settings))
    assert ranks(model).keys() == names | {f"{name}.second" for name in names}


def test_rank_and_scale():
    """Ranks are at most min(m, n); the scale follows alpha and r of the configuration, whatever the rank is."""
    model = build(r=9, lora_alpha=18)
    expected = {"lines": 8, "conv": 6, "head": 3}
    assert ranks(model) == {name: expected.get(name, 9) for name in NAMES}
    assert {layer.scale for layer in low_rank_layers(model).values()} == {2.0}
    model = shake(build(r=4, lora_alpha=2, use_rslora=True))
    assert {layer.scale for layer in low_rank_layers(model).values()} == {1.0}
    assert model.base_model.model.key.scaling == {"default": 1.0}


def test_dropout_acts_in_training_alone():
    model = shake(get_peft_model(Network().eval(), config(lora_dropout=0.5, target_modules=["key"])))
    assert torch.equal(model(INDEX), model(INDEX))
    model.train()
    assert not torch.equal(model(INDEX), model(INDEX))


def test_attributes_of_the_layer_are_found():
    model = build()
    assert model.key.in_features == model.key.weight.shape[1] == 12 and model.lines.stride == (2,)
    assert model.embedding.padding_idx == 1 and not hasattr(model.key, "stride")
    text = repr(model)
    assert "GeoloraLinear(" in text and "(default): LowRankDelta(rank=2, scale=4)" in text


def test_fast_path_of_transformer_layers():
    """In evaluation torch would read the weights of the frozen layers alone."""
    torch.manual_seed(0)
    base = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1).eval()
    x, before = torch.randn(2, 3, 8), None
    with torch.no_grad():
        before = base(x)
        model = shake(get_peft_model(base, config(target_modules=["linear1", "linear2"])).eval())
        expected = copy.deepcopy(model).merge_and_unload()(x)
        assert not torch.allclose(before, expected, atol=1e-3)
        torch.testing.assert_close(model(x), expected)


# -- training ----------------------------------------------------------------------------------------------------------


ONE_TAPE = [name for name, method in CHOICES.items() if count_evaluations(method.integrator, torch.zeros(1)) == 1]


@pytest.mark.parametrize("method", [*ONE_TAPE, "bug"])
def test_every_method(method, tmp_path):
    """The loss falls, nothing but the adapters changes, and the ranks they end with are saved."""
    torch.manual_seed(1)
    model = build(method=method, target_modules=["key", "conv"], tau=0.2, r=3)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = make_optimizer(model, 0.005, steps=8)
    assert type(optimizer.integrator) is type(CHOICES[method].integrator)
    torch.testing.assert_close(model(INDEX), Network()(INDEX))  # in whatever form the method has its factors
    losses = train(model, optimizer, 8)
    assert losses[-1] < losses[0]
    for name, p in model.named_parameters():
        if name in frozen:
            torch.testing.assert_close(p, frozen[name], rtol=0, atol=0)
    expected = model(INDEX)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(Network(), tmp_path).eval()
    assert ranks(loaded) == ranks(model)
    torch.testing.assert_close(loaded(INDEX), expected)
    with model.disable_adapter():
        torch.testing.assert_close(model(INDEX), Network()(INDEX), rtol=0, atol=0)


def test_every_integrator_can_be_chosen():
    assert set(INTEGRATORS) < set(CHOICES)
    spectral = integrator_of(build(target_modules=["key"]))  # three layers of 12 x 12: 2 * 24 - 3 * 4 of each for U, V
    assert spectral == GeoLoRA(optimizer=Spectral(), truncation=GlobalBudget(parameters=3 * 36, fisher=0.98))
    assert integrator_of(build(target_modules=["key"], budget=216)).truncation.parameters == 3 * (72 - 27)
    assert integrator_of(build(target_modules=["key"], budget=72)).truncation.parameters == 72  # one direction each
    columns = integrator_of(build(target_modules=["key"], budget=220, method="geolora-budget")).truncation.columns
    assert columns == 9
    chosen = integrator_of(build(method="geolora", tau=0.3)).truncation
    assert chosen.relative == 0.3 and chosen.spare == 1 and chosen.max_rank is None
    triplets = integrator_of(build(method="adalora", target_modules=["key"]), 40).truncation
    assert (triplets.initial, triplets.final, triplets.total_steps) == (9, 6, 40)
    assert set(ranks(build(method="adalora")).values()) == {3}


def test_the_budget_is_kept():
    """Ranks move between layers; in every step U and V of all have no more parameters than the rule allows."""
    model = build(r=3)
    optimizer = make_optimizer(model, 0.02)
    allowed = optimizer.truncation.parameters
    for _ in range(15):
        train(model, optimizer, 1)
        layers = low_rank_layers(model).values()
        assert sum(layer.rank * sum(layer.shape) for layer in layers) <= allowed
    assert len(set(ranks(model).values())) > 2


def test_the_same_as_without_peft():
    """From the same start the same matrices, bit for bit, and the memory of one goes on in the other."""
    model, plain = build(r=3, lora_alpha=3), Network().eval()
    adapt(plain, NAMES, 3)
    for name, layer in low_rank_layers(plain).items():
        layer.Y = low_rank_layers(model)[name].Y
    one, other = make_optimizer(model, 0.05), LowRankOptimizer(plain, integrator_of(model), 0.05)
    assert train(model, one, 4) == train(plain, other, 4)
    fresh = build(r=3, lora_alpha=3)
    fresh.load_state_dict(model.state_dict())
    third = make_optimizer(fresh, 0.05)
    third.load_state_dict(other.state_dict())
    assert train(fresh, third, 3) == train(plain, other, 3)
    assert ranks(fresh) == ranks(plain) and len(set(ranks(plain).values())) > 1


@pytest.mark.parametrize("method", ["spectral", "lora"])
def test_adapters_switched_during_training(method):
    """A look at the base model, or at another adapter, changes nothing."""
    models = [build(method=method, target_modules=["key"]) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    models[1].add_adapter("other", config(target_modules=["key"]))
    losses: list = [[], []]
    for model, found in zip(models, losses, strict=True):
        optimizer = make_optimizer(model, 0.05)
        for _ in range(4):
            found += train(model, optimizer, 1)
            if model is models[1]:
                with model.disable_adapter():
                    model(INDEX)
                model.set_adapter("other")
                model.set_adapter("default")
    assert losses[0] == losses[1]


def test_two_adapters_trained_one_after_the_other():
    model = build(target_modules=["key"])
    train(model, make_optimizer(model, 0.05), 3)
    kept = {name: layer.dense() for name, layer in low_rank_layers(model).items()}
    model.add_adapter("other", config(r=3, target_modules=["key", "head"]))
    model.set_adapter("other")
    losses = train(model, make_optimizer(model, 0.05), 5)
    assert losses[-1] < losses[0]
    for name, dense in kept.items():
        torch.testing.assert_close(low_rank_layers(model)[name].dense(), dense, rtol=0, atol=0)
    model.base_model.set_adapter(["default", "other"])
    losses = train(model, make_optimizer(model, 0.05), 5)
    assert losses[-1] < losses[0]
    assert not torch.equal(low_rank_layers(model)["key"].dense(), kept["key"])


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "sgd"}, "method must be one of .*spectral.*, got 'sgd'"),
        ({"r": 0}, "r must be an integer >= 1|r must be"),
        ({"method": "geolora", "budget": 100}, "method 'geolora' has no budget, expected one of spectral"),
        ({"budget": 0}, "budget must be"),
        ({"tau": -1.0}, "tau must be"),
        ({"bias": "some"}, "bias must be 'none', 'all' or 'geolora_only', got 'some'"),
        ({"lora_dropout": 1.0}, "dropout must be less than 1"),
        ({"lora_alpha": 0}, "scale must be other than 0"),
        ({"target_modules": ["nothing"]}, "Target modules .* not found"),
        ({"target_modules": ["norm"]}, "norm: the map of LayerNorm is not known: expected Linear"),
        ({"target_modules": ["blocks.0"]}, "blocks.0: the map of ModuleDict is not known"),
    ],
)
def test_refused_settings(settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        build(**settings)


def test_a_failure_half_way_leaves_the_model_as_it_was():
    """A second try, as in a notebook, has no adapters of the first."""
    network = Network()
    types, state = [type(m) for m in network.modules()], copy.deepcopy(network.state_dict())
    with pytest.raises(TypeError, match="norm: the map of LayerNorm is not known"):
        get_peft_model(network, config(target_modules=["embedding", "key", "norm"]))
    assert [type(m) for m in network.modules()] == types and all(p.requires_grad for p in network.parameters())
    assert network.state_dict().keys() == state.keys() and not hasattr(network, "peft_config")
    model = get_peft_model(network, config(target_modules=["key"]))
    with pytest.raises(TypeError, match="norm: the map of LayerNorm is not known"):
        model.add_adapter("second", config(target_modules=["embedding", "key", "norm"]))
    assert ranks(model).keys() == {"blocks.0.key", "blocks.1.key", "key"} and list(model.peft_config) == ["default"]
    assert type(network.embedding) is nn.Embedding


def test_layers_that_an_adapter_would_not_change():
    attention = nn.TransformerEncoderLayer(8, 2, 16)
    with pytest.raises(ValueError, match=r"self_attn.out_proj: used by its weight alone"):
        get_peft_model(attention, config(target_modules=["out_proj"]))
    twice = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    twice.append(twice[0])
    with pytest.raises(ValueError, match="0: the same module has another name too"):
        get_peft_model(twice, config(target_modules=["0"]))


def test_a_block_under_two_names():
    """Its layers are replaced in both places, and merged in both."""
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    model, x = nn.Sequential(block, block), torch.randn(3, 4)
    model = shake(get_peft_model(model, config(target_modules=r"0\.0")), 1)
    expected = model(x)
    assert ranks(model) == {"0.0": 2}
    merged = model.merge_and_unload()
    assert merged[0] is merged[1] and type(merged[1][0]) is nn.Linear
    torch.testing.assert_close(merged(x), expected)


class Packed(nn.Module):
    """A linear layer with a weight in 4 bits that tells its sizes, as those of bitsandbytes do."""

    def __init__(self):
        super().__init__()
        self.in_features, self.out_features = 6, 3
        self.register_buffer("weight", torch.zeros(9, 1, dtype=torch.uint8))

    def forward(self, x):
        return x[..., :3].float()


def test_packed_weights(tmp_path):
    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 6), Packed())

    x, settings = torch.randn(2, 6), config(target_modules=["0", "1"])
    model = shake(get_peft_model(network(), settings))
    factor = low_rank_layers(model)["1"]
    expected = model(x)
    y = model.base_model.model[0](x)
    torch.testing.assert_close(expected, y[:, :3] + y @ factor.dense().mT)
    before = copy.deepcopy(model.state_dict())
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(TypeError, match="1: the weight of Packed is packed"):
            merge()
    assert all(torch.equal(X, before[key]) for key, X in model.state_dict().items()), "nor is that of the first layer"
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(PeftModel.from_pretrained(network(), tmp_path)(x), expected)
    assert isinstance(model.unload()[1], Packed)


def test_tied_weights_are_not_merged():
    settings = GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=20, n_positions=16)
    model = GPT2LMHeadModel(settings).eval()
    model = shake(get_peft_model(model, config(target_modules=["wte", "c_attn"])).eval())
    before, expected = copy.deepcopy(model.state_dict()), model(INDEX).logits
    with pytest.raises(ValueError, match=r"wte.base_layer: its weight is lm_head.weight too"):
        model.merge_adapter()
    assert all(torch.equal(X, before[key]) for key, X in model.state_dict().items())
    inner = model.base_model.model
    inner.transformer.wte.base_layer.weight = nn.Parameter(inner.transformer.wte.base_layer.weight.clone(), False)
    inner.config.tie_word_embeddings = False  # what the message says
    torch.testing.assert_close(model.merge_and_unload()(INDEX).logits, expected)


# -- batches of several adapters ---------------------------------------------------------------------------------------


def test_batches_of_several_adapters():
    """Each row as if its adapter were the active one; an adapter need not be in all layers."""
    model = build(modules_to_save=["head"], target_modules=[*NAMES[:-1]])
    model.add_adapter("second", config(target_modules=["key", "gpt"], modules_to_save=["head"]))
    shake(model.eval()).base_model.model.head.modules_to_save["second"].weight.data += 1.0
    names = ["second", "__base__", "default", "second", "default"]
    index = torch.randint(20, (5, 6), generator=torch.Generator().manual_seed(1))
    alone = {}
    for name in ("default", "second"):
        model.set_adapter(name)
        alone[name] = model(index)
    with model.disable_adapter():
        alone["__base__"] = model(index)
        torch.testing.assert_close(model(index, adapter_names=names), alone["__base__"])
    assert min((alone[a] - alone[b]).abs().max() for a, b in itertools.combinations(alone, 2)) > 1e-2
    expected = torch.stack([alone[name][i] for i, name in enumerate(names)])
    torch.testing.assert_close(model(index, adapter_names=names), expected)
    torch.testing.assert_close(model(index), alone["second"], rtol=0, atol=0)  # nothing of it stays


def test_batches_of_several_adapters_with_beams():
    """`generate` repeats the rows, but not those of an encoder."""
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 20}
    ends = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 19}
    t5 = T5ForConditionalGeneration(T5Config(**sizes, **ends))
    gpt = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=20, n_positions=32, **ends))
    for network, targets in ((t5, ["q", "v"]), (gpt, ["c_attn"])):
        model = get_peft_model(network, config(target_modules=targets))
        model.add_adapter("second", config(target_modules=targets))
        shake(model.eval())
        asked = {"max_new_tokens": 4, "num_beams": 3, "attention_mask": torch.ones_like(INDEX)}
        found = model.generate(input_ids=INDEX, adapter_names=["second", "default"], output_logits=True,
                               return_dict_in_generate=True, **asked)  # fmt: skip
        for row, name in enumerate(("second", "default")):
            model.set_adapter(name)
            alone = model.generate(input_ids=INDEX, output_logits=True, return_dict_in_generate=True, **asked)
            of = slice(3 * row, 3 * row + 3)
            torch.testing.assert_close(found.logits[0][of], alone.logits[0][of])
            assert torch.equal(found.sequences[row], alone.sequences[row])


def test_batches_of_several_adapters_that_are_refused():
    model = build()
    with pytest.raises(ValueError, match=r"no adapter first, second, there are \['default'\]"):
        model(INDEX, adapter_names=["second", "first"])
    with pytest.raises(ValueError, match="one name for each row of the batch: 1 for 2"):
        model(INDEX, adapter_names=["default"])
    with pytest.raises(ValueError, match="for inference, call eval"):
        model.train()(INDEX, adapter_names=["default", "__base__"])
    model.eval().merge_adapter()
    with pytest.raises(ValueError, match=r"adapters are merged; unmerge_adapter\(\) first"):
        model(INDEX, adapter_names=["default", "__base__"])
    model.unmerge_adapter()
    model(INDEX, adapter_names=["default", "__base__"])  # no hook of a call that failed is left


def test_what_cannot_be_trained():
    with pytest.raises(ValueError, match="must have active GeoLoRA adapters"):
        integrator_of(Network())
    with pytest.raises(ValueError, match="budget 71 is too small for one direction of each layer: 72 parameters"):
        integrator_of(build(target_modules=["key"], budget=71))
    with pytest.raises(ValueError, match="give steps"):
        integrator_of(build(method="adalora"))
    model = build()
    with model.disable_adapter(), pytest.raises(ValueError, match="must have active GeoLoRA adapters"):
        integrator_of(model)
    model.add_adapter("other", config(method="lora"))
    model.base_model.set_adapter(["default", "other"])
    with pytest.raises(ValueError, match="adapters default, other differ in method or tau"):
        integrator_of(model)
    model.requires_grad_(False).set_adapter("default", inference_mode=True)
    with pytest.raises(ValueError, match="adapters default are frozen: load them with is_trainable=True"):
        make_optimizer(model, 0.1)


# -- files -------------------------------------------------------------------------------------------------------------


def test_hotswap(tmp_path):
    """Other ranks and another scale in the same parameter objects; what does not fit changes nothing."""
    saved = shake(build(lora_alpha=6, r=3), 1)
    saved.save_pretrained(tmp_path / "new")
    model = shake(build())
    objects, old = [p for p in model.parameters() if isinstance(p, Factor)], model(INDEX)
    optimizer = make_optimizer(model, 0.1)
    hotswap_adapter(model, tmp_path / "new")
    torch.testing.assert_close(model(INDEX), saved(INDEX), rtol=0, atol=0)
    assert all(p is q for p, q in zip(objects, (p for p in model.parameters() if isinstance(p, Factor)), strict=True))
    assert all(p.requires_grad for p in objects) and model.peft_config["default"].lora_alpha == 6
    with pytest.raises(RuntimeError, match="make a new optimiser"):
        train(model, optimizer, 1)
    train(model, make_optimizer(model, 0.1), 1)
    shake(build(target_modules=["key"])).save_pretrained(tmp_path / "fewer")
    peft.get_peft_model(Network(), peft.LoraConfig(target_modules=["key"])).save_pretrained(tmp_path / "lora")
    model = shake(build())
    for folder, message in (("fewer", "differs in"), ("lora", "an adapter of type LORA, expected GEOLORA")):
        with pytest.raises(ValueError, match=message):
            hotswap_adapter(model, tmp_path / folder)
    with pytest.raises(ValueError, match="no GeoLoRA adapter 'other'"):
        hotswap_adapter(model, tmp_path / "new", "other")
    with pytest.raises(ValueError, match="only supports LORA"):  # PEFT's own, which knows no changing ranks
        hotswap_by_peft(model, tmp_path / "new", "default")
    torch.testing.assert_close(model(INDEX), old, rtol=0, atol=0)
    model.merge_adapter()
    with pytest.raises(ValueError, match="is merged"):
        hotswap_adapter(model, tmp_path / "new")


def test_save_lora(tmp_path):
    """Stock PEFT serves it; the function of `dlrt.nn` with the same name points here."""
    model = shake(build())
    expected = model(INDEX)
    save_lora(model, tmp_path)
    loaded = PeftModel.from_pretrained(Network(), tmp_path).eval()
    assert loaded.peft_config["default"].peft_type == PeftType.LORA
    torch.testing.assert_close(loaded(INDEX), expected)
    with pytest.raises(ValueError, match=r"belongs to an adapter of PEFT: dlrt.finetune.peft.save_lora"):
        dlrt.nn.save_lora(model, tmp_path)
    with pytest.raises(ValueError, match="no GeoLoRA adapter 'other'"):
        save_lora(model, tmp_path, "other")


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_wrappers_are_seen_through(wrap, tmp_path):
    model, other = build(), build()
    shake(model)
    wrapped = wrap(model)
    assert integrator_of(wrapped) == integrator_of(model)
    assert make_optimizer(wrapped, lr=0.1).integrator == integrator_of(model)
    save_lora(wrapped, tmp_path / "lora")
    lora = PeftModel.from_pretrained(Network(), tmp_path / "lora").eval()
    torch.testing.assert_close(lora(INDEX), model(INDEX), rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path / "own")
    hotswap_adapter(wrap(other), tmp_path / "own")
    torch.testing.assert_close(other(INDEX), model(INDEX), rtol=1e-5, atol=1e-6)


def test_conversion_by_peft(tmp_path):
    """PEFT's own, of linear layers: all singular values of a matrix of rank 3 are 3."""
    model = shake(build(target_modules=["blocks.0.0", "key", "gpt"]))
    assert model.supports_lora_conversion() and not build().supports_lora_conversion()
    peft.save_as_lora(tmp_path, model, rank=3)
    loaded = PeftModel.from_pretrained(Network(), tmp_path).eval()
    torch.testing.assert_close(loaded(INDEX), model(INDEX))


# -- transformers ------------------------------------------------------------------------------------------------------


def bert():
    torch.manual_seed(0)
    settings = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertForSequenceClassification(BertConfig(vocab_size=20, max_position_embeddings=8, num_labels=3, **settings))


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=20, n_positions=16))


@pytest.mark.parametrize(
    ("build", "settings"),
    [
        (bert, {"task_type": "SEQ_CLS", "target_modules": "all-linear"}),
        (bert, {"task_type": "SEQ_CLS"}),  # PEFT knows what to adapt in a BERT, and saves its classifier
        (gpt2, {"task_type": "CAUSAL_LM"}),
    ],
)
def test_models_of_transformers(build, settings, tmp_path):
    model = get_peft_model(build(), GeoloraConfig(r=3, **settings)).eval()
    labels = INDEX if build is gpt2 else torch.tensor([0, 2])
    optimizer = make_optimizer(model, 0.02)
    start = model(INDEX, labels=labels).loss
    for _ in range(6):
        optimizer.zero_grad()
        model(input_ids=INDEX, labels=labels).loss.backward()
        optimizer.step()
    found = model(INDEX, labels=labels)
    assert found.loss < start and len(set(ranks(model).values())) > 1
    model.save_pretrained(tmp_path / "own")
    save_lora(model, tmp_path / "lora")
    for folder in ("own", "lora"):
        loaded = PeftModel.from_pretrained(build(), tmp_path / folder).eval()
        torch.testing.assert_close(loaded(INDEX).logits, found.logits)
    status = get_model_status(model)
    assert status.peft_types == {"default": "GEOLORA"}
    assert status.trainable_params == model.get_nb_trainable_parameters()[0]
    if build is gpt2:
        tokens = {"input_ids": INDEX, "attention_mask": torch.ones_like(INDEX), "max_new_tokens": 3, "pad_token_id": 0}
        expected = copy.deepcopy(model).merge_and_unload().generate(**tokens)
        assert torch.equal(model.generate(**tokens), expected)


def test_adapters_of_transformers(tmp_path):
    """`add_adapter`, `load_adapter` at changed ranks, `disable_adapters`, `delete_adapter` of the model itself."""
    model, base = bert().eval(), bert().eval()(INDEX).logits
    model.add_adapter(GeoloraConfig(r=3, target_modules="all-linear", task_type="SEQ_CLS"))
    assert next(iter(ranks(model))) == "bert.encoder.layer.0.attention.self.query"
    optimizer = make_optimizer(model, 0.02)
    for _ in range(6):
        optimizer.zero_grad()
        model(INDEX, labels=torch.tensor([0, 2])).loss.backward()
        optimizer.step()
    expected = model(INDEX).logits
    assert len(set(ranks(model).values())) > 1
    model.save_pretrained(tmp_path / "own")
    save_lora(model, tmp_path / "lora")
    for folder in ("own", "lora"):
        loaded = bert()
        loaded.load_adapter(tmp_path / folder)
        torch.testing.assert_close(loaded.eval()(INDEX).logits, expected)
        if folder == "own":
            assert ranks(loaded) == ranks(model)
            assert all(isinstance(p, Factor) for layer in low_rank_layers(loaded).values() for p in layer.factors)
    model.disable_adapters()
    torch.testing.assert_close(model(INDEX).logits, base)
    model.enable_adapters()
    torch.testing.assert_close(model(INDEX).logits, expected)
    model.delete_adapter("default")
    torch.testing.assert_close(model(INDEX).logits, base)


# -- two processes with half of the batch each -----------------------------------------------------------------------

STEPS = 6


def wide(seed):
    torch.manual_seed(0)  # of the pretrained layers
    model = nn.Sequential(nn.Linear(10, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 4))
    torch.manual_seed(seed)
    config = GeoloraConfig(r=3, method="geolora", tau=0.3, target_modules=["0", "2"], modules_to_save=["4"])
    return get_peft_model(model, config).double()


def train_halves(model, part=slice(None)):
    """Losses of the whole batch, and ranks."""
    optimizer, losses = make_optimizer(model, lr=0.05), []
    for k in range(STEPS):
        g = torch.Generator().manual_seed(k)
        x, y = (
            torch.randn(16, 10, generator=g, dtype=torch.float64)[part],
            torch.randint(0, 4, (16,), generator=g)[part],
        )
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        loss = loss.detach()
        if dist.is_initialized():
            dist.all_reduce(loss)
            loss /= dist.get_world_size()
        losses.append(float(loss))
    return losses, ranks(model)


def process(index, folder):
    """One of two, with half of each batch."""
    with member_of_two(index, folder):
        model = wide(index)  # the second process starts elsewhere
        prepare_distributed(model)
        result = train_halves(DistributedDataParallel(model), slice(8 * index, 8 * index + 8))
        torch.save((result, model.state_dict()), f"{folder}/{index}.pt")


def test_two_processes_are_one(tmp_path):
    """Losses and ranks as with one process; all that is trained equal bit for bit on both."""
    mp.spawn(process, (str(tmp_path),), nprocs=2)
    (first, state), (second, other) = (torch.load(tmp_path / f"{i}.pt") for i in range(2))
    assert first[0] == second[0] and list(first[1].values()) == list(second[1].values())
    assert all(torch.equal(state[name], other[name]) for name in state)
    losses, expected = train_halves(wide(0))
    assert list(first[1].values()) == list(expected.values()) != [3, 3]
    torch.testing.assert_close(torch.tensor(first[0]), torch.tensor(losses), rtol=1e-10, atol=0)
