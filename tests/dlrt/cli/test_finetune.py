"""The command ``dlrt finetune``: what it shows and refuses."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dlrt.cli import app

WORDS = ("good", "bad", "film")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny BERT with random weights."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=5, max_position_embeddings=8, **small)).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({x: i for i, x in enumerate(("[PAD]", "[UNK]", *WORDS))}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "model_max_length": 8}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


@pytest.fixture
def call(model, tmp_path):
    (tmp_path / "data.csv").write_text("text,label\n" + "good film,1\nbad film,0\n" * 10)

    def call(*arguments, data="data.csv"):
        given = ["--model", str(model), "--data", str(tmp_path / data), "--out", str(tmp_path / "out")]
        return CliRunner().invoke(app, ["finetune", "--task", "text", "--rank", "2", *given, *arguments])

    return call


def test_command(call, tmp_path):
    result = call("--epochs", "2", "--batch", "9")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert any(line.startswith("epoch 2, loss ") and "total rank" in line for line in lines)
    assert "geolora-spectral-budget at rate 0.000316" in result.output and "validation loss" in result.output
    metrics = json.loads((tmp_path / "out/metrics.json").read_text(), parse_constant=pytest.fail)
    assert metrics["settings"]["epochs"] == 2 and len(metrics["losses"]) == 4
    again = call("--epochs", "2", "--batch", "9")
    assert again.exit_code == 0 and "epoch 2, loss" not in again.output and "validation loss" in again.output
    other = call("--epochs", "1", "--batch", "9")
    assert other.exit_code == 2 and "--out has another run (epochs 2, not 1)" in other.output
    assert call("--epochs", "1", "--batch", "9", "--fresh").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lr", "fast"], "--lr must be a number or 'search', got 'fast'"),
        (["--method", "stella"], "--method must be one of lora"),
        (["--tau", "0.1"], "--tau must not be given for geolora-spectral-budget"),
        (["--label", "class"], "data.csv, line 1: there is no column 'class' among 'text', 'label'"),
        (["--length", "9"], "--length must be at most 8"),
    ],
)
def test_command_refuses(call, arguments, message):
    result = call(*arguments)
    assert result.exit_code == 2 and message in result.output


def test_bad_data_are_refused_with_file_and_line(call, tmp_path):
    (tmp_path / "bad.csv").write_text("text,label\ngood,1\nbad\n")
    result = call(data="bad.csv")
    assert result.exit_code == 2 and f"dlrt: error: {tmp_path / 'bad.csv'}, line 3: 1 fields" in result.output


def test_divergence_is_an_error(call):
    result = call("--lr", "1e30", "--method", "lora")
    assert result.exit_code == 1 and "Training diverged at step" in result.output and "a smaller --lr" in result.output


def test_interruption_says_how_to_go_on(call, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("dlrt.finetune.command.finetune", interrupt)
    result = call()
    assert result.exit_code == 130 and "the same command goes on from there" in result.output


def test_help_needs_no_torch():
    code = (
        "import sys\nfrom dlrt.cli import app\n"
        "try: app(['finetune', '--help'])\nfinally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--method" in done.stdout
