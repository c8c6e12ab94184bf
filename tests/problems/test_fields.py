"""Fields: lazy and computed once, over the stages of a step too; a user's own points will do."""

from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

import problems
from integrators import BUG, RK4, AugmentedBUG, Heun, LowRank, ParallelBUG, ProjectorSplitting, Repeated
from problems.fields import convert

from .contract import gaussian, point


def test_fields_are_lazy_and_computed_once():
    calls = []

    def product(X):
        calls.append(X.shape)
        return 2 * X

    f = problems.OperatorField(point(np.random.default_rng(0), (5, 5)), product, product)
    assert calls == []
    assert f.S.shape == (3, 2)
    assert f.K is f.K
    assert calls == [(5, 2)]  # S and K share one product
    assert f.L is f.L
    assert calls == [(5, 2), (5, 3)]


def test_dense_field_returns_its_matrix():
    rng = np.random.default_rng(0)
    F, Y = gaussian(rng, 5, 4, dtype=np.complex128), point(rng, (5, 4), dtype=np.complex128)
    f = problems.DenseField(Y, F)
    assert f.full() is F
    assert np.allclose(f.L, F.conj().T @ Y.U, rtol=1e-13, atol=0)


def test_dense_field_at_a_point_of_another_class():
    rng = np.random.default_rng(0)
    F, Y = gaussian(rng, 5, 4), point(rng, (5, 4))
    f, g = problems.DenseField(SimpleNamespace(U=Y.U, S=Y.S, V=Y.V), F), problems.DenseField(Y, F)
    for name in "KLS":
        assert np.array_equal(getattr(f, name), getattr(g, name))


class Counted(problems.LinearField):
    """``A Y + Y B`` with the products of each kind counted."""

    A, B = np.diag(np.arange(40.0)), np.diag(np.arange(30.0))
    owner = "the test"
    calls: ClassVar[list[str]] = []

    def left(self, U):
        self.calls.append("A U")
        return self.A @ U, U

    def right(self, V):
        self.calls.append("B^H V")
        return V, self.B @ V


@pytest.mark.parametrize(
    ("method", "bases"),
    [
        (BUG(substep=RK4()), 2 + 6 + 2),  # U, V; the stages of K and L; the new U and V, once for all stages of S
        (AugmentedBUG(substep=RK4()), 2 + 6 + 2),
        (ParallelBUG(substep=RK4()), 2 + 6),
        (ProjectorSplitting(substep=RK4()), 2 + 3 + 1 + 3),  # U, V; K; U1; L
        (BUG(substep=Repeated(Heun(), 3)), 2 + 10 + 2),
    ],
    ids=lambda x: type(x).__name__,
)
def test_linear_field_multiplies_a_basis_once_in_a_step(method, bases):
    rng = np.random.default_rng(0)
    Y = LowRank.random((40, 30), 4, rng)
    Counted.calls.clear()
    found = method.step(lambda t, Y: Counted(Y), 0.0, method.init(Y), 1e-3).state.Y
    assert len(Counted.calls) == bases
    # without notes the numbers are the same, bit for bit
    plain = method.step(lambda t, Y: Counted(LowRank(*Y)), 0.0, method.init(Y), 1e-3).state.Y
    assert all(np.array_equal(X, Z) for X, Z in zip(found, plain, strict=True))


def test_array_changed_between_steps_is_seen():
    method = BUG(substep=RK4())
    p = problems.lyapunov(30, np.random.default_rng(0))
    state = method.init(LowRank.random((30, 30), 3, np.random.default_rng(1)))
    method.step(p.field, 0.0, state, 0.1)
    f = p.field(0.0, state.Y)
    before = f.K
    state.Y.U[:] = state.Y.U[::-1].copy()
    fresh = method.init(LowRank(*(X.copy() for X in state.Y)))
    for g in (p.field(0.0, state.Y), p.field(0.0, fresh.Y)):
        assert not np.allclose(g.K, before)
        assert np.array_equal(g.K, p.field(0.0, LowRank(*fresh.Y)).K)
    found, exact = (method.step(p.field, 0.0, s, 0.1).state.Y.full() for s in (state, fresh))
    assert np.array_equal(found, exact)


@pytest.mark.parametrize("library", [np.asarray, torch.asarray], ids=["numpy", "torch"])
def test_linear_field_where_both_factors_of_a_term_are_the_identity(library):
    class Decay(problems.LinearField):
        def left(self, U):
            return (U,)

        def right(self, V):
            return (V,)

    Y = LowRank(*map(library, LowRank.random((6, 5), 2, np.random.default_rng(0), singular_values=[1.0, 1.0])))
    f = Decay(Y)
    for found, exact in ((f.K, Y.K), (f.L, Y.L), (f.S, Y.S), (f.full(), Y.full())):
        assert np.allclose(found, exact, rtol=0, atol=1e-14)


def test_convert_takes_dtype_and_library():
    assert convert(np.ones(3), np.zeros(1, np.complex64)).dtype == np.complex64
    with pytest.raises(TypeError, match="a complex problem needs a complex point, got a point of dtype float32"):
        convert(np.ones(3) + 0j, np.zeros(1, np.float32))
