"""Table 2 of the GeoLoRA paper in kind: sentence classification, here MiniLM on movie-review sentences."""

from __future__ import annotations

from pathlib import Path

from dlrt.finetune.data import SENTENCES

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
        What is in ``table2.json``, and the table as ``rows``.
    """
    return make("2", SENTENCES, out, quick, jobs, progress, model, data)
