"""Nothing is lost, whatever happens: ``python -m benchmarks.campaign --kills 200 --calls 10000 --write``.

Commands are killed, interrupted and run on a full disk (`benchmarks.kills`), and functions and commands are called with
random arguments, good and bad (`benchmarks.calls`). Every fault is printed; the exit code is 1 if there was one. With
``--write`` the tables are written into ``benchmarks/README.md``. Equal seeds make equal calls; a kill comes at the same
moment, but a machine is not as fast each time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from .kills import TASKS, WAYS, Trial, trials
from .tables import write


def kills(options, folder: Path) -> tuple[str, int]:
    """Stop commands; the table and the number of faults."""
    begin, done = time.monotonic(), []
    for number, trial in enumerate(trials(options.kills, options.tasks, folder, options.seed, options.minutes)):
        done.append(trial)
        if trial.faults or options.verbose:
            said = "; ".join(trial.faults) or "no fault"
            print(f"kill {number}: {trial.task}, {trial.way} {trial.moment}, code {trial.code}: {said}", flush=True)
    return of_kills(done, time.monotonic() - begin), sum(bool(trial.faults) for trial in done)


def of_kills(done: list[Trial], seconds: float) -> str:
    """Table of the trials without a fault, by command and way."""
    rows = [["stopped by", *TASKS, "all"]]
    for way in (*WAYS, "all"):
        of_way = [trial for trial in done if way in (trial.way, "all")]
        by_task = [[trial for trial in of_way if trial.task == task] for task in TASKS]
        rows.append([way, *map(_share, by_task), _share(of_way)])
    stopped = sum(trial.code != 0 for trial in done)
    return f"{table(rows)}\n\n{stopped} of {len(done)} were stopped before their end; {seconds / 60:.0f} minutes."


def _share(found: list[Trial]) -> str:
    return f"{sum(not trial.faults for trial in found)} of {len(found)}"


def calls(options, folder: Path) -> tuple[str, int]:
    """Call everything; the table and the number of faults."""
    from .calls import KINDS, outcomes  # imports torch

    begin, count = time.monotonic(), Counter()
    for outcome in outcomes(options.first, options.calls, folder, options.seed):
        count[outcome.kind, outcome.ended] += 1
        count[outcome.kind, "fault"] += bool(outcome.fault)
        if outcome.fault or options.verbose:
            print(f"call {outcome.number}: {outcome.text}: {outcome.fault or outcome.ended}", flush=True)
    endings = sorted({ended for _, ended in count} - {"fault", "returned"})
    rows = [["", "calls", "returned", *endings, "faults"]]
    for kind in (*KINDS, "all"):
        of = [sum(n for (k, e), n in count.items() if kind in (k, "all") and e == ended) for ended in rows[0][2:-1]]
        faults = sum(n for (k, e), n in count.items() if kind in (k, "all") and e == "fault")
        rows.append([kind, *(f"{n:,}" for n in (sum(of), *of, faults))])
    minutes = (time.monotonic() - begin) / 60
    return f"{table(rows)}\n\nSeed {options.seed}; {minutes:.0f} minutes.", sum(
        n for (_, e), n in count.items() if e == "fault"
    )


def table(rows: Iterable[list[str]]) -> str:
    """A table in Markdown, the first row its head."""
    head, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="number of commands that are stopped")
    parser.add_argument("--calls", type=int, default=10_000, help="number of calls")
    parser.add_argument(
        "--tasks", nargs="+", default=list(TASKS), choices=list(TASKS), help="commands that are stopped"
    )
    parser.add_argument("--minutes", type=float, default=60, help="no command is stopped any more after this time")
    parser.add_argument("--first", type=int, default=0, help="number of the first call, to repeat one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="print every trial and every call")
    parser.add_argument("--write", action="store_true", help="write the tables into benchmarks/README.md")
    options = parser.parse_args()
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, run in (("kills", kills), ("calls", calls)):
            if getattr(options, name):
                text, wrong = run(options, Path(folder))
                faults += wrong
                print(text)
                if options.write:
                    write(name, text)
    print(f"{faults} faults")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
