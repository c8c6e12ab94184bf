"""What all problems share: constants that are not known, the limit of enumeration, the best approximation."""

import math

import numpy as np
import pytest

import problems
from integrators.linalg import dagger
from problems.problem import best_approximation

from .contract import SMALL, gaussian


class Unknown(problems.Problem):
    """A problem that says nothing of its constants."""

    name, shape, like = "unknown", SMALL, np.empty(0)
    initial = field = None


class Bumpy(Unknown, problems.LossProblem):
    """A loss that is not convex."""

    lipschitz = 3.0
    loss = gradient_bound = minimum = None


def test_constants_that_nobody_derived():
    p = Unknown()
    assert p.lipschitz == p.one_sided_lipschitz == math.inf
    assert p.time_lipschitz(0.0, 1.0) is None
    assert p.t_end == 1.0 and p.dtype == np.float64


def test_one_sided_constant_and_constant_in_time_of_a_loss():
    p = Bumpy()
    assert p.one_sided_lipschitz == 3.0 and p.time_lipschitz(0.0, 1.0) == 0.0
    convex = problems.LinearLeastSquares(np.ones((3, 2)), np.ones((3, 2)))
    assert convex.one_sided_lipschitz == 0.0 < convex.lipschitz


def test_too_many_mini_batches_are_refused():
    rng = np.random.default_rng(13)
    p = problems.LinearLeastSquares(gaussian(rng, 100, 2), gaussian(rng, 100, 2), 10)
    with pytest.raises(ValueError, match=r"\d+ mini-batches \(10 of 100\) are too many to enumerate"):
        p.enumerate_minibatches()


def test_best_approximation_fills_the_bases():
    rng = np.random.default_rng(0)
    P, Q = gaussian(rng, 8, 2, dtype=np.complex128), gaussian(rng, 6, 2, dtype=np.complex128)
    U, S, V = best_approximation(P, Q, 5, rng, np.empty(0, np.complex128))
    assert np.abs(U @ S @ V.conj().T - P @ Q.conj().T).max() < 1e-13
    assert np.count_nonzero(S) == 2
    assert np.abs(dagger(U) @ U - np.eye(5)).max() < 1e-14
    W = np.linalg.svd(P @ Q.conj().T)
    U, S, V = best_approximation(P, Q, 1, rng, np.empty(0, np.complex128))
    assert np.abs(U @ S @ V.conj().T - W[1][0] * np.outer(W[0][:, 0], W[2][0])).max() < 1e-13
