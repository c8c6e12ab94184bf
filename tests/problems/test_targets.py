"""Target matrices: drawn with a given spectrum, or loaded from files and by name."""

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import problems


@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    dtype=st.sampled_from([np.float32, np.float64, np.complex64, np.complex128]),
    seed=st.integers(0, 1000),
)
def test_synthetic_has_the_given_spectrum(shape, dtype, seed):
    rng = np.random.default_rng(seed)
    s = np.sort(rng.random(rng.integers(1, min(shape) + 1)))[::-1]
    A = problems.synthetic(shape, s, rng, dtype)
    assert A.shape == shape and A.dtype == dtype
    found = np.linalg.svd(A.astype(np.complex128), compute_uv=False)
    assert np.abs(found[: len(s)] - s).max() < 20 * np.finfo(dtype).eps
    assert np.all(found[len(s) :] < 20 * np.finfo(dtype).eps)


def test_synthetic_is_reproducible():
    A, B = (problems.synthetic((4, 3), [2, 1], np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(A, B)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (((3, 4), [1, 2, 3, 4]), ValueError, r"singular_values must be 1 to min\(m, n\) = 3 numbers, got shape \(4,\)"),
        (((3, 4), []), ValueError, "singular_values must be 1 to"),
        (((3, 4), [-1.0]), ValueError, "singular_values must be finite and not negative"),
        (((3, 4), [np.nan]), ValueError, "singular_values must be finite and not negative"),
        (((0, 4), [1.0]), ValueError, "m must be at least 1, got 0"),
        (((3, 4), [1.0], int), TypeError, "dtype must be real or complex floating, got int64"),
    ],
)
def test_bad_synthetic(arguments, error, message):
    shape, s, *dtype = arguments
    with pytest.raises(error, match=message):
        problems.synthetic(shape, s, np.random.default_rng(0), *dtype)


def test_synthetic_needs_a_generator():
    with pytest.raises(TypeError, match="rng must be a numpy"):
        problems.synthetic((3, 4), [1.0], 0)


def test_elevation():
    A = problems.load_target("elevation")
    assert A.shape == (344, 403) and A.dtype == np.float64
    assert 200 < A.min() < A.max() < 1200
    assert problems.load_target("elevation", dtype=np.float32).dtype == np.float32


def test_files(tmp_path):
    X = np.random.default_rng(0).standard_normal((5, 3))
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "one.npz", x=X, scalar=1.0)
    np.savez(tmp_path / "two.npz", x=X, y=2 * X)
    np.savetxt(tmp_path / "x.csv", X, delimiter=",")
    np.savetxt(tmp_path / "row.csv", X[:1], delimiter=",")
    assert np.array_equal(problems.load_target(tmp_path / "x.npy"), X)
    assert np.array_equal(problems.load_target(str(tmp_path / "one.npz")), X)
    assert np.array_equal(problems.load_target(tmp_path / "one.npz", key="x"), X)
    assert np.array_equal(problems.load_target(tmp_path / "two.npz", key="y"), 2 * X)
    assert np.array_equal(problems.load_target(tmp_path / "x.csv"), X)
    assert problems.load_target(tmp_path / "row.csv").shape == (1, 3)
    assert problems.load_target(tmp_path / "x.npy", dtype=np.float32).dtype == np.float32


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "ascii"])
def test_encodings_of_csv(tmp_path, encoding):
    (tmp_path / "x.csv").write_text("1,2\n3,4.5e-3\n", encoding=encoding)
    assert np.array_equal(problems.load_target(tmp_path / "x.csv"), [[1, 2], [3, 4.5e-3]])


@pytest.mark.parametrize("dtype", [float, complex])
def test_files_of_scipy(tmp_path, dtype):
    X = np.random.default_rng(0).standard_normal((5, 3)).astype(dtype)
    X[X.real < 0] = 0
    X += 1j * X.T[:, :1].sum() if dtype is complex else 0
    for name, Z in (("dense", X), ("coo", sp.coo_array(X)), ("csr", sp.csr_matrix(X)), ("csc", sp.csc_array(X))):
        scipy.io.mmwrite(tmp_path / f"{name}.mtx", Z, precision=17)
        assert np.array_equal(problems.load_target(tmp_path / f"{name}.mtx", dtype=dtype), X)
        if name != "dense":
            sp.save_npz(tmp_path / f"{name}.npz", Z)
            assert np.array_equal(problems.load_target(tmp_path / f"{name}.npz", dtype=dtype), X)
    symmetric = np.array([[1.0, 2.0], [2.0, 0.0]])
    scipy.io.mmwrite(tmp_path / "symmetric.mtx", sp.coo_array(symmetric), symmetry="symmetric")
    assert np.array_equal(problems.load_target(tmp_path / "symmetric.mtx"), symmetric)


@pytest.mark.parametrize("symmetry", ["general", "symmetric", "skew-symmetric", "hermitian"])
@pytest.mark.parametrize("field", ["real", "integer", "complex", "pattern"])
@pytest.mark.parametrize("sparse", [False, True])
def test_matrix_market(tmp_path, symmetry, field, sparse):
    """As scipy's reader reads them."""
    if field == "pattern" and not sparse:
        return
    rng, path = np.random.default_rng(0), tmp_path / "x.mtx"
    X = np.round(9 * rng.standard_normal((5, 5 if symmetry != "general" else 3)))
    X = X + 1j * np.round(9 * rng.standard_normal(X.shape)) if field == "complex" else X
    X = (
        {"symmetric": X + X.T, "hermitian": X + X.conj().T, "skew-symmetric": X - X.T}[symmetry]
        if X.shape == (5, 5)
        else X
    )
    X = X * (np.abs(X) > 5) if sparse else X
    scipy.io.mmwrite(path, sp.coo_array(X) if sparse else X, field=field, symmetry=symmetry)
    Z = scipy.io.mmread(path)
    assert np.array_equal(problems.load_target(path, dtype=complex), Z.toarray() if sparse else Z)


