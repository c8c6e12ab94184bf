"""What an error of a differential equation means: beside the size of the solution and the best of the same rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from integrators.linalg import to_numpy

__all__ = ["Solution", "ended", "lost", "solutions"]

LARGEST = 1000
"""Rows or columns up to which the singular values of a solution are computed: half a second on one core."""


@dataclass(frozen=True, eq=False)
class Solution:
    """Size of a reference solution at one time, see `Solution.at`.

    Attributes
    ----------
    norm : float
        Frobenius norm.
    singular_values : ndarray or None
        Descending; None where the matrix is too large.
    """

    norm: float
    singular_values: np.ndarray | None

    @classmethod
    def at(cls, problem, t):
        """The solution of a problem with a reference at time t."""
        exact = to_numpy(problem.reference(float(t)))
        if min(exact.shape) > LARGEST:
            return cls(float(np.linalg.norm(exact)), None)
        singular_values = np.linalg.svd(exact, compute_uv=False)
        return cls(float(np.linalg.norm(singular_values)), singular_values)

    def relative(self, error):
        """An error, or an array of them, over the norm of the solution (as it is where that is zero)."""
        return error / (self.norm or 1.0)

    def best(self, rank):
        """Relative error of the best approximation of the given rank; None where that is not known.

        It is the root of the sum of the squares of the singular values beyond the rank.
        """
        if self.singular_values is None:
            return None
        return float(self.relative(np.linalg.norm(self.singular_values[rank:])))


def ended(run):
    """Whether a run went on to its last step: it neither diverged nor failed."""
    return not (run.diverged or run.failed)


def lost(runs):
    """The steps at which runs diverged and at which they failed, ascending, by ``diverged`` and ``failed``."""
    steps = {
        kind: sorted(int(run.status.split(":")[0].split()[-1]) for run in runs if getattr(run, kind))
        for kind in ("diverged", "failed")
    }
    return {kind: found for kind, found in steps.items() if found}


def solutions(results):
    """The solutions at the ends of the runs that `ended`, by time, for the results of a sweep of one problem."""
    times = {float(result.trajectory.times[-1]) for result in results if ended(result.trajectory)}
    return {t: Solution.at(results[0].case.problem, t) for t in times}
