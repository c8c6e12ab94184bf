"""LoRA files: stock PEFT computes the same with what we write, and we with what it writes."""

import json

import numpy as np
import peft
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from dlrt.nn import LowRankOptimizer, adapt, from_lora, low_rank_layers, merge, ranks, save_lora, switched_off
from integrators import GeoLoRA, LowRank, Tolerance

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")


class Network(nn.Module):
    """Layers of all types, some of whose names end in those of others."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(20, 12, padding_idx=1)
        self.blocks = nn.ModuleList(nn.ModuleDict({"0": nn.Linear(12, 12), "key": nn.Linear(12, 12)}) for _ in range(2))
        self.key = nn.Linear(12, 12)
        self.lines = nn.Conv1d(12, 8, 3, stride=2, padding=1)
        self.conv = nn.Conv2d(4, 6, (3, 2), padding="same", groups=2)
        self.volume = nn.Conv3d(2, 4, 2)
        self.head = nn.Linear(4, 3)

    def forward(self, index):
        x = self.embedding(index)
        for block in self.blocks:
            x = x + torch.tanh(block["key"](torch.tanh(block["0"](x))))
        x = self.lines(torch.tanh(self.key(x)).mT)
        x = self.conv(x.reshape(x.shape[0], 4, 2, -1))
        x = self.volume(x.reshape(x.shape[0], 2, 3, 2, -1))
        return self.head(x.mean((2, 3, 4)))


INDEX = torch.tensor([[1, 2, 3, 4, 5, 1], [5, 6, 0, 0, 19, 7]])


def shake(model):
    for i, layer in enumerate(low_rank_layers(model).values()):
        rank = min(layer.rank + i % 2, *layer.shape)
        layer.Y = LowRank.random(layer.shape, rank, np.random.default_rng(i), like=layer.S.detach())
    return model.eval()


@pytest.mark.parametrize(
    ("targets", "trainable"), [("*", ()), (["blocks.1.key", "key", "lines"], ()), (["embedding", "0", "conv"], "head")]
)
def test_stock_peft_computes_the_same(targets, trainable, tmp_path):
    model = Network()
    adapt(model, targets, 2, scale=0.7, trainable=trainable)
    if trainable:
        nn.init.normal_(model.head.weight)
    expected = shake(model)(INDEX)
    save_lora(model, tmp_path)
    loaded = peft.PeftModel.from_pretrained(Network(), tmp_path).eval()
    assert not torch.allclose(expected, Network()(INDEX), atol=1e-3)
    torch.testing.assert_close(loaded(INDEX), expected)
    if "conv" not in ranks(model):  # PEFT merges no groups
        torch.testing.assert_close(loaded.merge_and_unload()(INDEX), expected)


def test_names_that_end_in_others(tmp_path):
    """``key`` has an adapter, ``blocks.0.key`` has none, ``blocks.1.key`` one of another rank."""
    model = Network()
    adapt(model, ["blocks.1.key"], 5)
    assert list(adapt(model, "key", 2, exclude="blocks.*")) == ["key"]
    expected = shake(model)(INDEX)
    save_lora(model, tmp_path)
    loaded = peft.PeftModel.from_pretrained(Network(), tmp_path).eval()
    torch.testing.assert_close(loaded(INDEX), expected)
    names = {name for name, _ in loaded.base_model.model.named_modules() if name.endswith("lora_A")}
    assert names == {"key.lora_A", "blocks.1.key.lora_A"}


def test_gpt2_after_training(tmp_path):
    def make():
        torch.manual_seed(0)
        tokens = {"vocab_size": 50, "n_positions": 16, "bos_token_id": 0, "eos_token_id": 0}
        return GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=16, **tokens)).eval()

    model, index = make(), torch.randint(50, (4, 8))
    adapt(model, ["c_attn", "c_fc"], 4, alpha=8)
    optimizer = LowRankOptimizer(model, GeoLoRA(truncation=Tolerance(relative=0.3, spare=1)), 0.5)
    for _ in range(5):
        optimizer.zero_grad()
        model(input_ids=index, labels=index).loss.backward()
        optimizer.step()
    assert len(set(ranks(model).values())) > 1
    save_lora(model, tmp_path)
    loaded = peft.PeftModel.from_pretrained(make(), tmp_path).eval()
    torch.testing.assert_close(loaded(index).logits, model(index).logits)
    assert loaded.peft_config["default"].fan_in_fan_out
    torch.testing.assert_close(loaded.merge_and_unload()(index).logits, model(index).logits)


def test_several_adapters_become_one(tmp_path):
    model = Network()
    adapt(model, "key", 2, name="one")
    adapt(model, ["key", "lines"], 3, name="two", scale=0.5)
    expected = shake(model)(INDEX)
    save_lora(model, tmp_path / "both")
    torch.testing.assert_close(peft.PeftModel.from_pretrained(Network(), tmp_path / "both").eval()(INDEX), expected)
    with switched_off(model, "two"):
        save_lora(model, tmp_path / "one")
        expected = model(INDEX)
    torch.testing.assert_close(peft.PeftModel.from_pretrained(Network(), tmp_path / "one").eval()(INDEX), expected)


def test_back_again(tmp_path):
    model = Network()
    adapt(model, "*", {"key": 3, "*": 2}, scale=0.7, exclude=["conv", "head"], trainable="head")
    expected = shake(model)(INDEX)
    save_lora(model, tmp_path)
    other = Network()
    assert set(from_lora(other, tmp_path)) == set(low_rank_layers(model))
    assert ranks(other) == ranks(model) and other.head.weight.requires_grad
    torch.testing.assert_close(other.eval()(INDEX), expected)
    for layer in low_rank_layers(other).values():
        torch.testing.assert_close(layer.U.mT @ layer.U, torch.eye(layer.rank))
    LowRankOptimizer(other, GeoLoRA(), 0.1)


@pytest.mark.parametrize("stabilised", [False, True])
def test_a_start_from_peft(stabilised, tmp_path):
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=["key", "embedding", "lines", "volume"], use_rslora=stabilised,
        rank_pattern={"blocks.1.key": 2, "embedding": 14}, alpha_pattern={"lines": 7}, modules_to_save=["head"],
    )  # fmt: skip
    model = peft.get_peft_model(Network(), config).eval()
    for name, p in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(p, std=0.3)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="embedding: the row of padding_idx = 1 is changed"):
        from_lora(Network(), tmp_path)
    model.get_parameter("base_model.model.embedding.lora_embedding_A.default").data[:, 1] = 0  # as training leaves it
    model.save_pretrained(tmp_path)
    expected = model(INDEX)
    for source in (tmp_path, model):
        start = Network()
        layers = from_lora(start, source)
        assert layers["blocks.1.key"].rank == 2 and layers["embedding"].rank == 12  # of at most min(m, n)
        torch.testing.assert_close(start.eval()(INDEX), expected)


def test_a_start_from_a_model_of_transformers_with_an_adapter():
    """Which PEFT has put into it without a wrapper."""
    config = GPT2Config(vocab_size=20, n_embd=12, n_layer=1, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0)
    source, start = GPT2LMHeadModel(config).eval(), GPT2LMHeadModel(config).eval()
    start.load_state_dict(source.state_dict())
    source.add_adapter(peft.LoraConfig(r=2, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True), "mine")
    for name, p in source.named_parameters():
        if "lora_" in name:
            nn.init.normal_(p, std=0.3)
    assert len(from_lora(start, source)) == 3
    torch.testing.assert_close(start(INDEX).logits, source(INDEX).logits)


def test_a_start_from_the_active_adapter():
    model = peft.get_peft_model(Network(), peft.LoraConfig(target_modules=["lines"]))
    model.add_adapter("other", peft.LoraConfig(r=3, target_modules=["key"]))
    model.set_adapter("other")
    for name, p in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(p, std=0.3)
    start = Network()
    assert set(from_lora(start, model)) == {"key", "blocks.0.key", "blocks.1.key"}
    torch.testing.assert_close(start.eval()(INDEX), model.eval()(INDEX))


def test_a_start_from_another_model():
    """Adapters of other ranks and scales, several on a layer: each becomes one."""
    model, start = Network(), Network()
    adapt(model, ["key", "lines"], 3, scale=0.5)
    adapt(model, "key", 2, name="second", scale=2.0)
    expected = shake(model)(INDEX)
    layers = from_lora(start, model)
    torch.testing.assert_close(start.eval()(INDEX), expected)
    with torch.no_grad():
        for layer in layers.values():
            layer.S.zero_()
    torch.testing.assert_close(model(INDEX), expected)  # nothing is shared
    with pytest.raises(ValueError, match="model has no adapters"):
        from_lora(Network(), Network())
    other = peft.get_peft_model(Network(), peft.IA3Config(target_modules=["key"], feedforward_modules=[]))
    with pytest.raises(ValueError, match=r"source must have a LoRA adapter, got .*IA3"):
        from_lora(Network(), other)


def test_what_lora_cannot_say(tmp_path):
    for layer, message in (
        (nn.ConvTranspose2d(3, 4, 2), "knows no transposed convolutions"),
        (nn.Conv2d(3, 4, 2, dilation=2), r"leaves out dilation = \(2, 2\)"),
        (
            nn.Conv1d(3, 4, 2, padding=1, padding_mode="circular"),
            r"leaves out dilation = \(1,\) and padding_mode = 'circular'",
        ),
    ):
        model = nn.Sequential(layer)
        adapt(model, "0", 2)
        with pytest.raises(ValueError, match="0: PEFT's LoRA " + message):
            save_lora(model, tmp_path)
    model = Network()
    with pytest.raises(ValueError, match="no adapters"):
        save_lora(model, tmp_path)
    adapt(model, "key", 2)
    model.key.merge()
    with pytest.raises(RuntimeError, match="key: a merged adapter"):
        save_lora(model, tmp_path)
    model.key.unmerge()
    model.key.base.bias.requires_grad_(True)
    with pytest.raises(ValueError, match=r"key.base has trained parameters of its own"):
        save_lora(model, tmp_path)
    adapt(model, "head", 2, kind="train")
    with pytest.raises(ValueError, match="head is of low rank by itself"):
        save_lora(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_bad_files_leave_the_model_as_it_was(tmp_path):
    model = Network()
    adapt(model, ["lines", "0"], 2)
    save_lora(shake(model), tmp_path)
    path = tmp_path / "adapter_config.json"
    config, tensors = json.loads(path.read_text()), (tmp_path / "adapter_model.safetensors").read_bytes()
    other = Network()

    def refused(message, model=other):
        with pytest.raises(ValueError, match=message):
            from_lora(model, tmp_path)
        assert not low_rank_layers(model) and all(p.requires_grad for p in model.parameters())

    for change, message in (
        ({"use_dora": True}, "use_dora = True is no plain LoRA"),
        ({"bias": "all"}, "bias = 'all' is no plain LoRA"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4' belongs to other frozen weights"),
        ({"peft_type": "IA3"}, "describes no LoRA adapter"),
    ):
        path.write_text(json.dumps(config | change))
        refused(message)
    path.write_text("{")
    refused("is damaged")
    path.write_text(json.dumps(config))
    refused("belongs to no layer of the model", nn.Sequential(nn.Linear(12, 12)))
    wider = Network()
    wider.lines = nn.Conv1d(12, 9, 3)
    refused(r"lines: factors of shapes \(8, .* for a \(9, 36\) matrix", wider)
    (tmp_path / "adapter_model.safetensors").write_bytes(tensors[:-1])
    refused("is damaged")


class Transposed(nn.Module):
    """What `Network` has not."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lines = nn.ConvTranspose1d(4, 6, 3, stride=2)  # without groups, which onnx's evaluator lacks
        self.planes = nn.ConvTranspose2d(6, 4, (3, 2), padding=(1, 0), output_padding=(1, 0), stride=2)

    def forward(self, x):
        return self.planes(torch.tanh(self.lines(x))[..., None])


