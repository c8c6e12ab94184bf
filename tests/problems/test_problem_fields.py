"""The contract of every problem: fields against dense formulas, references, sub-flows, starts."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.sparse
import torch

import problems
from problems.problem import adjoint, best_approximation, orthonormal

SHAPE = (9, 7)


def gaussian(rng, *shape, dtype=np.float64):
    X = rng.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        X = X + 1j * rng.standard_normal(shape)
    return X.astype(dtype)


def point(rng, shape, ranks=(3, 2), dtype=np.float64, orthonormal_bases=False):
    (m, n), (p, q) = shape, ranks
    if orthonormal_bases:
        U, V = orthonormal(m, p, rng, dtype), orthonormal(n, q, rng, dtype)
    else:
        U, V = gaussian(rng, m, p, dtype=dtype), gaussian(rng, n, q, dtype=dtype)
    return SimpleNamespace(U=U, S=gaussian(rng, p, q, dtype=dtype), V=V)


def whole(W):
    """A dense matrix as a point with the bases W and I."""
    I = np.eye(W.shape[1], dtype=W.dtype)
    return SimpleNamespace(U=W, S=I, V=I)


def as_torch(Y):
    return SimpleNamespace(**{name: torch.asarray(X) for name, X in vars(Y).items()})


def dense(Y):
    return Y.U @ Y.S @ Y.V.conj().T


# Each family: a function of (rng, dtype) that returns the problem and an independent dense formula F(t, W).


def regression(rng, dtype):
    A, W0 = gaussian(rng, *SHAPE, dtype=dtype), gaussian(rng, *SHAPE, dtype=dtype)
    return problems.MatrixRegression(A, W0), lambda t, W: A - W


def rotating(rng, dtype):
    p = problems.rotating(rng, SHAPE, rank=4, dtype=dtype)

    def derivative(t, W):
        D = np.zeros(SHAPE)
        np.fill_diagonal(D, list(p.singular_values) + [0] * 3)
        A = scipy.linalg.expm(t * p.W1) @ (np.exp(t) * D) @ scipy.linalg.expm(t * p.W2)
        return p.W1 @ A + A + A @ p.W2

    return p, derivative


def given(rng, dtype):
    p = problems.given_solution(rng, SHAPE, rank=3, dtype=dtype)

    def N(W):
        sine = np.sin(2 * W.real) + 1j * np.sin(2 * W.imag) if np.iscomplexobj(W) else np.sin(2 * W)
        return p.M1 @ W + W @ p.M2 + sine

    return p, lambda t, W: derivative_in_time(p.reference, t) + N(W) - N(p.reference(t))


def sylvester(rng, dtype, factor=np.asarray, C=True):
    m, n = SHAPE
    A, B = gaussian(rng, m, m, dtype=dtype), gaussian(rng, n, n, dtype=dtype)
    C = (gaussian(rng, m, 2, dtype=dtype), gaussian(rng, n, 2, dtype=dtype)) if C else None
    start = gaussian(rng, m, 3, dtype=dtype), gaussian(rng, n, 3, dtype=dtype)
    p = problems.Sylvester(factor(A), factor(B), C, start)
    return p, lambda t, W: A @ W + W @ B + (C[0] @ C[1].conj().T if C else 0)


def sylvester_homogeneous(rng, dtype):
    return sylvester(rng, dtype, C=False)


def sylvester_sparse(rng, dtype):
    return sylvester(rng, dtype, factor=scipy.sparse.csr_array)


def schroedinger(rng, dtype):
    p = problems.schroedinger(rng, 8, dtype)
    D = 2 * np.eye(8) - np.eye(8, k=1) - np.eye(8, k=-1)
    Vc = np.diag(1 - np.cos(2 * np.pi * np.arange(-4, 4) / 8))
    return p, lambda t, W: -1j * ((D @ W + W @ D) / 2 + Vc @ W @ Vc)


def completion(rng, dtype):
    A = gaussian(rng, *SHAPE, dtype=dtype)
    p = problems.completion(rng, A, 0.5)
    mask = np.zeros(SHAPE)
    mask[p.rows, p.cols] = A.size / p.samples
    return p, lambda t, W: mask * (A - W)


def least_squares(rng, dtype):
    X, Y = gaussian(rng, 11, SHAPE[1], dtype=dtype), gaussian(rng, 11, SHAPE[0], dtype=dtype)
    return problems.LinearLeastSquares(X, Y), lambda t, W: -(X @ W.T - Y).T @ X.conj() / 11


ANY = [np.float32, np.float64, np.complex64, np.complex128]
FAMILIES = {
    regression: ANY,
    rotating: ANY,
    given: ANY,
    sylvester: ANY,
    sylvester_homogeneous: ANY,
    sylvester_sparse: ANY,
    schroedinger: [np.complex64, np.complex128],
    completion: ANY,
    least_squares: ANY,
}
CASES = [pytest.param(f, d, id=f"{f.__name__}-{d.__name__}") for f, dtypes in FAMILIES.items() for d in dtypes]
DOUBLE = [c for c in CASES if c.values[1] in (np.float64, np.complex128)]


def derivative_in_time(X, t, h=1e-3):
    """Central difference of order 4, error ``h^4 ||X^(5)|| / 30 + O(eps / h) ||X||``."""
    return (8 * (X(t + h) - X(t - h)) - (X(t + 2 * h) - X(t - 2 * h))) / (12 * h)


@pytest.mark.parametrize(("family", "dtype"), CASES)
@pytest.mark.parametrize("orthonormal_bases", [True, False])
def test_projections_agree_with_the_dense_formula(family, dtype, orthonormal_bases):
    rng = np.random.default_rng(1)
    p, formula = family(rng, dtype)
    Y = point(rng, p.shape, dtype=dtype, orthonormal_bases=orthonormal_bases)
    f, F = p.field(0.3, Y), formula(0.3, dense(Y))
    U, V = Y.U, Y.V
    # rounding of a few products of norms at most ||Y|| (1 + lipschitz); the differenced formula is good to 1e-10
    unit = np.linalg.norm(F) + 20 * np.linalg.norm(Y.U) * np.linalg.norm(Y.S) * np.linalg.norm(Y.V)
    tolerance = 20 * np.finfo(dtype).eps * unit + (1e-10 if family is given else 0)
    for found, exact, size in [
        (f.K, F @ V, np.linalg.norm(V)),
        (f.L, F.conj().T @ U, np.linalg.norm(U)),
        (f.S, U.conj().T @ F @ V, np.linalg.norm(U) * np.linalg.norm(V)),
        (f.full(), F, 1.0),
        ((-f).K, -F @ V, np.linalg.norm(V)),
        ((-f).L, -F.conj().T @ U, np.linalg.norm(U)),
    ]:
        assert found.dtype == dtype
        assert found.shape == exact.shape
        assert np.linalg.norm(found - exact) <= tolerance * max(size, 1)


@pytest.mark.parametrize(("family", "dtype"), CASES)
def test_start_is_orthonormal_in_the_problems_dtype(family, dtype):
    rng = np.random.default_rng(2)
    p, _ = family(rng, dtype)
    for rank in (1, 3, min(p.shape)):
        U, S, V = p.initial(rank, rng)
        assert p.dtype == dtype
        assert (U.dtype, S.dtype, V.dtype) == (p.dtype,) * 3
        assert (U.shape, S.shape, V.shape) == ((p.shape[0], rank), (rank, rank), (p.shape[1], rank))
        for X in (U, V):
            assert np.abs(X.conj().T @ X - np.eye(rank)).max() < 20 * np.finfo(dtype).eps


@pytest.mark.parametrize(("family", "dtype"), DOUBLE)
def test_start_is_the_best_approximation_of_the_reference(family, dtype):
    rng = np.random.default_rng(3)
    p, _ = family(rng, dtype)
    if p.reference(0.0) is None:
        with pytest.raises(ValueError, match=f"{p.name} has no reference solution"):
            p.error(0.0, point(rng, p.shape))
        return
    s = np.linalg.svd(p.reference(0.0), compute_uv=False)
    for rank in (1, 2, min(p.shape)):
        U, S, V = p.initial(rank, rng)
        error = p.error(0.0, SimpleNamespace(U=U, S=S, V=V))
        assert error == pytest.approx(np.linalg.norm(s[rank:]), rel=1e-12, abs=1e-14 * s[0])


@pytest.mark.parametrize(("family", "dtype"), DOUBLE)
def test_reference_solves_the_equation(family, dtype):
    rng = np.random.default_rng(4)
    p, formula = family(rng, dtype)
    if p.reference(0.0) is None:
        return
    A = p.reference(0.2)
    assert A.dtype == dtype
    if family is given:  # there the formula contains the derivative of the reference
        F = p.field(0.2, whole(A)).full()
    else:
        F = formula(0.2, A)
    # h = 1e-3, ||X^(5)|| <= 15^5 ||X||: truncation below 1e-12 * 8e5 / 30 ||X||, rounding below 1e-12 ||X||
    assert np.linalg.norm(derivative_in_time(p.reference, 0.2) - F) < 3e-8 * np.linalg.norm(A)


@pytest.mark.parametrize(
    ("family", "dtype"), [c for c in DOUBLE if c.values[0] not in (given, completion, least_squares)]
)
@pytest.mark.parametrize("orthonormal_bases", [True, False])
@pytest.mark.parametrize("which", ["K", "L", "S", "backward S"])
def test_exact_subflows(family, dtype, orthonormal_bases, which):
    rng = np.random.default_rng(5)
    p, _ = family(rng, dtype)
    Y = point(rng, p.shape, dtype=dtype, orthonormal_bases=orthonormal_bases)
    U, S, V = 0.5 * Y.U if not orthonormal_bases else Y.U, Y.S, 0.5 * Y.V if not orthonormal_bases else Y.V
    Y = SimpleNamespace(U=U, S=S, V=V)
    f, t, h = p.field(0.3, Y), 0.3, 0.4
    I = SimpleNamespace(U=np.eye(U.shape[1], dtype=dtype), V=np.eye(V.shape[1], dtype=dtype))
    start, rate, flow = {
        "K": (U @ S, lambda t, K: p.field(t, SimpleNamespace(U=K, S=I.V, V=V)).K, f.flow_K),
        "L": (V @ S.conj().T, lambda t, L: p.field(t, SimpleNamespace(U=U, S=I.U, V=L)).L, f.flow_L),
        "S": (S, lambda t, X: p.field(t, SimpleNamespace(U=U, S=X, V=V)).S, f.flow_S),
        "backward S": (
            S,
            lambda t, X: -p.field(t, SimpleNamespace(U=U, S=X, V=V)).S,
            lambda h: f.flow_S(h, sign=-1),
        ),
    }[which]
    if p.name == "sylvester" and not orthonormal_bases:
        with pytest.raises(ValueError, match=r"[UV] must have orthonormal columns, got \|\|[UV]\^H [UV] - I\|\|"):
            flow(h)
        return
    solution = scipy.integrate.solve_ivp(
        lambda t, x: rate(t, x.reshape(start.shape)).ravel(),
        (t, t + h),
        start.ravel(),
        method="DOP853",
        rtol=1e-12,
        atol=1e-13,
    ).y[:, -1]
    found = flow(np.float64(h))
    assert found.dtype == dtype
    assert np.linalg.norm(found.ravel() - solution) < 1e-10 * (1 + np.linalg.norm(solution))


@pytest.mark.parametrize("family", [rotating, regression, sylvester, schroedinger])
def test_subflows_keep_single_precision(family):
    rng = np.random.default_rng(6)
    dtype = np.complex64 if family is schroedinger else np.float32
    p, _ = family(rng, dtype)
    Y = point(rng, p.shape, dtype=dtype, orthonormal_bases=True)
    f = p.field(0.0, Y)
    flows = f.flow_K(np.float64(0.1)), f.flow_L(np.float64(0.1)), f.flow_S(np.float64(0.1), -1)
    assert all(X.dtype == dtype for X in flows)


@pytest.mark.parametrize("family", [given, completion, least_squares])
def test_unknown_subflows_say_so(family):
    rng = np.random.default_rng(7)
    p, _ = family(rng, np.float64)
    f = p.field(0.0, point(rng, p.shape))
    for flow in (f.flow_K, f.flow_L, f.flow_S):
        with pytest.raises(NotImplementedError, match="has no exact sub-flows"):
            flow(0.1)


@pytest.mark.parametrize("dtype", ANY)
@pytest.mark.parametrize("family", [regression, rotating, given, least_squares])
def test_torch_agrees_with_numpy(family, dtype):
    rng = np.random.default_rng(8)
    p, _ = family(rng, dtype)
    Y = point(rng, p.shape, dtype=dtype)
    q = p
    if family is regression:
        q = problems.MatrixRegression(torch.asarray(p.target), torch.asarray(p.start))
    elif family is least_squares:
        q = problems.LinearLeastSquares(torch.asarray(p.inputs), torch.asarray(p.outputs), 3)
    f, g = p.field(0.1, Y), q.field(0.1, as_torch(Y))
    pairs = [(f.K, g.K), (f.L, g.L), (f.S, g.S), (f.full(), g.full())]
    if family in (regression, rotating):
        pairs += [(f.flow_K(0.1), g.flow_K(0.1)), (f.flow_L(0.1), g.flow_L(0.1)), (f.flow_S(0.1), g.flow_S(0.1))]
    if family in (regression, least_squares):
        start = q.initial(3, np.random.default_rng(0))
        pairs += list(zip(p.initial(3, np.random.default_rng(0)), start, strict=True))
        assert all(isinstance(X, torch.Tensor) for X in start)
        assert p.loss(Y) == pytest.approx(q.loss(as_torch(Y)), rel=1e-12)
        assert p.minimum(2) == pytest.approx(q.minimum(2), rel=1e-6)
        assert p.lipschitz == pytest.approx(q.lipschitz, rel=1e-6)
        assert p.gradient_bound(1.0) == pytest.approx(q.gradient_bound(1.0), rel=1e-6)
    for x, y in pairs:
        assert isinstance(y, torch.Tensor)
        assert y.numpy().dtype == x.dtype
        assert np.linalg.norm(x - y.resolve_conj().numpy()) < 300 * np.finfo(dtype).eps * (1 + np.linalg.norm(x))
    if p.reference(0.1) is not None:
        assert p.error(0.1, Y) == pytest.approx(q.error(0.1, as_torch(Y)), rel=1e-12)


def test_torch_mini_batches():
    rng = np.random.default_rng(9)
    X, Y = torch.asarray(gaussian(rng, 6, 4)), torch.asarray(gaussian(rng, 6, 5))
    p = problems.LinearLeastSquares(X, Y, 2)
    batch = p.minibatch(np.random.default_rng(0))
    assert isinstance(batch.inputs, torch.Tensor)
    W = as_torch(point(rng, p.shape))
    mean = sum(b.gradient(W).K for b in p.enumerate_minibatches()) / 15
    assert torch.allclose(mean, p.gradient(W).K, atol=1e-12)
    numpy_twin = problems.LinearLeastSquares(X.numpy(), Y.numpy(), 2)
    W_numpy = SimpleNamespace(**{k: v.numpy() for k, v in vars(W).items()})
    assert p.variance(W) == pytest.approx(numpy_twin.variance(W_numpy), rel=1e-12)
    assert p.variance_bound(2.0) == pytest.approx(numpy_twin.variance_bound(2.0), rel=1e-12)


@pytest.mark.parametrize(("family", "dtype"), DOUBLE)
def test_problems_can_be_pickled_and_are_immutable(family, dtype):
    rng = np.random.default_rng(10)
    p, _ = family(rng, dtype)
    q = pickle.loads(pickle.dumps(p))
    Y = point(rng, p.shape, dtype=dtype)
    assert np.array_equal(p.field(0.1, Y).K, q.field(0.1, Y).K)
    with pytest.raises(AttributeError):
        p.target = None
    assert p != q and hash(p) != hash(q)  # compared by identity: their arrays have no truth value


@pytest.mark.parametrize(("family", "dtype"), DOUBLE)
def test_bad_rank_and_generator(family, dtype):
    p, _ = family(np.random.default_rng(11), dtype)
    rng, limit = np.random.default_rng(0), min(p.shape)
    with pytest.raises(ValueError, match=rf"rank {limit + 1} exceeds min\(m, n\) = {limit}"):
        p.initial(limit + 1, rng)
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        p.initial(0, rng)
    with pytest.raises(TypeError, match=r"rank must be an integer, got 2\.0"):
        p.initial(2.0, rng)
    if family is not regression or p.start is None:
        with pytest.raises(TypeError, match="rng must be a numpy"):
            p.initial(2, 0)


@pytest.mark.parametrize("family", [rotating, given, schroedinger, completion])
def test_complex_problem_refuses_a_real_point(family):
    rng = np.random.default_rng(12)
    p, _ = family(rng, np.complex128)
    with pytest.raises(TypeError, match="a complex problem needs a complex point, got a point of dtype float64"):
        p.field(0.0, point(rng, p.shape)).full()


def test_fields_are_lazy_and_computed_once():
    calls = []

    def product(X):
        calls.append(X.shape)
        return 2 * X

    f = problems.OperatorField(point(np.random.default_rng(0), (5, 5)), product, product)
    assert calls == []
    assert f.S.shape == (3, 2)
    assert f.K is f.K
    assert calls == [(5, 2)]  # S and K share one product
    assert f.L is f.L
    assert calls == [(5, 2), (5, 3)]


def test_dense_field_returns_its_matrix():
    rng = np.random.default_rng(0)
    F, Y = gaussian(rng, 5, 4, dtype=np.complex128), point(rng, (5, 4), dtype=np.complex128)
    f = problems.DenseField(Y, F)
    assert f.full() is F
    assert np.allclose(f.L, F.conj().T @ Y.U, rtol=1e-13, atol=0)


def test_best_approximation_fills_the_bases():
    rng = np.random.default_rng(0)
    P, Q = gaussian(rng, 8, 2, dtype=np.complex128), gaussian(rng, 6, 2, dtype=np.complex128)
    U, S, V = best_approximation(P, Q, 5, rng, np.empty(0, np.complex128))
    assert np.abs(U @ S @ V.conj().T - P @ Q.conj().T).max() < 1e-13
    assert np.count_nonzero(S) == 2
    assert np.abs(adjoint(U) @ U - np.eye(5)).max() < 1e-14
    W = np.linalg.svd(P @ Q.conj().T)
    U, S, V = best_approximation(P, Q, 1, rng, np.empty(0, np.complex128))
    assert np.abs(U @ S @ V.conj().T - W[1][0] * np.outer(W[0][:, 0], W[2][0])).max() < 1e-13


@pytest.mark.parametrize("dtype", ANY)
def test_orthonormal_is_haar_distributed(dtype):
    rng = np.random.default_rng(0)
    X = np.stack([orthonormal(4, 2, rng, dtype) for _ in range(4000)])
    assert X.dtype == dtype
    # E X = 0 and E |X_ij|^2 = 1/4; the plain Q of LAPACK has a first column of one sign. 5 standard deviations.
    assert np.abs(X.mean(axis=0)).max() < 5 * 0.5 / np.sqrt(4000)
    assert np.abs((np.abs(X) ** 2).mean(axis=0) - 0.25).max() < 5 * 0.25 * np.sqrt(2) / np.sqrt(4000)
