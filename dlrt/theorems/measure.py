"""What the checks measure: runs, dense matrices in double precision, tangent and normal parts, rounding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from integrators import Integrator, LowRank, State, Step
from integrators.linalg import to_numpy
from problems import LossProblem

FAILURES = (FloatingPointError, OverflowError, np.linalg.LinAlgError, ZeroDivisionError)
"""What a step may raise where its numbers are no longer finite: reported as a violation at that step."""

# -- runs --------------------------------------------------------------------------------------------------------------


def start_of(problem, rank: int, rng: np.random.Generator, norm: float | None = None) -> LowRank:
    """The problem's own start, of the rank or less; of the given norm for a loss that starts anywhere."""
    rank = min(rank, *problem.shape)
    if norm is not None and isinstance(problem, LossProblem) and getattr(problem, "start", None) is None:
        return problem.initial(rank, rng, norm)
    return problem.initial(rank, rng)


def attempt(integrator: Integrator, field: Callable, state: State, h: float, t: float = 0.0) -> Step | None:
    """One step; None where its numbers are no longer finite."""
    try:
        return integrator.step(field, t, state, h)
    except FAILURES:
        return None


def run(
    integrator: Integrator, field: Callable, state: State, h: float, steps: int
) -> Iterator[tuple[int, State, Step | None]]:
    """Yield ``(k, state, step)`` for k = 1, 2, ...: the state before the step, and the step.

    The step is None where it failed; that is the end of the run.
    """
    for k in range(1, steps + 1):
        step = attempt(integrator, field, state, h, (k - 1) * h)
        yield k, state, step
        if step is None:
            return
        state = step.state


def failed(at: float) -> tuple[float, float, float, float]:
    """The row of a series for a step that failed."""
    return at, math.inf, 0.0, 0.0


# -- dense measurements in double precision ----------------------------------------------------------------------------


def dense(Y: Any) -> np.ndarray:
    """The matrix ``U S V^H`` of a point in double precision."""
    U, S, V = (wide(getattr(Y, name)) for name in "USV")
    return U @ S @ V.conj().T


def wide(X: Any) -> np.ndarray:
    """A numpy or torch array as a numpy array in double precision."""
    X = to_numpy(X)
    return X.astype(np.complex128 if np.iscomplexobj(X) else np.float64)


def norm(X: Any) -> float:
    """Frobenius norm."""
    return float(np.linalg.norm(X))


def basis(X: Any) -> np.ndarray:
    """Orthonormal basis of the range of X: X itself where it has orthonormal columns, else from the SVD."""
    X = wide(X)
    if X.shape[1] <= X.shape[0] and norm(X.conj().T @ X - np.eye(X.shape[1])) < 1e-4:
        return np.linalg.qr(X)[0]
    U, s, _ = np.linalg.svd(X, full_matrices=False)
    return U[:, s > max(X.shape) * np.finfo(float).eps * s[0]] if len(s) and s[0] > 0 else U[:, :0]


def bases(Y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal bases of the ranges of U and V.

    With them ``P(Y) Z = U U^H Z + Z V V^H - U U^H Z V V^H`` has a meaning for every method: the tangent space of the
    matrices ``B A`` for LoRA (its range is that of the derivative of B A), everything for the full matrix.
    """
    return basis(Y.U), basis(Y.V)


def tangent_part(Z: np.ndarray, U: np.ndarray, V: np.ndarray) -> np.ndarray:
    """P Z for orthonormal U and V."""
    UZ = U @ (U.conj().T @ Z)
    rest = Z - UZ
    return UZ + rest @ V @ V.conj().T


def normal_part(Z: np.ndarray, U: np.ndarray, V: np.ndarray) -> np.ndarray:
    """(I - P) Z = (I - U U^H) Z (I - V V^H)."""
    Z = Z - U @ (U.conj().T @ Z)
    return Z - (Z @ V) @ V.conj().T


def msign(X: np.ndarray, cut: float = 1e-12) -> np.ndarray:
    """``A B^H`` for ``X = A diag(d) B^H`` with the singular values above ``cut`` times the largest; 0 for X = 0."""
    A, d, BH = np.linalg.svd(X, full_matrices=False)
    used = d > cut * np.max(d, initial=0.0)
    return A[:, used] @ BH[used]


def nuclear(X: np.ndarray) -> float:
    """Nuclear norm, the sum of the singular values."""
    return float(np.sum(np.linalg.svd(X, compute_uv=False)))


def tangent_core(Z: np.ndarray, U: np.ndarray, V: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bases that begin with the ranges of U and V, and the core C: ``P Z = U^ C V^^H``, its last block being zero."""
    (r, s), parts = (U.shape[1], V.shape[1]), ((U, Z @ V), (V, Z.conj().T @ U))
    Uh, Vh = (np.linalg.qr(np.hstack(pair))[0] for pair in parts)
    C = Uh.conj().T @ Z @ Vh
    C[r:, s:] = 0.0
    return Uh, C, Vh


def field_at(problem, t: float, Y: Any) -> np.ndarray:
    """The field as a dense matrix in double precision."""
    return wide(problem.field(t, Y).full())


def gradient_at(problem, Y: Any) -> np.ndarray:
    """The gradient of a loss as a dense matrix in double precision."""
    return -field_at(problem, 0.0, Y)


def eps_of(Y: Any) -> float:
    """Machine epsilon of a point."""
    dtype = str(Y.U.dtype)
    return float(np.finfo(np.float32).eps if dtype.endswith(("float32", "complex64")) else np.finfo(np.float64).eps)


def rounding(Y: Any, *sizes: float) -> float:
    r"""Slack for rounding in one step: ``eps (100 + 150 sqrt(2 r)) sum(sizes)``.

    ``100 eps`` covers the few dozen products and factorisations of a step; the second term covers the up to 2 r
    directions that basis augmentation drops, each of size at most ``100 eps`` times the block it is taken from.
    """
    return eps_of(Y) * (100.0 + 150.0 * math.sqrt(2.0 * Y.rank)) * float(sum(sizes))


def truncated(problem, step: Step, L: float) -> tuple[float, float]:
    """``(theta, B)``: the distance ``||W_1 - W^||_F`` and a bound of ``||grad f||`` on the segment between the two.

    B is the smaller of the problem's own bound on the ball that holds both ends, and ``||grad f(W^)|| + L theta``.
    """
    before, after = dense(step.augmented), dense(step.state.Y)
    theta = norm(before - after)
    radius = max(norm(before), norm(after))
    return theta, min(problem.gradient_bound(radius), norm(gradient_at(problem, step.augmented)) + L * theta)
