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
    "alignment",
    "array_namespace",
    "check_finite",
    "columns",
    "complement",
    "complements",
    "concat",
    "cut",
    "dagger",
    "double_svd",
    "eps",
    "gaussian",
    "haar",
    "host_svds",
    "in_double",
    "is_complex",
    "is_floating",
    "largest",
    "msign",
    "norm",
    "on_host",
    "orth",
    "polish",
    "qr",
    "quintics",
    "read",
    "rotate",
    "rows",
    "select",
    "sizes",
    "smooth_sign",
    "stacked",
    "taken",
    "to_numpy",
    "write",
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


def stacked(arrays):
    """Arrays in one, with a leading axis over them; zeros at the end of their axes fill up those that are smaller.

    Of a single one it is a view.
    """
    if len(arrays) == 1:
        return arrays[0][None, ...]
    xp, shapes = array_namespace(*arrays), [tuple(X.shape) for X in arrays]
    if len(set(shapes)) == 1:
        return xp.stack(arrays)
    largest = tuple(map(max, zip(*shapes, strict=True)))
    filled = xp.zeros((len(arrays), *largest), dtype=arrays[0].dtype, device=device(arrays[0]))
    places = [cut(row, shape) for row, shape in zip(rows(filled), shapes, strict=True)]
    if is_torch_array(filled):
        xp.torch._foreach_copy_(places, list(arrays))
    else:
        for place, X in zip(places, arrays, strict=True):
            place[...] = X
    return filled


def rows(X):
    """The entries along the first axis, as views."""
    return X.unbind() if is_torch_array(X) else list(array_namespace(X).unstack(X))


def cut(X, shape):
    """The first entries of X along each axis, up to this shape, as a view."""
    return X if X.shape == shape else X[tuple([slice(n) for n in shape])]


def read(arrays):
    """Arrays as numpy arrays, torch's in a single copy from each device (and for each dtype)."""
    groups: dict = {}
    for i, X in enumerate(arrays):
        groups.setdefault((device(X), X.dtype) if is_torch_array(X) else i, []).append(i)
    found: list = [None] * len(arrays)
    for group in groups.values():
        flat = to_numpy(concat(*(array_namespace(arrays[i]).reshape(arrays[i], (-1,)) for i in group)))
        _deal(flat, group, [arrays[i].shape for i in group], found)
    return found


def largest(arrays) -> np.ndarray:
    """The largest absolute value of each array that has entries; torch's in one read for each device."""
    arrays = [X for X in arrays if math.prod(X.shape)]
    if arrays and all(map(is_torch_array, arrays)):
        return np.array(read(array_namespace(*arrays).torch._foreach_norm(arrays, math.inf)))
    return np.array([np.max(np.abs(to_numpy(X))) for X in arrays])


def write(arrays, likes):
    """numpy arrays in the libraries and on the devices of ``likes``, in a single copy to each device of torch's.

    torch's are rounded to the dtype of ``likes`` before they go there: a device may not know double precision.
    """
    found = list(arrays)
    groups: dict = {}
    for i, like in enumerate(likes):
        if is_torch_array(like):
            groups.setdefault((device(like), like.dtype), []).append(i)
        else:
            found[i] = array_namespace(like).asarray(arrays[i], device=device(like))
    for (to, dtype), group in groups.items():
        flat, xp = np.concatenate([arrays[i].ravel() for i in group]), array_namespace(likes[group[0]])
        flat = xp.asarray(flat).to(dtype).to(to, non_blocking=True)
        _deal(flat, group, [arrays[i].shape for i in group], found)
    return found


def _deal(flat, group, shapes, found):
    """The parts of a flat array in their shapes, to the places of ``group``."""
    start = 0
    for i, shape in zip(group, shapes, strict=True):
        end = start + math.prod(shape)
        found[i] = flat[start:end].reshape(shape)
        start = end


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
def qr(X, partner=None):
    """Householder ``X = Q R`` with Q (m, k), R (k, n), k = min(m, n). Cost O(m n k).

    In a stack, columns of X that belong to zero columns of ``partner`` (as those of ``K = U S`` do to those of V) get
    zero columns of Q: they fill up a matrix of smaller rank.

    A single X that is not finite raises FloatingPointError, one in a stack becomes not a number.
    """
    if X.ndim == 2:
        check_finite(X, "a factor")
    Q, R = _blocked_qr(X)
    if partner is not None and math.prod(X.shape[:-2]) > 1:
        Q = array_namespace(X).where(columns(partner)[..., None, :], Q, array_namespace(X).zeros_like(Q))
    return Q, R


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


