"""Linear-algebra kernels against dense formulas: complements, alone and in stacks, polishing, rotation."""

import math

import numpy as np
import pytest
import torch

from integrators.linalg import (
    alignment,
    columns,
    complement,
    complements,
    dagger,
    double_svd,
    eps,
    haar,
    host_svds,
    largest,
    msign,
    orth,
    polish,
    qr,
    quintics,
    read,
    rotate,
    smooth_sign,
    stacked,
    to_numpy,
    units,
    write,
)

DTYPES = [np.float32, np.float64, np.complex128]
STACKS = {"float32": torch.float32, "float64": torch.float64, "complex128": torch.complex128}


def randn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("library", [np.asarray, torch.asarray], ids=["numpy", "torch"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e20])
def test_complement(library, dtype, scale):
    """Orthonormal, orthogonal to U, spans what X adds: also for tiny X and for directions nearly in span(U)."""
    rng = np.random.default_rng(1)
    U = np.linalg.qr(rng.standard_normal((30, 4)))[0]
    new = rng.standard_normal((30, 3))
    X = U @ rng.standard_normal((4, 3)) + new * np.array([1.0, 1e-2, 1e-4 if dtype == np.float32 else 1e-10])
    U, X = U.astype(dtype), (scale * X).astype(dtype)
    Ut = np.asarray(complement(library(U), library(X)))
    e = np.finfo(dtype).eps
    assert Ut.shape == (30, 3)
    assert np.linalg.norm(dagger(Ut) @ Ut - np.eye(3)) <= 20 * e
    assert np.linalg.norm(dagger(U) @ Ut) <= 20 * e
    both = np.hstack([U, Ut])
    X = X / scale
    assert np.linalg.norm(X - both @ (dagger(both) @ X)) <= 50 * e * np.linalg.norm(X)


def test_complement_invents_nothing():
    rng = np.random.default_rng(2)
    U = np.linalg.qr(rng.standard_normal((20, 4)))[0]
    assert complement(U, np.zeros((20, 4))).shape == (20, 0)
    assert complement(U, np.zeros((20, 0))).shape == (20, 0)
    assert complement(U, U @ rng.standard_normal((4, 4))).shape == (20, 0)
    x = rng.standard_normal((20, 1))
    assert complement(U, x @ np.ones((1, 4))).shape == (20, 1)  # rank-deficient X: one direction, not four
    square = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    assert complement(square, rng.standard_normal((4, 4))).shape == (4, 0)  # nothing is left
    assert complement(U[:6, :4], rng.standard_normal((6, 4))).shape[1] <= 2


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_kernels_refuse_non_finite_input(bad):
    U, X = np.eye(4, 2), np.full((4, 2), bad)
    for call in (lambda: complement(U, X), lambda: orth(X), lambda: double_svd(X)):
        with pytest.raises(FloatingPointError, match="non-finite"):
            call()


def test_polish_squares_the_defect():
    U = np.linalg.qr(np.random.default_rng(3).standard_normal((40, 5)))[0]
    U = U + 1e-5 * np.random.default_rng(4).standard_normal((40, 5))
    defect = np.linalg.norm(U.T @ U - np.eye(5))
    assert np.linalg.norm(polish(U).T @ polish(U) - np.eye(5)) <= defect**2


def test_rotate_keeps_the_dtype():
    U = np.linalg.qr(np.random.default_rng(3).standard_normal((40, 5)))[0].astype(np.float32)
    P = np.linalg.qr(np.random.default_rng(5).standard_normal((5, 5)))[0]
    R = rotate(U, P[:, :3])
    assert R.dtype == np.float32 and np.linalg.norm(R.T @ R - np.eye(3)) <= 20 * np.finfo(np.float32).eps


