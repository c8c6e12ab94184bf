"""Step-size control: errors against tolerances, the controller by hand, interpolation, and what is refused."""

import numpy as np
import pytest

import problems
from dlrt import solve
from dlrt.control import Controller, Interpolant, Tolerances, changes
from integrators import (
    BUG,
    RK4,
    AugmentedBUG,
    Conservative,
    FixedRank,
    FullRank,
    Heun,
    LoRA,
    LowRank,
    Momentum,
    ParallelBUG,
    ProjectorSplitting,
    RungeKuttaBUG,
    Tolerance,
)

EQUATION = problems.given_solution(np.random.default_rng(2), (12, 9), rank=3)
LYAPUNOV = problems.lyapunov(20, np.random.default_rng(0))
STRANG = ProjectorSplitting(order=2, substep=Heun())
SCALAR = problems.from_function((1, 1), lambda t, Y: -10 * (Y.full() - np.cos(t)), initial=np.array([[3.0]]))


@pytest.mark.parametrize(
    ("method", "problem", "rank"),
    [
        (BUG(), EQUATION, 3),
        (STRANG, EQUATION, 3),
        (AugmentedBUG(), EQUATION, 3),
        (ParallelBUG(), EQUATION, 3),
        (FullRank(substep=Heun()), EQUATION, 3),
        (AugmentedBUG(), LYAPUNOV, 1),
        (ParallelBUG(), LYAPUNOV, 1),
    ],
    ids=lambda x: x.name if hasattr(x, "name") else str(x),
)
def test_errors_are_proportional_to_the_tolerance(method, problem, rank):
    """The error at the end is between 1/64 and 2 times rtol ||Y||, and within a factor of 5 the same share of it.

    The estimate is of order p + 1 and what extrapolation leaves of order p + 2 in every step, so the sum of these over
    all steps is proportional to the tolerance, by a factor of the equation.
    """
    size = np.linalg.norm(problem.reference(problem.t_end))
    shares, steps = [], []
    for rtol in (1e-2, 1e-3, 1e-4, 1e-5):
        run = solve(method, problem, t_span=(0, problem.t_end), rtol=rtol, atol=1e-3 * rtol, rank=rank, every=10**6)
        assert run.status == "finished" and run.times[-1] == problem.t_end
        assert np.all(run.error_ratios <= 1)
        shares.append(run.errors[-1] / (rtol * size))
        steps.append(run.steps[-1])
    assert 1 / 64 < min(shares) and max(shares) < min(2, 5 * min(shares))
    # h ~ rtol^(1 / (p + 1)): the last decade multiplies the steps by 10^(1 / (p + 1))
    assert np.log10(steps[-1] / steps[-2]) == pytest.approx(1 / (method.order + 1), abs=0.1)


def test_the_rank_follows_the_tolerance():
    ranks = []
    for rtol in (1e-1, 1e-3, 1e-5):
        run = solve(AugmentedBUG(), LYAPUNOV, t_span=(0, 0.5), rtol=rtol, atol=1e-3 * rtol, rank=1, every=1000)
        ranks.append(run.ranks[-1])
        assert run.truncation_errors.sum() <= 3 * (
            1e-3 * rtol + rtol * LowRank.from_dense(LYAPUNOV.reference(0.5), 20).norm()
        )
    assert ranks == sorted(set(ranks))
    bounded = AugmentedBUG(truncation=Tolerance(relative=0.5, max_rank=4))
    assert solve(bounded, LYAPUNOV, t_span=(0, 0.5), rtol=1e-5, rank=1, every=1000).ranks[-1] == 4
    fixed = AugmentedBUG(truncation=FixedRank(3))
    assert set(solve(fixed, LYAPUNOV, t_span=(0, 0.5), rtol=1e-2, rank=3).ranks) == {3}


