"""adapt, reports, files, and turning models back into plain ones."""

import copy
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from dlrt.nn import (
    Adapter,
    LowRankConv2d,
    LowRankLayer,
    LowRankLinear,
    LowRankOptimizer,
    activate,
    adapt,
    adapters,
    load_low_rank,
    low_rank_layers,
    low_rank_state_dict,
    merge,
    parameter_report,
    ranks,
    remove,
    save_low_rank,
    switched_off,
    to_lora,
)
from integrators import GeoLoRA, LoRA, LowRank, Tolerance


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


def test_a_second_call_adds_and_freezes_nothing_that_was_adapted():
    model = Network()
    adapt(model, "query", 2, trainable="classifier")
    adapt(model, ["key", "conv"], 3)
    adapt(model, "output", 2, kind="train")
    opened = {name for name, p in model.named_parameters() if p.requires_grad}
    factors = {f"{layer}.{f}" for layer in low_rank_layers(model) for f in "USV"}
    assert opened == factors | {"classifier.weight", "classifier.bias", *(f"blocks.{i}.output.bias" for i in (0, 1))}
    assert list(LowRankOptimizer(model, GeoLoRA(), 0.1).layers) == list(low_rank_layers(model))
    parts = Network()
    adapt(parts, "conv", 2, kind="train")
    adapt(parts.blocks[0], "query", 2, trainable="key")
    adapt(parts, "classifier", 2)  # all else is frozen by now
    opened = {name.rpartition(".")[0] for name, p in parts.named_parameters() if p.requires_grad}
    assert opened == {"conv", "blocks.0.query", "blocks.0.key", "classifier"}


def test_scales_dropout_and_exclusion():
    model = Network()
    layers = adapt(model, "blocks.*", {"query": 4, "*": 2}, alpha=8, dropout=0.1, exclude=["value", "blocks.1.*"])
    assert {name: (layer.scale, layer.dropout) for name, layer in layers.items()} == {
        "blocks.0.query": (2.0, 0.1), "blocks.0.key": (4.0, 0.1), "blocks.0.output": (4.0, 0.1),
    }  # fmt: skip
    assert adapt(Network(), "conv", 4, alpha=8, rank_stabilised=True)["conv"].scale == 4.0
    assert adapt(Network(), "conv", 4, scale=0.5)["conv"].scale == 0.5


class Positions(nn.Embedding):
    """As OPT has one: an embedding that is called with something else."""

    def forward(self, mask):
        return super().forward(mask.cumsum(-1))


class Packed(nn.Module):
    """Two 4-bit weights in a byte, all 1."""

    in_features = out_features = 64

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2048, 1, dtype=torch.uint8), requires_grad=False)

    def forward(self, x):
        return x.sum(-1, keepdim=True).expand(*x.shape[:-1], 64)


def test_globs_pass_over_what_is_not_known():
    model = nn.Sequential(
        nn.Conv1d(4, 8, 3), nn.ReLU(), Positions(9, 4), nn.Linear(4, 4, dtype=torch.complex64),
        nn.Embedding(9, 4, sparse=True), nn.ConvTranspose2d(4, 5, 3), Packed(), nn.Bilinear(4, 4, 4),
    )  # fmt: skip
    for name, error in (("2", TypeError), ("3", TypeError), ("4", ValueError), ("7", TypeError)):
        with pytest.raises(error, match=f"{name}: "):
            adapt(model, ["0", name], 2)
    assert list(adapt(model, "*", 2)) == ["0", "5", "6"]
    with pytest.raises(TypeError, match="0: Packed has no low-rank counterpart"):
        adapt(nn.Sequential(Packed()), "0", 2, kind="train")


def test_packed_weights():
    model, x = nn.Sequential(Packed()), torch.randn(2, 64)
    adapt(model, "0", rank=4)
    shake(model)
    expected = x.sum(-1, keepdim=True) + x @ model[0].dense().mT
    torch.testing.assert_close(model(x), expected)
    with pytest.raises(TypeError, match=r"0: Packed has no floating-point weight .* dequantise"):
        merge(model)
    torch.testing.assert_close(model(x), expected)


class Wrapped(torch.Tensor):
    """A tensor made of another one, as torchao has them: it has no memory of its own."""

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return cls(args[0].inner)
        return function(*(X.inner if isinstance(X, cls) else X for X in args), **(kwargs or {}))


