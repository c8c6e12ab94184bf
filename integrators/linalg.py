"""Linear-algebra kernels: the one place where speed and accuracy need more than the array standard offers.

Every function takes numpy or torch arrays (or any library of the Python array API standard), real or complex,
and works on the last two axes unless it says otherwise.
"""

import functools
import math

import array_api_compat
import numpy as np
from array_api_compat import device, is_torch_array

__all__ = [
    "array_namespace",
    "check_finite",
    "complement",
    "concat",
    "dagger",
    "double_svd",
    "eps",
    "gaussian",
    "haar",
    "in_double",
    "is_complex",
    "is_floating",
    "norm",
    "orth",
    "polish",
    "qr",
    "rotate",
    "to_numpy",
]


_NAMESPACES: dict = {}  # of a type of arrays
_COMPLEX: dict = {}  # of a type of arrays and a dtype: those of two libraries may have equal hashes
_FLOATING: dict = {}


def array_namespace(*arrays):
    """The library of the arrays, in the form of the array API standard.

    Looked up once for each type, since finding out takes longer than a product of small matrices.
    """
    kind = type(arrays[0])
    if kind not in _NAMESPACES:
        _NAMESPACES[kind] = array_api_compat.array_namespace(*arrays)
    return _NAMESPACES[kind]


def one_thread(function):
    """Decorator: run in one thread where the arrays are torch's, whatever torch is set to.

    The matrices are small, and each of the many short parallel sections of a factorisation waits for its slowest
    thread. With two threads and other processes on both cores a batch of 36 singular value decompositions of
    64 x 64 took 850 ms (up to 8 s) instead of 80. Setting the number of threads takes 2 microseconds.
    """

    @functools.wraps(function)
    def run(first, *others, **options):
        if not is_torch_array(first):
            return function(first, *others, **options)
        xp = array_namespace(first)
        threads = xp.get_num_threads()
        xp.set_num_threads(1)
        try:
            return function(first, *others, **options)
        finally:
            xp.set_num_threads(threads)

    return run


def dagger(X):
    """Conjugate transpose ``X^H`` of the last two axes; a view where the library has one."""
    xp = array_namespace(X)
    return xp.conj(xp.matrix_transpose(X)) if is_complex(X) else xp.matrix_transpose(X)


def to_numpy(array):
    """A numpy or torch array as a numpy array, a view where possible; bfloat16 becomes float32."""
    if is_torch_array(array):
        array = array.detach().resolve_conj().resolve_neg().cpu()
        if str(array.dtype) == "torch.bfloat16":
            array = array.float()
        return array.numpy()
    return np.asarray(array)


def is_complex(X):
    """Whether the entries of ``X`` are complex."""
    kind = type(X), X.dtype
    if kind not in _COMPLEX:
        _COMPLEX[kind] = bool(array_namespace(X).isdtype(X.dtype, "complex floating"))
    return _COMPLEX[kind]


def is_floating(X):
    """Whether the entries of ``X`` are floating-point numbers, real or complex."""
    kind = type(X), X.dtype
    if kind not in _FLOATING:
        _FLOATING[kind] = bool(array_namespace(X).isdtype(X.dtype, ("real floating", "complex floating")))
    return _FLOATING[kind]


def in_double(X):
    """``X`` in double precision (float64 or complex128), same library, same device."""
    xp = array_namespace(X)
    return xp.astype(X, xp.complex128 if is_complex(X) else xp.float64)


def norm(X):
    """Frobenius norm as a float, accumulated in double precision."""
    return float(array_namespace(X).linalg.vector_norm(in_double(X)))


def gaussian(shape, rng, dtype=np.float64):
    """numpy array of standard normal entries in double precision; for a complex ``dtype`` both parts are drawn."""
    X = rng.standard_normal(shape)
    return X + 1j * rng.standard_normal(shape) if np.issubdtype(dtype, np.complexfloating) else X


def haar(n, rank, rng, dtype=np.float64):
    """Random (n, rank) numpy matrix with orthonormal columns, Haar distributed, drawn in double precision.

    The Q factor of a Gaussian matrix is Haar distributed once R is made to have a positive diagonal (F. Mezzadri,
    arXiv:math-ph/0609050).
    """
    Q, R = np.linalg.qr(gaussian((n, rank), rng, dtype))
    diagonal = np.diagonal(R)
    return (Q * (diagonal / np.abs(diagonal))).astype(dtype)


def eps(X):
    """Machine epsilon of the dtype of ``X``."""
    return float(array_namespace(X).finfo(X.dtype).eps)


