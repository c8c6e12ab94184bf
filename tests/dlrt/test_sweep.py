"""Sweeps: parallel is the same as serial, nothing is computed twice, damage is mended, any method will do."""

import functools
import importlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pytest

import problems
from dlrt import Case, Trajectory, convergence, plots, read_results, solve, sweep, write_results
from integrators import BUG, GeoLoRA, Integrator, LowRank, SVDLoRA

TARGET = problems.synthetic((10, 8), [4.0, 3.0, 2.0], np.random.default_rng(0))
REGRESSION = problems.MatrixRegression(TARGET)


def cases(problem=REGRESSION, seeds=2):
    methods = {"bug": BUG(), "geolora": GeoLoRA(), "svd-lora": SVDLoRA()}
    return [
        Case(label=label, integrator=method, problem=problem, step_size=h, steps=30, rank=4, seed=seed)
        for label, method in methods.items()
        for h in (0.9, 0.1)
        for seed in range(seeds)
    ]


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npz")}


def test_files_are_named_by_all_settings():
    names = [case.file for case in cases()]
    assert len(set(names)) == len(names) == 12
    assert names == [case.file for case in cases()]
    assert names[0].startswith("bug-seed0-") and names[0].endswith(".npz")
    assert not set(names) & {case.file for case in cases(problems.MatrixRegression(2 * TARGET))}


def test_cases_with_step_size_control(tmp_path):
    """They are told apart by interval and tolerances, and kept like others."""
    equation = problems.given_solution(np.random.default_rng(2), (8, 7), rank=2)
    made = [
        Case(integrator=BUG(), problem=equation, t_span=(0.0, end), rtol=rtol, atol=atol, rank=2)
        for end, rtol, atol in ((0.5, 1e-2, None), (0.5, 1e-3, None), (0.5, 1e-3, 1e-3), (0.4, 1e-3, None))
    ]
    assert len({case.file for case in made}) == 4
    assert made[0].setting == ("rtol", 1e-2) and cases()[0].setting == ("step size", 0.9)
    results = sweep(made, out=tmp_path)
    assert [result.trajectory.times[-1] for result in results] == [0.5, 0.5, 0.5, 0.4]
    assert all(result.found for result in sweep(made, out=tmp_path))
    assert np.array_equal(Trajectory.load(tmp_path / made[1].file).step_sizes, results[1].trajectory.step_sizes)
    write_results(tmp_path, results, {})
    kept = read_results(tmp_path)["cases"]
    assert [case["rtol"] for case in kept] == [1e-2, 1e-3, 1e-3, 1e-3] and kept[0]["step_size"] is kept[0][
        "steps"
    ] is None
    assert {path.stem for path in plots.save_figures(results[:2], tmp_path)} == {"rank", "error", "work", "order"}


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_parallel_is_the_same_as_serial(tmp_path, backend):
    serial = sweep(cases(seeds=1), out=tmp_path / "serial")
    with joblib.parallel_config(backend=backend, n_jobs=2):  # the user's switch
        parallel = sweep(cases(seeds=1), out=tmp_path / "parallel")
    assert [result.case.file for result in parallel] == [case.file for case in cases(seeds=1)]
    for a, b in zip(serial, parallel, strict=True):
        assert np.array_equal(a.trajectory.losses, b.trajectory.losses)
        assert np.array_equal(a.trajectory.Y.U, b.trajectory.Y.U)
    assert {result.trajectory.diverged for result in parallel} == {True, False}


def test_an_interrupted_sweep_goes_on(tmp_path):
    seen = []

    def interrupt(result):
        seen.append(result)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(cases(), out=tmp_path, progress=interrupt)
    before = times(tmp_path)
    assert len(before) == 5
    results = sweep(cases(), out=tmp_path, progress=seen.append)
    assert before.items() <= times(tmp_path).items()
    assert len(times(tmp_path)) == 12
    assert [result.found for result in results].count(True) == 5
    assert len(seen) == 5 + 12
    assert all(result.found for result in sweep(cases(), out=tmp_path))


