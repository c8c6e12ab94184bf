"""The commands ``dlrt figure`` and ``dlrt table``: the figures and tables of the GeoLoRA paper anew."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from integrators.checks import check_jobs

from ..runs import check_folder, cluster, set_aside
from .terminal import FRESH, JOBS, SCHEDULER, bar, interrupted, option, say, show

_OUT = typer.Option(help="Folder for pictures and numbers. Default: dlrt-figures/NAME or dlrt-tables/NAME.")
_QUICK = typer.Option("--quick", help="A smaller version, to see that it works.")
_MODEL = typer.Option(
    help="Your own pretrained network: a folder or a name for from_pretrained of transformers. "
    "Figures 2 to 4, Tables 2 and 3."
)
_DATA = typer.Option(
    help="Your own data. Pictures: a folder with the files of MNIST or of CIFAR's binary version, or with train/CLASS/ "
    "and test/CLASS/ (Figures 2 to 4, Table 3). Sentences: a folder with train.tsv and dev.tsv of GLUE (Table 2)."
)


def figure(
    name: Annotated[str, typer.Argument(help="Name of a figure, see [bold]dlrt list[/bold].")],
    out: Annotated[Path | None, _OUT] = None,
    quick: Annotated[bool, _QUICK] = False,
    jobs: Annotated[int, JOBS] = 1,
    scheduler: Annotated[str | None, SCHEDULER] = None,
    fresh: Annotated[bool, FRESH] = False,
    model: Annotated[str | None, _MODEL] = None,
    data: Annotated[str | None, _DATA] = None,
) -> None:
    """Redo a figure of the GeoLoRA paper (arXiv:2410.18720)."""
    _redo("figure", name, out, quick, jobs, scheduler, fresh, {"model": model, "data": data})


def table(
    name: Annotated[str, typer.Argument(help="Name of a table, see [bold]dlrt list[/bold].")],
    out: Annotated[Path | None, _OUT] = None,
    quick: Annotated[bool, _QUICK] = False,
    jobs: Annotated[int, JOBS] = 1,
    scheduler: Annotated[str | None, SCHEDULER] = None,
    fresh: Annotated[bool, FRESH] = False,
    model: Annotated[str | None, _MODEL] = None,
    data: Annotated[str | None, _DATA] = None,
) -> None:
    """Redo a table of the GeoLoRA paper (arXiv:2410.18720), and show it."""
    item, result = _redo("table", name, out, quick, jobs, scheduler, fresh, {"model": model, "data": data})
    show(item.rows(result), result.get("title", item.description))


def known(kind: str) -> dict[str, Any]:
    """FIGURES or TABLES of the package `paper_figures`, which this package must not need, by name."""
    try:
        return dict(getattr(importlib.import_module("paper_figures"), kind))
    except (ImportError, AttributeError):
        return {}


def _redo(kind, name, out, quick, jobs, scheduler, fresh, options) -> tuple[Any, dict]:
    """Run a figure or table; the item and its data. A second call goes on where the first one stopped."""
    from ..registry import lookup  # slow to import

    out = Path(f"dlrt-{kind}s", name) if out is None else out
    jobs = check_jobs(jobs if scheduler is None else None)
    began = time.perf_counter()
    try:
        item = lookup(kind, name, known(f"{kind.upper()}S"))
        given = {key: value for key, value in options.items() if value is not None}
        for unused in given.keys() - item.options() if given else ():
            raise ValueError(f"{kind} {name} takes no {option(unused)}")
        check_folder(out)
        for journal in out.glob("*.jsonl") if fresh else ():
            set_aside(journal)
        with cluster(scheduler), bar() as shown:
            task = shown.add_task(name, total=None)

            def progress(done, total):
                shown.update(task, completed=done, total=total)

            result = item.run(out, quick=quick, jobs=jobs, progress=progress, **given)
    except KeyboardInterrupt:
        interrupted(out)
    say(f"Wrote {item.description} to {out} ({time.perf_counter() - began:.1f} s)")
    return item, result
