"""A method and a problem that dlrt knows by name once this package is installed."""

from dataclasses import dataclass

import numpy as np

from integrators import GeoLoRA, LowRank
from problems import from_function

SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Halfway(GeoLoRA):
    """GeoLoRA with steps of half the size.

    References
    ----------
    Doe (2031), Halfway, arXiv:3101.00001.
    """

    def stages(self, t, state, h):
        """The stages of GeoLoRA."""
        return (yield from super().stages(t, state, SHARE * h))


def decay(t, Y):
    """Minus Y."""
    return [LowRank(-Y.U, Y.S, Y.V)]


def falling(*, size=20):
    """Y' = -Y, a matrix that falls to zero."""
    start = LowRank.random((size, size), 3, np.random.default_rng(0))
    return from_function((size, size), decay, initial=start)
