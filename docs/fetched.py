"""What the built site needs of others: KaTeX, which sets formulas, and what lets a page from a file search.

Both come from the npm registry, are checked by their SHA-256 and kept in the cache of `dlrt.finetune.assets`, so the
site needs no network to be read, and its second build none either.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pooch

from dlrt.finetune.assets import cache
from docs.text import Pages

REGISTRY = "https://registry.npmjs.org"
KATEX = f"{REGISTRY}/katex/-/katex-0.19.1.tgz", "24da5a599eb2fcede2e270b99a6ff48bca816beecc95feeb84e8cccbd1bb34fd"
WORKER = (
    f"{REGISTRY}/iframe-worker/-/iframe-worker-1.0.4.tgz",
    "e8c5d12d87829c503afba01d67772ea9f4aba5b7ae57a0c98e1917711030efbb",
)


def pages() -> Pages:
    """Script, style and fonts of KaTeX, and the script of the worker."""
    found: Pages = {}
    for name, data in members(KATEX).items():
        path = name.removeprefix("package/dist/")
        if path in ("katex.min.js", "katex.min.css") or path.endswith(".woff2"):
            found[f"assets/katex/{path}"] = data
    found["assets/katex/LICENSE"] = members(KATEX)["package/LICENSE"]
    found["assets/iframe-worker.js"] = members(WORKER)["package/shim/index.js"]
    return found


def members(package: tuple[str, str]) -> dict[str, bytes]:
    """The files of a package."""
    address, digest = package
    folder = Path(cache())
    file = pooch.retrieve(address, f"sha256:{digest}", fname=address.rpartition("/")[2], path=folder)
    with tarfile.open(file) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}  # type: ignore[union-attr]
