"""The runner: results in order, kept as they come, none computed twice, one thread each, any backend of joblib."""

import functools

import joblib
import pytest
from joblib.parallel import register_parallel_backend
from threadpoolctl import threadpool_info

from dlrt.runs import Journal, run, run_tasks

CALLS: list[int] = []


def double(number):
    CALLS.append(number)
    if number < 0:
        raise ValueError("negative")
    return {"value": 2 * number}


def threads():
    import numpy  # noqa: F401 (its BLAS is the pool to look at)

    return max([pool["num_threads"] for pool in threadpool_info()], default=1)


class ListsOnly(joblib.parallel.ThreadingBackend):
    """A backend that cannot return results as they come, as that of ray."""

    supports_return_generator = False


register_parallel_backend("lists-only", ListsOnly)


def calls(*numbers):
    CALLS.clear()
    return {str(number): functools.partial(double, number) for number in numbers}


def store(folder):
    return Journal(folder / "journal.jsonl", "code")


def test_nothing_is_computed_twice(tmp_path):
    seen = []
    run(calls(1, 2), store(tmp_path))
    found = run(calls(1, 2, 3), store(tmp_path), progress=lambda *each: seen.append(each))
    assert found == {str(n): {"value": 2 * n} for n in (1, 2, 3)} and CALLS == [3]
    assert [(key, there) for key, _, there in seen] == [("1", True), ("2", True), ("3", False)]


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading", "lists-only"])
def test_backends(tmp_path, backend):
    with joblib.parallel_config(backend=backend, n_jobs=2):
        found = run(calls(*range(5)), store(tmp_path))
    assert found == {str(n): {"value": 2 * n} for n in range(5)}


def test_each_call_has_one_thread(tmp_path):
    assert run({"a": threads}, store(tmp_path)) == {"a": 1}


@pytest.mark.parametrize("backend", ["threading", "lists-only"])
def test_what_was_finished_before_a_failure_is_kept(tmp_path, backend):
    with joblib.parallel_config(backend=backend, n_jobs=1), pytest.raises(ValueError, match="negative"):
        run(calls(1, 2, -1, 3), store(tmp_path))
    assert dict(store(tmp_path).find(["1", "2", "-1", "3"])) == {"1": {"value": 2}, "2": {"value": 4}}


def test_an_interrupted_call_goes_on(tmp_path):
    def interrupt(key, result, found):
        if key == "2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(calls(1, 2, 3, 4), store(tmp_path), progress=interrupt)
    run(calls(1, 2, 3, 4), store(tmp_path))
    assert CALLS == [3, 4]


def test_tasks(tmp_path):
    journal, seen = tmp_path / "journal.jsonl", []
    tasks = [(double, {"number": n}) for n in (3, 1, 3)]
    CALLS.clear()
    found = run_tasks(tasks, journal=journal, progress=lambda *each: seen.append(each))
    assert [result["value"] for result in found] == [6, 2, 6] and CALLS == [3, 1] and seen == [(1, 2), (2, 2)]
    lines = journal.read_text().splitlines()
    assert lines[0].startswith('{"made_by": "') and lines[1] == r'["double {\"number\": 3}", {"value": 6}]'
    seen.clear()
    more = run_tasks([*tasks, (double, {"number": 5})], journal=journal, progress=lambda *each: seen.append(each))
    assert [result["value"] for result in more] == [6, 2, 6, 10] and CALLS == [3, 1, 5] and seen == [(1, 1)]


def test_tasks_of_other_code_are_made_anew(tmp_path, monkeypatch):
    journal, tasks = tmp_path / "journal.jsonl", [(double, {"number": 1})]
    run_tasks(tasks, journal=journal)
    CALLS.clear()
    monkeypatch.setattr("dlrt.runs.runner._digest", lambda functions: "another")
    run_tasks(tasks, journal=journal)
    assert CALLS == [1]
