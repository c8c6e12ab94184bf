"""Target matrices: drawn with a chosen spectrum, or loaded from a file or from data that packages ship."""

from __future__ import annotations

import codecs
import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse

from integrators.checks import check_integer, check_rng
from integrators.linalg import haar

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff")


def synthetic(
    shape: tuple[int, int], singular_values: Sequence[float], rng: np.random.Generator, dtype: Any = np.float64
) -> np.ndarray:
    """Random matrix ``U diag(s) V^H`` with given singular values and Haar-distributed bases.

    Parameters
    ----------
    shape : (int, int)
        (m, n).
    singular_values : sequence of floats
        r <= min(m, n) finite numbers, not negative; the other singular values are zero.
    rng : numpy.random.Generator
        Source of U, then V.
    dtype : numpy dtype
        Of the result, real or complex floating; the computation is in double precision.

    Returns
    -------
    numpy array (m, n)

    Raises
    ------
    TypeError, ValueError
        An argument is not as above.
    """
    check_rng(rng)
    for name, n in zip(("m", "n"), shape, strict=True):
        check_integer(name, n)
    if not np.issubdtype(dtype, np.inexact):
        raise TypeError(f"dtype must be real or complex floating, got {np.dtype(dtype)}")
    try:
        s = np.asarray(singular_values, dtype=np.float64)
    except OverflowError as error:
        raise ValueError(f"singular_values must be floating-point numbers: {error}") from error
    if s.ndim != 1 or not 1 <= len(s) <= min(shape):
        raise ValueError(f"singular_values must be 1 to min(m, n) = {min(shape)} numbers, got shape {s.shape}")
    if not np.all(np.isfinite(s) & (s >= 0)):
        raise ValueError(f"singular_values must be finite and not negative, got {s}")
    double = np.result_type(dtype, np.float64)
    U, V = (haar(n, len(s), rng, double) for n in shape)
    return ((U * s) @ V.conj().T).astype(dtype)


