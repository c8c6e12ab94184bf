"""One run: what is recorded, how it ends, and that saving, loading and going on changes no bit."""

import subprocess
import sys

import numpy as np
import pytest

import problems
from dlrt import Trajectory, solve
from dlrt.trajectory import _PER_STEP, _RECORDED
from integrators import (
    BUG,
    AdaLoRA,
    Adam,
    FullRank,
    GeoLoRA,
    ImportanceBudget,
    LoRA,
    LowRank,
    Momentum,
    ParallelBUG,
    ProjectorSplitting,
    SVDLoRA,
    Tolerance,
)

TARGET = problems.synthetic((12, 9), [4.0, 3.0, 2.0], np.random.default_rng(0))
REGRESSION = problems.MatrixRegression(TARGET)
STOCHASTIC = problems.completion(np.random.default_rng(1), TARGET, 0.8, batch_size=20)
EQUATION = problems.given_solution(np.random.default_rng(2), (12, 9), rank=3)

METHODS = [
    GeoLoRA(),
    GeoLoRA(optimizer=Adam()),
    AdaLoRA(truncation=ImportanceBudget(4, 3, 20), optimizer=Momentum()),
    LoRA(optimizer=Adam()),
    FullRank(),
    ProjectorSplitting(order=2),
    ParallelBUG(truncation=Tolerance(relative=1e-3), rejection=10.0),
]


def assert_same(a, b):
    """The two runs agree in every bit, wall times apart."""
    for name in (*_RECORDED, *_PER_STEP):
        x, y = getattr(a, name), getattr(b, name)
        if name != "wall_times":
            assert (x is None) == (y is None), name
            assert x is None or (x.dtype == y.dtype and np.array_equal(x, y, equal_nan=True)), name
    for name in "USV":
        assert np.array_equal(getattr(a.Y, name), getattr(b.Y, name)), name
    assert a.state.memory.keys() == b.state.memory.keys()
    for name, value in a.state.memory.items():
        assert np.array_equal(value, b.state.memory[name]), name
    assert (a.status, a.meta) == (b.status, b.meta)


@pytest.mark.parametrize("problem", [REGRESSION, STOCHASTIC, EQUATION], ids=lambda p: p.name)
@pytest.mark.parametrize("integrator", METHODS, ids=lambda m: f"{type(m).__name__}-{type(m.optimizer).__name__}")
def test_save_load_continue_is_bitwise(tmp_path, integrator, problem):
    options = {"step_size": lambda k: 0.02 / (k + 1), "every": 3, "coefficients": True}
    whole = solve(integrator, problem, steps=10, rank=4, seed=5, **options)
    half = solve(integrator, problem, steps=5, rank=4, seed=5, **options)
    path = half.save(tmp_path / "new" / "half.npz")
    loaded = Trajectory.load(path)
    assert_same(half, loaded)
    assert_same(whole, solve(integrator, problem, steps=5, start=loaded, **options))
    assert_same(whole, solve(integrator, problem, steps=5, start=half, **options))
    assert whole.steps.tolist() == [0, 3, 6, 9, 10]
    assert half.steps.tolist() == [0, 3, 5]


@pytest.mark.parametrize("bits", [np.random.MT19937, np.random.Philox, np.random.SFC64, np.random.PCG64DXSM])
def test_a_generator_goes_on_through_the_file(tmp_path, bits):
    options = {"step_size": 0.1}
    whole = solve(BUG(), STOCHASTIC, steps=4, rank=2, seed=np.random.Generator(bits(3)), **options)
    half = solve(BUG(), STOCHASTIC, steps=2, rank=2, seed=np.random.Generator(bits(3)), **options)
    half.save(tmp_path / "half.npz")
    assert_same(whole, solve(BUG(), STOCHASTIC, steps=2, start=Trajectory.load(tmp_path / "half.npz"), **options))
    assert whole.meta["seed"] is None


def test_seed_zero_is_the_default_and_seeds_matter():
    runs = [solve(BUG(), STOCHASTIC, step_size=0.1, steps=3, rank=2, seed=seed) for seed in (None, 0, 1)]
    assert_same(runs[0], runs[1])
    assert runs[0].losses[-1] != runs[2].losses[-1]


def test_a_loss_is_recorded():
    run = solve(GeoLoRA(), REGRESSION, step_size=0.1, steps=20, rank=4, coefficients=True)
    assert run.status == "finished" and not run.diverged
    assert run.errors is None and run.measure == "loss" and run.values is run.losses
    assert run.losses[-1] == REGRESSION.loss(run.Y)
    assert run.losses[0] == pytest.approx(0.5 * np.sum(TARGET**2))
    assert run.evaluations.tolist() == list(range(21))
    assert run.singular_values.shape == (21, run.ranks.max())
    assert np.array_equal(np.sum(~np.isnan(run.singular_values), axis=1), run.ranks)
    assert run.numerical_ranks[0] == 0 and run.ranks[0] == 4
    assert np.allclose(np.diagonal(run.coefficients[-1])[: run.ranks[-1]], run.singular_values[-1][: run.ranks[-1]])
    assert run.wall_times[0] == 0 and np.all(np.diff(run.wall_times) > 0)
    assert "20 steps" in repr(run) and "finished" in repr(run)