def test_the_controller_by_hand():
    """Step doubling of Euler's method for one number, in Python's own arithmetic."""
    rtol, atol, t, x, h, previous = 1e-3, 1e-5, 0.0, 3.0, 0.3, None

    def euler(t, x, h):
        return x + h * -10 * (x - np.cos(t))

    times, values, sizes, rejected, limit = [t], [x], [], [], 5.0
    while t < 1:
        h = 1 - t if h >= 1 - t else (1 - t) / 2 if 2 * h > 1 - t else h
        whole, fine = euler(t, x, h), euler(t + h / 2, euler(t, x, h / 2), h / 2)
        ratio = abs(fine - whole) / (atol + rtol * max(abs(x), abs(fine)))
        if ratio > 1:
            rejected.append([len(sizes) + 1, h, ratio])
            h, limit = h * max(0.2, 0.9 * ratio**-0.5), 1.0
            continue
        x, t = 2 * fine - whole, t + h
        sizes.append(h)
        factor = 0.9 * ratio**-0.5 if previous is None else 0.9 * ratio**-0.35 * previous**0.2
        h, previous, limit = h * min(limit, max(0.2, factor)), max(ratio, 1e-4), 5.0
        times.append(t)
        values.append(x)

    run = solve(FullRank(), SCALAR, t_span=(0, 1), rtol=rtol, atol=atol, first_step=0.3, rank=1)
    assert len(rejected) >= 2 and run.rejected[-1] == len(run.rejected_steps) == len(rejected)
    assert run.step_sizes == pytest.approx(np.array(sizes), rel=1e-9)
    assert run.rejected_steps == pytest.approx(np.array(rejected), rel=1e-9)
    assert run.times == pytest.approx(np.array(times), rel=1e-12) and run.times[-1] == 1
    assert run.Y.full().item() == pytest.approx(values[-1], rel=1e-9)


def test_evaluations_are_counted_and_the_start_is_shared():
    """Of an accepted Euler step two fields, since the first is common to all attempts; a rejected one adds one."""
    calls = []

    def field(t, Y):
        calls.append(t)
        return -Y.full()

    problem = problems.from_function((1, 1), field, initial=np.array([[1.0]]))
    run = solve(FullRank(), problem, t_span=(0, 1), rtol=1e-2, first_step=1.0, rank=1)
    rejected = len(run.rejected_steps)
    assert rejected > 0 and run.evaluations[-1] == len(calls) == 2 * run.steps[-1] + rejected


def test_rejected_steps_leave_no_trace():
    """After a rejection the step is the one that would have been made at once, bit for bit."""
    options = {"t_span": (0, 1), "rtol": 1e-4, "rank": 3, "steps": 1}
    late = solve(AugmentedBUG(), EQUATION, first_step=1.0, **options)
    assert len(late.rejected_steps) > 0 and late.rejected[-1] == len(late.rejected_steps)
    assert np.all(late.rejected_steps[:, 0] == 1) and np.all(late.rejected_steps[:, 2] > 1)
    at_once = solve(AugmentedBUG(), EQUATION, first_step=late.step_sizes[0], **options)
    assert len(at_once.rejected_steps) == 0
    assert np.array_equal(late.Y.full(), at_once.Y.full())
    assert late.meta["random_state"] == at_once.meta["random_state"]
    assert late.meta["control"]["next"] <= at_once.meta["control"]["next"]  # no growth right after a rejection


def test_numbers_that_are_not_finite_reject_an_attempt():
    """Attempts that leave where the field is defined are tried again smaller; x' = x^2 from 1 ends at t = 1."""

    def field(t, Y):
        return np.where(np.abs(Y.full()) > 2, np.nan, -Y.full())

    problem = problems.from_function((1, 1), field, initial=np.array([[1.0]]))
    run = solve(FullRank(), problem, t_span=(0, 10), rtol=1e-3, first_step=10.0, rank=1)
    assert run.status == "finished" and np.isinf(run.rejected_steps[0, 2])
    problem = problems.from_function((1, 1), lambda t, Y: Y.full() ** 2, initial=np.array([[1.0]]))
    run = solve(FullRank(substep=RK4()), problem, t_span=(0, 2), rtol=1e-6, rank=1)
    assert (run.failed or run.diverged) and run.times[-1] == pytest.approx(1, abs=1e-6)
    assert len(run.step_sizes) == run.steps[-1]


