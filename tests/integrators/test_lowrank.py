"""LowRank against dense formulas."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from integrators import LowRank
from integrators.linalg import complement, dagger

DTYPES = [np.float32, np.float64, np.complex128]
shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))


@st.composite
def lowranks(draw):
    """Orthonormal bases and an S of any spectrum, from 0 to wide."""
    shape = draw(shapes)
    rank = draw(st.integers(1, min(shape)))
    values = draw(st.lists(st.sampled_from([0.0, 1e-14, 1e-5, 0.5, 1.0, 1.0, 30.0]), min_size=rank, max_size=rank))
    dtype = draw(st.sampled_from(DTYPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return LowRank.random(shape, rank, rng, np.zeros((), dtype), singular_values=values)


def eps(X):
    return float(np.finfo(X.dtype).eps)


@given(lowranks())
def test_views(Y):
    W = Y.full()
    tol = 20 * eps(W) * (1 + np.linalg.norm(W))
    np.testing.assert_allclose(Y.K @ dagger(Y.V), W, atol=tol, rtol=0)
    np.testing.assert_allclose(Y.U @ dagger(Y.L), W, atol=tol, rtol=0)
    np.testing.assert_allclose(Y.H.full(), dagger(W), atol=tol, rtol=0)
    assert abs(Y.norm() - np.linalg.norm(W)) <= tol
    d = np.linalg.svd(W, compute_uv=False)
    np.testing.assert_allclose(Y.singular_values(), d[: Y.rank], atol=tol, rtol=0)
    assert Y.shape == W.shape and Y.dtype == W.dtype and Y.rank == Y.S.shape[0]


@given(lowranks(), st.integers(0, 1000))
def test_numbers_do_not_need_orthonormal_bases(Y, seed):
    rng = np.random.default_rng(seed)
    A, B = (rng.standard_normal((Y.rank, Y.rank)).astype(Y.dtype) for _ in range(2))
    Z = LowRank(Y.U @ A, Y.S, Y.V @ B)
    tol = 50 * eps(Y.U) * (1 + np.linalg.norm(A) * Y.norm() * np.linalg.norm(B))
    assert abs(Z.norm() - np.linalg.norm(Z.full())) <= tol


@given(lowranks(), st.integers(0, 1000))
def test_tangent_projection(Y, seed):
    """Against the dense projector; low-rank and dense Z; idempotent."""
    rng = np.random.default_rng(seed)
    Z = rng.standard_normal(Y.shape).astype(Y.dtype)
    PU, PV = Y.U @ dagger(Y.U), Y.V @ dagger(Y.V)
    exact = PU @ Z + Z @ PV - PU @ Z @ PV
    tol = 50 * eps(Z) * (1 + np.linalg.norm(Z))
    P = Y.project(Z)
    np.testing.assert_allclose(P.full(), exact, atol=tol, rtol=0)
    np.testing.assert_allclose(Y.project(P).full(), exact, atol=tol, rtol=0)


def test_embed_keeps_the_matrix_in_larger_bases():
    rng = np.random.default_rng(0)
    Y = LowRank.random((9, 7), 3, rng)
    U, V = (np.hstack([X, complement(X, rng.standard_normal((len(X), 2)))]) for X in (Y.U, Y.V))
    Z = Y.embed(U, V)
    assert Z.S.shape == (5, 5)
    np.testing.assert_allclose(Z.full(), Y.full(), atol=1e-14)


@given(hnp.arrays(np.float64, shapes, elements=st.floats(-10, 10)), st.data())
def test_from_dense(A, data):
    rank = data.draw(st.integers(1, min(A.shape)))
    d = np.linalg.svd(A, compute_uv=False)
    best = np.linalg.norm(d[rank:])
    assert abs(np.linalg.norm(LowRank.from_dense(A, rank=rank).full() - A) - best) <= 1e-13 * (1 + d[0])
    Y = LowRank.from_dense(A, tol=1.0)
    assert np.linalg.norm(Y.full() - A) <= 1.0 + 1e-13 * (1 + d[0])
    assert Y.rank == 1 or np.linalg.norm(d[Y.rank - 1 :]) > 1.0 - 1e-13 * (1 + d[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_torch(dtype):
    Y = LowRank.random((8, 6), 3, np.random.default_rng(0), torch.zeros((), dtype=dtype))
    assert isinstance(Y.U, torch.Tensor) and Y.dtype == dtype and Y.full().shape == (8, 6)
    assert abs(Y.norm() - float(torch.linalg.norm(Y.full()))) <= 1e-5 * Y.norm()
    assert isinstance(Y.project(Y.full()).full(), torch.Tensor)
    assert float(torch.linalg.norm(LowRank.from_dense(Y.full(), rank=3).full() - Y.full())) <= 1e-5 * Y.norm()


def test_batches():
    """Leading batch dimensions go through all views and numbers."""
    rng = np.random.default_rng(0)
    Y = LowRank(rng.standard_normal((5, 8, 3)), rng.standard_normal((5, 3, 3)), rng.standard_normal((5, 6, 3)))
    assert Y.shape == (5, 8, 6) and Y.K.shape == (5, 8, 3) and Y.L.shape == (5, 6, 3)
    np.testing.assert_allclose(Y.full()[2], Y.U[2] @ Y.S[2] @ Y.V[2].T)
    np.testing.assert_allclose(Y.singular_values()[1], np.linalg.svd(Y.full()[1], compute_uv=False)[:3])
    np.testing.assert_allclose(Y.norm(), np.linalg.norm(Y.full(), axis=(-2, -1)))
    Q = Y.orthonormalised()
    np.testing.assert_allclose(Q.full(), Y.full(), atol=1e-13)
    np.testing.assert_allclose(dagger(Q.V) @ Q.V, np.broadcast_to(np.eye(3), (5, 3, 3)), atol=1e-14)
    Z = rng.standard_normal((5, 8, 6))
    alone = LowRank(*(X[2] for X in Q)).project(Z[2])
    np.testing.assert_allclose(Q.project(Z).full()[2], alone.full(), atol=1e-13)
    best = LowRank.from_dense(Z, rank=2)
    np.testing.assert_allclose(best.full()[3], LowRank.from_dense(Z[3], rank=2).full(), atol=1e-14)


def test_unpacking():
    Y = LowRank.random((5, 4), 2, np.random.default_rng(0))
    U, S, V = Y
    assert U is Y.U and S is Y.S and V is Y.V and LowRank(*Y).full().tolist() == Y.full().tolist()


@pytest.mark.parametrize("library", [np.asarray, torch.asarray], ids=["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["int64", "uint8", "int32", "bool"])
def test_from_dense_takes_integers_as_float64(library, dtype):
    A = np.eye(2, 4) if dtype == "bool" else np.arange(12).reshape(3, 4)
    Y = LowRank.from_dense(library(A.astype(dtype)), rank=2)
    assert str(Y.dtype).endswith("float64") and np.abs(np.asarray(Y.full()) - A).max() <= 1e-13


def test_orthonormalised_makes_s_square():
    rng = np.random.default_rng(0)
    for m, n, r in ((9, 7, 12), (5, 9, 8), (9, 9, 2)):  # wide factors; more directions on one side
        Y = LowRank(*(rng.standard_normal(shape) for shape in ((m, r), (r, r + 1), (n, r + 1))))
        Z = Y.orthonormalised()
        assert Z.S.shape == (min(m, n, r), min(m, n, r))
        np.testing.assert_allclose(Z.full(), Y.full(), atol=1e-11)
        np.testing.assert_allclose(Z.V.T @ Z.V, np.eye(Z.rank), atol=1e-14)


def test_orthonormalised_leaves_orthonormal_bases_alone():
    Y = LowRank.random((9, 7), 3, np.random.default_rng(0))
    assert Y.orthonormalised() is Y
    C = np.random.default_rng(1).standard_normal((3, 3))
    Z = LowRank(Y.U @ C, np.linalg.solve(C, Y.S), Y.V).orthonormalised()
    np.testing.assert_allclose(Z.full(), Y.full(), atol=1e-13)
    np.testing.assert_allclose(Z.U.T @ Z.U, np.eye(3), atol=1e-14)


@pytest.mark.parametrize(
    "build,error,message",
    [
        (lambda: LowRank(np.eye(4, 2), np.eye(3), np.eye(5, 3)), ValueError, r"S has shape \(3, 3\), expected"),
        (lambda: LowRank(np.eye(4, 2), np.eye(2), np.zeros(5)), ValueError, "V must be an array with at least 2 axes"),
        (lambda: LowRank([[1.0]], np.eye(1), np.eye(1)), ValueError, "U must be an array"),
        (
            lambda: LowRank(np.eye(4, 2, dtype=np.float32), np.eye(2), np.eye(5, 2)),
            ValueError,
            "one dtype, got float32",
        ),
        (
            lambda: LowRank.random((10, 20), 12, np.random.default_rng()),
            ValueError,
            r"rank 12 exceeds min\(m, n\) = 10",
        ),
        (lambda: LowRank.random((10, 20), 0, np.random.default_rng()), ValueError, "rank must be at least 1, got 0"),
        (lambda: LowRank.random((10, 20), 2.5, np.random.default_rng()), TypeError, "rank must be an integer"),
        (lambda: LowRank.random((10, 20), 2, 0), TypeError, "rng must be a numpy.random.Generator, got int 0"),
        (
            lambda: LowRank.random((10, 20), 2, np.random.default_rng(), singular_values=[1.0]),
            ValueError,
            "singular_values must have rank = 2 entries, got 1",
        ),
        (lambda: LowRank.from_dense(np.eye(3)), ValueError, "either rank or tol"),
        (lambda: LowRank.from_dense(np.eye(3), rank=1, tol=0.1), ValueError, "either rank or tol"),
        (lambda: LowRank.from_dense(np.full((3, 3), np.nan), rank=1), FloatingPointError, "non-finite"),
        (lambda: LowRank.from_dense(np.eye(3), tol=float("nan")), ValueError, "tol must be finite and >= 0, got nan"),
        (lambda: LowRank.from_dense(np.eye(3), tol=-1.0), ValueError, "tol must be finite and >= 0, got -1"),
        (lambda: LowRank.from_dense(np.ones((2, 3, 3)), tol=0.1), ValueError, "of a stack needs a rank"),
        (
            lambda: LowRank.from_dense(np.ones(3), rank=1),
            ValueError,
            r"A must be a matrix with entries, got shape \(3,\)",
        ),
        (
            lambda: LowRank.from_dense(np.ones((0, 3)), tol=1.0),
            ValueError,
            "A must be a matrix with entries, got shape",
        ),
        (lambda: LowRank.from_dense([[1.0]], rank=1), TypeError, r"got list: use numpy.array\(...\)"),
        (lambda: LowRank.from_dense(sp.eye_array(3), rank=1), TypeError, r"make it dense with .toarray\(\)"),
        (lambda: LowRank.from_dense(np.ma.masked_invalid(np.eye(3)), rank=1), TypeError, "0 masked entries: fill them"),
        (
            lambda: LowRank.from_dense(np.array([["1", "2"]]), rank=1),
            TypeError,
            "A must have a real or complex floating",
        ),
        (lambda: LowRank.from_dense(np.array([[None]]), rank=1), TypeError, "floating dtype, got object"),
        (
            lambda: LowRank.from_dense(np.eye(3, dtype=np.float16), rank=1),
            TypeError,
            "got float16: convert it to float32",
        ),
        (lambda: LowRank.from_dense(np.eye(3, dtype=np.longdouble), rank=1), TypeError, "got float128: convert it to"),
        (lambda: LowRank.from_dense(torch.eye(3).half(), tol=0.0), TypeError, "got float16: convert it to float32"),
        *[
            (lambda dtype=dtype: LowRank(*(np.ones((2, 2), dtype) for _ in range(3))), TypeError, f"dtype, got {name}")
            for dtype, name in ((int, "int64"), (bool, "bool"), (np.uint8, "uint8"), ("U3", "<U3"), (object, "object"))
        ],
        (
            lambda: LowRank(*(torch.ones(2, 2, dtype=torch.int64) for _ in range(3))),
            TypeError,
            "dtype, got torch.int64",
        ),
        (lambda: LowRank.random((4, 3), 2, np.random.default_rng(), np.zeros((), int)), TypeError, "dtype, got int64"),
        (
            lambda: LowRank.random((4, 3), 2, np.random.default_rng(), singular_values=[1.0, np.nan]),
            ValueError,
            "singular_values must be finite, got nan",
        ),
    ],
)
def test_bad_input(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_notes_stay_with_their_basis():
    Y = LowRank.random((6, 5), 2, np.random.default_rng(0))
    assert Y.notes is None and Y.replace(S=2 * Y.S).notes is None
    start = Y.with_notes()
    assert all(X is Z for X, Z in zip(start, Y, strict=True)) and Y.notes is None
    new = start.replace(U=Y.K, S=np.eye(2))
    assert new.U.shape == Y.U.shape and new.V is Y.V
    assert new.notes["V"] is start.notes["V"] and new.notes["t"] is start.notes["t"]
    assert new.notes["U"] is not start.notes["U"]
    other = start.embed(Y.U, Y.V)
    assert other.notes["t"] is start.notes["t"] and other.notes["V"] is not start.notes["V"]


def test_matrices_of_another_shape_are_refused():
    Y = LowRank.random((6, 5), 2, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"Z must have shape \(6, 5\), got \(5, 6\)"):
        Y.project(np.ones((5, 6)))
    with pytest.raises(TypeError, match="Z must be a numpy array or torch tensor, got int"):
        Y.project(3)
    with pytest.raises(ValueError, match=r"V must have 5 rows, got shape \(6, 2\)"):
        Y.embed(Y.U, Y.U)
    with pytest.raises(TypeError, match="shape must be a pair of integers"):
        LowRank.zeros(np.array(0.5), 1, np.random.default_rng(0))
