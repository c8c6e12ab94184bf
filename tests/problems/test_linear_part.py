"""Linear parts: the operator, its phi functions and resolvent against big matrices, and what the problems declare."""

import pickle

import mpmath
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import torch

import problems
from integrators import LowRank
from integrators.linalg import haar
from problems.linear_part import TOLERANCE, WHOLE, Coefficient, LinearPart, scalar_phi, small_phi

from .contract import gaussian, point, whole

M, N, R = 11, 9, 3


def operator(A, B):
    """The matrix of X -> A X + X B on the rows of X, one after the other."""
    return np.kron(A, np.eye(len(B))) + np.kron(np.eye(len(A)), B.T)


def phi_of_matrix(k, L):
    """phi_k of a matrix whose eigenvalues are not small."""
    E, one = scipy.linalg.expm(L), np.eye(len(L))
    return [lambda: E, lambda: np.linalg.solve(L, E - one), lambda: np.linalg.solve(L @ L, E - one - L)][k]()


def parts(dtype, sparse, scale=2.0):
    rng = np.random.default_rng(1)
    A, B = scale * gaussian(rng, M, M, dtype=dtype), scale * gaussian(rng, N, N, dtype=dtype)
    to = scipy.sparse.csr_array if sparse else np.asarray
    Y = point(rng, (M, N), (R, R), dtype=dtype, orthonormal=True)
    small = Y.U.conj().T @ A @ Y.U, Y.V.conj().T @ B @ Y.V
    dense = {"K": (A, small[1]), "L": (B.conj().T, small[0].conj().T), "S": small, "Y": (A, B)}
    return LinearPart(to(A), to(B.conj().T)), Y, dense


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("part", ["K", "L", "S", "Y"])
def test_against_the_big_matrix(part, dtype, sparse):
    L, Y, dense = parts(dtype, sparse)
    A, B = dense[part]
    X = Y.full() if part == "Y" else getattr(Y, part)
    big, h, seen = operator(A, B), 0.3, L.seen(Y, part)
    size = np.linalg.norm(scipy.linalg.expm(h * big)) * np.linalg.norm(X)
    for k in range(3):
        found = seen.phi(k, h, Y if part == "Y" else X)
        found = found.full() if part == "Y" else found
        exact = (phi_of_matrix(k, h * big) @ X.ravel()).reshape(X.shape)
        assert found.dtype == dtype and np.linalg.norm(found - exact) <= 1e-12 * size
    if part != "Y":
        assert np.linalg.norm(seen(X) - (A @ X + X @ B)) <= 1e-12 * size
        found = seen.solve(h, X)
        exact = np.linalg.solve(np.eye(X.size) - h * big, X.ravel()).reshape(X.shape)
        assert found.dtype == dtype
        assert np.linalg.norm(found - exact) <= 1e-12 * np.linalg.cond(np.eye(X.size) - h * big) * np.linalg.norm(X)


@pytest.mark.parametrize("k", range(3))
def test_small_phi_at_zero_and_where_it_is_stiff(k):
    """The limit X / k! for L = 0, and a decay of e^{-10,000} without the errors of doubling adding up."""
    rng = np.random.default_rng(2)
    X = gaussian(rng, 6, 4)
    zero = Coefficient(np.zeros((6, 6))), Coefficient(np.zeros((4, 4)))
    assert np.allclose(small_phi(k, 0.5, *zero, X), X / [1, 1, 2][k], rtol=1e-14)
    Q, P = haar(6, 6, rng), haar(4, 4, rng)
    a, b = -np.geomspace(1e-3, 1e4, 6), -np.geomspace(1e-2, 1e3, 4)
    z = a[:, None] + b
    exact = [np.exp(z), np.expm1(z) / z, (np.expm1(z) - z) / z**2][k]
    A, B = (Coefficient((V * d) @ V.T) for V, d in ((Q, a), (P, b)))
    for spectral in (True, False):
        if not spectral:
            A.__dict__["spectrum"] = None
        assert (A.spectrum is not None) == spectral
        found = small_phi(k, 1.0, A, B, X)
        # rounding of the matrices themselves, 1e-16 times their norm, acts for the time 1
        assert np.linalg.norm(Q.T @ found @ P - exact * (Q.T @ X @ P)) <= 1e-11 * np.linalg.norm(X)


@pytest.mark.parametrize("k", range(3))
def test_scalar_phi(k):
    """Against its series in 50 digits, real and imaginary arguments of all sizes."""
    z = np.concatenate([s * np.geomspace(1e-12, 30, 40) for s in (-1.0, 1j, 1.0)])
    with mpmath.workdps(50):
        exact = [complex(sum(mpmath.mpc(x) ** j / mpmath.factorial(j + k) for j in range(200))) for x in z]
    assert np.max(np.abs(scalar_phi(k, z) - exact) / np.abs(exact)) <= 1e-14


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("stiffness", [1.0, 1e5])
def test_krylov_spaces_are_as_good_as_the_whole(stiffness, sparse):
    """Above the size that is taken whole: smooth columns need a small space, whatever the norm of A."""
    n, rng = 2 * WHOLE, np.random.default_rng(3)
    A = stiffness * scipy.sparse.diags_array([1.0, -2.0, 1.0], offsets=[-1, 0, 1], shape=(n, n))
    x = np.linspace(0, 1, n)[:, None]
    Y = LowRank(np.hstack([x * (1 - x), np.sin(7 * x)]), gaussian(rng, 2, 2), np.hstack([x, x**2]))
    L = LinearPart(A if sparse else A.toarray(), A if sparse else A.toarray())
    w, Q = np.linalg.eigh(A.toarray())
    z = 0.01 * (w[:, None] + w)
    for k, f in enumerate([np.exp(z), np.expm1(z) / z, (np.expm1(z) - z) / z**2]):
        exact = Q @ (f * (Q.T @ Y.full() @ Q)) @ Q.T
        found = L.seen(Y, "Y").phi(k, 0.01, Y)
        assert found.rank <= 120 < n
        assert np.linalg.norm(found.full() - exact) <= TOLERANCE * np.linalg.norm(Y.full())
        assert max(np.linalg.norm(X.T @ X - np.eye(X.shape[1])) for X in (found.U, found.V)) <= 1e-12