def load_target(name_or_path: str | Path, key: str | None = None, dtype: Any = np.float64) -> np.ndarray:
    """A matrix from a file, or from data that packages ship, by name.

    Parameters
    ----------
    name_or_path : str or Path
        ``"elevation"`` (344 x 403, heights in metres near Jacksboro, sample data of matplotlib), or a file: `.npy`,
        `.npz` (of numpy, or a sparse matrix saved by scipy), `.csv` (numbers separated by commas, no header; UTF-8 or
        UTF-16, with or without a byte-order mark), `.mtx` (Matrix Market, dense or sparse) or an image (grey levels
        from 0 to 1). Sparse matrices are made dense.
    key : str, optional
        Name of the array in an `.npz` file of numpy; needed where the file holds several matrices.
    dtype : numpy dtype
        Of the result.

    Returns
    -------
    numpy array (m, n)
        Without NaN or infinite entries.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    TypeError
        `dtype` has no floating-point numbers.
    ValueError
        The name or the suffix is unknown, the file cannot be read, or its content is not a finite matrix of numbers.
        Pickled objects are never loaded.
    """
    if not np.issubdtype(dtype, np.inexact):
        raise TypeError(f"dtype must be real or complex floating, got {np.dtype(dtype)}")
    given = str(name_or_path)
    if given in NAMED:
        return _checked(NAMED[given](), given, dtype)
    path = Path(given)
    suffix = path.suffix.lower()
    if not suffix and not path.exists():
        near = difflib.get_close_matches(given, NAMED, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"known names: {', '.join(NAMED)}"
        raise ValueError(f"name_or_path {given!r} is neither a file nor a known name; {hint}")
    if not path.is_file():
        raise FileNotFoundError(f"name_or_path {given!r}: no such file")
    if key is not None and suffix != ".npz":
        raise ValueError(f"key {key!r} is meant for .npz files, got {given!r}")
    if suffix not in (".npy", ".npz", ".csv", ".mtx", *IMAGES):
        raise ValueError(f"name_or_path {given!r}: suffix must be one of .npy, .npz, .csv, .mtx, {', '.join(IMAGES)}")
    try:
        if suffix == ".npy":
            X = np.load(path, allow_pickle=False)
        elif suffix == ".npz":
            X = _from_npz(path, key)
        elif suffix == ".csv":
            X = np.loadtxt(path, delimiter=",", ndmin=2, encoding=_encoding(path))
        elif suffix == ".mtx":
            X = _from_matrix_market(path)
        else:
            X = _from_image(path)
    except Exception as problem:  # of many kinds, according to what is damaged
        raise ValueError(f"name_or_path {given!r} could not be read: {problem}") from problem
    return _checked(X, given, dtype)


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _dense(X: Any) -> np.ndarray:
    return X.toarray() if scipy.sparse.issparse(X) else np.asarray(X)


def _from_matrix_market(path: Path) -> np.ndarray:
    """Read a `.mtx` file here: where one is damaged, scipy's reader (1.17) writes beyond its memory.

    An array has its columns one after the other, of a symmetric matrix only the part on and below the diagonal.
    """
    head, *lines = path.read_text(encoding="utf-8-sig").splitlines() or [""]
    if head.lower().split()[:2] != ["%%matrixmarket", "matrix"] or len(head.split()) != 5:
        raise ValueError("it does not begin with the header of a Matrix Market file")
    layout, field, symmetry = head.lower().split()[2:]
    parts = {"real": 1, "double": 1, "integer": 1, "unsigned-integer": 1, "complex": 2, "pattern": 0}.get(field)
    mirrored = {"general": None, "symmetric": np.positive, "skew-symmetric": np.negative, "hermitian": np.conj}
    if layout not in ("array", "coordinate") or parts is None or symmetry not in mirrored:
        raise ValueError(f"its header names unknown properties: {layout}, {field}, {symmetry}")
    sizes, *rows = [line.split() for line in lines if line.strip() and line[0] != "%"] or [[]]
    m, n, *listed = (int(size) for size in sizes)
    if min(m, n) < 1 or len(listed) != (layout == "coordinate") or (symmetry != "general" and m != n):
        raise ValueError(f"its sizes do not fit a {symmetry} matrix: {m}, {n}, {listed}")
    strict = symmetry == "skew-symmetric"
    count = listed[0] if listed else m * n if symmetry == "general" else n * (n + 1) // 2 - n * strict
    if len(rows) != count:
        raise ValueError(f"it must have {count} lines of entries, found {len(rows)}")
    numbers = np.array(rows, dtype=np.float64).reshape(count, parts + 2 * (layout == "coordinate"))
    if layout == "coordinate":
        if not np.all((numbers[:, :2] >= 1) & (numbers[:, :2] <= (m, n))):
            raise ValueError(f"it has entries outside of a {m} x {n} matrix")
        i, j = numbers[:, :2].T.astype(int) - 1
    else:
        j, i = np.nonzero(np.ones((n, m)) if symmetry == "general" else np.triu(np.ones((n, n)), int(strict)))
    X = numbers[:, -2] + 1j * numbers[:, -1] if parts == 2 else numbers[:, -1] if parts else np.ones(count)
    A = np.zeros((m, n), X.dtype)
    np.add.at(A, (i, j), X)
    if mirror := mirrored[symmetry]:
        below = i != j
        np.add.at(A, (j[below], i[below]), mirror(X[below]))
    return A


def _from_npz(path: Path, key: str | None) -> np.ndarray:
    with np.load(path, allow_pickle=False) as file:
        if "format" in file and "shape" in file:  # written by scipy.sparse.save_npz
            if key is not None:
                raise ValueError(f"it is one sparse matrix, without an array {key!r}")
            return _dense(scipy.sparse.load_npz(path))
        if key is not None:
            if key not in file:
                raise ValueError(f"it has no array {key!r}, but {', '.join(file.files)}")
            return file[key]
        matrices = {name: X for name in file.files if (X := file[name]).ndim == 2}
    if len(matrices) != 1:
        found = f"several matrices, choose one by key: {', '.join(matrices)}" if matrices else "no matrix"
        raise ValueError(f"it holds {found}")
    return next(iter(matrices.values()))


def _from_image(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        if image.mode.startswith("I"):  # 16 bits per pixel
            return np.asarray(image, dtype=np.float64) / 65535
        return np.asarray(image.convert("L"), dtype=np.float64) / 255


def _elevation() -> np.ndarray:
    from matplotlib.cbook import get_sample_data

    with np.load(get_sample_data("jacksboro_fault_dem.npz", asfileobj=False)) as file:
        return file["elevation"]


NAMED: dict[str, Callable[[], np.ndarray]] = {"elevation": _elevation}


def _checked(X: np.ndarray, given: str, dtype: Any) -> np.ndarray:
    if X.ndim != 2 or min(X.shape) == 0:
        raise ValueError(f"name_or_path {given!r} must hold a matrix (2 dimensions), got shape {X.shape}")
    if not np.issubdtype(X.dtype, np.number):
        raise ValueError(f"name_or_path {given!r} must hold numbers, got dtype {X.dtype}")
    if np.iscomplexobj(X) and not np.issubdtype(dtype, np.complexfloating):
        raise ValueError(f"name_or_path {given!r} holds complex numbers, dtype {np.dtype(dtype)} is real")
    if not np.all(np.isfinite(X)):
        raise ValueError(f"name_or_path {given!r} must be finite, got NaN or infinite entries")
    return X.astype(dtype)
