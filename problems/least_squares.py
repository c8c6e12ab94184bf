"""Linear least squares: one linear layer, trained on pairs of inputs and outputs, with mini-batches of pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from array_api_compat import device

from integrators.checks import check_matrix, check_rank
from integrators.linalg import array_namespace, dagger, in_double, norm
from integrators.lowrank import LowRank

from .fields import Array, Field
from .problem import FiniteSum


@dataclass(frozen=True, eq=False)
class LinearLeastSquares(FiniteSum):
    """Loss: mean squared error of the linear layer ``y = W x`` on N pairs (rows of X and Y).

    In formulas ``min_W f(W) = 1/(2 N) ||X W^T - Y||_F^2``. With the residual ``R = X W^T - Y`` (N, m) the gradient is
    ``G = R^T conj(X) / N``, a sum of N rank-one matrices ``conj(x_i) r_i`` as in the backward pass of a linear layer.
    Constants:

    - f is convex, ``L = ||X||_2^2 / N``, attained in the direction of the first right singular vector of X;
    - ``||G||_F <= (||X||_2^2 radius + ||Y^T conj(X)||_F) / N`` on a ball, by the triangle inequality;
    - f is the mean of ``f_i = 1/2 ||W x_i - y_i||^2`` with ``||grad f_i||_F = ||r_i|| ||x_i||``, so the variance of a
      mini-batch gradient is known exactly (see `FiniteSum`);
    - minimum over rank r (reduced-rank regression): X W^T runs through the matrices of rank at most r with columns in
      the range of X. With an orthonormal basis Q of this range the best of them is the truncated SVD of ``Q Q^H Y``,
      and ``f_min = 1/(2 N) ( ||Y - Q Q^H Y||_F^2 + sum_{j>r} sigma_j(Q^H Y)^2 )``.

    A field costs O(N (m + n) r); neither W nor G is formed.

    Parameters
    ----------
    inputs : array (N, n)
        X, of numpy or torch.
    outputs : array (N, m)
        Y, like `inputs`.
    batch_size : int, optional
        Pairs per mini-batch; without it there is the full loss only.

    Raises
    ------
    TypeError, ValueError
        An array is no finite floating matrix, they do not match, or `batch_size` exceeds N.

    References
    ----------
    A. J. Izenman, J. Multivariate Anal. 5 (1975) 248-264, doi:10.1016/0047-259X(75)90042-1 (reduced-rank regression).
    """

    inputs: Array
    outputs: Array
    batch_size: int | None = None

    name = "linear-least-squares"
    convex = True

    def __post_init__(self) -> None:
        check_matrix("inputs", self.inputs)
        check_matrix("outputs", self.outputs)
        if self.inputs.shape[0] != self.outputs.shape[0]:
            raise ValueError(
                f"inputs and outputs must have the same number of rows, "
                f"got {self.inputs.shape[0]} and {self.outputs.shape[0]}"
            )
        if self.inputs.dtype != self.outputs.dtype:
            raise TypeError(f"outputs must have the dtype {self.inputs.dtype} of inputs, got {self.outputs.dtype}")
        self._check_batch_size()

    @property
    def shape(self) -> tuple[int, int]:
        return self.outputs.shape[1], self.inputs.shape[1]

    @property
    def like(self) -> Array:
        return self.inputs

    @property
    def samples(self) -> int:
        """N, the number of pairs."""
        return self.inputs.shape[0]

    def subset(self, indices: np.ndarray) -> LinearLeastSquares:
        """The problem of the chosen pairs alone."""
        xp = array_namespace(self.inputs)
        chosen = xp.asarray(indices, device=device(self.inputs))
        return LinearLeastSquares(*(xp.take(X, chosen, axis=0) for X in (self.inputs, self.outputs)))

    def field(self, t: float, Y: LowRank) -> Field:
        """``-G(Y)``, independent of t."""
        return LeastSquaresField(Y, self)

    def loss(self, Y: LowRank) -> float:
        return 0.5 / self.samples * norm(self._double_residual(Y)) ** 2

    @cached_property
    def lipschitz(self) -> float:
        """``||X||_2^2 / N``, attained."""
        X = in_double(self.inputs)
        return float(array_namespace(X).linalg.svdvals(X)[0]) ** 2 / self.samples

    def gradient_bound(self, radius: float) -> float:
        """``L radius + ||Y^T conj(X)||_F / N``."""
        at_zero = norm(dagger(in_double(self.outputs)) @ in_double(self.inputs)) / self.samples
        return self.lipschitz * float(radius) + at_zero

    def minimum(self, rank: int | None = None) -> float:
        """Minimum over rank at most `rank` (None: over all), attained."""
        rank = check_rank(min(self.shape) if rank is None else rank, self.shape)
        outside, values = self._spectrum
        return 0.5 / self.samples * (outside + math.fsum(s * s for s in values[rank:]))

    @cached_property
    def _spectrum(self) -> tuple[float, list[float]]:
        """``||Y - Q Q^H Y||_F^2`` and the singular values of ``Q^H Y``."""
        X, Y = in_double(self.inputs), in_double(self.outputs)
        xp = array_namespace(X)
        U, s, _ = xp.linalg.svd(X, full_matrices=False)
        Q = U[:, : int(xp.sum(s > max(X.shape) * xp.finfo(X.dtype).eps * s[0]))]
        inside = dagger(Q) @ Y
        return norm(Y - Q @ inside) ** 2, [float(v) for v in xp.linalg.svdvals(inside)]

    def variance(self, Y: LowRank) -> float:
        """``(N - b) / (b (N - 1)) ( (1/N) sum_i ||r_i||^2 ||x_i||^2 - ||G||_F^2 )``, exact."""
        R, X = self._double_residual(Y), in_double(self.inputs)
        mean = self._mean_square(_row_norms(R) * _row_norms(X))
        return self._population_factor() * (mean - (norm(dagger(R) @ X) / self.samples) ** 2)

    def variance_bound(self, radius: float) -> float:
        """As `variance`, with ``||r_i|| <= radius ||x_i|| + ||y_i||`` and without the last term."""
        x, y = _row_norms(in_double(self.inputs)), _row_norms(in_double(self.outputs))
        return self._population_factor() * self._mean_square((float(radius) * x + y) * x)

    def _mean_square(self, x: Array) -> float:
        return norm(x) ** 2 / self.samples

    def _double_residual(self, Y: LowRank) -> Array:
        Y = Y.in_double()
        return in_double(self.inputs) @ Y.V.conj() @ Y.K.T - in_double(self.outputs)


@dataclass(frozen=True, eq=False)
class LeastSquaresField(Field):
    """The field ``F = -R^T conj(X) / N`` of `LinearLeastSquares`, applied factor by factor.

    Parameters
    ----------
    point : LowRank
        Y, of the library and dtype of the problem.
    problem : LinearLeastSquares
    """

    problem: LinearLeastSquares

    @cached_property
    def _residual(self) -> Array:
        """``R = ((X conj(V)) S^T) U^T - Y``, (N, m)."""
        p, Y = self.problem, self.point
        return p.inputs @ Y.V.conj() @ Y.S.T @ Y.U.T - p.outputs

    def apply(self, X: Array) -> Array:
        p = self.problem
        return self._residual.T @ (p.inputs.conj() @ X) / -p.samples

    def apply_H(self, X: Array) -> Array:
        p = self.problem
        return p.inputs.T @ (self._residual.conj() @ X) / -p.samples


def _row_norms(X: Array) -> Array:
    return array_namespace(X).linalg.vector_norm(X, axis=1)
