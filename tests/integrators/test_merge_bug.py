"""Implicit merge-BUG: the contract, cross terms, large steps, what it keeps."""

import numpy as np
import pytest

from dlrt.testing import Contract, one_step, rng
from integrators import AugmentedBUG, Euler, Exact, FixedRank, LowRank, MergeBUG, Tolerance
from problems import anisotropic_diffusion, from_function, lyapunov, schroedinger, solid_body_rotation

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestMergeBUG(Contract):
    integrator = MergeBUG()
    exact = True
    scatter = 1.5  # other singular values, other numbers in what the sketches leave out
    test_orthonormal_after_3000_steps = None  # what QR and truncation leave, as for others; long


def run(method, problem, steps, rank=4):
    """Relative error at the end of the problem."""
    h, state = problem.t_end / steps, method.init(problem.initial(rank, rng(1)))
    for k in range(steps):
        state = method.step(problem.field, k * h, state, h).state
    return problem.error(problem.t_end, state.Y) / np.linalg.norm(problem.reference(problem.t_end))


def test_wide_sketches_give_the_method_for_the_full_matrix():
    """2 r + p = 11 columns lose nothing of a (9, 7) field: Euler's method for the whole matrix, then truncated."""
    A = rng(1).standard_normal((9, 7))
    problem = from_function((9, 7), lambda t, Y: np.cos(t) * A - Y.full() ** 3)
    Y = LowRank.random((9, 7), 3, rng(2))
    step = one_step(MergeBUG(substep=Euler(), truncation=FixedRank(3)), problem, Y)
    assert np.linalg.norm(step.augmented.full() - Y.full() - 0.1 * (A - Y.full() ** 3)) <= EPS
    assert step.evaluations == 3 and step.state.Y.rank == 3


@pytest.mark.parametrize("make", [solid_body_rotation, anisotropic_diffusion])
def test_it_converges_where_bug_does_not(make):
    """Cross terms are all of the field (rotation), or as large as the rest of it and treated explicitly (diffusion)."""
    problem = make(16)
    method, counts = MergeBUG(truncation=Tolerance(relative=1e-7)), (20, 40, 80)
    errors = [run(method, problem, steps, rank=1) for steps in counts]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope - 1) <= 0.2, (slope, errors)
    if make is solid_body_rotation:
        stays = run(AugmentedBUG(substep=Exact(), truncation=Tolerance(relative=1e-7)), problem, 80, rank=1)
        assert stays >= 0.3 > 10 * errors[-1]


def test_no_step_is_too_long_for_diffusion():
    """h L is 137, where explicit steps may have 2, and the error falls like h from there on."""
    problem = anisotropic_diffusion(64)
    method, counts = MergeBUG(truncation=Tolerance(relative=1e-7)), (2, 4, 8)
    assert problem.lipschitz * problem.t_end / 2 > 100
    errors = [run(method, problem, steps, rank=1) for steps in counts]
    assert errors[0] <= 0.2 and errors[2] <= 0.6 * errors[1] <= 0.36 * errors[0]


def test_implicit_on_the_stiff_heat_equation():
    """A step h ||A|| = 1000 of the Lyapunov equation damps what it should."""
    problem = lyapunov(30, rng(1), stiff=True)
    h, method = 500 / np.linalg.norm(problem.A, 2), MergeBUG(truncation=FixedRank(8))
    state = method.init(problem.initial(8, rng(2)))
    for k in range(10):
        state = method.step(problem.field, k * h, state, h).state
    exact = problem.reference(10 * h)
    assert np.linalg.norm(state.Y.full() - exact) <= 1e-2 * np.linalg.norm(exact)


def test_norm_and_energy_are_kept_with_an_exact_galerkin_step():
    problem = schroedinger(rng(1), 24)
    Y = problem.initial(4, rng(2))
    step = one_step(MergeBUG(substep=Exact(), truncation=FixedRank(4)), problem, Y, 0.2)
    assert abs(problem.norm(step.augmented) - problem.norm(Y)) <= EPS
    assert abs(problem.energy(step.augmented) - problem.energy(Y)) <= EPS