def test_a_weight_made_of_others_is_not_merged():
    model, x = nn.Sequential(nn.Linear(6, 4)), torch.randn(3, 6)
    model[0].weight = nn.Parameter(Wrapped(model[0].weight.detach()), requires_grad=False)
    adapt(model, "0", 2)
    shake(model)
    expected = model(x)
    with pytest.raises(TypeError, match=r"0: Linear has no floating-point weight .* dequantise"):
        merge(model)
    torch.testing.assert_close(model(x), expected)


def bitsandbytes(kind):
    bnb = pytest.importorskip("bitsandbytes")
    if kind == "int8":
        layer = bnb.nn.Linear8bitLt(64, 32, has_fp16_weights=False)
    else:
        layer = bnb.nn.Linear4bit(64, 32, quant_type=kind, compute_dtype=torch.float32)
    layer.load_state_dict(nn.Linear(64, 32).state_dict())
    return layer.to("cpu")


def torchao(kind):
    quantization = pytest.importorskip("torchao.quantization")
    model = nn.Sequential(nn.Linear(64, 32))
    quantization.quantize_(model, getattr(quantization, kind)())
    return model[0]


PACKED = {
    "nf4": bitsandbytes, "fp4": bitsandbytes, "int8": bitsandbytes,
    "Int8WeightOnlyConfig": torchao, "Int8DynamicActivationInt8WeightConfig": torchao,
}  # fmt: skip


@pytest.mark.parametrize("kind", PACKED)
def test_packed_layers_of_others(kind, tmp_path):
    """Where they are installed: base and adapter add up, train, and are saved; merging is refused."""
    torch.manual_seed(0)
    model, x = nn.Sequential(PACKED[kind](kind)), torch.randn(16, 64)
    base = model(x).detach()
    adapt(model, "0", 2, scale=0.5)
    torch.testing.assert_close(model(x), base, rtol=0, atol=0)
    optimizer = LowRankOptimizer(model, GeoLoRA(truncation=Tolerance(relative=0.1, spare=1)), 2.0, rest=None)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        losses.append(model(x).square().mean())
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    delta = x @ model[0].dense().mT
    torch.testing.assert_close(model(x), base + delta)
    (gradient,) = torch.autograd.grad(model(x := x.requires_grad_()).sum(), x)
    assert gradient.isfinite().all() and gradient.any()
    with pytest.raises(TypeError, match=r"0: Linear.* has no floating-point weight .* dequantise"):
        merge(model)
    save_low_rank(model, tmp_path / "adapter.safetensors")
    with torch.no_grad():
        model[0].S.zero_()
    load_low_rank(model, tmp_path / "adapter.safetensors")
    torch.testing.assert_close(model(x), base + delta)


def gpt2():
    torch.manual_seed(0)
    tokens = {"vocab_size": 50, "n_positions": 16, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=16, **tokens)).eval()


def test_gpt2_and_a_head_tied_to_its_embedding():
    model, index = gpt2(), torch.arange(8)[None]
    assert sum("c_attn" in name for name in adapt(model, "*", 4)) == 2
    shake(model)
    expected = model(index).logits.detach()
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match=r"transformer.wte: its weight is lm_head.base.weight too, .* untie it first"):
        merge(model)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone(), False)
    merge(model)
    assert type(model.transformer.h[0].attn.c_attn).__name__ == "Conv1D"
    torch.testing.assert_close(model(index).logits, expected)


def test_no_dense_matrix_in_a_forward_pass(monkeypatch):
    sizes = {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    model = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0))
    adapt(model, ["wo"], 4)  # T5 asks for the type of this weight
    monkeypatch.setattr(LowRankLayer, "dense", lambda self: pytest.fail("a dense matrix"))
    x = torch.randint(50, (1, 8))
    model(input_ids=x, labels=x)


