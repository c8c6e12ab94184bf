"""The Riccati equation: the contract, the closed solution against a numerical one, semidefiniteness, bad input."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse

import problems

from .contract import Contract, NoExactFlows, gaussian, solved


class TestRiccati(NoExactFlows, Contract):
    sparse = False

    def build(self, rng, dtype):
        n = 8
        A = gaussian(rng, n, n, dtype=dtype)
        C, D, P = (0.3 * gaussian(rng, *shape, dtype=dtype) for shape in ((2, n), (n, 3), (n, 2)))
        C, D, P = (X.astype(dtype) for X in (C, D, P))
        p = problems.Riccati(scipy.sparse.csr_array(A) if self.sparse else A, C, D, P)
        A_H, Q, B = A.conj().T, C.conj().T @ C, D @ D.conj().T
        return p, lambda t, W: A_H @ W + W @ A + Q - W @ B @ W


class TestSparseRiccati(TestRiccati):
    sparse = True


@pytest.mark.parametrize("t", [0.7, 3.0])
def test_the_closed_solution_against_a_numerical_one(t):
    p = problems.riccati(10, np.random.default_rng(0))
    Q, B = p.C.T @ p.C, p.D @ p.D.T
    exact = solved(lambda t, X: p.A.T @ X + X @ p.A + Q - X @ B @ X, 0.0, t, p.P @ p.P.T)
    assert np.linalg.norm(p.reference(t).ravel() - exact) < 1e-10 * np.linalg.norm(exact)


def test_a_long_time_ends_at_the_algebraic_riccati_equation():
    p = problems.riccati(12, np.random.default_rng(1))
    X = p.reference(200.0)
    exact = scipy.linalg.solve_continuous_are(p.A, p.D, p.C.T @ p.C, np.eye(5))
    assert np.linalg.norm(X - exact) < 1e-9 * np.linalg.norm(exact)


def test_the_solution_stays_semidefinite_and_below_that_of_the_lyapunov_equation():
    p = problems.riccati(12, np.random.default_rng(2))
    without = problems.Sylvester(p.A_H, p.A, (p.C_H, p.C_H), (p.P, p.P))
    for t in (0.3, 1.0):
        X = p.reference(t)
        assert np.linalg.eigvalsh(X).min() > -1e-14
        assert np.linalg.eigvalsh(without.reference(t) - X).min() > -1e-14


def test_bad_riccati():
    A, C, D, P = np.eye(4), np.ones((2, 4)), np.ones((4, 2)), np.ones((4, 1))
    with pytest.raises(ValueError, match=r"A must be square, got shape \(4, 3\)"):
        problems.Riccati(A[:, :3], C, D, P)
    with pytest.raises(ValueError, match=r"C must be \(c, 4\), got shape \(2, 3\)"):
        problems.Riccati(A, C[:, :3], D, P)
    with pytest.raises(ValueError, match=r"D must be \(4, d\), got shape \(3, 2\)"):
        problems.Riccati(A, C, D[:3], P)
    with pytest.raises(ValueError, match="P must be finite"):
        problems.Riccati(A, C, D, np.full((4, 1), np.nan))
    with pytest.raises(ValueError, match="n must be at least 2, got 1"):
        problems.riccati(1, np.random.default_rng(0))
    assert problems.Riccati(A, C, D, P).reference(-1.0) is None
