"""Table 3 of the GeoLoRA paper in kind: image classification, here a ViT-S/14 on a part of Fashion-MNIST."""

from __future__ import annotations

from pathlib import Path

from dlrt.finetune.data import IMAGES

from .accuracy_table import make


def run(
    out: Path, quick: bool = False, jobs: int = 1, progress=None, model: str | None = None, data: str | None = None
) -> dict:
    """Fine-tune by all methods: the table, its JSON and a picture.

    Parameters
    ----------
    out : Path
        Folder for the results and the journals of finished runs.
    quick : bool
        A smaller version.
    jobs : int
        Runs at the same time; steps are timed one after the other.
    progress : callable, optional
        Called as ``progress(done, total)``.
    model, data : str, optional
        As of :class:`Setting`.

    Returns
    -------
    dict
        What is in ``table3.json``, and the table as ``rows``.
    """
    return make("3", IMAGES, out, quick, jobs, progress, model, data)
