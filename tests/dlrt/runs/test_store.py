"""Files are never half written; a store gives back what it was given, and nothing that is damaged."""

import json
from pathlib import Path

import pytest

from dlrt.runs import Folder, Journal, versions, write_atomically, write_json


def test_a_failing_write_leaves_the_old_file(tmp_path):
    path = write_atomically(tmp_path / "new" / "folder" / "file", lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o044  # others may read it


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


def test_folder(tmp_path):
    def save(result, path):
        write_atomically(path, lambda file: file.write(result.encode()))

    def load(path):
        if "damaged" in (text := path.read_text()):
            raise ValueError(text)
        return text

    store = Folder(tmp_path / "new", load, save)
    assert list(store.find(["a", "b"])) == []
    store.add("a", "one")
    store.add("b", "damaged")
    store.add("c", "not asked for")
    assert list(store.find(["b", "a", "missing"])) == [("a", "one")]


def journal(folder: Path, made_by: str = "code") -> Journal:
    return Journal(folder / "new" / "journal.jsonl", made_by)


def test_journal(tmp_path):
    store = journal(tmp_path)
    assert list(store.find(["a"])) == []
    store.add("a", {"value": 0.1})
    store.add("b", {"value": None})
    assert store.path.read_text() == '{"made_by": "code"}\n["a", {"value": 0.1}]\n["b", {"value": null}]\n'
    assert dict(journal(tmp_path).find(["b", "a", "missing"])) == {"a": {"value": 0.1}, "b": {"value": None}}
    with pytest.raises(ValueError, match="JSON"):
        store.add("c", {"value": float("inf")})


def test_a_journal_mends_its_last_line(tmp_path):
    store = journal(tmp_path)
    list(store.find([]))
    store.add("a", 1)
    whole = store.path.read_text()
    with store.path.open("a") as file:
        file.write('["b", {"val')
    assert dict(store.find(["a", "b"])) == {"a": 1}
    assert store.path.read_text() == whole


def test_a_journal_of_other_code_is_begun_anew(tmp_path):
    store = journal(tmp_path)
    list(store.find([]))
    store.add("a", 1)
    other = journal(tmp_path, made_by="other code")
    assert list(other.find(["a"])) == []
    other.add("b", 2)
    assert other.path.read_text() == '{"made_by": "other code"}\n["b", 2]\n'