# -- stacks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["torch", "numpy"])
@pytest.mark.parametrize("dtype", STACKS)
def test_complement_of_a_stack(library, dtype):
    """Generic, in the span already, tiny, badly scaled, zero, of smaller rank: each as alone, with zero columns."""
    U = torch.linalg.qr(randn(7, 40, 5, dtype=STACKS[dtype]))[0]
    X = randn(7, 40, 5, dtype=STACKS[dtype], seed=1)
    X[1, :, 3] = U[1] @ X[1, :5, 2]
    X[2] = U[2] @ X[2, :5]
    X[3] *= 1e-30
    X[4, :, 0] *= 1e-3
    X[5] = 0
    U[6, :, 3:], X[6, :, 2:] = 0, 0
    if library == "numpy":
        U, X = U.numpy(), X.numpy()
    Q = complement(U, X)
    assert tuple(Q.shape) == (7, 40, 5)
    for i, width in enumerate((5, 4, 0, 5, 5, 0, 2)):
        alone, mine = complement(U[i], X[i]), Q[i][:, columns(Q[i])]
        assert alone.shape[1] == mine.shape[1] == width
        A, B, V = (torch.as_tensor(Z) for Z in (alone, mine, U[i]))
        tolerance = 100 * eps(X)
        assert float((A @ A.mH - B @ B.mH).abs().max() if width else 0) <= tolerance
        assert float((B.mH @ B - torch.eye(width, dtype=B.dtype)).abs().max() if width else 0) <= tolerance
        assert float((V.mH @ B).abs().max() if width else 0) <= tolerance


