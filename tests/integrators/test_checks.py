"""Argument checks: what passes, and messages that name the argument, the expectation and what came."""

import numpy as np
import pytest
import torch

from integrators.checks import (
    check_fraction,
    check_integer,
    check_jobs,
    check_matrix,
    check_number,
    check_orthonormal,
    check_positive,
    check_rank,
    check_rng,
    check_singular_values,
)


def test_what_passes():
    assert check_integer("n", np.int64(3)) == 3 and type(check_integer("n", np.int64(3))) is int
    assert check_rank(np.int32(4), (5, 4)) == 4 and check_rank(2, (7, 5, 4)) == 2
    assert type(check_positive("h", np.float32(0.5))) is float
    assert check_number("tol", 0) == 0.0 and check_number("x", -2.5) == -2.5
    assert check_jobs(-1) == -1
    check_fraction("beta", 0.0)
    check_rng(np.random.default_rng())
    check_matrix("A", torch.ones(2, 3))
    check_orthonormal("U", np.eye(4, 2))
    check_singular_values(np.array([2.0, 1.0]), (3, 2))


@pytest.mark.parametrize(
    "call,error,message",
    [
        (lambda: check_integer("steps", 2.0), TypeError, "steps must be an integer, got float 2.0"),
        (lambda: check_integer("steps", True), TypeError, "steps must be an integer, got bool True"),
        (lambda: check_integer("steps", 0), ValueError, "steps must be at least 1, got 0"),
        (lambda: check_rank(12, (10, 20)), ValueError, r"rank 12 exceeds min\(m, n\) = 10"),
        (lambda: check_number("tol", "a"), TypeError, "tol must be a real number, got str 'a'"),
        (lambda: check_number("tol", -1, 0), ValueError, "tol must be finite and >= 0, got -1"),
        (lambda: check_positive("h", 0.0), ValueError, "h must be positive and finite, got 0.0"),
        (lambda: check_positive("h", 1j), TypeError, "h must be a positive number, got complex 1j"),
        (lambda: check_fraction("beta", 1.0), ValueError, r"beta must lie in \[0, 1\), got 1.0"),
        (lambda: check_jobs(0), ValueError, "jobs must be a positive or negative integer, got 0"),
        (lambda: check_rng(3), TypeError, "rng must be a numpy.random.Generator, got int 3"),
        (lambda: check_matrix("A", [[1.0]]), TypeError, "A must be a numpy array or torch tensor, got list"),
        (lambda: check_matrix("A", np.ones(3)), ValueError, "A must be a matrix"),
        (lambda: check_matrix("A", np.ones((2, 2), int)), TypeError, "A must have a real or complex floating dtype"),
        (lambda: check_matrix("A", np.full((2, 2), np.nan)), ValueError, "A must be finite"),
        (lambda: check_singular_values(np.ones(4), (3, 2)), ValueError, "singular_values must be 1 to"),
        (lambda: check_singular_values(np.array([0.0]), (3, 2)), ValueError, "singular_values must be positive"),
        (lambda: check_orthonormal("U", np.ones((3, 2))), ValueError, "U must have orthonormal columns"),
    ],
)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
