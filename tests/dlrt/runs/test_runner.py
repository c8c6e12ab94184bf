"""The runner: results in order, kept as they come, none computed twice, one thread each, any backend of joblib."""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
from joblib.parallel import register_parallel_backend
from threadpoolctl import threadpool_info

import problems
from dlrt import solve
from dlrt.runs import Journal, cluster, report, run, run_tasks
from integrators import GeoLoRA


@functools.cache
def made():
    """The calls made, behind a function: global data that a task reads belong to its identity."""
    return []


def double(number, unused=0):
    made().append(number)
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
    made().clear()
    return {key(number): functools.partial(double, number) for number in numbers}


def key(number):
    return str(number), "code"


def store(folder):
    return Journal(folder / "journal.jsonl")


def test_nothing_is_computed_twice(tmp_path):
    seen = []
    run(calls(1, 2), store(tmp_path))
    found = run(calls(1, 2, 3), store(tmp_path), progress=lambda *each: seen.append(each))
    assert found == {key(n): {"value": 2 * n} for n in (1, 2, 3)} and made() == [3]
    assert [(at, there) for at, _, there in seen] == [(key(1), True), (key(2), True), (key(3), False)]


def test_fresh_makes_all(tmp_path):
    run(calls(1, 2), store(tmp_path))
    run(calls(1, 2), store(tmp_path), fresh=True)
    assert made() == [1, 2]


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading", "lists-only"])
def test_backends(tmp_path, backend):
    with joblib.parallel_config(backend=backend, n_jobs=2):
        found = run(calls(*range(5)), store(tmp_path))
    assert found == {key(n): {"value": 2 * n} for n in range(5)}


def test_each_call_has_one_thread(tmp_path):
    assert run({key("a"): threads}, store(tmp_path)) == {key("a"): 1}


@pytest.mark.parametrize("backend", ["threading", "lists-only"])
def test_what_was_finished_before_a_failure_is_kept(tmp_path, backend):
    with joblib.parallel_config(backend=backend, n_jobs=1), pytest.raises(ValueError, match="negative"):
        run(calls(1, 2, -1, 3), store(tmp_path))
    found = dict(store(tmp_path).find([key(n) for n in (1, 2, -1, 3)]))
    assert found == {key(1): {"value": 2}, key(2): {"value": 4}}


