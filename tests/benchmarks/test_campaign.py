"""A small campaign finds no fault; and one that is there is found."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def in_checkout(*arguments):
    """Run python in the root of the checkout: benchmarks are not installed."""
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
def test_a_small_campaign():
    done = in_checkout("-m", "benchmarks.campaign", "--kills", "4", "--tasks", "compare", "--calls", "200", "--verbose")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "0 faults" and sum(line.startswith(("kill ", "call ")) for line in lines) == 204


DIFFERENCES = """
import json, sys
from pathlib import Path
from benchmarks.kills import content, differences
print(json.dumps(differences(*(content(Path(folder)) for folder in sys.argv[1:]))))
"""


def folder(path, error=0.5, seconds=1.0, extra=()):
    path.mkdir()
    np.savez(path / "run.npz", errors=np.array([error, np.nan]), wall_times=np.array([seconds]))
    line = f'{{"task": "a", "code": "c", "result": {{"error": {error}, "seconds": {seconds}}}}}'
    (path / "journal.jsonl").write_text(f'{{"task": "b\n{line}\n')
    text = f'{{"settings": "{path}", "cases": [{{"error": {error}, "wall_time": {seconds}}}]}}'
    (path / "results.json").write_text(text)
    for name in extra:
        (path / name).touch()
    return str(path)


def test_what_differs_is_found(tmp_path):
    """Numbers and names, but not wall times, folders and lines of a journal that were cut."""
    one = folder(tmp_path / "one")
    assert in_checkout("-c", DIFFERENCES, one, folder(tmp_path / "two", seconds=2.0)).stdout == "[]\n"
    other = folder(tmp_path / "three", error=float(np.nextafter(0.5, 1)), extra=[".run.npz.x.part"])
    found = in_checkout("-c", DIFFERENCES, other, one).stdout
    for text in (".run.npz.x.part is left", "run.npz differs", "journal.jsonl differs", "results.json differs"):
        assert text in found
    assert ".run.npz.x.part is missing" in in_checkout("-c", DIFFERENCES, one, other).stdout


FAULTS = """
from pathlib import Path
import benchmarks.calls as calls
wrong = lambda: 1 / 0
forever = lambda: all(True for _ in iter(int, 1))
calls.LIMIT = 0.5
for call in (wrong, forever, lambda: int("x"), lambda: 3):
    calls.KINDS = {"one": (1.0, lambda rng, folder, call=call: ("text", call))}
    outcome = calls.outcome(0, Path(), 0)
    print(outcome.ended, "|", outcome.fault.split(chr(10))[0])
"""


def test_faults_of_calls_are_found():
    lines = in_checkout("-c", FAULTS).stdout.splitlines()
    assert lines == [
        "another | ZeroDivisionError: division by zero",
        "no end | no end within 0.5 s",
        "ValueError | ",
        "returned | ",
    ]
