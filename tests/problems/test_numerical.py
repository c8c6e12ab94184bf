"""References by numerical integration: to eleven digits, in any order of the times, an end that is not reached."""

from dataclasses import dataclass

import numpy as np
import pytest

from integrators import LowRank
from problems import DenseField
from problems.numerical import NumericallySolved


@dataclass(frozen=True, eq=False)
class Square(NumericallySolved):
    """w' = w^2 in every entry: w(t) = w(0) / (1 - t w(0))."""

    start: np.ndarray

    name = "square"

    @property
    def shape(self):
        return self.start.shape

    @property
    def like(self):
        return self.start

    def start_matrix(self):
        return self.start

    def rate(self, t, W):
        return W**2

    def initial(self, rank, rng):
        return LowRank.from_dense(self.start, rank)

    def field(self, t, Y):
        return DenseField(Y, self.rate(t, Y.full()))


def test_solutions_at_any_times():
    w = np.array([[0.5, -1.0, 0.25], [0.1, 0.2, 0.3]])
    problem = Square(w)
    for t in (0.7, 0.2, 0.0, 1.5, 0.2):
        assert np.abs(problem.reference(t) - w / (1 - t * w)).max() < 1e-11
    assert problem.reference(-1.0) is None
    problem.reference(0.2)[:] = 0  # what is kept is not handed out
    assert problem.reference(0.2)[0, 0] == pytest.approx(0.5 / 0.9)


def test_a_solution_that_ends_says_so():
    with pytest.raises(FloatingPointError, match=r"the reference of square ends before t = 3: Required step size"):
        Square(np.array([[0.5]])).reference(3.0)