def test_an_end_that_no_step_can_meet():
    """A field that is noise from t = .5 on: the run says where it could not go on, and keeps the rest."""
    rng = np.random.default_rng(0)
    problem = problems.from_function(
        (1, 1), lambda t, Y: np.array([[1.0 if t < 0.5 else 1e30 * rng.standard_normal()]]), initial=np.array([[1.0]])
    )
    run = solve(FullRank(), problem, t_span=(0, 1), rtol=1e-3, rank=1)
    assert run.status.startswith(f"failed at step {run.steps[-1] + 1}: RuntimeError: no step from t = 0.")
    assert 0.4 < run.times[-1] < 1 and len(run.step_sizes) == run.steps[-1]


def test_a_start_of_zero_and_one_of_too_low_rank():
    zero = problems.Sylvester(LYAPUNOV.A, LYAPUNOV.B, LYAPUNOV.C)
    run = solve(AugmentedBUG(), zero, t_span=(0, 0.5), rtol=1e-3, rank=2)
    assert run.status == "finished"
    assert run.errors[-1] < 1e-3 * np.linalg.norm(zero.reference(0.5))


def test_a_loss_and_the_way_back():
    loss = problems.MatrixRegression(problems.synthetic((8, 6), [3.0, 2.0], np.random.default_rng(0)))
    run = solve(ParallelBUG(), loss, t_span=(0, 2), rtol=1e-4, rank=2)
    # the gradient flow of half the squared distance d is d' = -d
    assert run.losses[-1] == pytest.approx(run.losses[0] * np.exp(-4), rel=1e-2)
    back = solve(STRANG, EQUATION, t_span=(1, 0), rtol=1e-5, start=LowRank.from_dense(EQUATION.reference(1.0), 3))
    assert back.times[-1] == 0 and np.all(back.step_sizes < 0) and back.errors[-1] < 1e-4


def test_single_precision_and_torch():
    torch = pytest.importorskip("torch")
    regression = problems.MatrixRegression(problems.synthetic((8, 6), [3.0, 2.0], np.random.default_rng(0)))
    whole = solve(AugmentedBUG(), regression, t_span=(0, 1), rtol=1e-3, rank=2)
    for target in (regression.target.astype(np.float32), torch.from_numpy(regression.target)):
        run = solve(AugmentedBUG(), problems.MatrixRegression(target), t_span=(0, 1), rtol=1e-3, rank=2)
        assert run.losses[-1] == pytest.approx(whole.losses[-1], rel=1e-2) and type(run.Y.S) is type(target)
    with pytest.raises(ValueError, match=r"rtol must be at least 100 eps = 1\.2e-05 in float32, got 1e-06"):
        single = problems.MatrixRegression(regression.target.astype(np.float32))
        solve(BUG(), single, t_span=(0, 1), rtol=1e-6, rank=2)


def test_interpolation_is_of_order_4():
    """Between points of the solution, of exact rank, in whose tangent space the field lies."""
    errors = []
    for h in (0.1, 0.05, 0.025):
        ends = [LowRank.from_dense(EQUATION.reference(t), 3) for t in (0.3, 0.3 + h)]
        between = Interpolant.between(EQUATION.field, 0.3, ends[0], 0.3 + h, ends[1])
        assert between(0.0) is ends[0] and between(1.0) is ends[1]
        assert between(0.4).rank == 3
        errors.append(max(EQUATION.error(0.3 + x * h, between(x)) for x in (0.2, 0.5, 0.7)))
    assert np.diff(np.log2(errors)) == pytest.approx(-4, abs=0.2)


def test_which_changes_count():
    def event(t, Y):
        return 0.0

    assert changes(event, -1, 1) and changes(event, 1, -1) and changes(event, -1, 0)
    assert not changes(event, 0, 1) and not changes(event, 1, 2)
    event.direction = 1
    assert changes(event, -1, 1) and not changes(event, 1, -1)
    event.direction = -1
    assert changes(event, 1, -1) and not changes(event, -1, 1)


