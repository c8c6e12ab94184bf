r"""Exact costs of torch code: floating-point operations, bytes alive, largest tensor.

A :class:`Meter` sees every operation that reaches torch's dispatcher, backward passes included (so does
:class:`Alive`, which looks at bytes alone), and counts

- *products*: matrix products (2 m k n each, as in ``torch.utils.flop_counter``) and the factorisations below;
- *elementwise*: one operation for each entry of the larger of input and output of an arithmetic operation or a
  reduction, two for norms and for additions with a factor. Comparisons, copies and views cost nothing;
- *bytes*: of all storages alive. What LAPACK allocates inside is not seen.

=================================  ===============================  ==============================================
factorisation                      operations                       Golub, Van Loan, Matrix Computations (4th ed.)
=================================  ===============================  ==============================================
Householder QR (m, n), thin Q      4 m n^2 - 4/3 n^3                5.2.2 and 5.1.6
Cholesky (n, n)                    n^3 / 3                          4.2.5
triangular solve (n, n), k columns n^2 k                            3.1
SVD (m, n), thin U and V           14 m n^2 + 8 n^3                 8.6.3 (Golub-Reinsch)
=================================  ===============================  ==============================================

Thirds are rounded down. The SVD is that of the textbook; LAPACK's divide and conquer needs fewer operations, how
many depends on the data. An operation of linear algebra without a formula is refused, so that none is counted as free.
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

__all__ = ["Alive", "Meter", "Part", "cholesky", "product", "qr", "svd", "triangular"]

aten = torch.ops.aten
COPIES = (aten.clone, aten.where)
"""Elementwise by their tags, but without arithmetic."""
PLAIN = (aten.linalg_vector_norm, aten._linalg_check_errors)
"""Linear algebra by their names alone: a reduction, and a look at an error code."""
OVERWRITING = {aten.addmm_: aten.addmm, aten.baddbmm_: aten.baddbmm}
"""Products that torch's registry knows under another name alone."""
REFUSED = (
    aten.addmv, aten.addr, aten.cholesky, aten.cholesky_inverse, aten.cholesky_solve, aten.dot, aten.geqrf, aten.mv,
    aten.ormqr, aten.triangular_solve, aten.vdot,
)  # fmt: skip
"""Linear algebra by other names, and not in torch's registry."""


def product(m: int, k: int, n: int) -> int:
    """(m, k) times (k, n)."""
    return 2 * m * k * n


def qr(m: int, n: int) -> int:
    """Householder QR of (m, n), m >= n, with the thin Q."""
    return (12 * m * n * n - 4 * n**3) // 3


def cholesky(n: int) -> int:
    """Cholesky factor of (n, n)."""
    return n**3 // 3


def triangular(n: int, k: int) -> int:
    """k triangular systems of n equations."""
    return n * n * k


def svd(m: int, n: int) -> int:
    """Singular values and both thin bases of (m, n)."""
    m, n = max(m, n), min(m, n)
    return 14 * m * n * n + 8 * n**3


FACTORISATIONS = {
    aten.linalg_qr: ("QR", lambda A, *_: qr(*_tall(A))),
    aten.linalg_cholesky_ex: ("Cholesky", lambda A, *_: cholesky(A.shape[-1])),
    aten.linalg_solve_triangular: ("triangular", lambda A, B, *_: triangular(A.shape[-1], B.shape[-1])),
    aten._linalg_svd: ("SVD", lambda A, *_: svd(*A.shape[-2:])),
}


def _tall(A: Tensor) -> tuple[int, int]:
    m, n = A.shape[-2:]
    if m < n:
        raise NotImplementedError(f"no formula for the QR factorisation of a wide matrix ({m}, {n})")
    return m, n


@dataclass
class Part:
    """What one part of a computation costs.

    Parameters
    ----------
    products, elementwise : int
        Operations.
    peak : int
        Largest number of bytes alive after an operation.
    largest : int
        Bytes of the largest tensor that was made.
    factorisations : Counter
        Number of each, by name and shape.
    """

    products: int = 0
    elementwise: int = 0
    peak: int = 0
    largest: int = 0
    factorisations: Counter = field(default_factory=Counter)