def orth(X, partner=None):
    """Orthonormal columns (m, k) whose span contains that of ``X`` (m, k), k <= m; completed where X is singular.

    ``partner`` is that of :func:`qr`.
    """
    return qr(X, partner)[0]


def columns(U):
    """Which columns of U (..., m, k) are not zero; zero columns of a stack fill up matrices of smaller rank."""
    return sizes(U) != 0


def select(X, used, axis=-1):
    """The entries of X along ``axis`` where ``used`` is true."""
    xp = array_namespace(X)
    return xp.take(X, xp.nonzero(used)[0], axis=axis)


def taken(X, indices, axis=0):
    """The rows of the matrix X with these indices; the columns with ``axis=1``."""
    xp = array_namespace(X)
    return xp.take(X, xp.asarray(indices, dtype=xp.int64, device=device(X)), axis=axis)


def units(X, indices):
    """Unit vectors of the length, library and dtype of the columns of X, as columns (m, k). Cost O(m k)."""
    xp = array_namespace(X)
    rows = xp.arange(X.shape[0], dtype=xp.int64, device=device(X))[:, None]
    return xp.astype(rows == xp.asarray(indices, dtype=xp.int64, device=device(X))[None, :], X.dtype)


def sizes(U):
    """Sum of the absolute values in each column of U."""
    xp = array_namespace(U)
    return xp.sum(xp.abs(U), axis=-2)


def complement(U, X):
    r"""Orthonormal basis of the columns of :math:`(I - U U^H) X`, rank-revealing.

    Directions in which X sticks out of span(U) by no more than ``100 eps ||X||_F`` are dropped, never replaced by
    invented ones, so the result depends on span(U) and on ``X X^H`` alone. For X = 0 it has no columns.

    Parameters
    ----------
    U : array (..., m, r)
        Orthonormal columns; in a stack some may be zero.
    X : array (..., m, k)

    Returns
    -------
    array (..., m, j), j <= min(k, m - r)
        Orthonormal, and orthogonal to U to a few eps. In a stack, a matrix with fewer directions than others has *zero*
        columns among them: no directions at all. A matrix that is not finite is not a number there, and so is one that
        is not safe with the short way below: whoever made the stack steps it alone.

    Raises
    ------
    FloatingPointError
        A single X has non-finite entries.

    Notes
    -----
    Cost O(m (r + k) k). X is scaled by its size first, so that entries of 1e-30 do not underflow in float32. Block
    Gram-Schmidt is done twice before the singular values are looked at, and once more for the directions kept, since a
    direction of relative size s comes out of the first pass with an error of eps / s.

    torch arrays, where there is room for k directions, take a shorter way to another basis of the same span, all
    matrices of a stack at once and without a look at any number. A single one that fails its checks goes through the
    above.
    """
    return complements((U, X))[0]


@one_thread
def complements(*pairs):
    """:func:`complement` of each pair U, X; those of torch's stacks share their small factorisations."""
    if all(X.ndim > 2 and _short(U, X) for U, X in pairs) and len({X.shape[-1] for _, X in pairs}) == 1:
        return _cholesky_complements(*pairs)
    return [_complement(U, X) for U, X in pairs]


def _short(U, X):
    """Whether the way of :func:`_cholesky_complements` is open."""
    return is_torch_array(X) and 0 < X.shape[-1] <= U.shape[-2] - U.shape[-1]


