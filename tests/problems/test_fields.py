"""Fields: lazy and computed once; a user's own points will do."""

from types import SimpleNamespace

import numpy as np
import pytest

import problems
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


def test_convert_takes_dtype_and_library():
    assert convert(np.ones(3), np.zeros(1, np.complex64)).dtype == np.complex64
    with pytest.raises(TypeError, match="a complex problem needs a complex point, got a point of dtype float32"):
        convert(np.ones(3) + 0j, np.zeros(1, np.float32))
