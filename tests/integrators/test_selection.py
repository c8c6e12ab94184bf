"""Rows and columns: the selection, and how a field is asked for them."""

import numpy as np
import pytest
import scipy.linalg
import torch

from dlrt.testing import rng, unitary
from integrators import LowRank, Projections
from integrators.selection import qdeim, rows_and_columns
from problems import MatrixRegression

EPS = 1e-13


def basis(m, r, dtype=np.float64, seed=1):
    return LowRank.random((m, m), r, rng(seed), np.zeros((), dtype)).U


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_the_first_are_the_pivots_of_qr(dtype):
    U = basis(40, 6, dtype)
    assert qdeim(U) == scipy.linalg.qr(U.conj().T, pivoting=True)[2][:6].tolist()
    assert qdeim(torch.asarray(U)) == qdeim(U)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_the_selection_depends_on_the_space_alone(dtype):
    U = basis(40, 6, dtype)
    assert qdeim(U, 5) == qdeim(U @ unitary(6, 3, dtype), 5)


def test_oversampling_tames_the_interpolation():
    """The norm of ``U U[p]^+`` falls with every row, from its bound for Q-DEIM on: sqrt(1 + 4^r ...) in theory."""
    norms = []
    for extra in (0, 2, 6, 12):
        U = basis(60, 8)
        p = qdeim(U, extra)
        assert len(set(p)) == 8 + extra and p[:8] == qdeim(U)
        norms.append(np.linalg.norm(np.linalg.pinv(U[p]), 2))
    assert norms == sorted(norms, reverse=True) and norms[-1] <= 0.7 * norms[0] <= 0.7 * 60
    assert sorted(qdeim(basis(9, 3), 100)) == list(range(9))


def test_a_coordinate_space_is_found():
    assert sorted(qdeim(np.eye(9)[:, [7, 2, 4]])) == [2, 4, 7]


def test_bad_arguments():
    with pytest.raises(ValueError, match="extra must be at least 0, got -1"):
        qdeim(basis(9, 3), -1)
    with pytest.raises(FloatingPointError, match="a basis has non-finite entries"):
        qdeim(np.full((4, 2), np.nan))


@pytest.mark.parametrize("known", [True, False])
def test_rows_and_columns_of_any_field(known):
    """From the field itself, or from its projections onto bases that hold unit vectors: one field, the same numbers."""
    problem = MatrixRegression(rng(1).standard_normal((9, 7)))
    Y, p, q = LowRank.random((9, 7), 3, rng(2)), [8, 1, 4, 0], [3, 6]
    F = problem.field(0.0, Y).full()
    stages = rows_and_columns(0.5, Y, p, q)
    t, Z, *parts = next(stages)
    assert t == 0.5 and parts == ["K", "L"] and np.linalg.norm(Z.full() - Y.full()) <= EPS
    with pytest.raises(StopIteration) as stop:
        stages.send(problem.field(t, Z) if known else Projections.of(F, Z))
    rows, columns = stop.value.value
    assert np.linalg.norm(rows - F[p]) + np.linalg.norm(columns - F[:, q]) <= EPS