def _complement(U, X):
    xp = array_namespace(U, X)
    if X.ndim == 2:
        if _short(U, X):
            Q = _cholesky_complements((U[None, ...], X[None, ...]))[0][0, ...]
            if bool(xp.all(xp.sum(xp.abs(Q), axis=-2) > 0)):  # finite, and no zero column
                return Q
        check_finite(X)
        return _revealing_complement(U, X)
    Us, Xs = (xp.reshape(A, (math.prod(A.shape[:-2]), *A.shape[-2:])) for A in (U, X))
    used, finite = columns(Us), xp.isfinite(xp.sum(xp.abs(Xs), axis=(-2, -1)))
    found = [
        _revealing_complement(select(Us[i, ...], used[i, ...]), Xs[i, ...])
        if bool(finite[i])
        else xp.full_like(Xs[i, :, :1], math.nan)
        for i in range(Xs.shape[0])
    ]
    Q = stacked(found)
    return xp.reshape(Q, (*X.shape[:-1], Q.shape[-1]))


def _cholesky_complements(*pairs):
    """:func:`complement` for torch's stacks by Cholesky QR, twice; not finite where that is not safe.

    A column of X that sticks out by less than the threshold leaves a zero column. For the others the Cholesky factor C
    of the Gram matrix, normalised, bounds the smallest singular value from below by ``1 / ||C^{-1}||_F``. A
    matrix passes if that bound says that no further direction is to be dropped and that the first pass is accurate
    enough (condition below .3 / sqrt(eps)) for the second to give orthonormality to a few eps. A few matrix products
    instead of Householder's many small steps: fast when another process has the second core, and on a GPU.
    """
    Us, Xs = [U for U, _ in pairs], [X for _, X in pairs]
    xp, e = array_namespace(*Xs), eps(Xs[0])
    one = xp.eye(Xs[0].shape[-1], dtype=Xs[0].dtype, device=device(Xs[0]))

    def size(X, order=2):
        return xp.linalg.vector_norm(X, ord=order, axis=(-2, -1), keepdims=True)

    def projected(Xs):  # and the Gram matrices of all
        Xs = [X.baddbmm_(U, dagger(U) @ X, alpha=-1) for U, X in zip(Us, Xs, strict=True)]
        return Xs, concat(*(dagger(X) @ X for X in Xs), axis=0)

    def inverse_factor(gram):
        C, failed = xp.linalg.cholesky_ex(gram)
        return xp.linalg.solve_triangular(C, one.expand(C.shape), upper=False), failed[:, None, None]

    def turned(Xs, T):
        return [X @ Ti for X, Ti in zip(Xs, xp.split(T, Xs[0].shape[0]), strict=True)]

    # squares must neither under- nor overflow
    Xs = [X / xp.clamp(size(X, 1), min=xp.finfo(X.dtype).tiny) for X in Xs]
    threshold = 100 * e * concat(*map(size, Xs), axis=0)
    Xs, gram = projected(Xs)
    squares = xp.real(xp.linalg.diagonal(gram))[..., None]
    none = squares <= threshold**2
    scale = xp.rsqrt(squares).masked_fill(none, 0.0)
    gram = gram * (scale * xp.matrix_transpose(scale))
    xp.linalg.diagonal(gram).add_(none[..., 0])  # ones in the place of what is left out
    inverse, failed = inverse_factor(gram)
    shortest = xp.clamp(threshold * xp.amax(scale, dim=-2, keepdim=True), min=math.sqrt(e) / 0.3)
    doubt = shortest * size(inverse) + failed
    Xs, gram = projected(turned(Xs, dagger(inverse) * scale))
    xp.linalg.diagonal(gram).add_(none[..., 0])
    doubt = doubt + size(gram - one)
    inverse, _ = inverse_factor(gram)
    return turned(Xs, dagger(inverse / (doubt < 1)))


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
    """SVD ``S = P diag(d) Q^H`` of a small matrix, or a stack, in double precision, whatever the dtype of S.

    Returns P, d, Q in float64 or complex128. Raises FloatingPointError where S is not finite. Cost O(r^3).
    """
    check_finite(S, "the coefficient matrix S")
    P, d, QH = array_namespace(S).linalg.svd(in_double(S), full_matrices=False)
    return P, d, dagger(QH)


def on_host(X):
    """Whether the entries of X are in the memory of the processor."""
    return not is_torch_array(X) or X.device.type == "cpu"


