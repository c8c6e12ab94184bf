"""Argument checks: what passes, and messages that name the argument, the expectation and what came."""

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from integrators.checks import (
    check_array,
    check_fraction,
    check_instance,
    check_integer,
    check_jobs,
    check_matrix,
    check_not_negative,
    check_number,
    check_orthonormal,
    check_positive,
    check_precision,
    check_rank,
    check_rng,
    check_shape,
    check_singular_values,
)

MASKED = np.ma.masked_invalid([[1.0, np.nan], [2.0, 3.0]])


class Table:
    """What a table of pandas or polars looks like."""

    ndim = 2

    def to_numpy(self):
        return np.eye(2)


def test_what_passes():
    assert check_integer("n", np.int64(3)) == 3 and type(check_integer("n", np.int64(3))) is int
    assert check_rank(np.int32(4), (5, 4)) == 4 and check_rank(2, (7, 5, 4)) == 2
    assert type(check_positive("h", np.float32(0.5))) is float
    assert check_number("tol", 0) == 0.0 and check_number("x", -2.5) == -2.5
    assert check_jobs(-1) == -1
    assert check_fraction("beta", 0.0) == 0.0 and type(check_fraction("beta", np.float64(0.5))) is float
    assert check_not_negative("gamma", 0) == 0.0 and check_not_negative("tau", np.inf) == np.inf
    for library, X in (("numpy", np.ones(2)), ("torch", torch.ones(2))):
        assert library in check_array("X", X).__name__
        check_precision("X", X)
    check_instance("text", "abc", str)
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
        (lambda: check_fraction("beta", "a"), TypeError, "beta must be a real number, got str 'a'"),
        (lambda: check_not_negative("tau", np.nan), ValueError, "tau must be >= 0, got nan"),
        (lambda: check_number("tol", np.True_), TypeError, "tol must be a real number"),
        (
            lambda: check_instance("a", 3, Fraction, "1/2"),
            TypeError,
            "a must be a fractions.Fraction such as 1/2, got int",
        ),
        (lambda: check_instance("a", Fraction, Fraction), TypeError, r"got the class Fraction: write Fraction\(\)"),
        (lambda: check_number("t", 10**400), ValueError, "t must be a floating-point number: int too large"),
        (lambda: check_shape(3), TypeError, r"shape must be a pair of integers \(m, n\), got int 3"),
        (lambda: check_shape((3, 4, 5)), TypeError, "shape must be a pair"),
        (lambda: check_shape((3, 0)), ValueError, "m and n of shape must be at least 1, got 0"),
        (lambda: check_jobs(10**10), ValueError, "jobs must be a positive or negative integer"),
        (lambda: check_jobs(0), ValueError, "jobs must be a positive or negative integer, got 0"),
        (lambda: check_rng(3), TypeError, "rng must be a numpy.random.Generator, got int 3"),
        (lambda: check_matrix("A", [[1.0]]), TypeError, r"torch tensor, got list: use numpy.array\(...\)"),
        (lambda: check_matrix("A", "text"), TypeError, "A must be a numpy array or torch tensor, got str$"),
        (lambda: check_matrix("A", sp.eye(3).tocsr()), TypeError, r"got csr_matrix: make it dense with .toarray\(\)"),
        (lambda: check_matrix("A", sp.eye_array(3)), TypeError, r"got dia_array: make it dense with .toarray\(\)"),
        (lambda: check_matrix("A", torch.eye(3).to_sparse()), TypeError, r"sparse layout: .* with .to_dense\(\)"),
        (lambda: check_matrix("A", torch.eye(3).to_sparse_csr()), TypeError, r"sparse layout: .* with .to_dense\(\)"),
        (lambda: check_matrix("A", MASKED), TypeError, r"with 1 masked entries: fill them with .filled\(value\)"),
        (lambda: check_matrix("A", np.ma.masked_array(np.eye(3))), TypeError, "with 0 masked entries"),
        (lambda: check_matrix("A", np.matrix(np.eye(2))), TypeError, r"got matrix: use numpy.asarray\(X\)"),
        (lambda: check_matrix("A", Table()), TypeError, r"got Table: use .to_numpy\(\)"),
        (lambda: check_matrix("A", np.eye(2, dtype=np.float16)), TypeError, "got float16: convert it to float32 or"),
        (lambda: check_matrix("A", np.eye(2, dtype=np.longdouble)), TypeError, "got float128: convert it to float32"),
        (
            lambda: check_matrix("A", np.eye(2, dtype=np.clongdouble)),
            TypeError,
            "convert it to complex64 or complex128",
        ),
        (lambda: check_matrix("A", torch.eye(2, dtype=torch.bfloat16)), TypeError, "got bfloat16: convert it to"),
        (lambda: check_matrix("A", np.array([["1"]])), TypeError, "A must have a real or complex floating dtype"),
        (lambda: check_matrix("A", np.eye(2, dtype=bool)), TypeError, "got bool: convert it, usually to float64"),
        (lambda: check_matrix("A", np.eye(2, dtype=object)), TypeError, "floating dtype, got object"),
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