@dataclass(frozen=True, eq=False)
class InterruptedOnce(problems.MatrixRegression):
    """Ctrl-C within a step of the second run."""

    armed: tuple = ()

    def field(self, t, Y):
        if fuse() and t > 1:
            fuse().pop()
            if not fuse():
                raise KeyboardInterrupt
        return super().field(t, Y)


@functools.cache
def fuse():
    """Behind a function: global data that a problem reads belong to its identity."""
    return []


def test_half_a_run_is_not_kept(tmp_path):
    fuse()[:] = range(100)
    problem = InterruptedOnce(TARGET)
    with pytest.raises(KeyboardInterrupt):
        sweep(cases(problem), out=tmp_path)
    kept = len(times(tmp_path))
    assert 0 < kept < 12
    results = sweep(cases(problem), out=tmp_path)
    assert sum(result.found for result in results) == kept
    assert {result.trajectory.status for result in results if result.case.label == "bug"} == {"finished"}


def test_a_damaged_file_is_set_aside(tmp_path, caplog):
    first = sweep(cases(), out=tmp_path)
    damaged, lost, renamed = (tmp_path / first[i].case.file for i in (3, 4, 5))
    damaged.write_bytes(damaged.read_bytes()[:500])
    lost.unlink()
    shutil.copy(tmp_path / first[0].case.file, renamed)
    before = times(tmp_path)
    again = sweep(cases(), out=tmp_path)
    assert [i for i, result in enumerate(again) if not result.found] == [3, 4, 5]
    changed = {name for name, time in times(tmp_path).items() if before.get(name) != time}
    assert changed == {first[i].case.file for i in (3, 4, 5)}
    assert {path.name for path in tmp_path.glob("*.aside")} == {f"{damaged.name}.aside", f"{renamed.name}.aside"}
    assert f"{renamed} holds another run than its name says; set aside" in caplog.text
    assert np.array_equal(again[3].trajectory.losses, first[3].trajectory.losses)


def test_fresh_runs_all(tmp_path):
    sweep(cases(seeds=1), out=tmp_path)
    before = times(tmp_path)
    results = sweep(cases(seeds=1), out=tmp_path, fresh=True)
    after = times(tmp_path)
    assert before.keys() == after.keys() and not set(before.items()) & set(after.items())
    assert not any(result.found for result in results)


METHOD = """
from dataclasses import dataclass
from integrators import GeoLoRA

@dataclass(frozen=True, kw_only=True)
class Mine(GeoLoRA):
    def stages(self, t, state, h):  {comment}
        return (yield from super().stages(t, state, {factor} * h))
"""


def test_an_edited_method_is_another_one(tmp_path, monkeypatch, caplog):
    """A mistake, its repair, a comment, and the mistake again."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def run(factor, comment=""):
        (tmp_path / "mine.py").write_text(METHOD.format(factor=factor, comment=comment))
        sys.modules.pop("mine", None)
        importlib.invalidate_caches()
        mine = importlib.import_module("mine").Mine()
        [found] = sweep([Case(integrator=mine, problem=REGRESSION, step_size=0.5, steps=9, rank=4)], out=tmp_path)
        return found.found, found.trajectory.losses[-1]

    assert run(0.1)[0] is False
    assert not caplog.text
    found, loss = run(1.0)
    assert not found and loss < run(0.1)[1]
    assert "1 runs in" in caplog.text and "other code" in caplog.text
    assert run(1.0, "# repaired") == (True, loss) and run(0.1)[0] is True
    sys.modules.pop("mine")


@dataclass(frozen=True, eq=False)
class Driven(problems.Problem):
    """Y' = rate(t) Y."""

    rate: Callable

    name = "driven"
    shape = (10, 8)
    like = np.zeros((1, 1))

    def initial(self, rank, rng):
        return LowRank.random(self.shape, rank, rng)

    def field(self, t, Y):
        return problems.DenseField(Y, self.rate(t) * Y.full())