def test_a_step_cut_at_the_end_does_not_make_the_next_one_small():
    controller = Controller(1, 0.5)
    controller.accept(0.01, 0.3)
    assert controller.next == 0.5
    controller.accept(0.5, 1.0)
    assert controller.next == pytest.approx(0.5 * 0.9 * 0.3**0.2)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"integrator": LoRA()}, TypeError, "step-size control needs a method with an order"),
        ({"integrator": BUG(optimizer=Momentum())}, TypeError, r"follows the field itself, got optimizer=Momentum"),
        ({"t_span": (1, 1)}, ValueError, r"t_span must have two different times, got \(1, 1\)"),
        ({"t_span": 1.0}, TypeError, "t_span must be a pair of times, got float 1.0"),
        ({"rtol": -1.0}, ValueError, "rtol must be >= 0, got -1.0"),
        ({"rtol": 1e-15}, ValueError, "rtol must be at least 100 eps = 2.2e-14 in float64, got 1e-15"),
        ({"atol": -1.0}, ValueError, "atol must be finite and >= 0, got -1.0"),
        ({"first_step": -0.1}, ValueError, "first_step must be positive and finite, got -0.1"),
        ({"step_size": 0.1}, ValueError, "step_size must not be given with t_span, got step_size=0.1"),
        ({"t0": 0.1}, ValueError, "t0 must not be given with t_span"),
        ({"t_span": None}, ValueError, "rtol is for runs with t_span, got rtol=0.001 without one"),
        ({"t_eval": [0.5, 0.2]}, ValueError, r"t_eval must be times in the order of the run, each once"),
        ({"t_eval": [0.5, 2.0]}, ValueError, r"t_eval must end within t_span \(0, 1\), got 2"),
        ({"t_eval": [-0.5, 0.5]}, ValueError, "t_eval must not lie before the start of the run at t = 0, got -0.5"),
        ({"events": [3]}, TypeError, "events must be functions of t and Y, got int 3"),
        ({"events": lambda t, Y: None}, TypeError, "what an event returns must be a real number"),
    ],
)
def test_bad_arguments(change, kind, message):
    arguments = {"integrator": BUG(), "problem": EQUATION, "t_span": (0, 1), "rtol": 1e-3, "rank": 2} | change
    with pytest.raises(kind, match=message):
        solve(arguments.pop("integrator"), arguments.pop("problem"), **arguments)


def test_mini_batches_are_refused():
    target = problems.synthetic((12, 9), [4.0, 3.0, 2.0], np.random.default_rng(0))
    problem = problems.completion(np.random.default_rng(1), target, 0.8, batch_size=20)
    with pytest.raises(
        ValueError, match=r"needs a problem without mini-batches.* batch_size=20: give step_size and st"
    ):
        solve(BUG(), problem, t_span=(0, 1), rank=2)
    with pytest.raises(ValueError, match="t_eval needs a problem without mini-batches"):
        solve(BUG(), problem, step_size=0.1, steps=3, t_eval=[0.1], rank=2)


def test_usual_tolerances_are_those_of_scipy():
    assert Tolerances.of(None, None, LowRank.random((3, 3), 1, np.random.default_rng(0))) == Tolerances(1e-3, 1e-6)


def test_moments_are_kept_by_controlled_steps_too():
    """The tolerance inside follows that of the run; extrapolation is a mean. Mass is 31, some 20 steps."""
    p = problems.two_stream(16, 32, 0.1)
    for rule in (Tolerance(relative=0.1), FixedRank(7)):
        run = solve(
            RungeKuttaBUG(truncation=Conservative(p.moment_functions, rule)), p, t_span=(0, 2), rtol=1e-4, rank=6
        )
        change = p.moments(run.Y).mass - p.moments(p.initial(6, np.random.default_rng(0))).mass
        assert run.status == "finished" and abs(change) < 1e-11
        assert run.errors[-1] < 1e-3 * np.linalg.norm(p.reference(2.0))
