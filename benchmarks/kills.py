"""Commands are stopped at a random moment and called again: nothing may be lost, changed or left behind.

Each trial starts a command in a fresh folder, stops it in one of the ways of :data:`WAYS`, runs the same command to its
end, and compares the folder with that of a run that nobody disturbed: bit for bit, wall times apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
_COMPARE = ("compare", "matrix-regression", "--size", "40", "--rank", "4", "--seeds", "2", "--step-size", "0.1")
_COMPARE += ("--integrators", "svd-lora,geolora")
TASKS: dict[str, tuple[str, ...]] = {
    "compare": (*_COMPARE, "--steps", "200"),
    "compare, 2 jobs": (*_COMPARE, "--steps", "150", "--jobs", "2"),
    "digits": ("train", "digits", "--methods", "lora,geolora", "--epochs", "2", "--seeds", "2", "--lr", "0.1"),
    "figure": ("figure", "1", "--quick"),
}
BEFORE = {"compare": (*_COMPARE, "--steps", "20")}
"""Another comparison that is in the folder already, and is set aside by the task."""
TURNS = ("compare", "digits", "compare", "figure", "compare", "digits", "compare", "compare, 2 jobs")
WAYS = ("kill -9", "Ctrl-C", "Ctrl-C, parent alone", "full disk")
TIMES = {"seconds", "wall_time", "wall_times"}
OF_THE_CALL = {"settings"}
"""Keys of what is not compared: wall times; the command line, which names the folder."""
MARK = "DLRT_CAMPAIGN"


@dataclass(frozen=True)
class Trial:
    """What became of one command that was stopped."""

    task: str
    way: str
    moment: str
    code: int
    faults: tuple[str, ...]


# -- folders -----------------------------------------------------------------------------------------------------------


def content(folder: Path) -> dict[str, object]:
    """What is in a folder, by names, without wall times and the pictures of them."""
    return {path.relative_to(folder).as_posix(): _content(path) for path in folder.rglob("*") if path.is_file()}


def _content(path: Path) -> object:
    if path.suffix == ".npz":
        with np.load(path) as file:
            arrays = {name: X for name, X in file.items() if name not in TIMES}
        return {name: (str(X.dtype), X.shape, X.tobytes()) for name, X in arrays.items()}
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_bytes()))
    if path.suffix == ".jsonl":
        return _journal(path)
    return None if path.stem == "work" else path.read_bytes()


def _journal(path: Path) -> dict:
    """The results by task and code; a line that was cut is none."""
    results = {}
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            results[entry["task"], entry["code"]] = _timeless(entry["result"])
    return results


def _timeless(data):
    if isinstance(data, dict):
        return {key: _timeless(value) for key, value in data.items() if key not in TIMES | OF_THE_CALL}
    return [_timeless(value) for value in data] if isinstance(data, list) else data


def differences(found: dict, expected: dict) -> list[str]:
    """One line for each file that is missing, left over, or of another content."""
    lines = [f"{name} is missing" for name in expected.keys() - found.keys()]
    lines += [f"{name} is left" for name in found.keys() - expected.keys()]
    return lines + [f"{name} differs" for name in found.keys() & expected.keys() if found[name] != expected[name]]


# -- processes ---------------------------------------------------------------------------------------------------------


class Command:
    """A command of the program with an output folder, in a process group of its own, with a mark on its processes."""

    def __init__(self, arguments: tuple[str, ...], out: Path, *, limit: int | None = None):
        self.temporary = out.parent / "temporary"
        self.temporary.mkdir(exist_ok=True)
        self.mark = f"{MARK}={os.getpid()}-{time.monotonic_ns()}"
        places = {name: str(self.temporary) for name in ("TMPDIR", "JOBLIB_TEMP_FOLDER")}
        environment = os.environ | places | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
        environment |= dict([self.mark.split("=")])
        self.errors = (out.parent / "errors.txt").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dlrt_command", *arguments, "--out", str(out)],
            stdout=subprocess.DEVNULL,
            stderr=self.errors,
            env=environment,
            cwd=ROOT,
            start_new_session=True,
            preexec_fn=lambda: _begin(limit),
        )

    def end(self, seconds: float = 120) -> tuple[int, str]:
        """Wait; exit code and error output."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            code = 99
        self.errors.seek(0)
        text = self.errors.read().decode(errors="replace")
        return code, text

    def left(self, patience: float = 15) -> list[str]:
        """Processes of the command that do not end, and temporary files; both are cleared away."""
        until = time.monotonic() + patience
        while (alive := list(self._alive())) and time.monotonic() < until:
            time.sleep(0.1)
        for number in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        files = [path for path in self.temporary.rglob("*") if path.is_file()]
        files += Path("/dev/shm").glob(f"*loky-{self.process.pid}-*")
        self.errors.close()
        return [f"process {number} is left" for number in alive] + [f"{path} is left" for path in files]

    def _alive(self) -> Iterator[int]:
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                is_ours = self.mark.encode() in (folder / "environ").read_bytes().split(b"\0")
                if is_ours and "\nState:\tZ" not in (folder / "status").read_text():
                    yield int(folder.name)


