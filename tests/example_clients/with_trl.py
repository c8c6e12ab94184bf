"""Supervised fine-tuning with TRL: `python with_trl.py FOLDER`. Network and tokenizer are tiny and made here."""

import sys

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from dlrt.finetune.trainer import LowRankTraining
from dlrt.nn import adapt
from integrators import Adam, GeoLoRA

WORDS = ["<pad>", "<end>", "the", "cat", "dog", "sees", "hears", "a", "mouse", "bird", "."]


class LowRankSFTTrainer(LowRankTraining, SFTTrainer):
    """TRL's trainer with low-rank layers."""


def tokenizer():
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<end>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")


def network():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(WORDS), n_positions=16, n_embd=32, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1
    )
    return GPT2LMHeadModel(config)


def main(folder, integrator, **changes):
    texts = [f"the {x} {y} a {z} ." for x in ("cat", "dog") for y in ("sees", "hears") for z in ("mouse", "bird")]
    model = network()
    adapt(model, ["c_attn", "c_fc"], rank=4)
    options = {"per_device_train_batch_size": 4, "num_train_epochs": 5, "learning_rate": 0.02, "logging_steps": 1}
    options["bf16"] = torch.cuda.is_available()  # TRL takes it for granted
    trainer = LowRankSFTTrainer(
        model,
        SFTConfig(folder, report_to="none", **(options | changes)),
        train_dataset=Dataset.from_dict({"text": texts}),
        processing_class=tokenizer(),
        integrator=integrator,
    )
    trainer.train()
    trainer.save_model()  # a LoRA adapter
    return trainer


if __name__ == "__main__":
    main(sys.argv[1], GeoLoRA(optimizer=Adam()))
