"""Files are never half written; a store gives back what it was given, and nothing that is damaged."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dlrt.runs import Folder, Journal, cache, versions, write_atomically, write_json


def test_a_failing_write_leaves_the_old_file(tmp_path):
    path = write_atomically(tmp_path / "new" / "folder" / "file", lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o044  # others may read it


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal: a job in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_waits_for_the_file(tmp_path):
    """An exception in the midst of a picture is lost in a callback of a library, or becomes another one."""
    written = []

    def write(file):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        written.append(file.write(b"whole"))

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", write)
    assert written == [5] and list(tmp_path.glob(".*")) == [] and signal.getsignal(signal.SIGINT) is before


WRITER = """
import sys, time
from dlrt.runs import write_atomically

def write(file):
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(600)

write_atomically(sys.argv[1], write)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="files are locked otherwise there")
def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    path, other = tmp_path / "file[1]", tmp_path / ".other.x.part"
    other.touch()
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout.readline() == b"writing\n"
            write_atomically(path, lambda file: file.write(b"new"))
            assert len(list(tmp_path.glob(".file*.part"))) == 1  # of the other writer, which is still there
        finally:
            writer.kill()
    write_atomically(path, lambda file: file.write(b"newer"))
    assert sorted(tmp_path.iterdir()) == [other, path] and path.read_bytes() == b"newer"


def test_json_is_strict(tmp_path):
    path = write_json(tmp_path / "data.json", {"a": [1, None]})
    assert path.read_text() == '{\n "a": [\n  1,\n  null\n ]\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": [1, None]}


def test_versions_of_what_is_always_there_and_of_what_is_named():
    always = ["python", "dlrt", "numpy", "scipy", "joblib", "matplotlib"]
    assert list(versions()) == always and list(versions("pytest")) == [*always, "pytest"]
    assert versions("pytest")["pytest"] == pytest.__version__


def load(path):
    if "damaged" in (text := path.read_text()):
        raise ValueError(f"{path} is damaged")
    return text


def folder(path):
    return Folder(path, load, lambda text, path: write_atomically(path, lambda file: file.write(text.encode())))


def test_folder(tmp_path):
    store = folder(tmp_path / "new")
    assert list(store.find(["a-1", "b-1"])) == []
    store.add("a-1", "one")
    store.add("c-1", "not asked for")
    assert list(store.find(["b-1", "a-1", "missing-1"])) == [("a-1", "one")]


def test_a_folder_sets_aside_what_is_damaged(tmp_path, caplog):
    store = folder(tmp_path)
    store.add("a-1.x", "damaged")
    assert list(store.find(["a-1.x"])) == []
    assert caplog.messages == [f"{tmp_path / 'a-1.x'} is damaged; set aside as a-1.x.aside"]
    store.add("a-1.x", "whole")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a-1.x": "whole", "a-1.x.aside": "damaged"}
    assert list(store.find(["a-1.x"])) == [("a-1.x", "whole")] and len(caplog.messages) == 1


def test_a_folder_sets_aside_what_other_code_made(tmp_path, caplog):
    store = folder(tmp_path)
    for name in ("a[b]-1.x", "b-1.x", "b-3.x"):
        store.add(name, name)
    assert list(store.find(["a[b]-2.x", "b-2.x", "c-2.x", "b-1.x"])) == [("b-1.x", "b-1.x")]
    assert caplog.messages == [f"2 runs in {tmp_path} were made by other code: set aside, not shown, made anew"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a[b]-1.x", "b-1.x", "b-3.x"]


A, B = ("a", "code"), ("b", "code")


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "new" / "journal.jsonl")


def test_journal(journal):
    assert list(journal.find([A])) == []
    journal.add(A, {"value": 0.1})
    journal.add(B, {"value": None})
    first = journal.path.read_text().splitlines()[0]
    assert first == '{"task": "a", "code": "code", "result": {"value": 0.1}}'
    assert list(journal.find([B, ("c", "code"), A])) == [(B, {"value": None}), (A, {"value": 0.1})]
    with pytest.raises(ValueError, match="JSON"):
        journal.add(("c", "code"), {"value": float("inf")})
    journal.add(A, 2)
    assert dict(journal.find([A])) == {A: 2}


@pytest.mark.parametrize("damaged", [b'{"task": "b", "co', b"[1]", b"\xff\xfe", b'{"task": []}', b'{"a": 1}\x00'])
def test_a_damaged_line_costs_that_line(journal, damaged, caplog):
    journal.add(A, 1)
    with journal.path.open("ab") as file:
        file.write(damaged)  # and no end of the line, as when the program was killed
    journal.add(B, 2)
    assert dict(journal.find([A, B])) == {A: 1, B: 2}
    assert caplog.messages == [f"{journal.path}, line 2 is damaged: left out"]
    assert damaged in journal.path.read_bytes()


def test_a_journal_sets_aside_what_other_code_made(journal, caplog):
    journal.add(A, 1)
    journal.add(B, 2)
    assert list(journal.find([("a", "other"), B, ("c", "other")])) == [(B, 2)]
    assert caplog.messages == [f"1 runs in {journal.path} were made by other code: set aside, not shown, made anew"]
    journal.add(("a", "other"), 3)
    assert dict(journal.find([A, ("a", "other")])) == {A: 1, ("a", "other"): 3}


@pytest.mark.parametrize("base", [None, "", "somewhere"])
def test_the_cache_is_where_it_belongs(base, tmp_path, monkeypatch):
    """Where pooch has it, which kept it before; or in the folder that the environment names."""
    pooch = pytest.importorskip("pooch")
    monkeypatch.delenv("DLRT_CACHE", raising=False)
    if base is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", base and str(tmp_path / base))
    assert cache() == Path(pooch.os_cache("dlrt"))
    monkeypatch.setenv("DLRT_CACHE", str(tmp_path))
    assert cache() == tmp_path
