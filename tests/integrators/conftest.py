"""A small regression problem and a point of rank 3, to write the equations of a method out for."""

import pytest

from dlrt.testing import rng
from integrators import LowRank
from problems import MatrixRegression


@pytest.fixture
def problem():
    return MatrixRegression(rng(1).standard_normal((9, 7)))


@pytest.fixture
def Y():
    return LowRank.random((9, 7), 3, rng(2))
