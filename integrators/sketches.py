"""What randomised methods share: sketches that are drawn anew in each step and the same when a run goes on."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from array_api_compat import device

from .checks import check_integer
from .integrator import Integrator
from .linalg import array_namespace, check_finite, complement, haar, is_complex
from .lowrank import LowRank
from .state import State
from .substeps import Euler, Substep
from .truncation import Tolerance, Truncation

__all__ = ["PowerIterated", "Randomised", "bases_in_turn"]


@dataclass(frozen=True, kw_only=True)
class Randomised(Integrator):
    """Base class of methods that look at the field through random matrices.

    The sketches of a step are a function of ``seed`` and of the number of steps taken, which the state remembers as
    ``draws``: a run that is saved and goes on has the same numbers as one that never stopped.

    The first field of any method is that at Y0 in its own bases: a network has it at hand, and the moments of an
    optimiser take it in. Methods that sketch need it for nothing else, see :meth:`first_field`.

    Parameters
    ----------
    seed : int
        Of the sketches.
    oversampling : int
        Columns of a sketch beyond the rank of Y0.
    optimizer : Optimizer

    Raises
    ------
    TypeError, ValueError
        ``seed`` or ``oversampling`` is not an integer >= 0.
    """

    seed: int = 0
    oversampling: int = 5

    def __post_init__(self):
        super().__post_init__()
        check_integer("seed", self.seed, 0)
        check_integer("oversampling", self.oversampling, 0)

    def memory(self, Y: LowRank):
        """The number of steps taken, with what the optimiser remembers."""
        return {**super().memory(Y), "draws": 0}

    def advance(self, t: float, state: State, h: float) -> Generator[tuple, Any, State]:
        """A step that is counted."""
        after = yield from super().advance(t, state, h)
        return replace(after, memory={**after.memory, "draws": int(state.memory["draws"]) + 1})

    def first_field(self, t: float, Y: LowRank) -> Generator[tuple, Any, None]:
        """Ask for the field at Y, and see that it is finite."""
        f = yield t, Y, "S"
        check_finite(f.S)

    def sketches(self, state: State, *sizes: tuple[int, int]) -> list:
        """Independent random matrices of these sizes (n, k) with orthonormal columns, k at most n."""
        Y, rng = state.Y, np.random.default_rng((self.seed, int(state.memory["draws"])))
        xp, wide = array_namespace(Y.S), np.complex128 if is_complex(Y.S) else np.float64
        drawn = (haar(n, min(n, k), rng, wide) for n, k in sizes)
        return [xp.asarray(X, dtype=Y.dtype, device=device(Y.S)) for X in drawn]


@dataclass(frozen=True, kw_only=True)
class PowerIterated(Randomised):
    """Base class of methods whose bases come from sketches of the solution at the new time, refined by turns.

    Parameters
    ----------
    truncation : Truncation
        ``Tolerance(relative=1e-8)`` by default.
    substep : Substep
        Euler by default.
    power : int
        Power iterations.

    Raises
    ------
    TypeError, ValueError
        ``power`` is not an integer >= 0.
    """

    truncation: Truncation = field(default_factory=lambda: Tolerance(relative=1e-8))  # type: ignore[misc]
    substep: Substep = field(default_factory=Euler)
    power: int = 1

    order: ClassVar[int] = 1
    rank_adaptive: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        check_integer("power", self.power, 0)

    def basis(self, t: float, Y: LowRank, h: float, part: str, X) -> Generator[tuple, Any, Any]:
        """Of the range ("K") or the co-range ("L") of the solution at t + h, from the sketch X."""
        return (yield from bases_in_turn(t, Y, h, part, X, 2 * self.power + 1, self.substep))


def bases_in_turn(
    t: float, Y: LowRank, h: float, part: str, X, times: int, substep: Substep
) -> Generator[tuple, Any, Any]:
    """Dynamical rangefinder: a basis of the range, or of the co-range, of the solution at t + h.

    K-steps from ``Y X`` with V = X and L-steps from ``Y^H X`` with U = X take turns, as often as ``times`` says, each
    with a basis of the result as the next X. ``part`` is the first of them, "K" or "L". X has orthonormal columns.
    """
    for i in range(times):
        if (part == "K") == (i % 2 == 0):
            Z = Y.embed(Y.U, X)
            f = yield t, Z, "K"
            X = Z.K + (yield from substep.K(t, Z, h, f))
        else:
            Z = Y.embed(X, Y.V)
            f = yield t, Z, "L"
            X = Z.L + (yield from substep.L(t, Z, h, f))
        X = basis(X)
    return X


def basis(X):
    """Orthonormal basis of the columns of X, without directions that are rounding."""
    return complement(X[:, :0], X)
