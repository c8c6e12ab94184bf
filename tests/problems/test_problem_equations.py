"""Differential equations: what is special to each, conserved quantities, stiffness, size, bad input."""

import math
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.sparse

import problems
from problems.problem import orthonormal
from problems.sylvester import affine_flow


def gaussian(rng, *shape, dtype=np.float64):
    X = rng.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        X = X + 1j * rng.standard_normal(shape)
    return X.astype(dtype)


def low_rank(rng, shape, rank, dtype=np.float64):
    U, V = (orthonormal(n, rank, rng, dtype) for n in shape)
    return SimpleNamespace(U=U, S=gaussian(rng, rank, rank, dtype=dtype), V=V)


# --- the rotating matrix and the given solution ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("shape", [(12, 12), (9, 14)])
def test_rotating_matrix(shape, dtype):
    p = problems.rotating(np.random.default_rng(0), shape, dtype=dtype)
    for W in (p.W1, p.W2):
        assert np.array_equal(W, -W.conj().T)
        assert np.linalg.norm(W, 2) == pytest.approx(1)
    D = np.zeros(shape)
    np.fill_diagonal(D, 2.0 ** -np.arange(1, min(shape) + 1))
    for t in (0.0, 0.4, 1.0):
        exact = scipy.linalg.expm(t * p.W1) @ (math.exp(t) * D) @ scipy.linalg.expm(t * p.W2)
        assert np.abs(p.reference(t) - exact).max() < 1e-14
        F = p.field(t, low_rank(np.random.default_rng(1), shape, 2, dtype)).full()
        bound = math.exp(t) * 3 * np.linalg.norm(p.singular_values)
        assert np.linalg.norm(F) <= bound
    assert p.lipschitz == 0


@pytest.mark.parametrize("build", [problems.rotating, problems.given_solution])
@pytest.mark.parametrize("smallest", [1e-1, 1e-14])
def test_rank_and_smallest_singular_value_are_as_asked(build, smallest):
    p = build(np.random.default_rng(0), (12, 10), rank=4, smallest=smallest)
    for t in (0.0, 0.7):
        s = np.linalg.svd(p.reference(t), compute_uv=False) * math.exp(-t)
        expected = np.sort(p.singular_values)[::-1]
        assert np.abs(s[:4] - expected).max() < 1e-14
        assert s[4] < 1e-14
    assert p.singular_values[-1] == smallest
    U, S, V = p.initial(4, np.random.default_rng(1))
    assert p.error(0.0, SimpleNamespace(U=U, S=S, V=V)) < 1e-14


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_given_solution_is_lipschitz(dtype):
    rng = np.random.default_rng(0)
    p = problems.given_solution(rng, dtype=dtype)
    assert p.lipschitz == pytest.approx(3.0)
    for _ in range(20):
        X, Y = low_rank(rng, p.shape, 3, dtype), low_rank(rng, p.shape, 3, dtype)
        change = p.field(0.2, X).full() - p.field(0.2, Y).full()
        distance = np.linalg.norm(X.U @ X.S @ X.V.conj().T - Y.U @ Y.S @ Y.V.conj().T)
        assert np.linalg.norm(change) <= p.lipschitz * distance


def test_bad_rotating():
    rng = np.random.default_rng(0)
    W = problems.rotating(rng, (4, 4)).W1
    d = np.ones(2)
    with pytest.raises(ValueError, match=r"W1 must be square, got shape \(3, 4\)"):
        problems.Rotating(W[:3], W, d)
    with pytest.raises(ValueError, match="W2 must be skew-Hermitian"):
        problems.Rotating(W, W + np.eye(4), d)
    with pytest.raises(ValueError, match=r"singular_values must be 1 to min\(m, n\) = 4 numbers, got shape \(5,\)"):
        problems.Rotating(W, W, np.ones(5))
    with pytest.raises(ValueError, match="singular_values must be positive and finite"):
        problems.rotating(rng, (4, 4), smallest=-1.0)
    with pytest.raises(ValueError, match=r"singular_values must be 1 to min\(m, n\) = 4 numbers"):
        problems.rotating(rng, (4, 4), rank=5)
    with pytest.raises(ValueError, match="n must be at least 2, got 1"):
        problems.rotating(rng, (4, 1))
    with pytest.raises(TypeError, match="rng must be a numpy"):
        problems.rotating(0)


