"""Projections, tangent vectors and sums of low-rank matrices against dense arithmetic, alone and in stacks."""

import numpy as np
import pytest
import torch

from integrators import LowRank, Projections, combine, tangent
from integrators.fields import seen
from integrators.linalg import dagger, to_numpy

LIBRARIES = {"numpy": np.asarray, "torch": torch.asarray}


def random_points(count, rank=3, dtype=np.float64, orthonormal=True):
    rng = np.random.default_rng(0)
    Y = [LowRank.random((9, 7), rank, rng, np.zeros((), dtype)) for _ in range(count)]
    return LowRank(*(np.stack(X) for X in zip(*Y, strict=True)))


def to(library, Y):
    return LowRank(*map(LIBRARIES[library], Y))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("stack", [False, True])
def test_tangent(library, dtype, stack):
    """P(Y) F = F V V^H + U U^H F - U U^H F V V^H, and its norm from the three parts, for one matrix and for a stack."""
    Y = random_points(4, dtype=dtype)
    F = random_points(4, rank=7, dtype=dtype).full()
    if not stack:
        Y, F = LowRank(*(X[1] for X in Y)), F[1]
    PU, PV = Y.U @ dagger(Y.U), Y.V @ dagger(Y.V)
    exact = PU @ F + F @ PV - PU @ F @ PV
    Z = to(library, Y)
    f = Projections.of(LIBRARIES[library](F), Z)
    np.testing.assert_allclose(to_numpy(tangent(Z, f).full()), exact, atol=1e-13)
    assert tangent(Z, f).rank == 6
    square = sum(sign * np.linalg.norm(to_numpy(X)) ** 2 for X, sign in ((f.K, 1), (f.L, 1), (f.S, -1)))
    assert abs(square - np.linalg.norm(exact) ** 2) <= 1e-12 * square


@pytest.mark.parametrize("part", "KLS")
def test_seen_through_other_bases(part):
    Y, point = (LowRank(*(X[i] for X in random_points(2, dtype=np.complex128))) for i in range(2))
    F = random_points(1, rank=7, dtype=np.complex128).full()[0]
    M = tangent(Y, Projections.of(F, Y)).full()
    expected = getattr(Projections.of(M, point), part)
    np.testing.assert_allclose(seen(Projections.of(F, Y), Y, point, part), expected, atol=1e-13)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("stack", [False, True])
def test_combine(library, stack):
    """The sum, in orthonormal bases, also of terms that are not, and of more columns than there are rows."""
    Y = random_points(3)
    Z = LowRank(2.0 * Y.U[..., :2], Y.S[..., :2, :], Y.V)
    terms = [(1.0, Y), (-0.5, Z), (3.0, tangent(Y, Projections.of(Z.full(), Y)))]
    exact = Y.full() - 0.5 * Z.full() + 3.0 * Y.project(Z.full()).full()
    if not stack:
        terms, exact = [(c, LowRank(*(X[2] for X in T))) for c, T in terms], exact[2]
    total = combine([(c, to(library, T)) for c, T in terms])
    np.testing.assert_allclose(to_numpy(total.full()), exact, atol=1e-12)
    for X in map(to_numpy, (total.U, total.V)):
        np.testing.assert_allclose(dagger(X) @ X - np.eye(X.shape[-1]), 0, atol=1e-14)


def test_parts_may_be_left_out():
    f = Projections(S=np.eye(2))
    assert f.K is None and f.L is None and f.S.shape == (2, 2)


def test_what_is_no_point_or_sum_is_refused():
    Y = LowRank.random((4, 3), 2, np.random.default_rng(0))
    with pytest.raises(TypeError, match=r"Y must be an integrators\.LowRank"):
        tangent(3, Projections.of(Y.full(), Y))
    with pytest.raises(TypeError, match="f must have the projections K, L and S"):
        tangent(Y, len)
    with pytest.raises(ValueError, match="terms must hold at least one pair"):
        combine([])
    with pytest.raises(TypeError, match=r"second of each of terms must be an integrators\.LowRank"):
        combine([(1.0, Y.full())])