@pytest.mark.parametrize("condition", [1e0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_ways_to_a_complement_span_the_same(condition, dtype):
    """Whatever the condition: the basis from torch's fast way, or from its fall-back, against that of numpy."""
    U = np.linalg.qr(randn(60, 4).numpy())[0]
    P, Q = np.linalg.qr(randn(60, 6, seed=1).numpy())[0], np.linalg.qr(randn(6, 6, seed=2).numpy())[0]
    X = (P - U @ (U.T @ P)) * np.geomspace(1, 1 / condition, 6) @ Q
    U, X = U.astype(dtype), X.astype(dtype)
    slow, fast = complement(U, X), complement(torch.tensor(U), torch.tensor(X)).numpy()
    assert fast.shape == slow.shape
    assert np.abs(fast.T @ fast - np.eye(fast.shape[1])).max() <= 100 * np.finfo(dtype).eps
    assert np.abs(U.T @ fast).max() <= 100 * np.finfo(dtype).eps
    assert np.linalg.norm(X - fast @ (fast.T @ X) - U @ (U.T @ X)) <= 200 * np.finfo(dtype).eps * np.linalg.norm(X)


def test_no_room_is_capped():
    U = torch.linalg.qr(randn(3, 8, 5))[0]
    assert complement(U, randn(3, 8, 5, seed=1)).shape == (3, 8, 3)


@pytest.mark.parametrize("k", [2, 8])
@pytest.mark.parametrize("library", [np.asarray, torch.asarray], ids=["numpy", "torch"])
def test_one_bad_matrix_in_a_stack(library, k):
    """Not finite, or dependent in torch where that takes decisions: it becomes not finite, and the others do not."""
    U, X = torch.linalg.qr(randn(4, 9, 2))[0], randn(4, 9, k, seed=1)
    X[1, 0, 0], X[2, 1, 1] = torch.nan, torch.inf
    X[3, :, 1] = X[3, :, 0]
    finite = torch.isfinite(torch.as_tensor(complement(library(U), library(X)))).all(-1).all(-1).tolist()
    assert finite == [True, False, False, library is np.asarray or k == 8]


def test_complements_share_their_factorisations():
    """Of pairs of other heights, stacks or single: those of each pair."""
    pairs = [(torch.linalg.qr(randn(3, m, 2))[0], randn(3, m, 4, seed=m)) for m in (9, 12)]
    for found, (U, X) in zip(complements(*pairs), pairs, strict=True):
        torch.testing.assert_close(found, complement(U, X), rtol=1e-12, atol=1e-13)
    single = [(U[0], X[0]) for U, X in pairs]
    for found, (U, X) in zip(complements(*single), single, strict=True):
        torch.testing.assert_close(found, complement(U, X), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("library", [np.asarray, torch.asarray], ids=["numpy", "torch"])
def test_factors_of_a_stack_keep_zero_columns(library):
    """Where their partner has them; a zero column of a whole matrix is completed, since its rank is the method's."""
    X, partner = randn(3, 9, 4), torch.linalg.qr(randn(3, 7, 4, seed=1))[0]
    X[1, :, 2:], partner[1, :, 2:] = 0, 0
    X[2, :, 3] = 0
    Q, R = qr(library(X), library(partner))
    np.testing.assert_allclose(np.asarray(Q @ R), X, atol=1e-13)
    for i, rank in enumerate((4, 2, 4)):
        np.testing.assert_allclose(np.asarray(Q[i].T @ Q[i]), np.diag(np.arange(4) < rank), atol=1e-13)


@pytest.mark.parametrize("library", [np.asarray, torch.asarray], ids=["numpy", "torch"])
def test_arrays_of_different_shapes_in_one(library):
    arrays = [randn(3, 2), randn(3, 4, seed=1), randn(2, 4, seed=2)]
    one = stacked([library(X) for X in arrays])
    assert tuple(one.shape) == (3, 3, 4)
    for row, X in zip(one, arrays, strict=True):
        k, l = X.shape
        np.testing.assert_array_equal(row[:k, :l], X)
        assert float(abs(row).sum()) == pytest.approx(float(abs(X).sum()), rel=1e-14)
    assert tuple(stacked([library(X) for X in arrays[:1] * 2]).shape) == (2, 3, 2)


def test_largest_entries_do_not_overflow():
    X = [np.array([[-3e38, 1.0]], np.float32), np.zeros((0, 2)), np.array([np.inf, 1.0]), np.array([1j, 0.5, -2j])]
    assert largest(X).tolist() == largest([torch.asarray(x) for x in X]).tolist() == [float(X[0][0, 0] * -1), np.inf, 2]
    assert np.isnan(largest([torch.tensor([1.0, math.nan])])) and largest([]).shape == (0,)


def test_read_and_write_keep_shapes_and_round_for_torch():
    arrays = [torch.ones(2, 3), randn(4), torch.zeros(0, 2), np.eye(2)]
    found = read(arrays)
    assert all(isinstance(X, np.ndarray) for X in found)
    for X, Y in zip(found, arrays, strict=True):
        np.testing.assert_array_equal(X, Y)
    likes = [torch.zeros(()), randn(1), np.zeros(()), torch.zeros(())]
    for X, like, Y in zip(found, likes, write(found, likes), strict=True):
        assert type(Y) is type(like) or isinstance(Y, np.ndarray)
        assert Y.shape == X.shape and (isinstance(Y, np.ndarray) or Y.dtype == like.dtype)


def test_small_svds_of_any_shapes():
    rng = np.random.default_rng(0)
    matrices = [rng.standard_normal(shape) for shape in ((3, 3), (4, 2), (3, 3))]
    for like in (np.zeros(()), torch.zeros(())):
        found = host_svds(like, [*matrices, None])
        assert found[3] is None
        for S, (P, d, Q) in zip(matrices, found[:3], strict=True):
            assert d.dtype == np.float64
            np.testing.assert_allclose((P * d) @ Q.T, S, atol=1e-14)


def test_factorisations_leave_the_number_of_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        U = qr(randn(9, 2))[0]
        complement(U, randn(9, 2, seed=1))
        rotate(U, double_svd(randn(2, 2))[0])
        with pytest.raises(FloatingPointError):
            double_svd(torch.full((2, 2), torch.nan))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_to_numpy():
    for dtype in (torch.float32, torch.complex64, torch.bfloat16, torch.int64):
        X = torch.ones(2, 3).to(dtype).requires_grad_(dtype.is_floating_point)
        assert to_numpy(X).shape == (2, 3) and to_numpy(X.mT.conj()).tolist() == np.ones((3, 2)).tolist()
    assert to_numpy([1.0, 2.0]).dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_haar(dtype):
    rng = np.random.default_rng(0)
    X = np.stack([haar(4, 2, rng, dtype) for _ in range(4000)])
    assert X.dtype == dtype
    # E X = 0 and E |X_ij|^2 = 1/4; the plain Q of LAPACK has a first column of one sign. 5 standard deviations.
    assert np.abs(X.mean(axis=0)).max() < 5 * 0.5 / np.sqrt(4000)
    assert np.abs((np.abs(X) ** 2).mean(axis=0) - 0.25).max() < 5 * 0.25 * np.sqrt(2) / np.sqrt(4000)


@pytest.mark.parametrize("library", [np.asarray, torch.asarray], ids=["numpy", "torch"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(8000, 20), (7919, 20), (3, 4001, 17), (150_001, 1), (2000, 100)], ids=str)
def test_qr_in_blocks_of_rows(library, dtype, shape):
    """Tall matrices, with rows to spare and without, graded over 12 decades and with a column of zeros."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal(shape) * np.logspace(0, -12, shape[-1])
    X[..., shape[-1] // 2] *= shape[-1] == 1
    X = X.astype(dtype)
    Q, R = (to_numpy(A) for A in qr(library(X)))
    e = np.finfo(dtype).eps
    assert Q.dtype == R.dtype == dtype and Q.shape == shape
    assert np.linalg.norm(dagger(Q) @ Q - np.eye(shape[-1])) <= 50 * e * np.sqrt(shape[-1])
    columns = np.linalg.norm(X, axis=-2)
    assert np.all(np.linalg.norm(Q @ R - X, axis=-2) <= 50 * e * columns)
    assert np.array_equal(R, np.triu(R))


def with_values(d, dtype, seed=0):
    """A square matrix of these singular values."""
    rng = np.random.default_rng(seed)
    P, Q = (haar(len(d), len(d), rng, dtype) for _ in range(2))
    return (P * np.asarray(d)) @ Q.conj().T, P, Q


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_msign(dtype):
    """Ones for the singular values, zero for those of rounding; zero rows and columns stay zero to the bit."""
    e = np.finfo(dtype).eps
    C, P, Q = with_values([3.0, 1.0, 1e-2, e], dtype)
    C, expected = C.astype(dtype), P[:, :3] @ Q[:, :3].conj().T
    # a perturbation E of C moves the sign by 2 ||E|| / d_3
    assert np.linalg.norm(msign(C) - expected) <= 100 * e / 1e-2
    padded = np.zeros((2, 6, 5), dtype)
    padded[0, 1:5, :4] = C
    padded[1] = np.nan
    for like in (np.asarray, torch.asarray):
        found = np.asarray(msign(like(padded)))
        assert np.linalg.norm(found[0, 1:5, :4] - expected) <= 100 * e / 1e-2
        assert not found[0, [0, 5]].any() and not found[0, :, 4].any() and np.isnan(found[1]).all()
    assert not msign(np.zeros((3, 2), dtype)).any() and msign(np.zeros((0, 2))).shape == (0, 2)
    with pytest.raises(FloatingPointError, match="the tangent vector has non-finite entries"):
        msign(padded[1])


def test_quintics_are_best_approximations():
    """The composition obeys its bounds, each member has its extrema where it should, and no other is better."""
    lower = 1e-3
    found, delta = quintics(lower, 6)
    assert 9.1e-4 < delta < 9.2e-4
    x = np.concatenate([np.geomspace(1e-12, lower, 2001), np.geomspace(lower, 1.0, 200001)])
    f, l, u = x, lower, 1.0
    for a, b, c in found:
        t = np.linspace(l, u, 100001)
        p = a * t + b * t**3 + c * t**5
        E = np.max(np.abs(p - 1))
        q, r = np.sqrt(np.sort(np.roots([5 * c, 3 * b, a])))
        signs = [np.sign(1 - (a * z + b * z**3 + c * z**5)) for z in (l, q, r, u)]
        assert l < q < r < u and signs == [1, -1, 1, -1]  # four of equal size: the best by Chebyshev's theorem
        assert abs(a * l + b * l**3 + c * l**5 - (1 - E)) <= 1e-9
        assert abs(a * u + b * u**3 + c * u**5 - (1 + E)) <= 1e-9
        f, l, u = a * f + b * f**3 + c * f**5, 1 - E, 1 + E
    assert np.max(np.abs(f[x >= lower] - 1)) <= delta * (1 + 1e-9)
    assert np.all(f >= (1 - delta) * np.minimum(x / lower, 1) * (1 - 1e-9)) and np.max(f) <= 1 + delta * (1 + 1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_smooth_sign(dtype):
    """The composition of the singular values, whatever the size of the matrix; nothing for nothing."""
    e = np.finfo(dtype).eps
    d = np.array([3.0, 1.0, 1e-2, 1e-5, 0.0])
    C, P, Q = with_values(d, dtype)
    f = d / np.linalg.norm(d)
    for a, b, c in quintics(1e-3, 6)[0]:
        f = a * f + b * f**3 + c * f**5
    expected = (P * f) @ Q.conj().T
    for scale in (1.0, 1e-30, 1e30):
        stack = np.zeros((3, 6, 6), dtype)
        stack[0, 1:, :5] = scale * C
        stack[2] = np.nan
        for like in (np.asarray, torch.asarray):
            found = np.asarray(smooth_sign(like(stack)))
            # its Lipschitz constant is f'(0) ~ the product of the first coefficients, some 2,000
            assert np.linalg.norm(found[0, 1:, :5] - expected) <= 1e5 * e
            assert not found[0, 0].any() and not found[0, :, 5].any()
            assert not found[1].any() and np.isnan(found[2]).all()
    with pytest.raises(FloatingPointError, match="the tangent vector has non-finite entries"):
        smooth_sign(stack[2])


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_alignment_solves_the_procrustes_problem(dtype):
    """No other unitary matrix brings the columns nearer; a stack gives what its matrices give alone."""
    rng, m, single = np.random.default_rng(0), 9, []
    like = np.zeros((), float)
    for r1, r0 in ((3, 3), (4, 2), (2, 4)):
        U1, U0 = haar(m, r1, rng, dtype), haar(m, r0, rng, dtype)
        T, E = alignment(U1, U0, like)
        single.append((U1, U0, T, E))
        k = min(r1, r0)
        chosen = np.argmax(E[:, :k], axis=0)
        assert np.linalg.norm(T.conj().T @ T - np.eye(r1)) <= 1e-14 * 10
        assert sorted(set(chosen)) == chosen.tolist() and np.all(E[:, k:] == 1 / r0)
        lengths = np.linalg.norm(U1.conj().T @ U0, axis=0)
        assert min(lengths[chosen]) >= max([*np.delete(lengths, chosen), 0.0])
        least = np.linalg.norm(U1 @ T[:, :k] - U0[:, chosen])
        for _ in range(20):
            other = haar(r1, k, rng, dtype)
            assert np.linalg.norm(U1 @ other - U0[:, chosen]) >= least - 1e-14
        # and it turns with U1, where it is unique
        Q = haar(r1, r1, rng, dtype)
        turned = (U1 @ Q) @ alignment(U1 @ Q, U0, like)[0][:, :k]
        assert np.linalg.norm(turned - U1 @ T[:, :k]) <= 1e-13
    for library in (np.asarray, torch.asarray):
        U1, U0 = (
            library(np.stack([np.pad(one[i], ((0, 0), (0, 4 - one[i].shape[1]))) for one in single])) for i in (0, 1)
        )
        T, E = map(np.asarray, alignment(U1, U0, library(like)))
        for i, (_, _, Ti, Ei) in enumerate(single):
            for X, Xi in ((T[i], Ti), (E[i], Ei)):
                np.testing.assert_allclose(X[: Xi.shape[0], : Xi.shape[1]], Xi, atol=1e-13)
                assert np.sum(np.abs(X)) == pytest.approx(np.sum(np.abs(Xi)))


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_unit_vectors_of_a_long_basis(dtype):
    """A square matrix of this size would have 10^12 entries."""
    X = np.zeros((10**6, 2), dtype)
    E = units(X, [7, 10**6 - 1, 7])
    assert E.shape == (10**6, 3) and E.dtype == dtype
    assert np.argwhere(E).tolist() == [[7, 0], [7, 2], [10**6 - 1, 1]] and np.all(E[E != 0] == 1)
