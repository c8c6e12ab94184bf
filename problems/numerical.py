"""Reference solutions that are computed and kept, as by integration of the dense equation to twelve digits."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
import scipy.integrate

from .problem import Problem


class Archive(Protocol):
    """Where solutions are kept for other programs, such as `dlrt.references.References`."""

    def find(self, t: float) -> np.ndarray | None:
        """The solution at time t, None where it is not kept."""

    def add(self, t: float, solution: np.ndarray) -> None:
        """Keep it."""


class Computed(Problem):
    """A problem whose reference is computed, in a time that is worth saving.

    A subclass gives the dense start, and how it is moved. Solutions are kept for as long as the problem lives, and each
    is computed from the nearest one between 0 and its time; cost O(m n) memory for each time asked for.
    """

    _archive: ClassVar[Any] = None

    def keep_solutions(self, archive: Archive) -> None:
        """Look for solutions in an archive, and add to it those that are computed."""
        object.__setattr__(self, "_archive", archive)

    @abstractmethod
    def start_matrix(self) -> np.ndarray:
        """Y(0) in double precision."""

    @abstractmethod
    def moved(self, start: np.ndarray, before: float, t: float) -> np.ndarray:
        """The solution at time t that is `start` at the time `before`."""

    def reference(self, t: float) -> np.ndarray | None:
        """Y(t)."""
        t = float(t)
        if t not in self._solutions:
            found = None if self._archive is None else self._archive.find(t)
            if found is None:
                before = max((s for s in self._solutions if 0 <= s < t), default=0.0)
                found = self.moved(self._solutions[before], before, t)
                if self._archive is not None:
                    self._archive.add(t, found)
            self._solutions[t] = found
        return self._solutions[t].copy()

    @cached_property
    def _solutions(self) -> dict[float, np.ndarray]:
        return {0.0: self.start_matrix()}


class NumericallySolved(Computed):
    """A problem whose reference is computed by scipy's DOP853 with relative tolerance 1e-12.

    A subclass gives the dense start and the dense field.
    """

    @abstractmethod
    def rate(self, t: float, W: np.ndarray) -> np.ndarray:
        """F(t, W) for a dense (m, n) array in double precision."""

    def reference(self, t: float) -> np.ndarray | None:
        """Y(t), for t >= 0; None before that."""
        return None if t < 0 else super().reference(t)

    def moved(self, start: np.ndarray, before: float, t: float) -> np.ndarray:
        solved = scipy.integrate.solve_ivp(
            lambda s, x: self.rate(s, x.reshape(self.shape)).ravel(),
            (before, t),
            start.ravel(),
            method="DOP853",
            t_eval=[t],
            rtol=1e-12,
            atol=1e-14 * max(1e-300, float(np.abs(start).max())),
        )
        if not solved.success:
            raise FloatingPointError(f"the reference of {self.name} ends before t = {t:g}: {solved.message}")
        return solved.y[:, -1].reshape(self.shape)