HEADER = "%%MatrixMarket matrix array real general\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "3 4\n0\n4\n5)", "must have 12 lines of entries, found 3"),  # crashes scipy 1.17
        (HEADER.replace("general", "symmetric") + "3 4\n" + "1\n" * 12, "do not fit a symmetric matrix: 3, 4"),  # too
        (HEADER + "2 2\n1\n2\n3\nx\n", "could not convert"),
        (HEADER + "2 1\n1 2\n3 4\n", "reshape"),
        (HEADER + "-2 2\n", "do not fit"),
        (HEADER, "not enough values"),
        (HEADER.replace("real", "odd") + "1 1\n1\n", "unknown properties: array, odd, general"),
        (HEADER.replace("array", "coordinate") + "2 2 1\n3 1 1\n", "outside of a 2 x 2"),
        (HEADER.replace("array", "coordinate") + "2 2 1\nnan 1 1\n", "outside of a 2 x 2"),
        ("", "does not begin with"),
    ],
)
def test_damaged_matrix_market(tmp_path, text, message):
    (tmp_path / "x.mtx").write_text(text)
    with pytest.raises(ValueError, match=f"could not be read: .*{message}"):
        problems.load_target(tmp_path / "x.mtx")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_images(tmp_path, suffix):
    image = pytest.importorskip("PIL.Image")
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    image.fromarray(grey).save(tmp_path / f"grey{suffix}")
    assert np.array_equal(problems.load_target(tmp_path / f"grey{suffix}"), grey / 255)
    image.fromarray(np.stack([grey] * 3, axis=2)).save(tmp_path / f"colour{suffix}")
    assert np.allclose(problems.load_target(tmp_path / f"colour{suffix}"), grey / 255, rtol=0, atol=1 / 255)
    image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / f"deep{suffix}")
    assert np.allclose(problems.load_target(tmp_path / f"deep{suffix}"), grey / 255, rtol=0, atol=1e-12)


def test_bad_names_and_paths(tmp_path):
    with pytest.raises(ValueError, match=r"name_or_path 'elevatoin' is neither .* did you mean 'elevation'\?"):
        problems.load_target("elevatoin")
    with pytest.raises(ValueError, match="'qqq' is neither a file nor a known name; known names: elevation"):
        problems.load_target("qqq")
    with pytest.raises(FileNotFoundError, match=r"missing\.npy': no such file"):
        problems.load_target(tmp_path / "missing.npy")
    (tmp_path / "x.mat").write_bytes(b"")
    with pytest.raises(ValueError, match=r"x.mat': suffix must be one of .npy, .npz, .csv, .mtx, .png"):
        problems.load_target(tmp_path / "x.mat")
    with pytest.raises(FileNotFoundError, match="no such file"):
        problems.load_target(tmp_path)


def test_bad_content(tmp_path):
    def refuse(name, message, **options):
        with pytest.raises(ValueError, match=message):
            problems.load_target(tmp_path / name, **options)

    X = np.ones((2, 2))
    np.save(tmp_path / "vector.npy", np.ones(3))
    refuse("vector.npy", r"must hold a matrix \(2 dimensions\), got shape \(3,\)")
    np.save(tmp_path / "nan.npy", X * np.nan)
    refuse("nan.npy", "must be finite, got NaN or infinite entries")
    np.save(tmp_path / "words.npy", np.array([["a", "b"]]))
    refuse("words.npy", "must hold numbers, got dtype <U1")
    np.save(tmp_path / "complex.npy", X * 1j)
    refuse("complex.npy", "holds complex numbers, dtype float64 is real")
    assert problems.load_target(tmp_path / "complex.npy", dtype=complex).dtype == np.complex128
    np.save(tmp_path / "pickle.npy", np.array([[{}, None]]), allow_pickle=True)
    refuse("pickle.npy", "could not be read: .*pickle")
    np.savez(tmp_path / "two.npz", x=X, y=X)
    refuse("two.npz", "it holds several matrices, choose one by key: x, y")
    refuse("two.npz", "it has no array 'z', but x, y", key="z")
    np.savez(tmp_path / "none.npz", x=np.ones(3))
    refuse("none.npz", "it holds no matrix")
    (tmp_path / "words.csv").write_text("a,b\n1,2\n")
    refuse("words.csv", "could not be read")
    (tmp_path / "fake.mtx").write_text("no matrix")
    refuse("fake.mtx", "could not be read")
    (tmp_path / "empty.mtx").write_text("")
    refuse("empty.mtx", "could not be read")
    sp.save_npz(tmp_path / "sparse.npz", sp.coo_array(X))
    refuse("sparse.npz", "it is one sparse matrix, without an array 'x'", key="x")
    (tmp_path / "fake.png").write_text("no image")
    refuse("fake.png", "could not be read")
    (tmp_path / "fake.npz").write_text("no archive")
    refuse("fake.npz", "could not be read")
    (tmp_path / "fake.npy").write_text("")
    refuse("fake.npy", "could not be read")
    np.save(tmp_path / "x.npy", X)
    refuse("x.npy", "key 'x' is meant for .npz files", key="x")
    with pytest.raises(TypeError, match="dtype must be real or complex floating, got int64"):
        problems.load_target(tmp_path / "x.npy", dtype=int)