@one_thread
def msign(C):
    r"""The matrix sign ``A B^H`` of C = A diag(d) B^H: its singular values become one, or zero where d is zero.

    d counts as zero up to ``100 eps d_1``, as much as rounding puts there. Zero rows and columns of C stay zero. In a
    stack a matrix that is not finite becomes not a number; a single one raises FloatingPointError. Cost O(r^3).
    """
    xp = array_namespace(C)
    if 0 in C.shape:
        return C
    C, lost = _finite_ones(C)
    rows, columns = (xp.any(C != 0, axis=axis, keepdims=True) for axis in (-1, -2))
    A, d, BH = xp.linalg.svd(C, full_matrices=False)
    kept = xp.astype(d > 100 * eps(C) * d[..., :1], C.dtype)
    sign = xp.where(rows & columns, (A * kept[..., None, :]) @ BH, xp.zeros_like(C))
    return xp.where(lost, xp.full_like(C, math.nan), sign)


def _finite_ones(C):
    """C with zeros for the matrices of a stack that are not finite, and which these are."""
    xp = array_namespace(C)
    if C.ndim == 2:
        check_finite(C, "the tangent vector")
    lost = ~xp.isfinite(xp.sum(xp.abs(C), axis=(-2, -1), keepdims=True))
    return xp.where(lost, xp.zeros_like(C), C), lost


SIGN_FROM = 1e-3
"""Singular values of C / ||C||_F from which on :func:`smooth_sign` gives (nearly) one."""
SIGN_STEPS = 6


def smooth_sign(C):
    r"""The matrix sign of C by matrix products alone, smoothly down to zero for small singular values.

    It is ``A diag(f(d / ||d||_2)) B^H``, f the composition of six odd polynomials of degree five (:func:`quintics`).
    With ``l = SIGN_FROM`` and ``delta`` = 9.2e-4

    - ``|f(x) - 1| <= delta`` for x from l to 1,
    - ``(1 - delta) x / l <= f(x) <= 1 + delta`` for x from 0 to l.

    Zero rows and columns stay zero, and what is not finite is not a number. Cost O(r^3): 18 products of the size of C.
    """
    if 0 in C.shape:
        return C
    xp, (C, lost) = array_namespace(C), _finite_ones(C)

    def scaled(X, size):
        return X / xp.where(size == 0, xp.ones_like(size), size)

    X = scaled(C, xp.max(xp.abs(C), axis=(-2, -1), keepdims=True))  # so that no square overflows
    X = scaled(X, xp.linalg.vector_norm(X, axis=(-2, -1), keepdims=True))
    fused = is_torch_array(X) and X.ndim == 3
    for a, b, c in quintics(SIGN_FROM, SIGN_STEPS)[0]:
        gram = X @ dagger(X)
        if fused:
            gram = xp.baddbmm(gram, gram, gram, beta=b, alpha=c)
            X = xp.baddbmm(X, gram, X, beta=a)
        else:
            X = a * X + (b * gram + c * (gram @ gram)) @ X
    return xp.where(lost, xp.full_like(X, math.nan), X)


@functools.cache
def quintics(lower, steps):
    r"""Odd polynomials ``a x + b x^3 + c x^5`` whose composition is close to one on [lower, 1], and its error there.

    Each is the best uniform approximation of one on the interval [l, u] that the one before maps to, [1 - E, 1 + E]
    with E its error; a composition of best ones is the best composition. By Remez' algorithm: 1 - p takes the values
    E, -E, E, -E at l, q, r and u, where q and r are the extrema of p.

    p rises from 0 to its maximum 1 + E at q, and p(x) / x falls from 0 to l: it is a parabola in x^2, whose minimum
    -b / (2 c) is 5/6 (q^2 + r^2), since q^2 and r^2 are the roots of p' = a + 3 b x^2 + 5 c x^4. So 0 <= p <= 1 + E on
    [0, u] and p(x) >= (1 - E) x / l on [0, l], and by induction the composition f is at least (1 - E) x / lower up to
    ``lower``, with the E of the last.

    Reference for compositions: Amsel, Persson, Musco, Gower (2025), The Polar Express, arXiv:2505.16932.
    """
    found, l, u, E = [], lower, 1.0, 0.0
    for _ in range(steps):
        q, r = (3 * l + u) / 4, (l + 3 * u) / 4
        for _ in range(12):
            x = np.array([l, q, r, u])
            a, b, c, E = np.linalg.solve(np.stack([x, x**3, x**5, [1.0, -1.0, 1.0, -1.0]], axis=-1), np.ones(4))
            q, r = np.sqrt(np.sort(np.roots([5 * c, 3 * b, a]).real))
        found.append((float(a), float(b), float(c)))
        l, u = 1.0 - E, 1.0 + E
    return found, float(E)


