"""Sylvester and Lyapunov equations: the contract, affine flows, constants, stiffness, size, bad input."""

import math
import tracemalloc

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse

import problems
from integrators.linalg import haar
from problems.sylvester import affine_flow

from .contract import SHAPE, Contract, ExactFlows, gaussian, point, solved


class TestSylvester(ExactFlows, Contract):
    any_bases = False

    def build(self, rng, dtype, array=np.asarray, constant=True):
        m, n = SHAPE
        A, B = gaussian(rng, m, m, dtype=dtype), gaussian(rng, n, n, dtype=dtype)
        C = (gaussian(rng, m, 2, dtype=dtype), gaussian(rng, n, 2, dtype=dtype)) if constant else None
        start = gaussian(rng, m, 3, dtype=dtype), gaussian(rng, n, 3, dtype=dtype)
        p = problems.Sylvester(array(A), array(B), C, start)
        return p, lambda t, W: A @ W + W @ B + (C[0] @ C[1].conj().T if C else 0)


class TestHomogeneous(TestSylvester):
    def build(self, rng, dtype):
        return super().build(rng, dtype, constant=False)


class TestSparse(TestSylvester):
    def build(self, rng, dtype):
        return super().build(rng, dtype, array=scipy.sparse.csr_array)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("t", [0.3, 2.0, -0.7])
def test_affine_flow_against_a_numerical_solution(t, sparse):
    rng = np.random.default_rng(0)
    A, B, C, X = gaussian(rng, 7, 7), gaussian(rng, 4, 4), gaussian(rng, 7, 4), gaussian(rng, 7, 4)
    found = affine_flow(scipy.sparse.csr_array(A) if sparse else A, B, C, X, t)
    exact = solved(lambda t, X: A @ X + X @ B + C, 0.0, t, X)
    assert np.linalg.norm(found.ravel() - exact) < 1e-9 * np.linalg.norm(exact)


@pytest.mark.parametrize("stiffness", [1.0, 1e2, 1e4])
def test_affine_flow_of_stiff_dissipative_equations(stiffness):
    # symmetric A, B: in their eigenbases x' = (a_i + b_j) x + c, so x(t) = e^{zt} x + t (e^{zt} - 1) / (zt) c
    rng = np.random.default_rng(1)
    Q, R = haar(20, 20, rng), haar(6, 6, rng)
    a, b = -stiffness * rng.random(20), -stiffness * rng.random(6)
    A, B = (Q * a) @ Q.T, (R * b) @ R.T
    C, X = gaussian(rng, 20, 6), gaussian(rng, 20, 6)
    z = a[:, None] + b[None, :]
    exact = Q @ (np.exp(z) * (Q.T @ X @ R) + np.expm1(z) / z * (Q.T @ C @ R)) @ R.T
    found = affine_flow(A, B, C, X, 1.0)
    assert np.linalg.norm(found - exact) < 1e-13 * stiffness * np.linalg.norm(exact)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("stiff", [True, False])
def test_lyapunov(symmetric, stiff):
    p = problems.lyapunov(16, np.random.default_rng(0), symmetric, stiff)
    scale = 17.0**2 if stiff else 1.0
    assert np.allclose(p.A, p.A.T) == symmetric
    assert np.array_equal(p.B, p.A.T)
    assert np.allclose(p.A + p.A.T, 2 * scale * (np.eye(16, k=1) + np.eye(16, k=-1) - 2 * np.eye(16)))
    C = p.C[0] @ p.C[1].T
    assert np.linalg.norm(C) == pytest.approx(10)
    assert np.linalg.svd(C, compute_uv=False)[:10] / np.linalg.norm(C, 2) == pytest.approx(
        10.0 ** -np.arange(10), rel=1e-5
    )
    # the operator as one big matrix
    M = np.kron(p.A, np.eye(16)) + np.kron(np.eye(16), p.A)
    assert np.linalg.norm(M, 2) <= p.lipschitz * (1 + 1e-12)
    if symmetric:
        assert np.linalg.norm(M, 2) == pytest.approx(p.lipschitz)
    assert p.one_sided_lipschitz == pytest.approx(np.linalg.eigvalsh((M + M.T) / 2)[-1], rel=1e-9)
    # steady state: A X + X A^T + C = 0 by an independent solver, reached at a time of 1 over the smallest eigenvalue
    steady = scipy.linalg.solve_continuous_lyapunov(p.A, -C)
    time = -100 / p.one_sided_lipschitz
    assert np.linalg.norm(p.reference(time) - steady) < 1e-9 * np.linalg.norm(steady)
    X = p.reference(0.3)
    assert np.linalg.norm(X - X.T) < 1e-12 * np.linalg.norm(X)
    assert np.linalg.eigvalsh(X)[0] > -1e-12 * np.linalg.norm(X)


