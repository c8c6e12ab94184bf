"""Rows and columns: the selection, and how a field is asked for them."""

import numpy as np
import pytest
import scipy.linalg
import torch
from low_rank_toolbox.cssp import QDEIM

from dlrt.testing import rng, unitary
from integrators import LowRank, Projections
from integrators.selection import SELECTIONS, check_selection, rows_and_columns, select_rows
from problems import MatrixRegression

EPS = 1e-13


def basis(m, r, dtype=np.float64, seed=1):
    return LowRank.random((m, m), r, rng(seed), np.zeros((), dtype)).U


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_the_first_are_the_pivots_of_qr(dtype):
    U = basis(40, 6, dtype)
    assert select_rows(U) == scipy.linalg.qr(U.conj().T, pivoting=True)[2][:6].tolist() == QDEIM(U).tolist()
    assert select_rows(torch.asarray(U)) == select_rows(U)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_the_selection_depends_on_the_space_alone(dtype):
    U = basis(40, 6, dtype)
    assert select_rows(U, 5) == select_rows(U @ unitary(6, 3, dtype), 5)


def test_oversampling_tames_the_interpolation():
    """The norm of ``U U[p]^+`` falls with every row, from its bound for Q-DEIM on: sqrt(1 + 4^r ...) in theory."""
    norms = []
    for extra in (0, 2, 6, 12):
        U = basis(60, 8)
        p = select_rows(U, extra)
        assert len(set(p)) == 8 + extra and p[:8] == select_rows(U)
        norms.append(np.linalg.norm(np.linalg.pinv(U[p]), 2))
    assert norms == sorted(norms, reverse=True) and norms[-1] <= 0.7 * norms[0] <= 0.7 * 60
    assert sorted(select_rows(basis(9, 3), 100)) == list(range(9))


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_every_selection_interpolates_well(selection, dtype):
    """Rows that differ, with a norm of the interpolation of some sqrt(m r); oversampled like all."""
    U = basis(40, 6, dtype)
    p = select_rows(U, 0, selection)
    assert len(set(p)) == 6 and all(type(i) is int for i in p)
    assert np.linalg.norm(np.linalg.pinv(U[p]), 2) <= np.sqrt(40 * 6)
    assert len(set(select_rows(U, 4, selection))) == 10
    assert sorted(select_rows(np.eye(9, dtype=dtype)[:, [7, 2, 4]], 0, selection)) == [2, 4, 7]


def test_unknown_selections(monkeypatch):
    with pytest.raises(ValueError, match="selection must be one of qdeim, deim, sqdeim, got 'best'"):
        check_selection("best")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_selection("qdeim")
    with pytest.raises(ImportError, match="selection 'deim' needs the package low-rank-toolbox: pip install"):
        check_selection("deim")


def test_a_coordinate_space_is_found():
    assert sorted(select_rows(np.eye(9)[:, [7, 2, 4]])) == [2, 4, 7]


def test_bad_arguments():
    with pytest.raises(ValueError, match="extra must be at least 0, got -1"):
        select_rows(basis(9, 3), -1)
    with pytest.raises(FloatingPointError, match="a basis has non-finite entries"):
        select_rows(np.full((4, 2), np.nan))


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