def test_bad_given_solution():
    rng = np.random.default_rng(0)
    p = problems.given_solution(rng, (8, 8), 2)
    with pytest.raises(ValueError, match=r"rank 5 exceeds min\(m, n\) / 2 = 4"):
        problems.given_solution(rng, (8, 9), 5)
    with pytest.raises(ValueError, match="singular_values must be positive and finite"):
        problems.given_solution(rng, (8, 8), 2, smallest=0.0)
    with pytest.raises(ValueError, match="P must have orthonormal columns"):
        problems.GivenSolution(2 * p.P, p.Q, p.singular_values, p.M1, p.M2)
    with pytest.raises(ValueError, match=r"Q must have 2 r = 4 columns for r = 2 singular values, got 3"):
        problems.GivenSolution(p.P, p.Q[:, :3], p.singular_values, p.M1, p.M2)
    with pytest.raises(ValueError, match=r"M2 must have shape \(8, 8\), got \(3, 8\)"):
        problems.GivenSolution(p.P, p.Q, p.singular_values, p.M1, p.M2[:3])
    with pytest.raises(TypeError, match="rng must be a numpy"):
        problems.given_solution(None)


# --- Sylvester -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("t", [0.3, 2.0, -0.7])
def test_affine_flow_against_a_numerical_solution(t, sparse):
    rng = np.random.default_rng(0)
    A, B, C, X = gaussian(rng, 7, 7), gaussian(rng, 4, 4), gaussian(rng, 7, 4), gaussian(rng, 7, 4)
    found = affine_flow(scipy.sparse.csr_array(A) if sparse else A, B, C, X, t)
    exact = scipy.integrate.solve_ivp(
        lambda t, x: (A @ x.reshape(7, 4) + x.reshape(7, 4) @ B + C).ravel(),
        (0, t),
        X.ravel(),
        method="DOP853",
        rtol=1e-12,
        atol=1e-12,
    ).y[:, -1]
    assert np.linalg.norm(found.ravel() - exact) < 1e-9 * np.linalg.norm(exact)


@pytest.mark.parametrize("stiffness", [1.0, 1e2, 1e4])
def test_affine_flow_of_stiff_dissipative_equations(stiffness):
    # symmetric A, B: in their eigenbases x' = (a_i + b_j) x + c, so x(t) = e^{zt} x + t (e^{zt} - 1) / (zt) c
    rng = np.random.default_rng(1)
    Q, R = orthonormal(20, 20, rng), orthonormal(6, 6, rng)
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
    U, S, V = p.initial(6, np.random.default_rng(1))
    assert not np.all(np.isfinite(p.field(0.0, SimpleNamespace(U=U, S=S, V=V)).flow_S(0.5, sign=-1)))


def test_sylvester_without_start_begins_at_zero():
    p = problems.Sylvester(-np.eye(5), -np.eye(4), (np.ones((5, 1)), np.ones((4, 1))))
    U, S, V = p.initial(2, np.random.default_rng(0))
    assert np.all(S == 0)
    assert np.abs(U.T @ U - np.eye(2)).max() < 1e-14 and np.abs(V.T @ V - np.eye(2)).max() < 1e-14
    assert p.reference(1.0) == pytest.approx(np.full((5, 4), (1 - math.exp(-2)) / 2))


def test_large_lyapunov_equation_never_forms_a_dense_matrix():
    n, r = 20_000, 20
    rng = np.random.default_rng(0)
    _ = problems.lyapunov(600, rng).field(0.0, low_rank(rng, (600, 600), 2)).K  # imports and caches before measuring
    tracemalloc.start()
    p = problems.lyapunov(n, rng, symmetric=False)
    U, S, V = p.initial(r, rng)
    Y = SimpleNamespace(U=U, S=S, V=V)
    f = p.field(0.0, Y)
    K, L, small = f.K, f.L, f.S
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * (2 * n) * r * 8
    assert scipy.sparse.issparse(p.A) and p.reference(0.1) is None
    A, C1, C2 = p.A, *p.C
    W = SimpleNamespace(U=U @ S, V=V)
    assert np.linalg.norm(K - (A @ W.U + W.U @ (V.T @ (A.T @ V)) + C1 @ (C2.T @ V))) < 1e-13 * np.linalg.norm(K)
    assert L.shape == (n, r)
    assert np.linalg.norm(small - U.T @ K) < 1e-13 * np.linalg.norm(K)


def test_sparse_subflow_of_a_large_equation():
    # a block of the sparse size has the same flow as the dense matrix
    rng = np.random.default_rng(0)
    sparse = problems.lyapunov(600, rng, symmetric=False)
    dense = problems.Sylvester(sparse.A.toarray(), sparse.B.toarray(), sparse.C, sparse.start)
    U, S, V = sparse.initial(3, rng)
    Y = SimpleNamespace(U=U, S=S, V=V)
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


# --- Schroedinger ----------------------------------------------------------------------------------------------------