def test_sparse_constants_bound_the_dense_ones():
    rng = np.random.default_rng(0)
    A = scipy.sparse.csr_array(rng.standard_normal((30, 30)) * (rng.random((30, 30)) < 0.2) + 1j * np.eye(30))
    sparse, dense = problems.Sylvester(A, A), problems.Sylvester(A.toarray(), A.toarray())
    assert dense.lipschitz <= sparse.lipschitz
    assert dense.one_sided_lipschitz <= sparse.one_sided_lipschitz
    assert problems.lyapunov(600, rng, symmetric=False).one_sided_lipschitz == 0
    assert problems.lyapunov(600, rng).lipschitz == 8
    zero = scipy.sparse.csr_array((4, 4))
    assert problems.Sylvester(zero, zero).lipschitz == problems.Sylvester(zero, zero).one_sided_lipschitz == 0


def test_backward_flow_of_a_stiff_equation_overflows_quietly():
    p = problems.lyapunov(100, np.random.default_rng(0), stiff=True)
    Y = p.initial(6, np.random.default_rng(1))
    assert not np.all(np.isfinite(p.field(0.0, Y).flow_S(0.5, sign=-1)))


def test_sylvester_without_start_begins_at_zero():
    p = problems.Sylvester(-np.eye(5), -np.eye(4), (np.ones((5, 1)), np.ones((4, 1))))
    U, S, V = p.initial(2, np.random.default_rng(0))
    assert np.all(S == 0)
    assert np.abs(U.T @ U - np.eye(2)).max() < 1e-14 and np.abs(V.T @ V - np.eye(2)).max() < 1e-14
    assert p.reference(1.0) == pytest.approx(np.full((5, 4), (1 - math.exp(-2)) / 2))


def test_large_lyapunov_equation_never_forms_a_dense_matrix():
    n, r = 20_000, 20
    rng = np.random.default_rng(0)
    _ = problems.lyapunov(600, rng).field(0.0, point(rng, (600, 600))).K  # imports and caches before measuring
    tracemalloc.start()
    p = problems.lyapunov(n, rng, symmetric=False)
    Y = p.initial(r, rng)
    f = p.field(0.0, Y)
    K, L, small = f.K, f.L, f.S
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * (2 * n) * r * 8
    assert scipy.sparse.issparse(p.A) and p.reference(0.1) is None
    A, C1, C2 = p.A, *p.C
    assert np.linalg.norm(K - (A @ Y.K + Y.K @ (Y.V.T @ (A.T @ Y.V)) + C1 @ (C2.T @ Y.V))) < 1e-13 * np.linalg.norm(K)
    assert L.shape == (n, r)
    assert np.linalg.norm(small - Y.U.T @ K) < 1e-13 * np.linalg.norm(K)


def test_sparse_subflow_of_a_large_equation():
    # a block of the sparse size has the same flow as the dense matrix
    rng = np.random.default_rng(0)
    sparse = problems.lyapunov(600, rng, symmetric=False)
    dense = problems.Sylvester(sparse.A.toarray(), sparse.B.toarray(), sparse.C, sparse.start)
    Y = sparse.initial(3, rng)
    f, g = sparse.field(0.0, Y), dense.field(0.0, Y)
    for x, y in (
        (f.flow_K(0.5), g.flow_K(0.5)),
        (f.flow_L(0.5), g.flow_L(0.5)),
        (f.flow_S(0.5, -1), g.flow_S(0.5, -1)),
    ):
        assert np.linalg.norm(x - y) < 1e-12 * np.linalg.norm(y)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.ones((3, 4)), np.eye(3)), ValueError, r"A must be square, got shape \(3, 4\)"),
        ((np.eye(3), np.ones(3)), ValueError, r"B must be a matrix \(2 dimensions\), got 1"),
        ((np.eye(3), np.full((2, 2), np.nan)), ValueError, "B must be finite"),
        ((scipy.sparse.csr_array(np.diag([1, np.inf])), np.eye(2)), ValueError, "A must be finite"),
        ((np.eye(3), np.eye(2), np.ones((3, 2))), TypeError, r"C must be a pair of factors .* got ndarray"),
        (
            (np.eye(3), np.eye(2), (np.ones((3, 1)), np.ones((2, 2)))),
            ValueError,
            r"the right factor of C must have shape \(2, 1\), got \(2, 2\)",
        ),
        (
            (np.eye(3), np.eye(2), None, (np.ones((2, 1)), np.ones((2, 1)))),
            ValueError,
            r"the left factor of start must have shape \(3, 1\), got \(2, 1\)",
        ),
    ],
)
def test_bad_sylvester(arguments, error, message):
    with pytest.raises(error, match=message):
        problems.Sylvester(*arguments)


def test_bad_lyapunov():
    with pytest.raises(ValueError, match="n must be at least 2, got 1"):
        problems.lyapunov(1, np.random.default_rng(0))
    with pytest.raises(TypeError, match="rng must be a numpy"):
        problems.lyapunov(10, 0)
