"""The interface: hyper-parameters, counting, starts, stacks, memory."""

from dataclasses import dataclass

import pytest
import torch

from dlrt.testing import one_step, rng
from integrators import (
    BUG,
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
    ProjectorSplitting,
    Repeated,
    SVDLoRA,
    count_evaluations,
)
from problems import MatrixRegression


@pytest.mark.parametrize(
    "build,message",
    [
        (lambda: Momentum(1.0), r"beta must lie in \[0, 1\), got 1.0"),
        (lambda: Adam(beta1=-0.1), "beta1 must lie in"),
        (lambda: Adam(eps=0.0), "eps must be positive, got 0.0"),
        (lambda: AdaLoRA(gamma=-1), "gamma must be >= 0, got -1"),
        (lambda: AdaLoRA(beta2=2), "beta2 must lie in"),
        (lambda: ProjectorSplitting(order=3), "order must be 1 or 2, got 3"),
    ],
)
def test_bad_hyperparameters(build, message):
    with pytest.raises(ValueError, match=message):
        build()


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