def test_an_interrupted_call_goes_on(tmp_path):
    def interrupt(at, result, found):
        if at == key(2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(calls(1, 2, 3, 4), store(tmp_path), progress=interrupt)
    run(calls(1, 2, 3, 4), store(tmp_path))
    assert made() == [3, 4]


def stopped_half_way():
    problem = problems.MatrixRegression(np.eye(4))

    def interrupt(record):
        if record.step == 2:
            raise KeyboardInterrupt

    run = solve(GeoLoRA(), problem, step_size=0.1, steps=4, rank=2, callback=interrupt)
    return {"steps": run.steps.tolist(), "status": run.status}


def test_half_a_run_is_no_result(tmp_path):
    """Ctrl-C within a task that takes steps ends the runner, and is no result of the task."""
    assert stopped_half_way() == {"steps": [0, 1, 2], "status": "interrupted"}
    with pytest.raises(KeyboardInterrupt):
        run_tasks([(stopped_half_way, {})], journal=tmp_path / "journal.jsonl")
    assert not (tmp_path / "journal.jsonl").exists()


def test_the_listener_ends_with_the_runner(tmp_path):
    before = threading.active_count()
    run(calls(1, 2), store(tmp_path), within=lambda done: None)
    assert threading.active_count() == before


def test_tasks(tmp_path):
    journal, seen = tmp_path / "journal.jsonl", []
    tasks = [(double, {"number": n}) for n in (3, 1, 3)]
    made().clear()
    found = run_tasks(tasks, journal=journal, progress=lambda *each: seen.append(each))
    assert [result["value"] for result in found] == [6, 2, 6] and made() == [3, 1] and seen == [(1, 2), (2, 2)]
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [(line["task"], line["result"]) for line in lines] == [
        ('double {"number": 3}', {"value": 6}),
        ('double {"number": 1}', {"value": 2}),
    ]
    seen.clear()
    more = run_tasks([*tasks, (double, {"number": 5})], journal=journal, progress=lambda *each: seen.append(each))
    assert [result["value"] for result in more] == [6, 2, 6, 10] and made() == [3, 1, 5] and seen == [(1, 1)]


def test_tasks_of_other_code_are_made_anew(tmp_path, monkeypatch, caplog):
    journal, tasks = tmp_path / "journal.jsonl", [(double, {"number": 1})]
    run_tasks(tasks, journal=journal)
    made().clear()
    with monkeypatch.context() as patch:
        patch.setattr(double, "__defaults__", (1,))  # the function is another one
        run_tasks(tasks, journal=journal)
    assert made() == [1] and "other code" in caplog.text
    run_tasks(tasks, journal=journal)
    assert made() == [1] and len(journal.read_text().splitlines()) == 2


SLEEPER = """
import functools, os, sys, time
from pathlib import Path
from dlrt.runs import Journal, run

def sleep(folder, k):
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)

run({(str(k), ""): functools.partial(sleep, sys.argv[1], k) for k in range(2)}, Journal(Path(sys.argv[2])), jobs=2)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    folder, script = tmp_path / "workers", tmp_path / "script.py"
    folder.mkdir()
    script.write_text(SLEEPER)
    parent = subprocess.Popen([sys.executable, script, folder, tmp_path / "journal.jsonl"])
    workers = []
    try:
        waited = wait_for(lambda: len(list(folder.iterdir())) == 2)
        workers = [int(path.name) for path in folder.iterdir()]
        assert waited and all(map(alive, workers))
    finally:
        parent.kill()
        parent.wait()
    assert wait_for(lambda: not any(map(alive, workers)))


WAITER = """
import os, sys, time
from pathlib import Path
from joblib import parallel
from dlrt.runs import Journal, run

def submit(self, func, callback=None):  # the parent is killed before a worker has a call
    workers = self._workers
    workers._ensure_executor_running()
    Path(sys.argv[1]).write_text(" ".join(map(str, workers._processes)))
    time.sleep(600)

parallel.LokyBackend.submit = submit
run({(str(k), ""): time.time for k in range(2)}, Journal(Path(sys.argv[2])), jobs=2)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
def test_workers_without_a_call_end_with_a_parent_that_is_killed(tmp_path):
    numbers, script = tmp_path / "numbers", tmp_path / "script.py"
    script.write_text(WAITER)
    parent = subprocess.Popen([sys.executable, script, numbers, tmp_path / "journal.jsonl"])
    try:
        assert wait_for(lambda: numbers.is_file() and len(numbers.read_text().split()) == 2)
        workers = [int(number) for number in numbers.read_text().split()]
        assert all(map(alive, workers))
    finally:
        parent.kill()
        parent.wait()
    assert wait_for(lambda: not any(map(alive, workers)), 20)


def test_workers_do_not_hear_interrupts(tmp_path):
    """The parent ends them; a traceback of each one that starts would hide its line."""
    if not hasattr(signal, "pthread_sigmask"):
        pytest.skip("no signal masks here")
    found = run({key(n): interrupted_itself for n in range(2)}, store(tmp_path), jobs=2)
    assert all(result["pending"] and result["process"] != os.getpid() for result in found.values())
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def interrupted_itself():
    os.kill(os.getpid(), signal.SIGINT)
    return {"pending": signal.SIGINT in signal.sigpending(), "process": os.getpid()}


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


def alive(process):
    """Whether a process is there and is no zombie, which nobody may have waited for in a container."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def halves(seconds=0.0):
    report(0.5)
    time.sleep(seconds)
    return threading.get_ident()


def test_progress_within_a_call(tmp_path):
    """Half a call is heard of while it runs, also from other processes; what nonsense comes is not."""
    heard = []

    def within(done):
        heard.append(done)

    work = {key(number): functools.partial(halves, 1.0) for number in range(2)}
    run(work, store(tmp_path), jobs=2, within=within)
    assert 0.5 in heard and max(heard) < 2 and heard == sorted(heard)
    report(0.7)  # outside of a call nobody listens
    assert 0.7 not in heard


def test_progress_of_tasks_within_a_task(tmp_path):
    seen = []
    run_tasks([(halves_of_a_second, {})], journal=tmp_path / "j.jsonl", progress=lambda *each: seen.append(each))
    assert seen[0] == (0.5, 1) and seen[-1] == (1, 1)


def halves_of_a_second():
    return {"value": halves(0.5)}


# -- a cluster ---------------------------------------------------------------------------------------------------------


def on_a_cluster(folder, number):
    with (Path(folder) / str(number)).open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.5)
    return {"value": 0.1 * number}


def test_a_cluster_one_of_whose_workers_dies(tmp_path):
    """Results come as runs end; the death of a worker costs what it alone had: its run, and one on its way here."""
    distributed = pytest.importorskip("distributed")
    folder, journal, comes = tmp_path / "made", tmp_path / "journal.jsonl", []
    folder.mkdir()
    tasks = [(on_a_cluster, {"folder": str(folder), "number": n}) for n in range(8)]
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as workers:

        def progress(done, total):
            comes.append((time.monotonic(), done))
            if done == 2:
                os.kill(int((folder / "3").read_text().split()[0]), 9)

        with cluster(workers.scheduler_address):
            found = run_tasks(tasks, journal=journal, jobs=None, progress=progress)
    assert [result["value"] for result in found] == [0.1 * n for n in range(8)]
    assert [done for _, done in comes] == list(range(1, 9))
    assert comes[-1][0] - comes[0][0] > 1  # as they end, not all at the end
    made = {n: len((folder / str(n)).read_text().split()) for n in range(8)}
    assert 8 <= sum(made.values()) <= 10 and max(made.values()) <= 2
    run_tasks(tasks, journal=tmp_path / "local.jsonl")
    lines = [sorted(path.read_text().splitlines()) for path in (journal, tmp_path / "local.jsonl")]
    assert lines[0] == lines[1]


def test_no_scheduler_and_no_cluster(monkeypatch):
    pytest.importorskip("distributed")
    with cluster(None):
        pass
    with pytest.raises(OSError, match="Timed out trying to connect"), cluster("tcp://127.0.0.1:9"):
        pass
