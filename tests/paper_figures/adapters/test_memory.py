"""Memory of a training step: exact, and as much as parameters, gradients and moments need."""

from dataclasses import replace

import pytest

from dlrt.finetune.data import SENTENCES
from paper_figures.adapters.memory import bytes_of_steps, memory

pytest.importorskip("transformers")
SMALL = replace(SENTENCES, train=32, validation=8, test=8, size=16, batch=4, steps=3)
RATES = {"probe": 1e-3, "lora": 1e-3}


def test_bytes_of_steps(tmp_path):
    """The same each time; of LoRA four numbers of 4 bytes for each parameter more than without adapters."""
    tuned = [{"method": method, "lr": lr, "label": "not needed"} for method, lr in RATES.items()]
    found = memory(SMALL, tuned, rank=2, journal=tmp_path / "journal.jsonl")
    assert found == bytes_of_steps(setting=SMALL.json(), rates=RATES, rank=2)
    probe, lora = found["probe"], found["lora"]
    assert probe["network"] == lora["network"] > 4 * 22e6  # MiniLM has 22.7 million parameters
    layers, direction = 36, 6 * (4 * (384 + 384) + 2 * (384 + 1536))
    # 4 bytes of the parameter, its gradient and two moments; LoRA here has S = I besides
    assert lora["kept"] - probe["kept"] == pytest.approx(16 * 2 * direction + 4 * layers * 2**2, rel=1e-3)
    for of in found.values():
        assert of["network"] < of["kept"] < of["peak"]