def test_kinds_and_ranks_per_layer():
    model = Network()
    replaced = adapt(model, [nn.Linear, nn.Conv2d, nn.Embedding], {"query": 1, nn.Conv2d: 4, "*": 3})
    assert ranks(model)["blocks.1.query"] == 1 and ranks(model)["conv"] == 4 and ranks(model)["classifier"] == 3
    assert {type(layer) for layer in replaced.values()} == {Adapter}
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
        (lambda m: adapt(m, "norm", 2), TypeError, "norm: the map of LayerNorm is not known: expected Linear, "),
        (lambda m: adapt(m, "blocks", 2), TypeError, "blocks: the map of ModuleList is not known"),
        (lambda m: adapt(m, nn.LayerNorm, 2), ValueError, "no layer matches LayerNorm"),
        (lambda m: adapt(m, "query", 2, exclude="blocks.*"), ValueError, "no layer matches 'query'"),
        (lambda m: adapt(m, "query", 2, scale=1.0, alpha=2.0), ValueError, "only one of scale and alpha"),
        (lambda m: adapt(m, "query", 2, rank_stabilised=True), ValueError, "rank_stabilised needs alpha"),
        (lambda m: adapt(m, "query", 2, scale=0.0), ValueError, r"blocks.0.query: scale must be other than 0"),
        (lambda m: adapt(m, "query", 2, alpha=float("nan")), ValueError, "alpha must be finite"),
        (lambda m: adapt(m, "query", 2, dropout=1.0), ValueError, "dropout must be less than 1"),
        (lambda m: adapt(m, "query", 2, "train", scale=2.0), ValueError, "are for adapters"),
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
    with pytest.raises(ValueError, match=r"self_attn\.out_proj: used by its weight alone"):
        adapt(model, "out_proj", 2)
    assert list(adapt(model, "*", 2)) == ["linear1", "linear2"]
    whole = nn.TransformerEncoder(model, 2)
    shake(whole)
    x, mask = torch.randn(3, 5, 8), torch.arange(5) > torch.tensor([[4], [2], [3]])
    whole.eval()
    expected = whole(x, src_key_padding_mask=mask)
    with torch.no_grad():  # torch's fast path reads weights instead of calling layers
        torch.testing.assert_close(whole(x, src_key_padding_mask=mask), expected)
    merge(whole)
    torch.testing.assert_close(whole(x, src_key_padding_mask=mask), expected)


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


def test_merge_under_autocast():
    model, x = nn.Sequential(nn.Linear(16, 32)), torch.randn(8, 16)
    adapt(model, "0", 4)
    expected = shake(model)(x)
    with torch.autocast("cpu", torch.bfloat16):
        merge(model)
    torch.testing.assert_close(model(x), expected)


def test_merge_refuses_with_the_model_untouched():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.one(x) + self.two(x)

    def tied(model):
        model.two.weight = model.one.weight

    def view(model):
        model.two.weight = nn.Parameter(model.one.weight.data[:, 1:])

    def reached_by_another_name(model):
        model.two = model.one

    def buffer(model):
        model.register_buffer("copy", model.one.weight.data.mT)

    def parametrised(model):
        weight_norm(model.one)

    def pruned(model):
        prune.l1_unstructured(model.one, "weight", 0.5)

    x = torch.randn(3, 4)
    for prepare, error, message in (
        (tied, ValueError, r"last\.one: its weight is last\.two\.weight too"),
        (view, ValueError, r"last\.one: its weight is last\.two\.weight too"),
        (reached_by_another_name, ValueError, r"last\.one: its weight is last\.two\.weight too"),
        (buffer, ValueError, r"last\.one: its weight is last\.copy too"),
        (parametrised, TypeError, "weight of ParametrizedLinear is computed from other parameters"),
        (pruned, TypeError, "weight of Linear is computed from other parameters"),
    ):
        model = nn.ModuleDict({"first": nn.Linear(4, 4), "last": Reader()})
        prepare(model["last"])
        adapt(model, ["first", "one"], 2)
        shake(model)
        before = {name: X.clone() for name, X in model.state_dict().items()}
        with pytest.raises(error, match=message):
            merge(model)
        after = model.state_dict()
        assert list(after) == list(before) and all(torch.equal(before[name], X) for name, X in after.items())
        if prepare is tied:  # the remedy that is named
            expected = model["last"](x)
            model.last.one.weight = nn.Parameter(model.last.one.weight.clone(), False)
            merge(model)
            torch.testing.assert_close(model["last"](x), expected)


def test_merge_that_fails_half_way_changes_nothing(monkeypatch):
    model = Network()
    adapt(model, "*", 2)
    expected, before = shake(model)(INDEX), {name: X.clone() for name, X in model.state_dict().items()}
    dense, calls = LowRankLayer.dense, []

    def fails(self):
        calls.append(self)
        if len(calls) == 4:
            raise MemoryError
        return dense(self)

    monkeypatch.setattr(LowRankLayer, "dense", fails)
    with pytest.raises(MemoryError):
        merge(model)
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(before[name], X) for name, X in after.items())
    torch.testing.assert_close(merge(model)(INDEX), expected)