MODELS = {"all": (Network, INDEX, INDEX[:1]), "transposed": (Transposed, torch.ones(3, 4, 5), torch.ones(2, 4, 5))}


@pytest.fixture(params=MODELS)
def exported(request):
    """A model with low-rank layers, an example, and another one of another batch size."""
    kind, x, other = MODELS[request.param]
    return kind(), x, other


@pytest.mark.parametrize("kind", ["adapter", "train"])
@pytest.mark.parametrize("merged", [False, True])
def test_torch_export(exported, kind, merged, tmp_path):
    model, x, other = exported
    adapt(model, "*", 2, kind=kind)
    shake(model)
    expected = [model(X) for X in (x, other)]
    if merged:
        merge(model)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for X, y in zip((x, other), expected, strict=True):
        torch.testing.assert_close(loaded(X), y)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx(exported, merged, tmp_path):
    pytest.importorskip("onnxscript")
    from onnx.reference import ReferenceEvaluator

    model, x, other = exported
    adapt(model, "*", 2)
    shake(model)
    expected = [model(X).detach().numpy() for X in (x, other)]
    if merged:
        merge(model)
    axes = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(model, (x,), tmp_path / "model.onnx", dynamic_shapes=axes, dynamo=True, verbose=False)
    session = ReferenceEvaluator(str(tmp_path / "model.onnx"))
    for X, y in zip((x, other), expected, strict=True):
        np.testing.assert_allclose(session.run(None, {session.input_names[0]: X.numpy()})[0], y, rtol=1e-4, atol=1e-5)


def test_safetensors_of_the_merged_model(exported, tmp_path):
    """Loads into the model as it was before it was adapted."""
    from safetensors.torch import load_model, save_model

    model, x, _ = exported
    plain = type(model)()
    adapt(model, "*", 2)
    expected = shake(model)(x)
    save_model(merge(model), tmp_path / "model.safetensors")
    load_model(plain, tmp_path / "model.safetensors")
    torch.testing.assert_close(plain.eval()(x), expected)


def test_an_exported_model_is_not_trained_by_mistake(exported):
    """Its parameters are still factors, which ordinary optimisers refuse."""
    model, x, _ = exported
    adapt(model, "*", 2)
    program = torch.export.export(shake(model), (x,)).module()
    program(x).sum().backward()
    with pytest.raises(TypeError, match="was given the factors of a low-rank layer"):
        torch.optim.SGD(program.parameters(), 0.1).step()
