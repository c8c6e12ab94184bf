"""The chemical master equation of a genetic toggle switch: two species that hinder each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

from integrators.checks import check_integer, check_positive

from .cross_terms import LinearTerms


def toggle_switch(n: int = 51, b: float = 0.4, c: float = 0.05, dtype: Any = np.float64) -> LinearTerms:
    """Chemical master equation of the toggle switch: Y_ij is the probability of i and j molecules, 0 <= i, j < n.

    Each species is made with the rate ``a(k) = b / (b + k)``, k counting the other one, and each of its molecules
    decays with the rate c:

        Y' = G Y diag(a) + diag(a) Y G^T + c (M Y + Y M^T),
        (G y)_i = y_{i-1} - y_i,   (M y)_i = (i + 1) y_{i+1} - i y_i.

    What would lead to n molecules does not happen (the last diagonal entry of G is 0), so the columns of G and M have
    the sum 0 and probability is kept to rounding; it stays positive. The start is a Gaussian about (30, 5) with the
    covariance ``((37.5, -7.5), (-7.5, 37.5))``, normalised, the horizon 500. By then probability has gathered where the
    first species has about 1 / c molecules and the second none or few.

    Parameters
    ----------
    n : int
        Numbers of molecules of each species, at least 2.
    b, c : float
        Positive.
    dtype : numpy dtype
        Real floating.

    References
    ----------
    T. Jahnke, W. Huisinga, Bull. Math. Biol. 70 (2008) 2283-2302, doi:10.1007/s11538-008-9346-x.
    """
    check_integer("n", n, least=2)
    b, c = check_positive("b", b), check_positive("c", c)
    k = np.arange(float(n))
    made = scipy.sparse.diags_array(b / (b + k))
    growth = scipy.sparse.diags_array([np.ones(n - 1), np.append(-np.ones(n - 1), 0)], offsets=[-1, 0])
    decay = scipy.sparse.diags_array([c * k[1:], -c * k], offsets=[1, 0])
    made, growth, decay = (X.astype(dtype).tocsr() for X in (made, growth, decay))
    x, y = k[:, None] - 30, k - 5
    # the inverse of the covariance is ((37.5, 7.5), (7.5, 37.5)) / 1350
    start = np.exp(-(37.5 * (x**2 + y**2) + 15 * x * y) / 2700)
    start = (start / start.sum()).astype(dtype)
    terms = ((growth, made), (made, growth.T.tocsr()), (decay, None), (None, decay.T.tocsr()))
    return LinearTerms(terms, start, np.eye(n, dtype=dtype), "toggle-switch", 500.0)
