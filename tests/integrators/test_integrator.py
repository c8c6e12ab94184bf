"""The interface: hyper-parameters, counting, starts, stacks, memory."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from dlrt.testing import one_step, point, regression, rng
from integrators import (
    BUG,
    INTEGRATORS,
    RK4,
    AdaLoRA,
    Adam,
    AugmentedBUG,
    Exact,
    FullRank,
    GeoLoRA,
    Heun,
    ImportanceBudget,
    Integrator,
    LoRA,
    LowRank,
    Momentum,
    ParallelBUG,
    Projections,
    ProjectorSplitting,
    Repeated,
    SVDLoRA,
    Tolerance,
    count_evaluations,
)
from problems import MatrixRegression


@pytest.mark.parametrize(
    "build,message",
    [
        (lambda: Momentum(1.0), r"beta must lie in \[0, 1\), got 1.0"),
        (lambda: Adam(beta1=-0.1), "beta1 must lie in"),
        (lambda: Adam(eps=0.0), "eps must be positive and finite, got 0.0"),
        (lambda: AdaLoRA(gamma=-1), "gamma must be >= 0, got -1"),
        (lambda: AdaLoRA(beta2=2), "beta2 must lie in"),
        (lambda: ProjectorSplitting(order=3), "order must be 1 or 2, got 3"),
    ],
)
def test_bad_hyperparameters(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "build,message",
    [
        (
            lambda: GeoLoRA(optimizer="adam"),
            r"optimizer must be an integrators.Optimizer such as Adam\(\), got str 'adam'",
        ),
        (lambda: LoRA(optimizer=Adam), r"optimizer must be .* got the class Adam: write Adam\(\)"),
        (lambda: BUG(substep=Heun), r"substep must be an integrators.Substep .* got the class Heun: write Heun\(\)"),
        (lambda: Repeated(Heun, 2), r"substep must be .* got the class Heun: write Heun\(\)"),
        (lambda: ProjectorSplitting(substep="heun"), "substep must be .* got str 'heun'"),
        (
            lambda: AugmentedBUG(truncation=0.1),
            r"truncation must be .* such as Tolerance\(relative=0.1\), got float 0.1",
        ),
        (lambda: AdaLoRA(truncation=Tolerance(relative=0.1)), "truncation must be an integrators.ImportanceBudget"),
        (lambda: GeoLoRA(truncation=ImportanceBudget(2, 1, 9)), "must not be AdaLoRA's ImportanceBudget for GeoLoRA"),
        (lambda: AdaLoRA(gamma="0.1"), "gamma must be a real number, got str '0.1'"),
        (lambda: AdaLoRA(optimizer=None), "optimizer must be .* got NoneType None"),
        (lambda: Momentum("0.9"), "beta must be a real number, got str '0.9'"),
        (lambda: Adam(beta2=torch.tensor(0.9)), "beta2 must be a real number, got Tensor"),
        (lambda: ParallelBUG(rejection=True), "rejection must be a positive number, got bool True"),
        (lambda: Tolerance(relative="0.1"), "relative must be a real number, got str '0.1'"),
    ],
)
def test_hyperparameters_of_another_type(build, message):
    with pytest.raises(TypeError, match=message):
        build()


def test_numbers_from_numpy_do_not_promote():
    """A float64 scalar of numpy times a float32 array is a float64 array: hyper-parameters are Python's floats."""
    tenth = np.float64(0.1)
    problem = regression((9, 7), dtype="float32")
    for method in (
        AdaLoRA(gamma=tenth, beta1=tenth, beta2=tenth),
        GeoLoRA(optimizer=Adam(tenth, tenth, tenth), truncation=Tolerance(absolute=tenth)),
        BUG(optimizer=Momentum(tenth)),
        ParallelBUG(rejection=tenth),
    ):
        state = one_step(method, problem, point(problem, 3), h=np.float64(0.1)).state
        assert {X.dtype for X in state.arrays().values() if getattr(X, "ndim", 0)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("method", INTEGRATORS.values(), ids=INTEGRATORS)
def test_starts_that_are_refused(method):
    problem = regression((9, 7))
    for dtype in (np.float16, np.longdouble):
        Y = LowRank(*(X.astype(dtype) for X in point(problem, 3)))
        with pytest.raises(
            TypeError, match=f"single or double precision, got {np.dtype(dtype)}: convert it to float32"
        ):
            method.init(Y)
    with pytest.raises(TypeError, match="single or double precision, got bfloat16"):
        method.init(LowRank(*(torch.asarray(X, dtype=torch.bfloat16) for X in point(problem, 3))))
    nothing = LowRank(np.zeros((9, 0)), np.zeros((0, 0)), np.zeros((7, 0)))
    if isinstance(method, FullRank):  # its matrix is dense
        assert problem.loss(one_step(method, problem, nothing).state.Y) < problem.loss(nothing)
    else:
        with pytest.raises(ValueError, match=r"rank 1 at least, .*rank=0.*LowRank.zeros"):
            method.init(nothing)


@pytest.mark.parametrize("optimizer", [Momentum(), Adam()], ids=["momentum", "adam"])
@pytest.mark.parametrize("method", INTEGRATORS.values(), ids=INTEGRATORS)
def test_a_memory_that_overflows_is_reported(method, optimizer):
    """Adam divides by an infinite second moment: the matrix stays finite, and would never move again."""
    method = replace(method, optimizer=optimizer)
    problem = regression((9, 7))
    state = method.init(point(problem, 3))
    before = [np.array(X) for X in state.arrays().values()]

    def field(t, Y):
        return Projections.of(1e200 * (problem.target - Y.full()), Y)

    with np.errstate(all="ignore"):
        try:
            after = method.step(field, 0.0, state, 1e-200).state
            assert all(np.all(np.isfinite(X)) for X in after.arrays().values())
            assert isinstance(optimizer, Momentum)
        except FloatingPointError:
            pass
    assert all(np.array_equal(X, Z) for X, Z in zip(before, state.arrays().values(), strict=True))


def test_a_method_without_stages_says_so():
    with pytest.raises(TypeError, match="Integrator must define stages"):
        Integrator().stages(0.0, None, 0.1)


@pytest.mark.parametrize(
    "method",
    [
        GeoLoRA(),
        GeoLoRA(optimizer=Momentum()),
        BUG(),
        AugmentedBUG(),
        ParallelBUG(),
        ProjectorSplitting(),
        LoRA(),
        SVDLoRA(),
    ],
    ids=lambda m: type(m).__name__,
)
def test_memory_of_a_step(method):
    """n = 20000, rank 20, structured field: peak memory of a step is a few dozen arrays of size n x r."""
    import tracemalloc

    from problems import lyapunov

    n, r = 20_000, 20
    problem = lyapunov(n, rng(0))
    state = method.init(problem.initial(r, rng(1)))
    tracemalloc.start()
    method.step(problem.field, 0.0, state, 1e-3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 60 * n * r * 8 < n * n  # 192 MB; one n x n array would be 3200 MB


@pytest.mark.parametrize(
    "method,count",
    [
        (FullRank(substep=RK4()), 4),
        (ProjectorSplitting(), 3),
        (ProjectorSplitting(order=2, substep=Heun()), 10),
        (BUG(), 2),
        (AugmentedBUG(), 2),
        (BUG(substep=Heun()), 5),
        (BUG(substep=Exact()), 2),
        (ParallelBUG(), 1),
        (ParallelBUG(rejection=10.0), 2),
        (ParallelBUG(substep=Repeated(Heun(), 2)), 10),
        (GeoLoRA(), 1),
        (GeoLoRA(optimizer=Adam()), 1),
        (AdaLoRA(), 1),
    ],
    ids=repr,
)
def test_count_evaluations(method, count):
    """Fields per step for each substep: what is shared and what is not; numpy and torch alike."""
    assert count_evaluations(method) == count
    assert count_evaluations(method, torch.zeros((), dtype=torch.float32)) == count


@dataclass(frozen=True, kw_only=True)
class Midpoint(Integrator):
    """Explicit midpoint rule on S in fixed bases; it declares nothing."""

    def stages(self, t, state, h):
        U, S, V = state.Y
        f = yield t, state.Y
        g = yield t + h / 2, LowRank(U, S + h / 2 * f.S, V), "S"
        return LowRank(U, S + h * g.S, V)


def test_the_driver_counts(problem, Y):
    """What a method declares is checked; a method that declares nothing is counted."""
    assert Midpoint.evaluations is None and one_step(Midpoint(), problem, Y).evaluations == 2

    class Right(Midpoint):
        evaluations = 2

    class Wrong(Midpoint):
        evaluations = 1

    assert one_step(Right(), problem, Y).evaluations == 2
    with pytest.raises(RuntimeError, match="Wrong declares 1 evaluations per step, 2 were counted"):
        one_step(Wrong(), problem, Y)


def test_stacks_are_declared_where_stages_are_defined():
    """New stages in a subclass are not taken for stackable because those of its base are."""

    class Restated(GeoLoRA):
        def stages(self, t, state, h):
            return (yield from super().stages(t, state, h))

    class Renamed(GeoLoRA):
        pass

    assert not Integrator.stackable and not Midpoint().stackable and not Restated().stackable
    assert GeoLoRA().stackable and Renamed().stackable and not ParallelBUG(rejection=1.0).stackable


def test_for_run():
    """AdaLoRA plans its budget for the run, once; other methods are themselves."""
    rule = AdaLoRA().for_run(steps=300, rank=8).truncation
    assert rule == ImportanceBudget(initial=8, final=6, total_steps=300, warmup=30, cooldown=100, interval=3)
    planned = AdaLoRA(truncation=rule)
    assert planned.for_run(10, 2) is planned
    method = GeoLoRA()
    assert method.for_run(300, 8) is method


@pytest.mark.parametrize(
    "method",
    [BUG(), AugmentedBUG(optimizer=Momentum(0.5)), ProjectorSplitting(order=2), ParallelBUG(rejection=1.0)],
    ids=lambda m: type(m).__name__,
)
def test_notes_do_not_outlive_a_step(method):
    """Every stage has room for notes; the start, the result and what it was before truncation have none."""
    problem = MatrixRegression(rng(1).standard_normal((9, 7)))
    state = method.init(LowRank.random((9, 7), 3, rng(2)))
    points = []
    step = method.step(lambda t, Y: points.append(Y) or problem.field(t, Y), 0.0, state, 0.1)
    assert all(Y.notes is not None for Y in points)
    assert state.Y.notes is step.state.Y.notes is step.augmented.notes is None


def test_a_field_that_overflows_is_no_finite_number():
    """Python's own numbers raise where an array would have an infinity; the state is as it was."""
    method, start = GeoLoRA(), LowRank.random((4, 3), 1, rng())
    with pytest.raises(FloatingPointError, match="the field overflowed: math range error"):
        method.step(lambda t, Y: Projections.of(math.exp(1e3) * Y.full(), Y), 0.0, method.init(start), 0.1)


def test_what_is_no_method_is_not_counted():
    with pytest.raises(TypeError, match=r"integrator must be an integrators\.Integrator, got int 3"):
        count_evaluations(3)
