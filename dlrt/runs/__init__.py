"""Many runs, none lost: what a run is, where it is kept, and how many runs are made and tuned.

`run_tasks` calls functions in parallel and keeps their results in a journal; `run` is the loop beneath it, for any
store. `tune` tries learning rates; `describe` and `versions` say what a result was made by.
"""

from .identity import describe, digest, identify
from .runner import Task, cluster, is_running, report, run, run_tasks
from .store import Folder, Journal, cache, check_folder, set_aside, versions, write_atomically, write_json
from .tune import best, late, late_loss, rate, tune

__all__ = [
    "Folder",
    "Journal",
    "Task",
    "best",
    "cache",
    "check_folder",
    "cluster",
    "describe",
    "digest",
    "identify",
    "is_running",
    "late",
    "late_loss",
    "rate",
    "report",
    "run",
    "run_tasks",
    "set_aside",
    "tune",
    "versions",
    "write_atomically",
    "write_json",
]
