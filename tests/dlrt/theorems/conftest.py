"""Small problems, and deliberately broken methods: a check that does not notice them is worth nothing."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from dlrt.theorems import THEOREMS
from integrators import FixedRank, GeoLoRA, LowRank, State, Tolerance, Truncation
from integrators.parallel_bug import augmented
from problems import MatrixRegression, rotating, synthetic


def regression(values=(2.0, 1.0, 0.8, 0.6, 0.4, 0.3, 0.2), shape=(14, 12)):
    """Regression onto given singular values."""
    return MatrixRegression(synthetic(shape, values, np.random.default_rng(0)))


def small_regression():
    """Four singular values, shape (12, 10)."""
    return regression([1.0, 0.5, 0.25, 0.1], (12, 10))


def flow():
    """A gradient flow with a reference solution: regression from a start of rank 4."""
    d = [1.0, 0.5, 0.25, 0.125]
    whole = rotating(np.random.default_rng(1), (14, 12), rank=4)
    start = replace(whole, singular_values=np.array(d)).reference(0.0)
    return MatrixRegression(whole.reference(0.6) * 2, start)


def violated(certificate):
    """Names of the series that are violated."""
    return {s.name for s in certificate.series if not np.all(s.met)}


# -- methods with known defects ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WrongVectors(Tolerance):
    """U is turned by the right singular vectors and V by the left ones."""

    def __call__(self, states):
        result = []
        for p in states:
            P, d, QH = np.linalg.svd(p.Y.S)
            [rank] = self.ranks([d])
            r = min(rank + self.spare, len(d))
            turned = LowRank(p.Y.U @ QH.T[:, :r], np.diag(d[:r]), p.Y.V @ P[:, :r])
            result.append((turned, float(np.linalg.norm(d[r:]))))
        return result


@dataclass(frozen=True)
class Twice(Tolerance):
    """Truncates what it has truncated before; reports the whole error."""

    def __call__(self, states):
        once = super().__call__(states)
        twice = super().__call__([State(Y) for Y, _ in once])
        return [(Y, float(np.hypot(a, b))) for (_, a), (Y, b) in zip(once, twice, strict=True)]


@dataclass(frozen=True)
class TwiceSilently(Twice):
    """The same, with the error of the second time only."""

    def __call__(self, states):
        once = Tolerance.__call__(self, states)
        return Tolerance.__call__(self, [State(Y) for Y, _ in once])


@dataclass(frozen=True, kw_only=True)
class WrongRotation(GeoLoRA):
    """Bases rotated by the wrong singular vectors."""

    truncation: Truncation = field(default_factory=lambda: WrongVectors(relative=0.1))  # type: ignore[misc]


@dataclass(frozen=True, kw_only=True)
class TruncatedTwice(GeoLoRA):
    """Truncation applied twice."""

    truncation: Truncation = field(default_factory=lambda: Twice(relative=0.3))  # type: ignore[misc]


@dataclass(frozen=True, kw_only=True)
class DividedByS(GeoLoRA):
    """G V and G^T U from the gradients of the factors, by solving with S."""

    def stages(self, t, state, h):
        Y = state.Y
        f = yield t, Y
        K = np.linalg.solve(Y.S, (f.K @ Y.S.conj().T).conj().T).conj().T
        L = np.linalg.solve(Y.S.conj().T, (f.L @ Y.S).conj().T).conj().T
        return augmented(Y, h * K, h * L, h * f.S)


@dataclass(frozen=True, kw_only=True)
class DividedByRegularisedS(GeoLoRA):
    """The same with a pseudo-inverse that cuts off small singular values."""

    def stages(self, t, state, h):
        Y = state.Y
        f = yield t, Y
        inverse = np.linalg.pinv(Y.S, rcond=1e-6)
        K, L = f.K @ Y.S.conj().T @ inverse.conj().T, f.L @ Y.S @ inverse
        return augmented(Y, h * K, h * L, h * f.S)


@dataclass(frozen=True, kw_only=True)
class FrozenBasis(GeoLoRA):
    """No augmentation: the bases never move."""

    def stages(self, t, state, h):
        f = yield t, state.Y
        return LowRank(state.Y.U, state.Y.S + h * f.S, state.Y.V)


@dataclass(frozen=True, kw_only=True)
class TooLong(GeoLoRA):
    """S moves twice as far as it should."""

    def stages(self, t, state, h):
        f = yield t, state.Y
        return augmented(state.Y, h * f.K, h * f.L, 2 * h * f.S)


@dataclass(frozen=True, kw_only=True)
class CutsToOne(GeoLoRA):
    """Keeps one direction fewer than it says."""

    truncation: Truncation = field(default_factory=lambda: FixedRank(4))  # type: ignore[misc]

    def stages(self, t, state, h):
        f = yield t, state.Y
        Y = augmented(state.Y, h * f.K, h * f.L, h * f.S)
        return replace(Y, S=np.diag([1.0, *[0.0] * (len(Y.S) - 1)]) @ Y.S)


@dataclass(frozen=True, kw_only=True)
class Hasty(GeoLoRA):
    """Steps longer than it is told."""

    factor: float = 2.0

    def stages(self, t, state, h):
        return (yield from super().stages(t, state, self.factor * h))


BROKEN = (DividedByS, DividedByRegularisedS, FrozenBasis, TooLong, CutsToOne, Hasty)


@pytest.fixture
def believed(monkeypatch):
    """As if theory promised its statements for the broken methods: violations are then failures."""
    for theorem in THEOREMS.values():
        for method in BROKEN:
            monkeypatch.setitem(theorem.promised, method, "believed")