@one_thread
def host_svds(like, matrices):
    """:func:`double_svd` of numpy matrices of any shapes (or None), in numpy; the library of ``like`` does the work.

    Matrices of equal shape share a call.
    """
    xp = array_namespace(like)
    groups: dict = {}
    for i, S in enumerate(matrices):
        if S is not None:
            groups.setdefault(S.shape, []).append(i)
    found: list = [None] * len(matrices)
    for group in groups.values():
        P, d, QH = xp.linalg.svd(xp.asarray(np.stack([in_double(matrices[i]) for i in group])), full_matrices=False)
        P, d, QH = np.asarray(P), np.asarray(d), np.asarray(QH)
        for j, i in enumerate(group):
            found[i] = P[j], d[j], QH[j].conj().T
    return found


def polish(U):
    """One Newton-Schulz step ``U (3 I - U^H U) / 2``: squares the distance of U (m, r) from orthonormality.

    An error ``||U^H U - I|| = delta`` becomes 3/4 delta^2 + O(delta^3). Zero columns stay. Cost O(m r^2).
    """
    gram = dagger(U) @ U
    if is_torch_array(U) and U.ndim == 3:
        return array_namespace(U).baddbmm(U, U, gram, beta=1.5, alpha=-0.5)
    return 1.5 * U - 0.5 * (U @ gram)


def alignment(U1, U0, like):
    r"""How U1 T comes nearest to U0: the orthogonal Procrustes problem, for numbers of columns that may differ.

    Parameters
    ----------
    U1 : array (..., m, r1)
    U0 : array (..., m, r0)
        Orthonormal columns; in a stack some, at the end, may be zero.
    like : array
        Of the library and the real dtype that E should have.

    Returns
    -------
    T : array (..., r1, r1)
        Unitary. With the min(r0, r1) columns of U0 that are longest in span(U1), in their order, ``||U1 T - U0||_F`` is
        least for the first columns of ``U1 T``; others complete them.
    E : array (..., r0, r1)
        Column j has a one for the column of U0 that column j of ``U1 T`` continues, 1 / r0 everywhere if there is none.

    Notes
    -----
    T is the unitary polar factor of ``U1^H U0``, unique where that has full rank; it turns with U1, so that
    U1 T depends on span(U1) alone (as long as r1 <= r0). Computed on the host, one by one in a stack.
    """
    xp = array_namespace(U1)
    M = dagger(U1) @ U0
    if M.ndim == 2:
        M, shapes = M[None, ...], [M.shape]
    else:
        shapes = np.stack([np.sum(to_numpy(columns(U)), axis=-1) for U in (U1, U0)], axis=-1).tolist()
    M = in_double(to_numpy(M))
    count, s1, s0 = M.shape
    T, E = np.zeros((count, s1, s1), M.dtype), np.zeros((count, s0, s1))
    for i, (r1, r0) in enumerate(shapes):
        X = M[i, :r1, :r0]
        if not np.isfinite(X).all():  # a matrix that its stack has lost
            continue
        chosen = np.sort(np.argsort(-np.linalg.norm(X, axis=0), kind="stable")[:r1])
        k = len(chosen)
        P, _, QH = np.linalg.svd(X[:, chosen])
        T[i, :r1, :k], T[i, :r1, k:r1] = P[:, :k] @ QH, P[:, k:]
        E[i, chosen, np.arange(k)], E[i, :r0, k:r1] = 1.0, 1.0 / max(1, r0)
    T, E = (X if U1.ndim > 2 else X[0] for X in (T, E))
    T, E = write([T, E], [U1, like])
    return xp.astype(T, U1.dtype, copy=False), xp.astype(E, like.dtype, copy=False)


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
