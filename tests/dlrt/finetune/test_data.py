"""Data of the user's own: formats, splits, and errors that name what is wrong."""

import numpy as np
import pytest
from PIL import Image

from dlrt.finetune.data import Setting, load, read_images, read_sentences, split

rng = np.random.default_rng(0)


def test_splits_are_disjoint_and_always_the_same():
    setting = Setting("images", train=50, validation=20, test=10)
    parts = split(setting, 80, 12)
    assert not set(parts["train"]) & set(parts["validation"])
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [50, 20, 10]
    again = split(setting, 80, 12)
    assert all(np.array_equal(parts[name], again[name]) for name in parts)


def test_too_many_examples_are_refused():
    with pytest.raises(ValueError, match=r"train \+ validation must be at most 60 for these data, got 70"):
        split(Setting("images", train=50, validation=20, test=10), 60, 12)
    with pytest.raises(ValueError, match="test must be at most 5"):
        split(Setting("images", train=50, validation=20, test=10), 70, 5)


@pytest.mark.parametrize(("name", "value"), [("task", "sounds"), ("steps", 0), ("train", 0)])
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=name):
        Setting(**{"task": "images", name: value})


@pytest.mark.parametrize("labels", [1, 2])
def test_cifar(tmp_path, labels):
    """A byte for the label (of CIFAR-100 a coarse one first), then red, green and blue planes."""
    names = {1: ("data_batch_1.bin", "test_batch.bin"), 2: ("train.bin", "test.bin")}[labels]
    images = rng.integers(0, 256, (4, 32, 32, 3), np.uint8)
    fine = np.array([3, 1, 0, 2], np.uint8)
    rows = [images.transpose(0, 3, 1, 2).reshape(4, -1)]
    rows = [*([np.full((4, 1), 9, np.uint8)] if labels == 2 else []), fine[:, None], *rows]
    for name in names:
        np.concatenate(rows, axis=1).tofile(tmp_path / name)
    for found, classes in read_images(tmp_path).values():
        np.testing.assert_array_equal(found, images)
        assert classes.tolist() == [3, 1, 0, 2]


def test_folders_of_pictures(tmp_path):
    images = rng.integers(0, 256, (4, 6, 5, 3), np.uint8)
    for part in ("train", "test"):
        for i, image in enumerate(images):
            file = tmp_path / part / "ab"[i % 2] / "images" / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    for found, labels in read_images(tmp_path).values():
        np.testing.assert_array_equal(found, images[[0, 2, 1, 3]])
        assert labels.tolist() == [0, 0, 1, 1]
    Image.fromarray(images[0, :3]).save(tmp_path / "test" / "a" / "x.png")
    with pytest.raises(ValueError, match="must have one size"):
        read_images(tmp_path)


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="data must be a folder with the files of MNIST or CIFAR"):
        read_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="data must have a file"):
        read_sentences(tmp_path)


def test_glue(tmp_path):
    for file in ("train.tsv", "dev.tsv"):
        (tmp_path / file).write_text("\ufeffindex\tsentence1\tsentence2\tlabel\n0\tIt's \"so\tA b\tyes\n1\tC\tD\tno\n")
    for texts, labels in read_sentences(tmp_path).values():
        assert texts == [("It's \"so", "A b"), ("C", "D")]
        assert labels.tolist() == [1, 0]
    (tmp_path / "dev.tsv").write_text("text\tscore\na\t1\n")
    with pytest.raises(
        ValueError, match=r"dev\.tsv must name a label and one or two sentences .* got \['text', 'score'\]"
    ):
        read_sentences(tmp_path)


@pytest.mark.parametrize("task", ["images", "sentences"])
def test_other_models_are_refused(tmp_path, task):
    for model in (str(tmp_path), "/no/such/folder"):
        with pytest.raises(ValueError, match=f"model must be a folder or a name .* got '{model}'"):
            load(Setting(task, model=model))
