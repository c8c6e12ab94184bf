"""A fine-tuning problem of seconds: bright and dark pictures, and a tiny vision transformer with random weights."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from dlrt.finetune.data import Setting

BLOCKS, WIDTH = 2, 16


@pytest.fixture(scope="session")
def setting(tmp_path_factory):
    """Bright and dark pictures, and a network that has seen nothing."""
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=BLOCKS, num_attention_heads=2, patch_size=7, image_size=14,
        layerscale_value=1.0,
    )  # fmt: skip
    Dinov2Model(config).save_pretrained(folder / "model")
    rng = np.random.default_rng(0)
    for part, number in (("train", 30), ("test", 10)):
        for name, low in (("bright", 128), ("dark", 0)):
            (folder / "data" / part / name).mkdir(parents=True)
            for i in range(number):
                image = rng.integers(low, low + 128, (14, 14, 3), np.uint8)
                Image.fromarray(image).save(folder / "data" / part / name / f"{i}.png")
    return Setting(
        "images", str(folder / "model"), str(folder / "data"), train=40, validation=20, test=20, size=14, batch=8,
        steps=12,
    )  # fmt: skip


WORDS = "the a film was is very not good bad fine poor dull bright and but story actors".split()


@pytest.fixture(scope="session")
def text_model(tmp_path_factory):
    """A tiny BERT with random weights, and a tokenizer of a few words."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS) + 5, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=24,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def language_model(tmp_path_factory):
    """A tiny GPT-2 with random weights, whose layers are Conv1D and whose head is tied to its embedding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(WORDS) + 5, bos_token_id=2, eos_token_id=3, n_embd=16, n_layer=2, n_head=2, n_positions=24,
        initializer_range=0.3,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def _tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(special + WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "eos_token": "[SEP]",
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=24, **names)


@pytest.fixture(scope="session")
def reviews(tmp_path_factory):
    """Sentences that are good or bad by one word, as JSONL."""
    rng = np.random.default_rng(0)
    lines = []
    for i in range(60):
        words = list(rng.choice(WORDS[:6] + WORDS[11:], 5))
        words[rng.integers(5)] = rng.choice(["good", "fine"] if i % 2 else ["bad", "poor"])
        lines.append(json.dumps({"text": " ".join(words), "label": "positive" if i % 2 else "negative"}))
    path = tmp_path_factory.mktemp("reviews") / "reviews.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path