def test_schroedinger_start():
    p = problems.schroedinger(np.random.default_rng(0))
    assert p.shape == (100, 100)
    assert p.potential[50] == 0 and p.potential[0] == 2
    s = np.linalg.svd(p.reference(0.0), compute_uv=False)
    assert np.linalg.norm(s) == pytest.approx(1)
    assert s[1:8] / s[:7] == pytest.approx(0.1)
    U, S, V = p.initial(8, np.random.default_rng(1))
    # what is cut off: the geometric tail 10^-9 / 10^-1 of a start of norm 1
    assert p.error(0.0, SimpleNamespace(U=U, S=S, V=V)) == pytest.approx(1e-8, rel=1e-6)


def test_schroedinger_conserves_norm_and_energy():
    rng = np.random.default_rng(0)
    p = problems.schroedinger(rng, 30)
    D = 2 * np.eye(30) - np.eye(30, k=1) - np.eye(30, k=-1)

    def energy(W):
        v = p.potential[:, None]
        return np.vdot(W, (D @ W + W @ D) / 2 + v * W * v.T).real

    W0, W1 = p.reference(0.0), p.reference(1.0)
    assert np.linalg.norm(W1) == pytest.approx(np.linalg.norm(W0), rel=1e-13)
    assert energy(W1) == pytest.approx(energy(W0), rel=1e-12)
    Y = SimpleNamespace(U=gaussian(rng, 30, 4) + 0j, S=gaussian(rng, 4, 3) + 0j, V=gaussian(rng, 30, 3, dtype=complex))
    W = Y.U @ Y.S @ Y.V.conj().T
    assert p.norm(Y) == pytest.approx(np.linalg.norm(W), rel=1e-13)
    assert p.energy(Y) == pytest.approx(energy(W), rel=1e-12)
    F = p.field(0.0, Y).full()
    assert abs(np.vdot(W, F).real) < 1e-12 * np.linalg.norm(W) * np.linalg.norm(F)
    assert np.linalg.norm(F) <= p.lipschitz * np.linalg.norm(W)
    assert p.one_sided_lipschitz == 0


def test_schroedinger_reference_against_a_numerical_solution():
    p = problems.schroedinger(np.random.default_rng(0), 12)
    D = 2 * np.eye(12) - np.eye(12, k=1) - np.eye(12, k=-1)
    v = p.potential[:, None]

    def rate(t, y):
        W = y.reshape(12, 12)
        return (-1j * ((D @ W + W @ D) / 2 + v * W * v.T)).ravel()

    start = p.reference(0.0).ravel()
    found = scipy.integrate.solve_ivp(rate, (0, 1), start, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    assert np.linalg.norm(found - p.reference(1.0).ravel()) < 1e-10


def test_schroedinger_norm_sees_tiny_matrices():
    p = problems.schroedinger(np.random.default_rng(0), 12)
    Y = SimpleNamespace(U=np.ones((12, 2)) + 0j, S=np.array([[1, -1], [0, 1e-9]]) + 0j, V=np.ones((12, 2)) + 0j)
    assert p.norm(Y) == pytest.approx(12e-9, rel=1e-6)


def test_bad_schroedinger():
    P = np.ones((4, 2))
    with pytest.raises(ValueError, match=r"potential must be a finite real vector, got shape \(4, 2\)"):
        problems.Schroedinger(P, P, P)
    with pytest.raises(ValueError, match="P and Q must be matrices with n = 4 rows and equally many columns"):
        problems.Schroedinger(np.ones(4), P, P[:3])
    with pytest.raises(TypeError, match="precision must be a complex dtype, got float64"):
        problems.Schroedinger(np.ones(4), P, P, np.float64)
    with pytest.raises(ValueError, match="n must be at least 2, got 1"):
        problems.schroedinger(np.random.default_rng(0), 1)
    with pytest.raises(TypeError, match="rng must be a numpy"):
        problems.schroedinger(1)


# --- completion at a size where nothing dense fits --------------------------------------------------------------------


def test_large_completion_problem_stays_sparse():
    m = n = 20_000
    r, N = 5, 100_000
    rng = np.random.default_rng(0)
    positions = rng.choice(m * n, N, replace=False, shuffle=False)
    p = problems.MatrixCompletion(*np.divmod(positions, n), rng.standard_normal(N), (m, n), 1000)
    Y = low_rank(rng, (m, n), r)
    tracemalloc.start()
    f = p.field(0.0, Y)
    assert f.K.shape == f.L.shape == (m, r)
    assert p.loss(Y) > 0
    assert p.minibatch(rng).field(0.0, Y).K.shape == (m, r)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * (N * r + (m + n) * r) * 8