def test_an_error_and_the_times_are_recorded():
    run = solve(BUG(), EQUATION, step_size=0.1, steps=10, rank=3, every=5)
    assert run.losses is None and run.measure == "error"
    assert run.times.tolist() == [0, 0.5, 1.0]  # not 0.9999999999999999
    assert run.errors[-1] == EQUATION.error(1.0, run.Y)
    assert run.truncation_errors.tolist() == [0.0] * 10


def test_all_stages_of_a_step_see_one_minibatch():
    class Counting:
        name, shape, dtype, stochastic = "counting", STOCHASTIC.shape, STOCHASTIC.dtype, True
        batches, fields = 0, []

        def initial(self, rank, rng):
            return problems.MatrixRegression(TARGET).initial(rank, rng, norm=1.0)

        def reference(self, t):
            return None

        def loss(self, Y):
            return 1.0

        def field(self, t, Y):
            raise AssertionError("the full problem is not asked for its field")

        def minibatch(self, rng):
            self.batches += 1
            return Batch(self, self.batches)

    class Batch:
        def __init__(self, owner, number):
            self.owner, self.number = owner, number

        def field(self, t, Y):
            self.owner.fields.append(self.number)
            return REGRESSION.field(t, Y)

    solve(ProjectorSplitting(), problem := Counting(), step_size=0.1, steps=2, rank=2)
    assert problem.fields == [1, 1, 1, 2, 2, 2]


def test_a_schedule_is_recorded_and_counts_on(tmp_path):
    def schedule(k):
        return 0.1 / (1 + k)

    half = solve(BUG(), REGRESSION, step_size=schedule, steps=2, rank=2)
    run = solve(BUG(), REGRESSION, step_size=schedule, steps=2, start=half)
    assert run.step_sizes.tolist() == [0.1, 0.05, 0.1 / 3, 0.025]
    assert run.times[-1] == pytest.approx(sum(run.step_sizes), rel=1e-15)
    assert "schedule" in run.meta["step_size"]["name"]


def test_divergence_is_a_result(tmp_path):
    with np.errstate(all="raise"):  # and the caller's settings are left alone
        run = solve(SVDLoRA(), REGRESSION, step_size=1.0, steps=1000, rank=3)
        assert np.geterr()["over"] == "raise"
    assert run.diverged
    k = int(run.status.removeprefix("diverged at step "))
    assert run.steps[-1] == k - 1
    assert len(run.step_sizes) == len(run.truncation_errors) == k - 1
    assert np.all(np.isfinite(run.losses)) and np.all(np.isfinite(run.Y.U))
    run.save(tmp_path / "run.npz")
    assert Trajectory.load(tmp_path / "run.npz").status == run.status
    thinned = solve(SVDLoRA(), REGRESSION, step_size=1.0, steps=1000, rank=3, every=4)
    assert thinned.steps[-1] % 4 == 0 and len(thinned.step_sizes) == thinned.steps[-1]
    again = solve(SVDLoRA(), REGRESSION, step_size=1e-3, steps=1, start=thinned)
    assert again.steps[-1] == thinned.steps[-1] + 1


def test_a_float32_overflow_of_the_loss_is_divergence():
    problem = problems.MatrixRegression(TARGET.astype(np.float32))
    run = solve(SVDLoRA(), problem, step_size=1.0, steps=1000, rank=3)
    assert run.diverged and run.Y.dtype == np.float32


def test_callback_stops():
    seen = []
    run = solve(
        GeoLoRA(),
        REGRESSION,
        step_size=0.1,
        steps=500,
        rank=4,
        callback=lambda record: seen.append(record) or record.loss < 1e-3,
    )
    assert run.status == "stopped" and run.losses[-1] < 1e-3 <= run.losses[-2]
    assert [record.step for record in seen] == run.steps[1:].tolist()
    assert seen[0].state.Y.shape == TARGET.shape


def test_keyboard_interrupt_keeps_everything_and_can_be_continued():
    class Interrupted(problems.MatrixRegression):
        def field(self, t, Y):
            if t > 0.65 and not self.calls:
                self.calls.append(t)
                raise KeyboardInterrupt
            return super().field(t, Y)

    problem = Interrupted(TARGET)
    object.__setattr__(problem, "calls", [])
    run = solve(BUG(), problem, step_size=0.1, steps=10, rank=3, every=4)
    assert run.status == "stopped" and run.steps.tolist() == [0, 4, 7]
    on = solve(BUG(), problem, step_size=0.1, steps=3, start=run, every=4)
    assert_same(on, solve(BUG(), problem, step_size=0.1, steps=10, rank=3, every=4))


