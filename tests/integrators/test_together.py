"""Matrices in one stack, whatever their ranks, give what they give alone; those that do not fit leave it."""

import numpy as np
import pytest
import torch

from integrators import (
    BUG,
    RK4,
    AdaLoRA,
    Adam,
    AlignedAdam,
    AugmentedBUG,
    FactoredAdam,
    FixedRank,
    FullRank,
    GeoLoRA,
    GlobalBudget,
    Heun,
    LoRA,
    LowRank,
    Momentum,
    Normalised,
    ParallelBUG,
    Projections,
    ProjectorSplitting,
    Spectral,
    SVDLoRA,
    Tolerance,
)
from integrators.together import Together, finish, separate

METHODS = [
    FullRank(optimizer=Adam()),
    LoRA(optimizer=Momentum()),
    SVDLoRA(),
    AdaLoRA(),
    ProjectorSplitting(),
    ProjectorSplitting(order=2, substep=Heun(), optimizer=Adam()),
    BUG(optimizer=Momentum()),
    AugmentedBUG(truncation=Tolerance(relative=0.05, spare=1)),
    AugmentedBUG(truncation=FixedRank(3), substep=RK4(), optimizer=Adam()),
    ParallelBUG(truncation=FixedRank(4)),
    GeoLoRA(),
    GeoLoRA(optimizer=Adam()),
    GeoLoRA(truncation=GlobalBudget(columns=9), optimizer=Momentum()),
    GeoLoRA(truncation=FixedRank(4), optimizer=Spectral()),
    GeoLoRA(truncation=GlobalBudget(parameters=42 * 9, fisher=0.9), optimizer=Spectral()),
    GeoLoRA(truncation=FixedRank(3), optimizer=AlignedAdam()),
    AugmentedBUG(truncation=FixedRank(4), optimizer=FactoredAdam()),
    ParallelBUG(truncation=FixedRank(4), optimizer=Normalised()),
    BUG(optimizer=Spectral()),
    AugmentedBUG(truncation=Tolerance(absolute=1e-8), optimizer=Spectral()),
]


def advanced(integrator, states, targets, stacked, h=0.1):
    """The states after a step of size h along A - Y, in one stack or each alone, and the groups at the end."""
    parts = [states] if stacked else [{name: state} for name, state in states.items()]
    groups = [Together(integrator, part, h, stacked=stacked) for part in parts]
    while pending := [group for group in groups if group.request is not None]:
        groups += (left := separate(pending))
        for group in [*pending, *left]:
            A = torch.stack([targets[name] for name in group.names]) if group.stacked else targets[group.names[0]]
            group.answer(Projections.of(A - group.point.full(), group.point))
    return finish(integrator.truncation, groups), groups


def example(integrator, shape=(24, 18), dtype=torch.float64):
    """Matrices of ranks 4, 1, 3 and 3 and their targets; the last finds dependent directions, one new each."""
    rng, like = np.random.default_rng(0), torch.zeros((), dtype=dtype)
    starts = [LowRank.random(shape, r, rng, like) for r in (4, 1, 3, 3)]
    targets = [LowRank.random(shape, 6, rng, like, singular_values=range(6, 0, -1)).full() for _ in starts]
    u, v = torch.linalg.qr(torch.randn(shape[0], 1).to(dtype))[0], starts[3].V.sum(-1, keepdim=True)
    targets[3] = starts[3].full() + u @ v.mT
    names = "abcd"
    states = dict(zip(names, map(integrator.init, starts), strict=True))
    return states, dict(zip(names, targets, strict=True))


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_stack_steps_as_its_matrices_alone(method):
    """Several steps: ranks, matrices, memories; the one with dependent directions goes alone where that matters."""
    torch.manual_seed(0)
    states, targets = example(method)
    others = states
    for _ in range(3):
        (together, _), (alone, _) = advanced(method, states, targets, True), advanced(method, others, targets, False)
        assert together.keys() == alone.keys()
        for name, (a, error) in together.items():
            b, expected = alone[name]
            torch.testing.assert_close(a.Y.full(), b.Y.full(), rtol=1e-10, atol=1e-11)
            assert a.Y.S.shape == b.Y.S.shape and a.memory.keys() == b.memory.keys()
            assert error == pytest.approx(expected, abs=1e-11)
            for key, X in a.memory.items():
                assert np.shape(X) == np.shape(b.memory[key])
        states, others = ({name: state for name, (state, _) in found.items()} for found in (together, alone))


def test_only_what_does_not_fit_leaves_the_stack():
    """The matrix with dependent directions."""
    torch.manual_seed(0)
    for method in (GeoLoRA(), AugmentedBUG(substep=Heun())):
        states, targets = example(method)
        found, groups = advanced(method, states, targets, True)
        assert groups[0].lost == {3}
        assert list(found) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("method", [GeoLoRA(), LoRA(), BUG(), AugmentedBUG()], ids=repr)
@pytest.mark.parametrize("stacked", [True, False])
def test_a_bad_field_is_named(method, stacked):
    states, targets = example(method)
    targets["c"][0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"^c: .*(non-finite|not finite)"):
        advanced(method, states, targets, stacked)


def test_a_matrix_that_overflows_is_named():
    states, targets = example(GeoLoRA(), dtype=torch.float32)
    targets = {name: states[name].Y.full() + (name == "b") * 1e3 * A for name, A in targets.items()}
    for stacked in (True, False):
        with pytest.raises(FloatingPointError, match=r"^b: the (field|matrix)"):
            advanced(GeoLoRA(), states, targets, stacked, h=3e38)


def test_a_wrong_declaration_is_an_error():
    class Wrong(GeoLoRA):
        evaluations = 2

    states, targets = example(Wrong())
    with pytest.raises(RuntimeError, match="declares 2 evaluations per step, 1 were counted"):
        advanced(Wrong(), states, targets, True)
