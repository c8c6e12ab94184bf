"""Options of fine-tuning, and the networks and examples that they name."""

import pytest
import torch

from dlrt.finetune.methods import METHODS
from dlrt.finetune.options import OFFERED, Options, work


def test_methods_that_are_offered():
    """All with adapters but the one that changes the frozen weights."""
    assert set(METHODS) - set(OFFERED) == {"full", "probe", "stella", "peft-lora", "peft-adalora", "peft-dora"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "sound"}, "task must be one of text, image, causal-lm, got 'sound'"),
        ({"method": "stella"}, "method must be one of lora, .*, got 'stella'"),
        ({"lr": "seek"}, "lr must be a number or 'search', got 'seek'"),
        ({"lr": -1.0}, "lr must be positive and finite"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"budget": 0}, "budget must be at least 1"),
        ({"length": 1}, "length must be at least 2"),
        ({"tau": 0.0}, "tau must be positive"),
        ({"data": []}, "data must name at least one file"),
    ],
)
def test_bad_options(changes, message, reviews):
    with pytest.raises(ValueError, match=message):
        Options(**{"model": "x", "task": "text", "data": [reviews], **changes})


def test_missing_files_and_networks(reviews, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data must name files that exist, got .*nothing.csv"):
        Options("x", "text", [tmp_path / "nothing.csv"])
    with pytest.raises(FileNotFoundError, match="validation must name files that exist"):
        Options("x", "text", [reviews], [tmp_path / "nothing.csv"])
    with pytest.raises(ValueError, match="model must be a folder or a name"):
        work(Options(str(tmp_path), "text", [reviews]))


def test_a_network_without_its_weights_is_refused(text_model, reviews, tmp_path):
    """A checkpoint of an adapted model: transformers would begin with random layers."""
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(text_model, folder)
    state = load_file(folder / "model.safetensors")
    wrapped = {name.replace("query.weight", "query.base.weight"): X for name, X in state.items()}
    save_file(wrapped, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"model must have all weights of BertForSeq.* lacks 2: bert.*query"):
        work(Options(str(folder), "text", [reviews])).task.build()


def test_a_network_without_a_tokenizer_is_refused(text_model, reviews, tmp_path):
    from transformers import BertModel

    BertModel.from_pretrained(text_model).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model must have a tokenizer"):
        work(Options(str(tmp_path), "text", [reviews]))


def test_texts(text_model, reviews):
    found = work(Options(str(text_model), "text", [reviews], length=6))
    assert found.classes == ["negative", "positive"]
    assert found.notes == {"train": 54, "validation": 6, "cut to length": 60}  # 5 words and two special tokens
    inputs, numbers = found.task.splits["train"]
    batch = found.task.batch(inputs, torch.tensor([3, 1]))
    assert batch["input_ids"].shape == (2, 6) and set(numbers.tolist()) == {0, 1}
    with pytest.raises(ValueError, match=r"length must be at most 24 for .*, got 25"):
        work(Options(str(text_model), "text", [reviews], length=25))


def test_pairs_and_given_validation(text_model, tmp_path):
    train, held = tmp_path / "a.csv", tmp_path / "b.csv"
    train.write_text("premise,hypothesis,entails\nthe film,a film,yes\nbad,good,no\n")
    held.write_text("premise,hypothesis,entails\nfine,not fine,no\n")
    columns = {"text": ["premise", "hypothesis"], "label": "entails"}
    found = work(Options(str(text_model), "text", [train], [held], **columns))
    assert found.notes == {"train": 2, "validation": 1, "cut to length": 0} and found.classes == ["no", "yes"]
    assert found.task.splits["validation"][1].tolist() == [0]
    assert found.task.splits["train"][0]["input_ids"][0] == [2, 5, 7, 3, 6, 7, 3]
    held.write_text("premise,hypothesis,entails\nfine,not fine,perhaps\n")
    with pytest.raises(ValueError, match=r"b.csv, line 2: the class 'perhaps' is none of no, yes"):
        work(Options(str(text_model), "text", [train], [held], **columns))
    train.write_text("premise,hypothesis,entails\nthe film,a film,yes\n")
    with pytest.raises(ValueError, match="at least two classes, got yes"):
        work(Options(str(text_model), "text", [train], **columns))


def test_blocks_of_tokens(language_model, tmp_path):
    """17 words and an end for each line; the last tenth of the blocks is for validation."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "the a film was is very not good bad fine poor dull bright and but story actors"}\n' * 5)
    found = work(Options(str(language_model), "causal-lm", [path], length=9))
    (x, labels), (held, _) = (found.task.splits[name] for name in ("train", "validation"))
    assert found.notes == {"train": 9, "validation": 1} and torch.equal(x, labels) and found.heads == ()
    assert x[0].tolist() == list(range(5, 14)) and held[0].tolist() == [*range(14, 22), 3]
    given = work(Options(str(language_model), "causal-lm", [path], [path], length=9))
    assert given.notes == {"train": 10, "validation": 10}
    path.write_text('{"text": "the film"}\n')
    with pytest.raises(ValueError, match=r"length must be at most 3, the number of tokens in .*a.jsonl, got 9"):
        work(Options(str(language_model), "causal-lm", [path], length=9))
    with pytest.raises(ValueError, match="data must hold an example to train on and one for validation"):
        work(Options(str(language_model), "causal-lm", [path], length=3))
    with pytest.raises(ValueError, match="text must be one column for causal-lm, got a, b"):
        work(Options(str(language_model), "causal-lm", [path], text=["a", "b"]))


def test_perplexity_is_that_of_all_tokens(language_model, tmp_path):
    """Whatever the batch: blocks have equal length, so the mean over blocks is that over tokens."""
    path = tmp_path / "a.txt"
    path.write_text("the film was good and the story was bad " * 12)
    losses = []
    for batch in (1, 3, 16):
        found = work(Options(str(language_model), "causal-lm", [path], [path], length=8, batch=batch))
        torch.manual_seed(0)
        losses.append(found.measure(found.task.build())["validation_loss"])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


def test_a_network_that_sees_later_tokens_is_refused(text_model, tmp_path):
    """BERT as transformers makes a model of the next token of it, with its head and without."""
    from transformers import BertForMaskedLM

    path = tmp_path / "a.txt"
    path.write_text("the film was good and the story was bad " * 12)
    with pytest.raises(ValueError, match=r"model must have all weights of BertLMHeadModel, .* lacks .*: cls"):
        work(Options(str(text_model), "causal-lm", [path])).task.build()
    BertForMaskedLM.from_pretrained(text_model).save_pretrained(tmp_path / "model")
    for file in text_model.glob("tokenizer*"):
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(
        ValueError, match=r"model must predict each token from those before it, BertLMHeadModel of .* sees"
    ):
        work(Options(str(tmp_path / "model"), "causal-lm", [path])).task.build()