class Alive(TorchDispatchMode):
    """Bytes of all storages that are alive, while it is entered.

    Parameters
    ----------
    held : iterable of tensors
        Those alive at the start whose bytes are to be counted.

    Attributes
    ----------
    bytes, peak : int
        Now, and at most after an operation; a new peak may be sought by ``alive.peak = 0``.
    """

    def __init__(self, held: Iterable[Tensor] = ()):
        super().__init__()
        self._alive: dict[int, int] = {}
        self.bytes = self.peak = 0
        for tensor in held:
            self._hold(tensor)

    def __enter__(self):
        """Count from now on; without garbage collection, whose moments would make the peak a matter of chance."""
        gc.disable()
        return super().__enter__()

    def __exit__(self, *exception):
        """Stop counting."""
        gc.enable()
        return super().__exit__(*exception)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run an operation and count what it has made."""
        out = func(*args, **(kwargs or {}))
        self._see(out)
        return out

    def _see(self, out) -> int:
        """Count new storages among the results; the bytes of the largest one."""
        largest = max((self._hold(x) for x in tree_leaves(out) if isinstance(x, Tensor)), default=0)
        self.peak = max(self.peak, self.bytes)
        return largest

    def _hold(self, tensor: Tensor) -> int:
        """Count the storage of a tensor until it is freed; its bytes where it is a new one."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return 0
        self._alive[key] = size
        self.bytes += size
        weakref.finalize(storage, self._free, key)
        return size

    def _free(self, key: int) -> None:
        self.bytes -= self._alive.pop(key)


class Meter(Alive):
    """Counts operations too, separately for the parts named by :meth:`part`.

    Parameters
    ----------
    part : str
        Name of the part outside of all others.
    held : iterable of tensors
        As of :class:`Alive`.

    Attributes
    ----------
    parts : dict of str to Part
    """

    def __init__(self, part: str, held: Iterable[Tensor] = ()):
        super().__init__(held)
        self.parts = {part: Part()}
        self._now = self.parts[part]

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is done inside belongs to this part."""
        outer, self._now = self._now, self.parts.setdefault(name, Part())
        try:
            yield
        finally:
            self._now = outer

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run an operation and count it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self._count(func, args, kwargs, out, [x for x in tree_leaves(out) if isinstance(x, Tensor)])
        self._now.largest = max(self._now.largest, self._see(out))
        self._now.peak = max(self._now.peak, self.bytes)
        return out

    def _count(self, func, args, kwargs, out, results) -> None:
        packet = OVERWRITING.get(func.overloadpacket, func.overloadpacket)
        if packet in flop_registry:
            self._now.products += flop_registry[packet](*args, **kwargs, out_val=out)
        elif packet in FACTORISATIONS:
            name, cost = FACTORISATIONS[packet]
            shape = args[0].shape
            self._now.products += shape[:-2].numel() * cost(*args)
            self._now.factorisations[f"{name} {shape[-2]} x {shape[-1]}"] += shape[:-2].numel()
        elif packet in REFUSED or ("linalg_" in str(packet) and packet not in PLAIN):
            raise NotImplementedError(f"{packet} has no formula: add it to FACTORISATIONS")
        elif any(x.is_floating_point() for x in results) and packet not in COPIES:
            self._now.elementwise += _entries(func, args, kwargs, results)


def _entries(func, args, kwargs, results) -> int:
    """Operations of an elementwise function or a reduction, 0 for anything else."""
    name, tags = str(func.overloadpacket), func.tags
    if "_foreach_" in name:
        return (2 if "norm" in name else 1) * sum(x.numel() for x in args[0])
    if torch.Tag.pointwise not in tags and torch.Tag.reduction not in tags:
        return 0
    entries = max(x.numel() for x in [*results, *tree_leaves(args)] if isinstance(x, Tensor))
    return (2 if "norm" in name or kwargs.get("alpha", 1) != 1 else 1) * entries