def _begin(limit: int | None) -> None:
    """In the new process: Ctrl-C counts, also where the campaign works in the background; files are this long."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def undisturbed(task: str, folder: Path) -> tuple[dict, float, int]:
    """Content of the output folder, seconds, and bytes that the task writes into its folder."""
    prepare(task, folder)
    before = size(folder / "out")
    start = time.monotonic()
    command = Command(TASKS[task], folder / "out")
    code, text = command.end()
    seconds = time.monotonic() - start
    if code or "Traceback" in text or command.left():
        raise RuntimeError(f"{task} does not even run: exit code {code}\n{text}")
    return content(folder / "out"), seconds, size(folder / "out") - before


def prepare(task: str, folder: Path) -> None:
    """Make the folder of a trial, with the comparison in it that the task finds there."""
    folder.mkdir(parents=True)
    (folder / "out").mkdir()
    if task in BEFORE:
        kept = folder.parent / f"before {task}"
        if not kept.exists():
            kept.mkdir()
            command = Command(BEFORE[task], kept / "out")
            code, text = command.end()
            if code or command.left():
                raise RuntimeError(f"exit code {code}\n{text}")
        shutil.copytree(kept / "out", folder / "out", dirs_exist_ok=True)


def size(folder: Path) -> int:
    """Bytes in a folder, in whole pages."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def small_disk(folder: Path, room: int) -> Iterator[bool]:
    """Make the output folder one with this room for more (a tmpfs); False where that is not allowed here."""
    out = folder / "out"
    kept = folder / "kept"
    shutil.copytree(out, kept)
    options = f"size={size(out) + max(room, 4096)}"
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(out)], capture_output=True)
    if made.returncode:
        yield False
        return
    try:
        shutil.copytree(kept, out, dirs_exist_ok=True)
        yield True
    finally:
        subprocess.run(["umount", "-l", str(out)], check=True)


# -- trials ------------------------------------------------------------------------------------------------------------


def trial(task: str, way: str, expected: tuple[dict, float, int], folder: Path, rng: np.random.Generator) -> Trial:
    """Stop the task once, run it to its end, and compare."""
    prepare(task, folder)
    reference, seconds, room = expected
    if way == "full disk":
        room = int(rng.uniform(0, room))
        with small_disk(folder, room) as mounted:
            limit = None if mounted else max(room // 8, 1024)
            moment = f"{room // 1024} KiB of room" if mounted else f"files of {limit} bytes at most"
            command = Command(TASKS[task], folder / "out", limit=limit)
            code, text = command.end()
            faults = command.left()
            if mounted:
                subprocess.run(["mount", "-o", "remount,size=64m", str(folder / "out")], check=True)
            return Trial(
                task, way, moment, code, (*faults, *_answer(way, code, text), *_again(task, reference, folder))
            )
    command = Command(TASKS[task], folder / "out")
    if rng.random() < 1 / 3:
        count = int(rng.integers(1, len(reference) + 1))
        moment = f"while file {count} is written"
        _wait_for_files(command, folder / "out", count)
    else:
        wait = float(rng.uniform(0.02, 1.0)) * seconds
        moment = f"after {wait:.2f} s"
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.process.wait(wait)
    stopped = time.monotonic()
    with contextlib.suppress(ProcessLookupError):
        if way == "kill -9":
            os.kill(command.process.pid, signal.SIGKILL)
        elif way == "Ctrl-C":
            os.killpg(command.process.pid, signal.SIGINT)
        else:
            os.kill(command.process.pid, signal.SIGINT)
    code, text = command.end()
    faults = [f"went on for {time.monotonic() - stopped:.1f} s"] if code == 0 and time.monotonic() > stopped + 1 else []
    faults += [*command.left(), *_answer(way, code, text), *_again(task, reference, folder)]
    return Trial(task, way, moment, code, tuple(faults))


def _wait_for_files(command: Command, out: Path, count: int) -> None:
    """Until the command writes its file of this number, or has ended."""
    seen: set[str] = set()
    while len(seen) < count and command.process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            seen |= {name for name in os.listdir(out) if name.endswith(".part")}
        time.sleep(0.0005)


def _answer(way: str, code: int, text: str) -> list[str]:
    """What is wrong with exit code and error output of a command that was stopped."""
    if way == "kill -9":
        return [] if code in (0, -signal.SIGKILL) else [f"exit code {code}"]
    stopped = {"full disk": (0, 2)}.get(way, (0, 130, -signal.SIGINT))
    faults = [] if code in stopped else [f"exit code {code}: {text}"]
    if "Traceback" in text and (way == "full disk" or str(ROOT) in text):  # else Python's own start was interrupted
        faults.append(f"a traceback:\n{text}")
    return faults


def _again(task: str, reference: dict, folder: Path) -> list[str]:
    """What is wrong after the same command has run to its end."""
    command = Command(TASKS[task], folder / "out")
    code, text = command.end()
    faults = [f"second run: {fault}" for fault in command.left()]
    if code or "Traceback" in text:
        faults.append(f"second run: exit code {code}\n{text}")
    return faults + differences(content(folder / "out"), reference)


def trials(kills: int, tasks: list[str], folder: Path, seed: int, minutes: float) -> Iterator[Trial]:
    """Trials one by one, the tasks and ways in turn, until there are enough or time is over."""
    until = time.monotonic() + 60 * minutes
    turns = [task for task in TURNS if task in tasks]
    expected = {task: undisturbed(task, folder / task) for task in dict.fromkeys(turns)}
    for number in range(kills):
        if time.monotonic() > until:
            return
        task, way = turns[number % len(turns)], WAYS[number // len(turns) % len(WAYS)]
        place = folder / f"trial {number}"
        yield trial(task, way, expected[task], place, np.random.default_rng([seed, number]))
        shutil.rmtree(place)
