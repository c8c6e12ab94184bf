"""One run: what is recorded, how it ends, and that saving, loading and going on changes no bit."""

import dataclasses
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest

import problems
from dlrt import Trajectory, solve
from dlrt.trajectory import _PER_STEP, _RECORDED
from integrators import (
    BUG,
    RK4,
    AdaLoRA,
    Adam,
    AugmentedBUG,
    Exact,
    FixedRank,
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
LYAPUNOV = problems.lyapunov(8, np.random.default_rng(0))
SCHROEDINGER = problems.schroedinger(np.random.default_rng(0), 8)
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
    assert run.checked() is run  # its caller wanted no more
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
    assert run.status == "interrupted" and run.steps.tolist() == [0, 4, 7]
    with pytest.raises(KeyboardInterrupt):  # half a run is not taken for a whole one
        run.checked()
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
        ({"integrator": BUG}, TypeError, r"integrator must be an object, got the class BUG: write BUG\(...\)"),
        (
            {"problem": problems.MatrixRegression},
            TypeError,
            r"the class MatrixRegression: write MatrixRegression\(",
        ),
        ({"step_size": 0.0}, ValueError, "step_size must be positive, since a step back would climb the loss, got 0"),
        ({"step_size": -0.1}, ValueError, "step_size must be positive, since a step back would climb the loss, got -0"),
        ({"step_size": 0.0, "problem": EQUATION}, ValueError, "step_size must not be zero, got 0"),
        ({"step_size": np.nan}, ValueError, "step_size must be finite, got nan"),
        ({"step_size": "0.1"}, TypeError, "step_size must be a real number, got str '0.1'"),
        ({"t0": np.inf}, ValueError, "t0 must be finite, got inf"),
        ({"t0": "1"}, TypeError, "t0 must be a real number, got str '1'"),
        ({"restart": True}, ValueError, "restart needs a trajectory as start, got None"),
        ({"steps": -1}, ValueError, "steps must be at least 0, got -1"),
        ({"steps": 1.5}, TypeError, "steps must be an integer"),
        ({"every": 0}, ValueError, "every must be at least 1, got 0"),
        ({"rank": None}, ValueError, "rank .or start. must be given"),
        ({"steps": None}, ValueError, "step_size and steps, or t_span, must be given"),
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
    with pytest.raises(ValueError, match="t0 must not be given"):
        solve(BUG(), REGRESSION, step_size=0.1, steps=2, start=run, t0=1.0)
    with pytest.raises(ValueError, match="rank must not be given with start"):
        solve(BUG(), REGRESSION, step_size=0.1, steps=2, start=run, restart=True, rank=3)
    with pytest.raises(ValueError, match="seed must not be given"):
        solve(BUG(), REGRESSION, step_size=0.1, steps=2, start=run, seed=0)
    with pytest.raises(ValueError, match="coefficients=False, got True"):
        solve(BUG(), REGRESSION, step_size=0.1, steps=2, start=run, coefficients=True)


# -- time --------------------------------------------------------------------------------------------------------------

START = LowRank.random((12, 9), 3, np.random.default_rng(3))


def growth(t, Y):
    """Y' = -Y / t: the solution is Y(1) / t."""
    return LowRank(Y.U, -1 / t * Y.S, Y.V)


GROWTH = problems.from_function(
    (12, 9), growth, initial=START, reference=lambda t: LowRank(START.U, START.S / t, START.V) if t else START
)


def test_a_run_begins_at_its_time():
    run = solve(BUG(substep=RK4()), GROWTH, step_size=0.1, steps=10, rank=3, t0=1.0)
    assert np.abs(run.times - np.linspace(1, 2, 11)).max() <= 3e-16 and run.times[-1] == 2  # no rounding adds up
    assert run.errors[0] < 1e-14 and run.errors[-1] < 1e-5  # of order 4, since the bases do not move


def test_time_goes_on_bit_for_bit(tmp_path):
    options = {"step_size": lambda k: 0.1 / (1 + k)}
    whole = solve(BUG(), GROWTH, steps=9, rank=3, t0=1.0, **options)
    half = solve(BUG(), GROWTH, steps=4, rank=3, t0=1.0, **options)
    loaded = Trajectory.load(half.save(tmp_path / "half.npz"))
    assert_same(whole, solve(BUG(), GROWTH, steps=5, start=loaded, **options))


@pytest.mark.parametrize("problem", [EQUATION, LYAPUNOV, SCHROEDINGER], ids=lambda p: p.name)
def test_back_in_time(problem):
    """From t = 1/2 on the solution back to 0, and forth again."""
    start = LowRank.from_dense(problem.reference(0.5), rank=min(problem.shape))
    method = FullRank(substep=RK4())
    back = solve(method, problem, step_size=-0.005, steps=100, start=start, t0=0.5, every=10)
    assert abs(back.times[-1]) <= 1e-16 and np.all(np.diff(back.times) < 0) and np.all(back.step_sizes == -0.005)
    assert back.errors[-1] <= 1e-5 * start.norm()
    forth = solve(method, problem, step_size=0.005, steps=100, start=back, restart=True, every=100)
    assert forth.times.tolist() == [back.times[-1], 0.5] and forth.errors[-1] <= 1e-5 * start.norm()


@pytest.mark.parametrize("method", [ProjectorSplitting(), BUG(), AugmentedBUG(truncation=FixedRank(3))], ids=repr)
def test_exact_flows_go_back(method):
    """F = A'(t), A(t) of rank 3: exact in both directions of time."""
    problem = problems.rotating(np.random.default_rng(1), (12, 9), 3)
    start = LowRank.from_dense(problem.reference(1.0), rank=3)
    run = solve(replace(method, substep=Exact()), problem, step_size=-0.25, steps=4, start=start, t0=1.0)
    assert run.times[-1] == 0.0 and np.all(run.errors <= 1e-12 * start.norm())


@pytest.mark.parametrize("problem", [LYAPUNOV, SCHROEDINGER], ids=lambda p: p.name)
def test_exact_flows_undo_each_other(problem):
    """At full rank the K-step of projector splitting is the flow of the equation, which has an inverse."""
    Y = LowRank.from_dense(problem.reference(0.3), rank=8)
    forth = problem.field(0.0, Y).flow_K(0.1)
    point = LowRank(forth, np.eye(8, dtype=forth.dtype), Y.V)
    assert np.abs(problem.field(0.1, point).flow_K(-0.1) - Y.K).max() <= 1e-12 * Y.norm()


def test_restart_goes_on_with_another_method_and_problem(tmp_path):
    first = solve(LoRA(optimizer=Adam()), STOCHASTIC, step_size=0.05, steps=7, rank=3, seed=4, every=3)
    for start in (first, Trajectory.load(first.save(tmp_path / "first.npz"))):
        run = solve(GeoLoRA(optimizer=Momentum()), REGRESSION, step_size=0.1, steps=3, start=start, restart=True)
        assert run.steps.tolist() == [0, 1, 2, 3] and run.evaluations.tolist() == [0, 1, 2, 3]
        assert run.times[0] == first.times[-1] == pytest.approx(0.35) and run.times[-1] == pytest.approx(0.65)
        assert run.losses[0] == pytest.approx(REGRESSION.loss(first.Y), rel=1e-12) and run.losses[-1] < run.losses[0]
        assert run.meta["integrator"]["type"].endswith("GeoLoRA") and run.meta["seed"] == 0
        assert_same(run, solve(GeoLoRA(optimizer=Momentum()), REGRESSION, step_size=0.1, steps=3, start=first.Y,
                               t0=float(first.times[-1])))  # fmt: skip
    elsewhere = solve(BUG(), REGRESSION, step_size=0.1, steps=1, start=first, restart=True, t0=0.0, seed=3)
    assert elsewhere.times[0] == 0.0 and elsewhere.meta["seed"] == 3


def test_restart_of_a_loaded_torch_run_has_tensors(tmp_path):
    torch = pytest.importorskip("torch")
    problem = problems.MatrixRegression(torch.from_numpy(TARGET))
    run = solve(BUG(), problem, step_size=0.1, steps=2, rank=3)
    loaded = Trajectory.load(run.save(tmp_path / "run.npz"))
    again = solve(GeoLoRA(), problem, step_size=0.1, steps=2, start=loaded, restart=True)
    assert isinstance(again.Y.S, torch.Tensor)


# -- step-size control, output between steps ---------------------------------------------------------------------------

CONTROLLED = {"t_span": (0.0, 1.0), "rtol": 1e-3}


@pytest.mark.parametrize("method", [BUG(), AugmentedBUG(), ProjectorSplitting(order=2), FullRank()], ids=repr)
def test_a_controlled_run_goes_on_bit_for_bit(tmp_path, method):
    """Stopped after any number of steps, by a callback or by `steps`, saved, loaded, continued: as if never stopped."""
    options = CONTROLLED | {"t_eval": [0.0, 0.01, 0.31, 0.5, 1.0], "first_step": 0.5}
    whole = solve(method, EQUATION, rank=4, **options)
    assert whole.status == "finished" and whole.times[-1] == 1 and len(whole.samples) == 5
    for k in (1, int(whole.steps[-1]) // 2, int(whole.steps[-1]) - 1):
        half = solve(method, EQUATION, rank=4, steps=k, **options)
        assert half.status == "stopped" and half.steps[-1] == k
        loaded = Trajectory.load(half.save(tmp_path / "half.npz"))
        assert_same(half, loaded)
        on = solve(method, EQUATION, start=loaded, **CONTROLLED, t_eval=options["t_eval"])
        assert_same(whole, on)
        for a, b in zip(whole.samples, on.samples, strict=True):
            assert np.array_equal(a.full(), b.full())
        assert np.array_equal(whole.sample_times, on.sample_times)
        assert np.array_equal(whole.rejected_steps, on.rejected_steps)
        assert_same(half, solve(method, EQUATION, rank=4, callback=lambda r, k=k: r.step == k, **options))


def test_a_finished_run_goes_on_to_a_later_end():
    run = solve(BUG(), EQUATION, rank=4, **CONTROLLED)
    assert len(solve(BUG(), EQUATION, start=run, **CONTROLLED).step_sizes) == len(run.step_sizes)
    later = solve(BUG(), EQUATION, start=run, t_span=(0, 2), rtol=1e-3)
    assert later.times[-1] == 2 and later.steps[-1] > run.steps[-1]
    steps = solve(BUG(), EQUATION, start=later, step_size=0.1, steps=3)  # and with steps of given size, and back
    assert np.isnan(steps.error_ratios[-3:]).all() and not np.isnan(steps.error_ratios[:-3]).any()
    again = solve(BUG(), EQUATION, start=steps, t_span=(0, 3), rtol=1e-3)
    assert again.times[-1] == 3 and len(again.error_ratios) == again.steps[-1]
    for bad in ((0.5, 3), (0, 0.5)):
        with pytest.raises(ValueError, match=r"t_span must begin where the run began, at 0, and end no earlier"):
            solve(BUG(), EQUATION, start=run, t_span=bad)
    fresh = solve(BUG(), EQUATION, start=run, t_span=(1, 1.5), restart=True)
    assert fresh.times[0] == 1 and fresh.steps[0] == 0


@pytest.mark.parametrize("way", [CONTROLLED, {"step_size": 0.05, "steps": 20}], ids=["controlled", "given"])
def test_matrices_at_given_times(way, tmp_path):
    """The steps are the same without them; the interpolation is not worse than the steps; ends of steps are exact."""
    times = [0.0, 0.21, 0.5, 0.52, 1.0]
    run, plain = (solve(BUG(substep=RK4()), EQUATION, rank=3, t_eval=s, **way) for s in (times, None))
    assert np.array_equal(run.step_sizes, plain.step_sizes) and np.array_equal(run.Y.full(), plain.Y.full())
    assert run.sample_times.tolist() == times and len(run.samples) == 5 and plain.samples == ()
    assert run.evaluations[-1] > plain.evaluations[-1]
    for t, Y in zip(times, run.samples, strict=True):
        assert EQUATION.error(t, Y) <= 1.1 * run.errors.max() and Y.rank == 3
    assert np.array_equal(run.samples[-1].full(), run.Y.full())
    loaded = Trajectory.load(run.save(tmp_path / "run.npz"))
    assert loaded.sample_times.tolist() == times
    assert all(np.array_equal(a.full(), b.full()) for a, b in zip(loaded.samples, run.samples, strict=True))
    early = solve(BUG(), EQUATION, rank=3, t_eval=[0.1, 5.0], step_size=0.05, steps=4)
    assert early.sample_times.tolist() == [0.1]  # the other one is not reached


def decay(t, Y):
    """Y' = -Y."""
    return LowRank(Y.U, -Y.S, Y.V)


DECAY = problems.from_function((12, 9), decay, initial=START)


@pytest.mark.parametrize(
    "way", [{"t_span": (0, 2), "rtol": 1e-6}, {"step_size": 0.3, "steps": 9}], ids=["span", "steps"]
)
def test_events(way, tmp_path):
    """The norm falls like e^{-t}: to half at log 2, to a third at log 3."""

    def half(t, Y):
        return Y.norm() - START.norm() / 2

    def third(t, Y):
        return Y.norm() - START.norm() / 3

    def rising(t, Y):
        return half(t, Y)

    rising.direction = 1
    half.terminal = False
    # half of 0.3^4 / 384 per step by interpolation, and RK4's own 0.3^5 / 120
    near = {"abs": 1e-4} if "steps" in way else {"abs": 1e-5}
    run = solve(BUG(substep=RK4()), DECAY, rank=3, events=[half, third, rising], **way)
    assert run.status == "stopped"
    [first, second, none] = run.t_events
    assert first == pytest.approx([np.log(2)], **near) and second == pytest.approx([np.log(3)], **near)
    assert none.size == 0 and run.times[-1] == second[0]
    assert third(0, run.Y) <= 0 and third(0, run.Y) == pytest.approx(0, abs=1e-12)  # just after the change
    loaded = Trajectory.load(run.save(tmp_path / "run.npz"))
    assert [times.tolist() for times in loaded.t_events] == [times.tolist() for times in run.t_events]
    on = solve(BUG(substep=RK4()), DECAY, start=loaded, events=[half, third, rising], **way)
    assert on.status == "finished" and [len(times) for times in on.t_events] == [1, 1, 0]  # not the same one again
    with pytest.raises(ValueError, match="the trajectory to continue has 3 events, got 1"):
        solve(BUG(substep=RK4()), DECAY, start=loaded, events=half, **way)
    with pytest.raises(ValueError, match="the trajectory to continue has 3 events, got 0"):
        solve(BUG(substep=RK4()), DECAY, start=loaded, **way)


def test_an_event_that_fails_keeps_the_run():
    def event(t, Y):
        return 1.0 if t < 0.5 else "?"

    run = solve(BUG(), DECAY, rank=3, events=event, step_size=0.1, steps=9)
    assert (
        run.status.startswith("failed at step 5: TypeError: what an event returns must be a real")
        and run.steps[-1] == 4
    )


# -- failures ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Failing(problems.MatrixRegression):
    """Its field or its loss raises from a time or a call on."""

    late: float = 0.35
    part: str = "field"
    calls: list = dataclasses.field(default_factory=list)

    def field(self, t, Y):
        if self.part == "field" and t > self.late:
            raise ZeroDivisionError("nothing to divide by")
        return super().field(t, Y)

    def loss(self, Y):
        self.calls.append(Y)
        if self.part == "loss" and len(self.calls) > 4:
            raise KeyError("loss")
        return super().loss(Y)


@pytest.mark.parametrize("every", [1, 3, 100])
@pytest.mark.parametrize("method", [BUG(), ParallelBUG(), FullRank(), LoRA()], ids=repr)
def test_what_was_computed_before_a_failure_is_kept(tmp_path, caplog, method, every):
    caplog.set_level("INFO", "dlrt.solve")
    run = solve(method, Failing(TARGET), step_size=0.1, steps=10, rank=3, every=every)
    assert run.status == "failed at step 5: ZeroDivisionError: nothing to divide by"
    assert run.failed and not run.diverged and run.steps[-1] == 4 and len(run.step_sizes) == 4
    short = solve(method, REGRESSION, step_size=0.1, steps=4, rank=3, every=every)
    assert np.array_equal(run.Y.full(), short.Y.full()) and run.steps.tolist() == short.steps.tolist()
    assert "Traceback" in caplog.text and caplog.records[0].levelname == "WARNING"
    loaded = Trajectory.load(run.save(tmp_path / "run.npz"))
    assert loaded.status == run.status
    with pytest.raises(RuntimeError, match="the run failed at step 5: ZeroDivisionError: nothing to divide by"):
        loaded.checked()
    assert short.checked() is short
    with pytest.raises(ValueError, match="another problem"):
        solve(method, REGRESSION, step_size=0.1, steps=1, start=loaded, every=every)
    mended = solve(method, REGRESSION, step_size=0.1, steps=6, start=loaded, restart=True)
    assert mended.times[0] == loaded.times[-1] and mended.status == "finished"


def test_a_failure_in_the_first_evaluation_leaves_the_start():
    run = solve(BUG(), Failing(TARGET, late=-1.0), step_size=0.1, steps=10, rank=3)
    assert run.status.startswith("failed at step 1: ZeroDivisionError") and run.steps.tolist() == [0]
    run = solve(BUG(substep=Exact()), GROWTH, step_size=0.1, steps=10, rank=3, t0=1.0)
    assert run.status.startswith("failed at step 1: NotImplementedError: OperatorField has no exact sub-flows")


def test_a_failure_of_the_loss_keeps_the_step_before():
    run = solve(BUG(), Failing(TARGET, part="loss"), step_size=0.1, steps=10, rank=3)
    assert run.status == "failed at step 4: KeyError: 'loss'" and run.steps.tolist() == [0, 1, 2, 3]


def test_a_failing_schedule_keeps_the_run():
    run = solve(BUG(), REGRESSION, step_size=lambda k: [0.1, 0.2, 0.3][k], steps=9, rank=3, every=2)
    assert run.status == "failed at step 4: IndexError: list index out of range" and run.steps.tolist() == [0, 2, 3]
    run = solve(BUG(), REGRESSION, step_size=lambda k: 0.1 - 0.1 * k, steps=9, rank=3)
    assert run.status.startswith("failed at step 2: ValueError: step_size(1) must be positive") and len(run.steps) == 2


def test_a_failed_mini_batch_is_drawn_again():
    """What the failing step drew at random is given back: a continued run is the undisturbed one."""

    class Once(problems.MatrixCompletion):
        def minibatch(self, rng):
            batch = super().minibatch(rng)
            if rng.random() < 0.3 and not self.calls:
                self.calls.append(1)
                raise OSError("disk")
            return batch

    fields = (getattr(STOCHASTIC, f.name) for f in dataclasses.fields(STOCHASTIC))
    problem = Once(*fields)
    object.__setattr__(problem, "calls", [])
    half = solve(BUG(), problem, step_size=0.1, steps=20, rank=3)
    assert half.failed and 1 < half.steps[-1] + 1 < 20
    on = solve(BUG(), problem, step_size=0.1, steps=20 - int(half.steps[-1]), start=half)
    assert_same(on, solve(BUG(), problem, step_size=0.1, steps=20, rank=3))


def test_other_array_libraries(tmp_path):
    """The library of the start is that of the run, also after a file."""
    strict = pytest.importorskip("array_api_strict")
    problem = problems.MatrixRegression(strict.asarray(TARGET))
    whole = solve(GeoLoRA(optimizer=Adam()), problem, step_size=0.1, steps=6, rank=4, coefficients=True)
    assert whole.meta["array_library"] == "array_api_strict" and type(whole.Y.S) is type(problem.target)
    half = solve(GeoLoRA(optimizer=Adam()), problem, step_size=0.1, steps=3, rank=4, coefficients=True)
    loaded = Trajectory.load(half.save(tmp_path / "half.npz"))
    on = solve(GeoLoRA(optimizer=Adam()), problem, step_size=0.1, steps=3, start=loaded, coefficients=True)
    assert type(on.Y.S) is type(problem.target)
    assert np.array_equal(whole.losses, on.losses) and whole.meta == on.meta


@pytest.mark.parametrize("method", [FullRank(), AdaLoRA(), BUG(), GeoLoRA()], ids=lambda m: type(m).__name__)
def test_jax(tmp_path, method):
    """jax.numpy with 64 bits: the numbers of numpy, to rounding."""
    jax = pytest.importorskip("jax")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        problem = problems.MatrixRegression(jax.numpy.asarray(TARGET))
        run = solve(method, problem, step_size=0.05, steps=4, rank=2)
        loaded = Trajectory.load(run.save(tmp_path / "run.npz"))
        assert run.meta["array_library"] == "jax" and isinstance(run.Y.S, jax.Array)
        assert isinstance(solve(method, problem, step_size=0.05, steps=1, start=loaded).Y.S, jax.Array)
        expected = solve(method, REGRESSION, step_size=0.05, steps=4, rank=2)
        assert np.abs(run.losses - expected.losses).max() <= 1e-11 * expected.losses[0]
    finally:
        jax.config.update("jax_enable_x64", before)


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


def test_a_step_of_no_use_is_said(tmp_path):
    """Finite garbage is not ``finished``: status, meta and what comes of a run that goes on or is loaded."""
    problem = problems.lyapunov(60, np.random.default_rng(1), stiff=True)
    method, h = ProjectorSplitting(substep=Exact()), 60 / np.linalg.norm(problem.A, 2)
    run = solve(method, problem, step_size=h, steps=2, rank=8)
    assert run.status.startswith("finished with a warning at step 1: the backward S-step multiplied ||S|| by ")
    assert run.status.endswith(run.warning) and "with a warning at step 1" in repr(run)
    run.save(tmp_path / "run.npz")
    on = solve(method, problem, step_size=h, steps=1, start=Trajectory.load(tmp_path / "run.npz"))
    assert on.warning == run.warning and on.status == run.status
    good = solve(method, problem, step_size=h / 4, steps=2, rank=8)
    assert good.status == "finished" and good.warning is None