def concat(*blocks, axis=-1):
    """``[A | B | ...]`` along ``axis``."""
    return array_namespace(*blocks).concat(blocks, axis=axis)


def check_finite(X, what="the field"):
    """Raise FloatingPointError if ``X`` holds an infinity or a NaN (LAPACK would answer in its own ways)."""
    xp = array_namespace(X)
    if not bool(xp.all(xp.isfinite(X))):
        raise FloatingPointError(f"{what} has non-finite entries")


@one_thread
def qr(X):
    """Householder ``X = Q R`` with Q (m, k), R (k, n), k = min(m, n). Cost O(m n k)."""
    check_finite(X, "a factor")
    return _blocked_qr(X)


def _blocked_qr(X):
    """QR in blocks of rows, each small enough for the cache, where X (..., m, n) is not; in one piece otherwise.

    The factors R of the blocks, one below the other, have a QR of their own, ``X = diag(Q_1, Q_2, ...) Q R``: as stable
    as Householder's in one piece, and three times as fast for 20,000 x 20. References: Demmel, Grigori, Hoemmen,
    Langou (2012), doi:10.1137/080731992.
    """
    xp, (*stack, m, n) = array_namespace(X), X.shape
    blocks = m // max(400, 8 * n)
    if blocks < 2 or m * n < 2**17:
        return tuple(xp.linalg.qr(X))
    body, rest = X[..., : m - m % blocks, :], X[..., m - m % blocks :, :]
    Qs, Rs = xp.linalg.qr(xp.reshape(body, (*stack, blocks, m // blocks, n)))
    Q, R = _blocked_qr(concat(xp.reshape(Rs, (*stack, blocks * n, n)), rest, axis=-2))
    top, rest = Q[..., : blocks * n, :], Q[..., blocks * n :, :]
    top = xp.reshape(Qs @ xp.reshape(top, (*stack, blocks, n, n)), body.shape)
    return concat(top, rest, axis=-2) if m % blocks else top, R


def orth(X):
    """Orthonormal columns (m, k) whose span contains that of ``X`` (m, k), k <= m; completed where X is singular."""
    return qr(X)[0]


@one_thread
def complement(U, X):
    r"""Orthonormal basis of the columns of :math:`(I - U U^H) X`, rank-revealing.

    Directions in which X sticks out of span(U) by no more than ``100 eps ||X||_F`` are dropped, never replaced by
    invented ones, so the result depends on span(U) and on ``X X^H`` alone. For X = 0 it has no columns.

    Parameters
    ----------
    U : array (..., m, r)
        Orthonormal columns.
    X : array (..., m, k)

    Returns
    -------
    array (..., m, j), j <= min(k, m - r)
        Orthonormal, and orthogonal to U to a few eps. In a stack j is the largest number of directions found, and a
        matrix with fewer ends with *zero* columns: no directions at all, which :func:`integrators.unstack` takes off.

    Raises
    ------
    FloatingPointError
        X has non-finite entries.

    Notes
    -----
    Cost O(m (r + k) k). X is scaled by its largest entry first, so that entries of 1e-30 do not underflow in
    float32. Block Gram-Schmidt is done twice before the singular values are looked at, and once more for the
    directions kept, since a direction of relative size s comes out of the first pass with an error of eps / s.

    torch arrays, where nothing is to be dropped, take a shorter way to another basis of the same span, all matrices of
    a stack at once; those that fail its checks go one by one through the above.
    """
    xp = array_namespace(U, X)
    Us, Xs = (xp.reshape(A, (math.prod(A.shape[:-2]), *A.shape[-2:])) for A in (U, X))
    if is_torch_array(X) and 0 < X.shape[-1] <= U.shape[-2] - U.shape[-1]:
        Qs, good = _cholesky_complement(Us, Xs)
        good = good.tolist()
        if all(good):
            return xp.reshape(Qs, X.shape)
    else:
        check_finite(X)
        Qs, good = Xs, [False] * Xs.shape[0]
    found = [Qs[i, ...] if fine else _revealing_complement(Us[i, ...], Xs[i, ...]) for i, fine in enumerate(good)]
    widest = max(Q.shape[-1] for Q in found)
    padded = [concat(Q, xp.zeros_like(Xs[0, :, : widest - Q.shape[-1]])) for Q in found]
    return xp.reshape(xp.stack(padded), (*X.shape[:-1], widest))


def _cholesky_complement(U, X):
    """:func:`complement` for torch's stacks by Cholesky QR, twice: the bases, and for each whether it may be used.

    The Cholesky factor C of the Gram matrix of the normalised columns bounds the smallest singular value from below by
    ``1 / ||C^{-1}||_F``. A matrix passes if that bound says that no direction is to be dropped and that the
    first pass is accurate enough (condition below .3 / sqrt(eps)) for the second to give orthonormality to a few eps.
    The Gram matrices are factorised in double precision. A few matrix products instead of Householder's many small
    steps: that keeps it fast when another process has the second core.
    """
    xp = array_namespace(U, X)
    wide = xp.complex128 if is_complex(X) else xp.float64
    UH, one = dagger(U), xp.eye(X.shape[-1], dtype=wide, device=device(X))
    largest = xp.amax(xp.abs(X), dim=(-2, -1), keepdim=True)
    if not bool(xp.all(xp.isfinite(largest))):
        raise FloatingPointError("the field has non-finite entries")
    if not bool(xp.all((largest > 1e-10) & (largest < 1e10))):  # squares must neither under- nor overflow
        X = X / xp.clamp(largest, min=xp.finfo(X.dtype).tiny)
    inside = UH @ X
    X = xp.baddbmm(X, U, inside, alpha=-1)
    gram = xp.astype(dagger(X) @ X, wide)
    size = xp.sqrt(xp.real(xp.linalg.diagonal(gram)))
    C, failed = xp.linalg.cholesky_ex(gram / (size[..., :, None] * size[..., None, :]))
    inverse = xp.linalg.solve_triangular(C, one.expand(C.shape), upper=False)
    bound = xp.linalg.matrix_norm(inverse)
    norm = xp.sqrt(xp.sum(size**2, dim=-1) + xp.linalg.matrix_norm(inside) ** 2)
    # false where a size is zero: the bound is then no number
    good = (failed == 0) & (bound < 0.3 / math.sqrt(eps(X))) & (xp.amin(size, dim=-1) > 100 * eps(X) * norm * bound)
    X = X @ xp.astype(dagger(inverse) / size[..., :, None], X.dtype)

    X = xp.baddbmm(X, U, UH @ X, alpha=-1)
    gram = xp.astype(dagger(X) @ X, wide)
    C, failed = xp.linalg.cholesky_ex(gram)
    good = good & (failed == 0) & (xp.amax(xp.abs(gram - one), dim=(-2, -1)) < 0.5)
    return X @ xp.astype(dagger(xp.linalg.solve_triangular(C, one.expand(C.shape), upper=False)), X.dtype), good


def _revealing_complement(U, X):
    """:func:`complement` of one matrix, by a singular value decomposition."""
    xp = array_namespace(U, X)
    scale = float(xp.max(xp.abs(X))) if X.shape[-1] else 0.0
    if scale == 0.0:
        return X[:, :0]
    X = X / scale
    threshold = 100 * eps(X) * float(xp.linalg.matrix_norm(X))
    UH = dagger(U)
    for _ in range(2):
        X = X - U @ (UH @ X)
    Q, R = _blocked_qr(X)
    P, s, _ = xp.linalg.svd(R, full_matrices=False)
    kept = min(int(xp.sum(xp.astype(s > threshold, xp.int64))), U.shape[0] - U.shape[1])
    Q = Q @ P[:, :kept]
    Q = Q - U @ (UH @ Q)
    return _blocked_qr(Q)[0]


@one_thread
def double_svd(S):
    """SVD ``S = P diag(d) Q^H`` of a small matrix in double precision, whatever the dtype of S.

    Returns P, d, Q in float64 or complex128. Raises FloatingPointError where S is not finite. Cost O(r^3).
    """
    check_finite(S, "the coefficient matrix S")
    P, d, QH = array_namespace(S).linalg.svd(in_double(S), full_matrices=False)
    return P, d, dagger(QH)


def polish(U):
    """One Newton-Schulz step ``U (3 I - U^H U) / 2``: squares the distance of U (m, r) from orthonormality.

    An error ``||U^H U - I|| = delta`` becomes 3/4 delta^2 + O(delta^3). Cost O(m r^2).
    """
    xp = array_namespace(U)
    identity = xp.eye(U.shape[-1], dtype=U.dtype, device=device(U))
    return U @ (1.5 * identity - 0.5 * (dagger(U) @ U))


@one_thread
def rotate(U, P):
    """``U P`` for orthonormal U (m, k) and P (k, r), re-orthonormalised, in the dtype of U.

    numpy computes in P's dtype. torch, where speed counts, rounds P to U's dtype first: an error of eps in the span, as
    much as storing the result makes, and a tenth of the time in single precision.
    """
    xp = array_namespace(U, P)
    if is_torch_array(U):
        return polish(U @ xp.astype(P, U.dtype))
    return xp.astype(polish(xp.astype(U, P.dtype) @ P), U.dtype)