def test_an_invariant_space_ends_the_search():
    n = 2 * WHOLE
    A = scipy.sparse.diags_array(-np.arange(1.0, n + 1))
    Y = LowRank(np.eye(n, 2), np.eye(2), np.eye(n, 3)[:, 1:])
    found = LinearPart(A, A).seen(Y, "Y").phi(0, 1.0, Y)
    assert found.S.shape == (2, 2)
    W = found.full()
    assert abs(W[0, 1] - np.exp(-3)) + abs(W[1, 2] - np.exp(-5)) <= 1e-14 and np.count_nonzero(abs(W) > 1e-14) == 2


def test_other_libraries_and_precisions():
    L, Y, _ = parts(np.float64, False)
    exact = L.seen(Y, "K").phi(1, 0.1, Y.K)
    single = LowRank(*(X.astype(np.float32) for X in Y))
    found = L.seen(single, "K").phi(1, 0.1, single.K)
    assert found.dtype == np.float32 and np.linalg.norm(found - exact) <= 1e-5
    T = LowRank(*map(torch.asarray, Y))
    for found in (L.seen(T, "K").phi(1, 0.1, T.K), L.seen(T, "K").solve(0.1, T.K), L.seen(T, "Y").phi(2, 0.1, T).S):
        assert isinstance(found, torch.Tensor) and found.dtype == torch.float64
    assert np.linalg.norm(L.seen(T, "K").phi(1, 0.1, T.K).numpy() - exact) <= 1e-13
    with pytest.raises(TypeError, match="a complex problem needs a complex point"):
        parts(np.complex128, False)[0].seen(Y, "K").phi(1, 0.1, Y.K)


def test_fixed_bases_must_be_orthonormal():
    L, Y, _ = parts(np.float64, False)
    with pytest.raises(ValueError, match="V must have orthonormal columns"):
        L.seen(Y.replace(V=2 * Y.V), "K")


def _terms(p):
    return p.terms[2][0].toarray(), p.terms[2][1].toarray()


DECLARED = {
    "sylvester": (problems.lyapunov(8, np.random.default_rng(0)), lambda p, W: p.C[0] @ p.C[1].T),
    "riccati": (
        problems.riccati(8, np.random.default_rng(0)),
        lambda p, W: p.C.T @ p.C - W @ p.D @ p.D.T @ W,
    ),
    "allen-cahn": (problems.allen_cahn(8), lambda p, W: -(W**3)),
    "schroedinger": (
        problems.schroedinger(np.random.default_rng(0), 8),
        lambda p, W: -1j * p.potential[:, None] * W * p.potential,
    ),
    "nonlinear-schroedinger": (problems.nonlinear_schroedinger(8), lambda p, W: 0.6j * np.abs(W) ** 2 * W),
    "anisotropic-diffusion": (problems.anisotropic_diffusion(8), lambda p, W: _terms(p)[0] @ W @ _terms(p)[1]),
}


@pytest.mark.parametrize("name", DECLARED)
def test_what_is_left_of_a_field(name):
    """F minus the declared part, on the whole matrix, on K, L and S; the parts of one point agree."""
    problem, rest = DECLARED[name]
    rng = np.random.default_rng(5)
    Y = point(rng, problem.shape, (3, 3), problem.dtype, orthonormal=True)
    W = whole(Y.full())
    N = rest(problem, W.full())
    f = problem.field(0.0, Y)
    tolerance = 1e-12 * (1 + np.linalg.norm(f.full()))
    left = problem.field(0.0, W).full() - problem.field(0.0, W).linear_part("Y")(W.full())
    assert np.linalg.norm(left - N) <= tolerance
    assert np.linalg.norm(f.K - f.linear_part("K")(Y.K) - N @ Y.V) <= tolerance
    assert np.linalg.norm(f.L - f.linear_part("L")(Y.L) - N.conj().T @ Y.U) <= tolerance
    assert np.linalg.norm(f.S - f.linear_part("S")(Y.S) - Y.U.conj().T @ N @ Y.V) <= tolerance
    f.linear_part("K").solve(0.1, Y.K)
    pickle.loads(pickle.dumps(problem))


def test_problems_without_a_linear_part():
    rng = np.random.default_rng(0)
    Y = point(rng, (8, 8), (3, 3), orthonormal=True)
    assert problems.MatrixRegression(Y.full()).field(0.0, Y).linear_part("K") is None
    assert problems.solid_body_rotation(8).field(0.0, Y).linear_part("Y") is None
