"""Fine-tune a network of transformers with its Trainer: `python with_trainer.py FOLDER`, or torchrun for processes.

The network is tiny and has seen nothing, so that this takes seconds; `from_pretrained` gives a real one.
"""

import sys

import torch
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from dlrt.finetune.trainer import LowRankTrainer
from dlrt.nn import adapt
from integrators import Adam, GeoLoRA


def network():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=16,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def texts():
    """Which of two words comes first."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(2, 100, (64, 16), generator=generator)
    words[::2, 0], words[1::2, 0] = 0, 1
    return [{"input_ids": line, "labels": torch.tensor(i % 2)} for i, line in enumerate(words)]


def main(folder, **changes):
    options = {"per_device_train_batch_size": 16, "num_train_epochs": 4, "learning_rate": 5e-3, "logging_steps": 4}
    args = TrainingArguments(folder, report_to="none", **(options | changes))
    model = network()
    adapt(model, ["query", "value"], rank=4, trainable="classifier")
    trainer = LowRankTrainer(model, args, train_dataset=texts(), integrator=GeoLoRA(optimizer=Adam()))
    trainer.train()
    trainer.save_model()  # a LoRA adapter, also for PeftModel.from_pretrained(network(), folder)
    return trainer


if __name__ == "__main__":
    main(sys.argv[1])