def test_start_can_be_given():
    start = LowRank.random((12, 9), 2, np.random.default_rng(0))
    run = solve(BUG(), REGRESSION, step_size=0.1, steps=1, start=start)
    assert run.ranks[0] == 2 and run.meta["start"]["type"].endswith("LowRank")


def test_torch_states_work(tmp_path):
    torch = pytest.importorskip("torch")
    problem = problems.MatrixRegression(torch.from_numpy(TARGET))
    options = {"step_size": 0.1, "coefficients": True}
    whole = solve(GeoLoRA(optimizer=Adam()), problem, steps=6, rank=4, **options)
    assert isinstance(whole.Y.S, torch.Tensor) and isinstance(whole.singular_values, np.ndarray)
    assert whole.meta["array_library"] == "torch"
    half = solve(GeoLoRA(optimizer=Adam()), problem, steps=3, rank=4, **options)
    loaded = Trajectory.load(half.save(tmp_path / "half.npz"))
    on = solve(GeoLoRA(optimizer=Adam()), problem, steps=3, start=loaded, **options)
    assert isinstance(on.Y.S, torch.Tensor)
    assert_same(whole, on)
    numpy_run = solve(GeoLoRA(optimizer=Adam()), REGRESSION, steps=6, rank=4, **options)
    assert np.allclose(whole.losses, numpy_run.losses)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"integrator": "bug"}, TypeError, "integrator must"),
        ({"problem": TARGET}, TypeError, "problem must"),
        ({"step_size": 0.0}, ValueError, "step_size must be positive and finite, got 0.0"),
        ({"step_size": "0.1"}, TypeError, "step_size must be a positive number, got str '0.1'"),
        ({"step_size": lambda k: -1.0}, ValueError, r"step_size\(0\) must be positive"),
        ({"steps": -1}, ValueError, "steps must be at least 0, got -1"),
        ({"steps": 1.5}, TypeError, "steps must be an integer"),
        ({"every": 0}, ValueError, "every must be at least 1, got 0"),
        ({"rank": None}, ValueError, "rank .or start. must be given"),
        ({"rank": 0}, ValueError, "rank must be at least 1, got 0"),
        ({"rank": 10}, ValueError, r"rank 10 exceeds min\(m, n\) = 9"),
        ({"seed": "a"}, TypeError, "seed must be an integer"),
        ({"start": TARGET, "rank": None}, TypeError, "start must be an integrators.LowRank or a dlrt.Trajectory"),
        ({"start": LowRank.random((3, 3), 2, np.random.default_rng(0))}, ValueError, "rank must not be given"),
        (
            {"start": LowRank.random((3, 3), 2, np.random.default_rng(0)), "rank": None},
            ValueError,
            r"start has shape \(3, 3\), but the problem has \(12, 9\)",
        ),
    ],
)
def test_bad_arguments(change, kind, message):
    arguments = {"integrator": BUG(), "problem": REGRESSION, "step_size": 0.1, "steps": 2, "rank": 2} | change
    with pytest.raises(kind, match=message):
        solve(arguments.pop("integrator"), arguments.pop("problem"), **arguments)


def test_a_start_that_is_not_finite_is_refused():
    start = LowRank(np.full((12, 1), np.inf), np.eye(1), np.ones((9, 1)))
    with pytest.raises(ValueError, match="start must have a finite loss"):
        solve(BUG(), REGRESSION, step_size=0.1, steps=2, start=start)


def test_only_the_same_run_is_continued():
    run = solve(BUG(), REGRESSION, step_size=0.1, steps=2, rank=2)
    with pytest.raises(ValueError, match="another integrator"):
        solve(LoRA(), REGRESSION, step_size=0.1, steps=2, start=run)
    with pytest.raises(ValueError, match="another problem"):
        solve(BUG(), problems.MatrixRegression(2 * TARGET), step_size=0.1, steps=2, start=run)
    with pytest.raises(ValueError, match="seed must not be given"):
        solve(BUG(), REGRESSION, step_size=0.1, steps=2, start=run, seed=0)
    with pytest.raises(ValueError, match="coefficients=False, got True"):
        solve(BUG(), REGRESSION, step_size=0.1, steps=2, start=run, coefficients=True)


def test_numpy_work_leaves_torch_alone(tmp_path):
    code = """
import sys, numpy as np, dlrt, integrators, problems
problem = problems.MatrixRegression(np.eye(5))
run = dlrt.solve(integrators.GeoLoRA(), problem, step_size=0.1, steps=3, rank=2)
dlrt.Trajectory.load(run.save("run.npz"))
assert "torch" not in sys.modules and "matplotlib" not in sys.modules
"""
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=environment)


def test_a_trajectory_of_other_code_is_not_continued(monkeypatch):
    run = solve(BUG(), REGRESSION, step_size=0.1, steps=2, rank=2)
    monkeypatch.setattr(type(REGRESSION), "loss", lambda self, Y: 0.0)
    with pytest.raises(ValueError, match=r"made by other code \([0-9a-f]{16}, now [0-9a-f]{16}\)"):
        solve(BUG(), REGRESSION, step_size=0.1, steps=2, start=run)