def test_problems_that_differ_by_a_function(tmp_path):
    rates = [lambda t: -1.0, lambda t: +1.0, functools.partial(max, 2.0)]
    made = [Case(integrator=BUG(), problem=Driven(rate), step_size=0.1, steps=10, rank=3) for rate in rates]
    results = sweep(made, out=tmp_path)
    assert len({case.file for case in made}) == 3
    for case, result in zip(made, results, strict=True):
        assert result.trajectory.Y.norm() == case.solve().Y.norm()
    assert all(result.found for result in sweep(made, out=tmp_path))


def test_equal_cases_run_once(tmp_path):
    seen = []
    results = sweep([cases()[0], cases()[0]], out=tmp_path, progress=seen.append)
    assert len(seen) == 1 and len(results) == 2


def test_bad_arguments(tmp_path):
    with pytest.raises(TypeError, match=r"cases must be dlrt\.Case objects, got 1"):
        sweep([1], out=tmp_path)
    with pytest.raises(ValueError, match="jobs must be a positive or negative integer, got 0"):
        sweep(cases(), out=tmp_path, jobs=0)
    with pytest.raises(TypeError, match="seed must be an integer"):
        Case(integrator=BUG(), problem=REGRESSION, step_size=0.1, steps=3, rank=2, seed=None)
    with pytest.raises(ValueError, match="rank 20 exceeds"):
        sweep([Case(integrator=BUG(), problem=REGRESSION, step_size=0.1, steps=3, rank=20)], out=tmp_path)


@dataclass(frozen=True, kw_only=True)
class Outsider(Integrator):
    """A method that nobody has entered anywhere: a Galerkin step in fixed bases."""

    damping: float = 1.0

    def stages(self, t, state, h):
        f = yield t, state.Y
        U, S, V = state.Y
        return LowRank(U, S + h * self.damping * f.S, V)


def test_a_method_from_outside_works_everywhere(tmp_path):
    method = Outsider(damping=0.5)
    run = solve(method, REGRESSION, step_size=0.1, steps=5, rank=3)
    assert run.status == "finished" and run.evaluations[-1] == 5 and run.losses[-1] < run.losses[0]
    on = solve(method, REGRESSION, step_size=0.1, steps=5, start=Trajectory.load(run.save(tmp_path / "run.npz")))
    assert on.losses[-1] == solve(method, REGRESSION, step_size=0.1, steps=10, rank=3).losses[-1]
    equation = problems.given_solution(np.random.default_rng(0), (10, 8), rank=2)
    assert np.all(np.isfinite(convergence(method, equation, [4, 8], rank=2).errors))

    mine = [Case(integrator=method, problem=REGRESSION, step_size=0.1, steps=5, rank=3, seed=seed) for seed in (0, 1)]
    results = sweep([*mine, *cases(seeds=1)], out=tmp_path / "sweep", jobs=2)
    assert results[0].case.label == "Outsider" and results[0].trajectory.losses[-1] == run.losses[-1]
    assert read_results(write_results(tmp_path, results, {}).parent)["cases"][0]["integrator"]["damping"] == 0.5
    plots.save_figures(results, tmp_path)


@dataclass(frozen=True, eq=False)
class Broken(problems.MatrixRegression):
    """A field that raises while the file is there."""

    file: Path = Path()

    def field(self, t, Y):
        if t > 0.25 and self.file.exists():
            raise RuntimeError("no licence")
        return super().field(t, Y)


def test_a_run_that_failed_is_shown_and_run_again(tmp_path, caplog):
    file = tmp_path / "lock"
    file.touch()
    case = Case(integrator=BUG(), problem=Broken(TARGET, file=file), step_size=0.1, steps=9, rank=4)
    [result] = sweep([case], out=tmp_path)
    assert result.trajectory.status == "failed at step 4: RuntimeError: no licence" and "no licence" in caplog.text
    assert result.trajectory.steps[-1] == 3
    assert read_results(write_results(tmp_path, [result], {}).parent)["cases"][0]["status"] == result.trajectory.status
    file.unlink()
    caplog.clear()
    [again] = sweep([case], out=tmp_path)
    assert "other code" not in caplog.text  # it was this code that failed
    assert not again.found and again.trajectory.status == "finished"
    assert sweep([case], out=tmp_path)[0].found
