"""adapt, reports, files, and turning models back into plain ones."""

import copy
import re

import numpy as np
import pytest
import torch
from torch import nn

from dlrt.nn import (
    Conv2dAdapter,
    EmbeddingAdapter,
    LinearAdapter,
    LowRankConv2d,
    LowRankLinear,
    LowRankOptimizer,
    adapt,
    load_low_rank,
    low_rank_layers,
    low_rank_state_dict,
    merge,
    parameter_report,
    ranks,
    save_low_rank,
    to_lora,
)
from integrators import GeoLoRA, LoRA, LowRank


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)

    def forward(self, x):
        w = torch.softmax(self.query(x) @ self.key(x).mT, -1)
        return x + self.output(w @ self.value(x))


class Network(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(20, width, padding_idx=0)
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, 3)

    def forward(self, index):
        x = self.embedding(index)
        for block in self.blocks:
            x = block(x)
        x = x + self.conv(x[:, None]).mean((1, 2, 3))[:, None, None]
        return self.classifier(self.norm(x.mean(1)))


INDEX = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])


def shake(model):
    for i, layer in enumerate(low_rank_layers(model).values()):
        like = layer.S.detach()
        layer.Y = LowRank.random(layer.shape, layer.rank, np.random.default_rng(i), like=like)
    return model


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("query", ["blocks.0.query", "blocks.1.query"]),
        (["query", "classifier"], ["blocks.0.query", "blocks.1.query", "classifier"]),
        ("blocks.0.*", ["blocks.0.query", "blocks.0.key", "blocks.0.value", "blocks.0.output"]),
        (re.compile(r"blocks\.\d\.(key|value)"), ["blocks.0.key", "blocks.0.value", "blocks.1.key", "blocks.1.value"]),
        (nn.Conv2d, ["conv"]),
        ([nn.Embedding, "1.output"], ["embedding", "blocks.1.output"]),
    ],
)
def test_targets(targets, expected):
    model = Network()
    output = model(INDEX)
    replaced = adapt(model, targets, rank=2)
    assert list(replaced) == expected == list(low_rank_layers(model))
    assert ranks(model) == dict.fromkeys(expected, 2)
    torch.testing.assert_close(model(INDEX), output)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        f"{name}.{factor}" for name in expected for factor in "USV"
    }


def test_kinds_and_ranks_per_layer():
    model = Network()
    replaced = adapt(model, [nn.Linear, nn.Conv2d, nn.Embedding], {"query": 1, nn.Conv2d: 4, "*": 3})
    assert ranks(model)["blocks.1.query"] == 1 and ranks(model)["conv"] == 4 and ranks(model)["classifier"] == 3
    assert {type(layer) for layer in replaced.values()} == {LinearAdapter, Conv2dAdapter, EmbeddingAdapter}
    assert "blocks.0.query" in str(parameter_report(model))
    with pytest.raises(ValueError, match="no layer matches"):
        adapt(model, nn.Linear, 2)  # the layers inside adapters are no targets

    trained = Network()
    adapt(trained, ["conv", "classifier"], {"conv": 2, "*": 3}, kind="train")
    assert isinstance(trained.conv, LowRankConv2d) and isinstance(trained.classifier, LowRankLinear)
    assert all(p.requires_grad for p in trained.parameters())


def test_blocks_that_know_their_channels_are_no_layers():
    class Residual(nn.Sequential):
        in_channels, out_channels = 1, 4

    model = nn.Sequential(Residual(nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 3)), nn.Flatten(), nn.Linear(4, 2))
    assert list(adapt(model, "*", {"*": 2})) == ["0.0", "0.2", "2"]


def test_trainable_and_shared_layers():
    model = Network()
    model.blocks[1].query = model.blocks[0].query
    adapt(model, "query", 2, trainable=["classifier", nn.LayerNorm])
    assert model.blocks[1].query is model.blocks[0].query
    opened = {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert opened == {"blocks", "classifier", "norm"}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: adapt(m, "qery", 2), ValueError, r"targets: no layer matches 'qery'; nearest names: .*query"),
        (lambda m: adapt(m, [], 2), ValueError, "no layer matches"),
        (lambda m: adapt(m, nn.Bilinear, 2), ValueError, "no layer matches Bilinear"),
        (lambda m: adapt(m, "norm", 2), TypeError, "norm is a LayerNorm, expected Linear, Conv2d, Embedding"),
        (lambda m: adapt(m, "query", 13), ValueError, r"blocks.0.query: rank 13 exceeds .* 12"),
        (lambda m: adapt(m, "query", {"key": 2}), ValueError, "rank has no pattern for blocks.0.query"),
        (lambda m: adapt(m, "query", 2, kind="lora"), ValueError, "kind must be 'adapter' or 'train', got 'lora'"),
        (lambda m: adapt(m, "query", 2, trainable="clasifier"), ValueError, "trainable: no layer .*classifier"),
        (lambda m: adapt(m, 3, 2), TypeError, "a target must be a str, .* got 3"),
        (lambda m: to_lora(m), ValueError, "no adapters"),
    ],
)
def test_errors_leave_the_model_as_it_was(call, error, message):
    model = Network()
    with pytest.raises(error, match=message):
        call(model)
    assert not low_rank_layers(model) and all(p.requires_grad for p in model.parameters())


