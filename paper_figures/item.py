"""One driver for all figures and tables: runs with a journal, data, statements, strict JSON, pictures, tables."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from dlrt.layout import markdown_table
from dlrt.runs import Task, run_tasks, versions, write_json

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Runs:
    """Function from tasks to their results, in order; called once for each round, with one journal for all of them.

    Parameters
    ----------
    out : Path
        Folder of the journal and of whatever the tasks write.
    jobs : int, optional
        Runs at the same time; None on a cluster.
    progress : callable, optional
        Called as ``progress(done, total)``.
    """

    out: Path
    jobs: int | None = 1
    progress: Callable | None = None

    @property
    def journal(self) -> Path:
        """File of the finished runs."""
        return self.out / "journal.jsonl"

    def __call__(self, tasks: Iterable[Task], *, journal: str = "journal.jsonl", jobs: int | None = None) -> list[dict]:
        """Results of the tasks; what is in the journal already is not run again."""
        jobs = self.jobs if jobs is None else jobs
        return run_tasks(tasks, journal=self.out / journal, jobs=jobs, progress=self.progress)

    def groups(self, groups: Mapping[str, list[Task]]) -> dict[str, list[dict]]:
        """Results of several lists of tasks, which run together."""
        results = iter(self([task for tasks in groups.values() for task in tasks]))
        return {name: [next(results) for _ in tasks] for name, tasks in groups.items()}


@dataclass(frozen=True)
class Item:
    """Figure or table: how it is computed, judged and shown is in a module of its own, imported when it is needed.

    The module has

    - ``compute(runs, quick, **options) -> dict``: the data, as JSON values, from :class:`Runs`;
    - ``statements(data) -> dict``: claims, each with its :func:`paper_figures.statements.finding`;
    - ``draw(data) -> Figure``, or a dict of them by the suffix of their file names;
    - ``PACKAGES``, optional: names of packages whose versions are recorded besides the usual ones;
    - ``tables(data) -> dict``, optional: tables by name, as lists of rows. A table has one with the name ``rows``.

    Parameters
    ----------
    kind : str
        ``figure`` or ``table``.
    name : str
        Its name on the command line.
    module : str
        Below ``paper_figures``.
    description : str
        One line.
    settings : dict
        Arguments of ``compute`` that make this item of a module which serves several.
    """

    kind: str
    name: str
    module: str
    description: str
    settings: Mapping = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """Name of its files."""
        return f"{self.kind}{self.name}" if self.name.isdigit() else self.name

    def load(self) -> ModuleType:
        """Its module."""
        return importlib.import_module(f"paper_figures.{self.module}")

    def options(self) -> set[str]:
        """What :meth:`run` takes besides its own arguments."""
        return set(inspect.signature(self.load().compute).parameters) - {"runs", "quick", *self.settings}

    def run(
        self, out: Path, quick: bool = False, jobs: int | None = 1, progress: Callable | None = None, **options
    ) -> dict:
        """Compute, judge and draw.

        Parameters
        ----------
        out : Path
            Folder for the JSON file, the pictures (PNG and PDF) and the journal of finished runs.
        quick : bool
            A small version.
        jobs, progress
            As of :class:`Runs`.
        options
            Of :meth:`options`: ``model`` and ``data`` of the user, where a pretrained network is fine-tuned.

        Returns
        -------
        dict
            What is in the JSON file.
        """
        from dlrt.plots import save_figure

        out = Path(out)
        module = self.load()
        found = module.compute(Runs(out, jobs, progress), quick, **self.settings, **options)
        made_by = versions(*getattr(module, "PACKAGES", ()))
        header = {"schema_version": 1, self.kind: self.name, "quick": quick, "versions": made_by}
        data = json.loads(json.dumps(header | found, allow_nan=False))  # what is judged and drawn is what is written
        data["statements"] = self.statements(data)
        write_json(out / f"{self.stem}.json", data)
        for suffix, figure in self.draw(data).items():
            save_figure(figure, out / f"{self.stem}{suffix}")
        for line in self.tables(data)["statements"]:
            logger.info("%s", line)
        return data

    def statements(self, data: dict) -> list[dict]:
        """What is claimed, and in how many of the runs it held."""
        return [{"claim": claim, **finding} for claim, finding in self.load().statements(data).items()]

    def draw(self, data: dict) -> dict:
        """The pictures, by the suffix of their file names."""
        from matplotlib import rc_context

        from dlrt.plots import STYLE

        with rc_context(STYLE):
            drawn = self.load().draw(data)
        return drawn if isinstance(drawn, dict) else {"": drawn}

    def rows(self, data: dict) -> list[dict]:
        """The rows of a table, by their headings."""
        return self.load().tables(data)["rows"]

    def tables(self, data: dict) -> dict[str, list[str]]:
        """All tables for the README by their names, as lines of Markdown; the ``statements`` are one."""
        statements = [
            {"claim": s["claim"], "paper": s["paper"], "here": s["found"], "held in": f"{s['holds']} of {s['of']}"}
            for s in data["statements"]
        ]
        more: dict = getattr(self.load(), "tables", lambda data: {})(data)
        return {name: markdown_table(rows) for name, rows in {"statements": statements, **more}.items() if rows}

    def reference(self) -> dict:
        """The numbers of the committed full run."""
        return json.loads((FOLDER / "reference" / f"{self.stem}.json").read_text(encoding="utf-8"))
