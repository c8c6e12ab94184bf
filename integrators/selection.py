"""Rows and columns of a field instead of its projections: which ones, and how they are asked for."""

from __future__ import annotations

import importlib.util
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from .checks import check_integer
from .linalg import check_finite, complements, concat, dagger, taken, to_numpy, units
from .lowrank import LowRank

__all__ = ["SELECTIONS", "check_selection", "first_field", "rows_and_columns", "select_rows"]

SELECTIONS = {"qdeim": None, "deim": "DEIM", "sqdeim": "sQDEIM"}
"""The ways to select rows, with the names of those that low-rank-toolbox computes."""


def check_selection(selection: str) -> None:
    """Raise ValueError for an unknown way to select rows, ImportError for one whose package is missing."""
    if selection not in SELECTIONS:
        raise ValueError(f"selection must be one of {', '.join(SELECTIONS)}, got {selection!r}")
    if SELECTIONS[selection] is not None and importlib.util.find_spec("low_rank_toolbox") is None:
        raise ImportError(f"selection {selection!r} needs the package low-rank-toolbox: pip install low-rank-toolbox")


def select_rows(U: Any, extra: int = 0, selection: str = "qdeim") -> list[int]:
    r"""Rows p of U (m, r) for which the interpolation :math:`U\, U[p, :]^+` has a small norm, oversampled.

    The first r are, by Q-DEIM, the pivots of a QR factorisation of U^H: the row that sticks out most from the span of
    those chosen, r times. Each further one is that in which the right singular vector of the smallest singular value of
    U[p, :] has its largest entry in U, which raises that value. Other orthonormal bases of the same space have the same
    rows (not so by ``"deim"``).

    Parameters
    ----------
    U : array (m, r)
        Orthonormal columns, r <= m.
    extra : int
        Rows beyond r, as far as there are any.
    selection : {"qdeim", "deim", "sqdeim"}
        How the first r are chosen. The last two are those of the package low-rank-toolbox: a row for each column of U,
        and the pivots of a strong rank-revealing QR factorisation.

    Returns
    -------
    list of int
        In the order in which they were chosen. Cost O(m r^2 + m r extra), on the host.

    References
    ----------
    Drmač, Gugercin (2016), A new selection operator for the discrete empirical interpolation method,
    doi:10.1137/15M1019271. Oversampling: Peherstorfer, Drmač, Gugercin (2020), doi:10.1137/19M1307391.
    """
    check_integer("extra", extra, 0)
    U = to_numpy(U)
    check_finite(U, "a basis")
    (m, r), function = U.shape, SELECTIONS[selection]
    if function is None:
        chosen = _qdeim(U)
    else:
        chosen = [int(i) for i in getattr(importlib.import_module("low_rank_toolbox.cssp"), function)(U)]
    for _ in range(min(extra, m - r)):
        weakest = np.linalg.svd(U[chosen])[2][-1].conj()
        sizes = np.abs(U @ weakest)
        sizes[chosen] = -1.0
        chosen.append(int(np.argmax(sizes)))
    return chosen


def _qdeim(U: np.ndarray) -> list[int]:
    rest, chosen = U.copy(), []
    for _ in range(U.shape[1]):
        chosen.append(int(np.argmax(np.linalg.norm(rest, axis=1))))
        pivot = rest[chosen[-1]] / np.linalg.norm(rest[chosen[-1]])
        rest = rest - np.outer(rest @ pivot.conj(), pivot)
        rest[chosen] = 0.0
    return chosen


def first_field(t: float, Y: LowRank) -> Generator[tuple, Any, None]:
    """Ask for the field at Y, for the moments of an optimiser; see that it is finite where it is there already.

    A field that knows rows and columns computes its projections when they are read, and these are not.
    """
    f = yield t, Y, "S"
    if not hasattr(f, "rows"):
        check_finite(f.S)


def rows_and_columns(t: float, Y: LowRank, p: Sequence[int], q: Sequence[int]) -> Generator[tuple, Any, Any]:
    """Ask for rows and columns of the field: ``F[p, :]`` (|p|, n) and ``F[:, q]`` (m, |q|).

    A field says that it knows them by ``f.rows(p)`` and ``f.columns(q)``, which then are all that is computed. Of any
    other, a network's gradient, they come from its projections onto bases that hold the unit vectors.
    """
    Ut, Vt = complements((Y.U, units(Y.U, p)), (Y.V, units(Y.V, q)))
    Z = Y.embed(concat(Y.U, Ut), concat(Y.V, Vt))
    f = yield t, Z, "K", "L"
    if hasattr(f, "rows"):
        return f.rows(p), f.columns(q)
    return taken(Z.U, p) @ dagger(f.L), f.K @ dagger(taken(Z.V, q))