def test_attention_that_uses_weights_alone():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with pytest.raises(ValueError, match=r"self_attn\.out_proj is used by its weight alone"):
        adapt(model, "out_proj", 2)
    adapt(model, ["linear1", "linear2"], 2)
    shake(model)
    x = torch.randn(3, 5, 8)
    model.eval()
    expected = model(x)
    with torch.no_grad():  # torch's fast path reads weights instead of calling layers
        torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("kind", ["adapter", "train"])
def test_merge(kind):
    model = Network()
    names = [name for name, _ in Network().named_parameters()]
    adapt(model, [nn.Linear, nn.Conv2d, nn.Embedding], 2, kind=kind)
    expected = shake(model)(INDEX)
    assert merge(model) is model
    assert not low_rank_layers(model)
    assert [name for name, _ in model.named_parameters()] == names
    torch.testing.assert_close(model(INDEX), expected)
    assert type(merge(LowRankLinear(4, 3, rank=2))) is nn.Linear


@pytest.mark.parametrize("kind", ["adapter", "train"])
def test_files_carry_the_ranks(kind, tmp_path):
    def make(rank):
        model = Network()
        adapt(model, ["query", "conv"], rank, kind=kind, **({"trainable": "classifier"} if kind == "adapter" else {}))
        return model

    saved, loaded = shake(make({"0.query": 4, "*": 2})), make(1)
    with torch.no_grad():
        saved.classifier.weight.normal_()
    parameter = loaded.conv.U
    save_low_rank(saved, tmp_path / "model.safetensors")
    load_low_rank(loaded, tmp_path / "model.safetensors")
    assert loaded.conv.U is parameter
    assert ranks(loaded) == {"blocks.0.query": 4, "blocks.1.query": 2, "conv": 2}
    assert torch.equal(loaded(INDEX), saved(INDEX))
    kept = low_rank_state_dict(saved)
    assert ("blocks.0.query.base.weight" in kept) is False and "classifier.weight" in kept

    before = low_rank_state_dict(loaded)
    for change, message in (
        (lambda d: d.pop("conv.U"), r"lacks conv\.U"),
        (lambda d: d.update(other=torch.zeros(1)), "has not: other"),
        (lambda d: d.update({"conv.U": torch.zeros(5, 2)}), r"conv: the saved matrix is \(5, 9\), expected \(4, 9\)"),
        (lambda d: d.update({"classifier.bias": torch.zeros(7)}), r"classifier.bias: saved with shape \(7,\)"),
    ):
        state = dict(kept)
        change(state)
        with pytest.raises(ValueError, match=message):
            load_low_rank(loaded, state)
    assert all(torch.equal(before[name], X) for name, X in low_rank_state_dict(loaded).items())


def test_a_damaged_file_is_refused_and_a_failing_write_leaves_the_old_one(tmp_path, monkeypatch):
    model, path = Network(), tmp_path / "model.safetensors"
    adapt(model, "query", 2)
    save_low_rank(model, path)
    content = path.read_bytes()
    for damaged in (b"", content[:40], b"x" * 100, content[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
            load_low_rank(model, path)
    path.write_bytes(content)
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_low_rank(model, path)
    assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]


def test_lora_export():
    model = shake_model = Network()
    adapt(model, ["query", "conv", "embedding"], {"query": 3, "*": 2})
    for layer in low_rank_layers(model).values():
        layer.scale = 0.5
    expected = shake(shake_model)(INDEX)
    factors = to_lora(model)
    plain = Network()
    for name, (A, B) in factors.items():
        weight = plain.get_submodule(name).weight
        assert A.shape[0] == B.shape[1] == low_rank_layers(model)[name].rank
        with torch.no_grad():
            weight += (B @ A).reshape(weight.shape)
    with torch.no_grad():
        plain.embedding.weight[0] = 0
    torch.testing.assert_close(plain(INDEX), expected)


def test_report_counts_what_moves():
    model = nn.Sequential(nn.Linear(10, 8), nn.Linear(8, 5))
    adapt(model, "0", 3, trainable="1")
    report = parameter_report(model)
    assert report.layers == [("0", (8, 10), 3, 3 * (8 + 10) + 9, 80)]
    assert (report.trained, report.total) == (63 + 45, 88 + 45 + 63)
    LowRankOptimizer(model, LoRA(), 0.1)
    assert parameter_report(model).layers[0].trained == 3 * (8 + 10)
    LowRankOptimizer(model, GeoLoRA(), 0.1)
    assert parameter_report(model).trained == 108
    assert "trained 108 of 196 parameters (55.10%)" in str(report)


def test_merged_adapters_are_not_saved():
    model = Network()
    adapt(model, "query", 2)
    model.blocks[0].query.merge()
    for call in (low_rank_state_dict, lambda m: load_low_rank(m, {}), lambda m: copy.deepcopy(m).state_dict()):
        with pytest.raises(RuntimeError, match="unmerge"):
            call(model)


@pytest.mark.parametrize("function", [merge, ranks, to_lora, parameter_report, low_rank_state_dict])
def test_what_is_no_model_is_refused(function):
    with pytest.raises(TypeError, match=r"model must be a torch\.Module, got int 3"):
        function(3)
    with pytest.raises(TypeError, match=r"model must be a torch\.Module"):
        adapt(3, "query", 2)