def test_one_module_under_two_names():
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["b"] = model["a"]
    adapt(model, "*", 2)
    assert model["a"] is model["b"]
    x = torch.randn(3, 4)
    expected = shake(model)["a"](x)
    merge(model)
    assert model["a"] is model["b"] and type(model["a"]) is nn.Linear
    torch.testing.assert_close(model["b"](x), expected)


@pytest.mark.parametrize("change", [activate, remove, lambda model: switched_off(model).__enter__()])
def test_without_adapters_nothing_is_switched_in_silence(change):
    with pytest.raises(ValueError, match="model has no adapters of dlrt"):
        change(nn.Linear(3, 3))


def test_several_adapters_switched_off_and_removed():
    model = Network()
    plain = model(INDEX)
    adapt(model, "query", 2, name="one")
    first = shake(model)(INDEX)
    adapt(model, ["query", "conv"], 3, name="two")
    adapt(model, ["*"], 3, name="two", exclude="blocks.*")  # conv and the layers that have none yet
    assert {name: len(layers) for name, layers in adapters(model).items()} == {"one": 2, "two": 5}
    torch.testing.assert_close(model(INDEX), first)
    both = shake(model)(INDEX)
    with switched_off(model):
        torch.testing.assert_close(model(INDEX), plain)
        model.eval()
    with switched_off(model, "two"):
        torch.testing.assert_close(model(INDEX), first_of(model))
    torch.testing.assert_close(model(INDEX), both)
    activate(model, "one", active=False)
    with switched_off(model, "two"):
        torch.testing.assert_close(model(INDEX), plain)
    second = model(INDEX)
    remove(model, "one")
    assert list(adapters(model)) == ["two"]
    torch.testing.assert_close(model(INDEX), second)
    with pytest.raises(ValueError, match="no adapter is called one; names are: two"):
        remove(model, "one")
    model.conv.merge()
    with pytest.raises(RuntimeError, match="merged adapters cannot be switched"), switched_off(model):
        pass
    model.conv.unmerge()
    remove(model)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in Network().named_parameters()]
    torch.testing.assert_close(model(INDEX), plain)


def first_of(model):
    """The output of a copy that has the first adapters alone."""
    copied = copy.deepcopy(model)
    remove(copied, "two")
    return copied(INDEX)


@pytest.mark.parametrize("wrap", [
    lambda m: torch.compile(m, backend="eager"),
    torch.nn.DataParallel,
    torch.optim.swa_utils.AveragedModel,
    lambda m: torch.compile(torch.nn.DataParallel(m), backend="eager"),
])  # fmt: skip
def test_wrapped_models_have_the_names_of_the_plain_one(wrap, tmp_path):
    def make():
        model = Network()
        model.module = nn.Linear(4, 4)  # a name of the user's
        adapt(model, ["query", "module"], 2, trainable="classifier")
        return model

    model = shake(make())
    wrapped = wrap(model)
    assert list(ranks(wrapped)) == ["blocks.0.query", "blocks.1.query", "module"]
    assert list(low_rank_state_dict(wrapped)) == list(low_rank_state_dict(model))
    save_low_rank(wrapped, tmp_path / "wrapped.safetensors")
    plain, other = make(), wrap(make())
    load_low_rank(plain, tmp_path / "wrapped.safetensors")
    assert torch.equal(plain(INDEX), model(INDEX))
    load_low_rank(other, tmp_path / "wrapped.safetensors")
    assert torch.equal(merge(other)(INDEX), merge(model)(INDEX))
    old = {f"_orig_mod.{name}": X for name, X in low_rank_state_dict(plain).items()}
    load_low_rank(plain, old)  # of files by earlier versions


def test_a_part_that_is_compiled():
    model = Network()
    model.blocks[0] = torch.compile(model.blocks[0], backend="eager")
    assert list(adapt(model, "blocks.0.query", 2)) == ["blocks.0.query"]
    assert list(low_rank_state_dict(model)) == ["blocks.0.query.U", "blocks.0.query.S", "blocks.0.query.V"]
    expected = shake(model)(INDEX)
    torch.testing.assert_close(merge(model)(INDEX), expected)


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
