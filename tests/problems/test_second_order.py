"""Equations of second order in one matrix: parts of the field, blocks of a point, and equations of one's own."""

import numpy as np
import pytest

import problems
from dlrt import solve
from integrators import AugmentedBUG, ProjectorSplitting, Tolerance

from .contract import gaussian, point


def test_parts_add_up_to_the_field():
    p = problems.klein_gordon(6)
    Y = p.initial(5, np.random.default_rng(0))
    f = p.field(0.0, Y)
    drift, kick = f.parts
    assert np.allclose(drift.full() + kick.full(), f.full(), atol=1e-14)
    assert np.array_equal(drift.full()[:6, :6], p.velocity_of(Y).full()) and not drift.full()[6:].any()
    assert not kick.full()[:6].any() and not kick.full()[:, :6].any()


@pytest.mark.parametrize("rank, ranks", [(1, (1, 0)), (2, (2, 0)), (3, (2, 1)), (4, (2, 2)), (7, (4, 3)), (12, (6, 6))])
def test_ranks_of_the_start(rank, ranks):
    """The largest singular values (1.2, 0.6 of A, 0.5 of B on this grid), then as many of both as there can be."""
    p = problems.klein_gordon(6)
    Y = p.initial(rank, np.random.default_rng(0))
    assert (p.position_of(Y).rank, p.velocity_of(Y).rank) == ranks


def test_blocks_of_a_point():
    p = problems.klein_gordon(6)
    Y = p.initial(3, np.random.default_rng(0))
    assert np.allclose(p.position_of(Y).full(), p.position, atol=1e-15 * 36)
    assert np.allclose(p.velocity_of(Y).full(), p.velocity, atol=1e-15 * 36)
    rng = np.random.default_rng(1)
    Z = point(rng, (12, 12), (4, 3))
    assert np.allclose(p.position_of(Z).full(), Z.full()[:6, :6], atol=1e-13)
    assert np.allclose(p.velocity_of(Z).full(), Z.full()[6:, 6:], atol=1e-13)


def test_other_methods_take_it_as_one_equation():
    p = problems.klein_gordon(16)
    run = solve(AugmentedBUG(truncation=Tolerance(relative=1e-4)), p, t_span=(0, 2), rtol=1e-4, rank=6, every=1000)
    assert run.status == "finished" and run.errors[-1] < 1e-2 * np.linalg.norm(p.reference(2.0))


def test_an_equation_of_ones_own():
    """A'' = -A, a rotation of (A, A')."""

    class Oscillator(problems.SecondOrder):
        name = "oscillator"

        def force(self, A):
            return problems.OperatorField(A, lambda X: -A.K @ (A.V.T @ X), lambda X: -A.V @ (A.K.T @ X))

        def dense_force(self, A):
            return -A

    rng = np.random.default_rng(0)
    A, B = (np.outer(*gaussian(rng, 2, 5)) for _ in range(2))
    p = Oscillator(A, B)
    assert np.abs(p.reference(0.5)[:5, :5] - (np.cos(0.5) * A + np.sin(0.5) * B)).max() < 1e-11
    run = solve(ProjectorSplitting(order=2), p, steps=100, step_size=0.005, rank=4)
    assert run.errors[-1] < 1e-5 * np.linalg.norm(A)


def test_a_start_at_rest():
    """The velocity is zero: it shares in what the rank leaves, in random directions."""
    p = problems.KleinGordon(np.diag([3.0, 2.0, 1.0, 0.0, 0.0]), np.zeros((5, 5)))
    Y = p.initial(6, np.random.default_rng(0))
    assert (p.position_of(Y).rank, p.velocity_of(Y).rank) == (3, 3) and p.error(0.0, Y) <= 1e-14
    assert np.abs(Y.U.T @ Y.U - np.eye(6)).max() <= 1e-14
