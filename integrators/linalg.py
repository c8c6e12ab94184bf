"""Linear-algebra kernels: the one place where speed and accuracy need more than the array standard offers.

Every function takes numpy or torch arrays (or any library of the Python array API standard), real or complex,
and works on the last two axes unless it says otherwise.
"""

from array_api_compat import array_namespace, device

__all__ = [
    "check_finite",
    "complement",
    "concat",
    "dagger",
    "double_svd",
    "eps",
    "orth",
    "polish",
    "qr",
    "rotate",
]


def dagger(X):
    """Conjugate transpose ``X^H`` of the last two axes; a view where the library has one."""
    xp = array_namespace(X)
    return xp.conj(xp.matrix_transpose(X)) if xp.isdtype(X.dtype, "complex floating") else xp.matrix_transpose(X)


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


def qr(X):
    """Householder ``X = Q R`` with Q (m, k), R (k, n), k = min(m, n). Cost O(m n k)."""
    check_finite(X, "a factor")
    Q, R = array_namespace(X).linalg.qr(X)
    return Q, R


def orth(X):
    """Orthonormal columns (m, k) whose span contains that of ``X`` (m, k), k <= m; completed where X is singular."""
    return qr(X)[0]


def complement(U, X):
    r"""Orthonormal basis of the columns of :math:`(I - U U^H) X`, rank-revealing.

    Directions in which X sticks out of span(U) by no more than ``100 eps ||X||_F`` are dropped, never replaced by
    invented ones, so the result depends on span(U) and on ``X X^H`` alone. For X = 0 it has no columns.

    Parameters
    ----------
    U : array (m, r)
        Orthonormal columns.
    X : array (m, k)

    Returns
    -------
    array (m, j), j <= min(k, m - r)
        Orthonormal, and orthogonal to U to a few eps; the directions with the largest component first.

    Raises
    ------
    FloatingPointError
        X has non-finite entries.

    Notes
    -----
    Cost O(m (r + k) k). X is scaled by its largest entry first, so that entries of 1e-30 do not underflow in
    float32. Block Gram-Schmidt is done twice before the singular values are looked at, and once more for the
    directions kept, since a direction of relative size s comes out of the first pass with an error of eps / s.
    """
    check_finite(X)
    xp = array_namespace(U, X)
    scale = float(xp.max(xp.abs(X))) if X.shape[-1] else 0.0
    if scale == 0.0:
        return X[:, :0]
    X = X / scale
    threshold = 100 * eps(X) * float(xp.linalg.matrix_norm(X))
    UH = dagger(U)
    for _ in range(2):
        X = X - U @ (UH @ X)
    Q, R = xp.linalg.qr(X)
    P, s, _ = xp.linalg.svd(R, full_matrices=False)
    kept = min(int(xp.sum(xp.astype(s > threshold, xp.int64))), U.shape[0] - U.shape[1])
    Q = Q @ P[:, :kept]
    Q = Q - U @ (UH @ Q)
    return xp.linalg.qr(Q)[0]


def double_svd(S):
    """SVD ``S = P diag(d) Q^H`` of a small matrix in double precision, whatever the dtype of S.

    Returns P, d, Q in float64 or complex128. Raises FloatingPointError where S is not finite. Cost O(r^3).
    """
    check_finite(S, "the coefficient matrix S")
    xp = array_namespace(S)
    wide = xp.complex128 if xp.isdtype(S.dtype, "complex floating") else xp.float64
    P, d, QH = xp.linalg.svd(xp.astype(S, wide), full_matrices=False)
    return P, d, dagger(QH)


def polish(U):
    """One Newton-Schulz step ``U (3 I - U^H U) / 2``: squares the distance of U (m, r) from orthonormality.

    An error ``||U^H U - I|| = delta`` becomes 3/4 delta^2 + O(delta^3). Cost O(m r^2).
    """
    xp = array_namespace(U)
    identity = xp.eye(U.shape[-1], dtype=U.dtype, device=device(U))
    return U @ (1.5 * identity - 0.5 * (dagger(U) @ U))


def rotate(U, P):
    """``U P`` for orthonormal U (m, k) and P (k, r), re-orthonormalised; computed in P's dtype, returned in U's."""
    xp = array_namespace(U, P)
    return xp.astype(polish(xp.astype(U, P.dtype) @ P), U.dtype)
