"""The command ``dlrt runs``: what is in a folder of results, and what made it."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from .terminal import say, show


def runs(folder: Annotated[Path, typer.Argument(help="Folder that a command or a sweep wrote to.")]) -> None:
    """List the runs in a folder and the code that made them; only those of the present code are used again."""
    from ..runs.identity import package_code

    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    now = package_code()
    found = False
    for part in sorted({path.parent for path in folder.rglob("*.npz")}):
        for code, made in _trajectories(part).items():
            found = True
            newest = datetime.fromtimestamp(max(time for time, _ in made)).strftime("%Y-%m-%d %H:%M")
            place = "" if part == folder else f"{part.relative_to(folder)}: "
            show((row for _, row in made), f"{place}made by {_which(code, now)}, the newest {newest}")
    for path in sorted(folder.rglob("*.jsonl")):
        found = True
        say(f"{path}: {_journal(path, now)}")
    aside = sorted(path.relative_to(folder) for path in folder.rglob("*.aside*"))
    if aside:
        say(f"Set aside, damaged or under a wrong name: {', '.join(map(str, aside))}")
    if not found:
        say(f"no runs in {folder}")


def _which(code: str, now: str) -> str:
    return "the present code" if code == now else f"other code ({code})"


def _trajectories(folder: Path) -> dict[str, list[tuple[float, dict[str, str]]]]:
    """(time, row of the table) of each trajectory, by the code of the project, the newest first."""
    from ..trajectory import Trajectory

    groups: dict[str, list[tuple[float, dict[str, str]]]] = {}
    for path in sorted(folder.glob("*.npz")):
        try:
            run = Trajectory.load(path)
        except ValueError as error:
            say(str(error))
            continue
        code = str(run.meta.get("case", run.meta)["code"])
        h = run.step_sizes[0] if len(run.step_sizes) else 0.0
        row = {
            "run": path.stem.removesuffix(f"-{code}").rpartition("-")[0] or path.stem,
            "step": f"{h:.4g}",
            "steps": f"{run.steps[-1]}",
            run.measure or "rank": f"{run.values[-1]:.2e}" if run.measure else f"{run.ranks[-1]}",
            "status": run.status.partition(" at ")[0],
            "its own code": code[8:],
        }
        groups.setdefault(code[:8], []).append((path.stat().st_mtime, row))
    return dict(sorted(groups.items(), key=lambda group: -max(time for time, _ in group[1])))


def _journal(path: Path, now: str) -> str:
    """How many results a journal holds, and by which code."""
    count: Counter[str] = Counter()
    for line in path.read_bytes().splitlines():
        try:
            count[json.loads(line)["code"][:8]] += 1
        except (ValueError, KeyError, TypeError):
            count["damaged"] += 1
    damaged = count.pop("damaged", 0)
    parts = [f"{n} made by {_which(code, now)}" for code, n in count.items()]
    return "; ".join(parts + [f"damaged lines: {damaged}"] * bool(damaged))
