"""Deliberately broken methods are caught, and the bounds are not vacuous."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from dlrt.theorems import (
    NOT_APPLICABLE,
    THEOREMS,
    VIOLATED,
    Conservation,
    Convergence,
    Decay,
    Descent,
    ErrorBound,
    RiemannianStep,
    Spare,
    Stationary,
    Stiffness,
    Structure,
)
from integrators import (
    BUG,
    AugmentedBUG,
    Exact,
    FixedRank,
    GeoLoRA,
    LowRank,
    ParallelBUG,
    ProjectorSplitting,
    Proposal,
    Tolerance,
    Truncation,
)
from integrators.parallel_bug import augmented
from problems import MatrixRegression, rotating, synthetic

# -- methods with known defects: a check that does not notice them is worth nothing -----------------------------------


@dataclass(frozen=True)
class WrongVectors(Tolerance):
    """U is turned by the right singular vectors and V by the left ones."""

    def __call__(self, proposals):
        result = []
        for p in proposals:
            P, d, QH = np.linalg.svd(p.Y.S)
            [rank] = self.ranks([d])
            r = min(rank + self.spare, len(d))
            turned = LowRank(p.Y.U @ QH.T[:, :r], np.diag(d[:r]), p.Y.V @ P[:, :r])
            result.append((turned, float(np.linalg.norm(d[r:]))))
        return result


@dataclass(frozen=True)
class Twice(Tolerance):
    """Truncates what it has truncated before; reports the whole error."""

    def __call__(self, proposals):
        once = super().__call__(proposals)
        twice = super().__call__([Proposal(Y) for Y, _ in once])
        return [(Y, float(np.hypot(a, b))) for (_, a), (Y, b) in zip(once, twice, strict=True)]


@dataclass(frozen=True)
class TwiceSilently(Twice):
    """The same, with the error of the second time only."""

    def __call__(self, proposals):
        once = Tolerance.__call__(self, proposals)
        return Tolerance.__call__(self, [Proposal(Y) for Y, _ in once])


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


# -- what the checks say about them ------------------------------------------------------------------------------------


def regression(values=(2.0, 1.0, 0.8, 0.6, 0.4, 0.3, 0.2)):
    return MatrixRegression(synthetic((14, 12), values, np.random.default_rng(0)))


def violated(certificate):
    return {s.name for s in certificate.series if not np.all(s.met)}


def test_the_method_itself_passes_what_the_broken_ones_fail():
    for method in (GeoLoRA(), GeoLoRA(truncation=Tolerance(relative=0.3)), GeoLoRA(truncation=Tolerance(relative=0.1))):
        assert not violated(Descent().check(method, regression(), step_size=0.5))
        assert not violated(RiemannianStep().check(method, regression()))


def test_bases_rotated_by_the_wrong_singular_vectors():
    certificate = Descent().check(WrongRotation(), regression(), step_size=0.5)
    assert certificate.verdict == VIOLATED and certificate.failed
    assert {"truncation error is the tail", "reported truncation error"} <= violated(certificate)
    assert "descent before truncation" not in violated(certificate)
    bound = ErrorBound().check(WrongRotation(), _flow(), rank=4)
    assert bound.constants["theta"].value > 0.1  # the true distance, whatever the method says


def test_truncation_twice():
    """It cuts more than its tolerance; said or unsaid."""
    problem = regression()
    start = LowRank.from_dense(problem.target, rank=7)
    assert Descent().check(GeoLoRA(truncation=Tolerance(relative=0.3)), problem, start=start).verdict == "holds"
    certificate = Descent().check(TruncatedTwice(), problem, start=start)
    assert certificate.failed
    assert violated(certificate) == {"truncation within its tolerance"}
    silent = TruncatedTwice(truncation=TwiceSilently(relative=0.3))
    certificate = Descent().check(silent, problem, start=start)
    assert violated(certificate) == {"truncation within its tolerance", "reported truncation error"}


@pytest.mark.parametrize("method", [DividedByS(), DividedByRegularisedS()], ids=lambda m: type(m).__name__)
def test_gradients_divided_by_S(method):
    certificate = RiemannianStep().check(method, regression())
    assert certificate.failed
    met = certificate.series[0].met
    assert met[0] and not met[-1]  # fine at the largest singular values, not at zero
    assert Stationary().check(method).failed


@pytest.mark.parametrize("method", [FrozenBasis(), TooLong()], ids=lambda m: type(m).__name__)
def test_other_defects(method):
    assert RiemannianStep().check(method, regression()).failed
    assert Descent().check(method, regression(), step_size=0.9).failed


def test_a_frozen_basis_breaks_the_error_bound_and_the_way_out_of_a_small_rank():
    assert ErrorBound().check(FrozenBasis(truncation=FixedRank(4)), _flow(), rank=4, steps=100).failed
    spare = Spare().check(FrozenBasis(truncation=Tolerance(relative=0.1, spare=1)))
    assert spare.failed


def test_lost_singular_values_break_error_bound_and_convergence():
    method = CutsToOne()
    assert ErrorBound().check(method, _flow(), rank=4, steps=100).failed
    assert Convergence().check(method, regression()).failed


def _flow():
    d = [1.0, 0.5, 0.25, 0.125]
    whole = rotating(np.random.default_rng(1), (14, 12), rank=4)
    start = replace(whole, singular_values=np.array(d)).reference(0.0)
    return MatrixRegression(whole.reference(0.6) * 2, start)


def test_bounds_are_not_vacuous():
    """On at least one case each inequality is nearly attained: measured / bound above a floor."""
    floors = {}

    def main(certificate):
        assert certificate.verdict == "holds"
        return max(max(s.ratio) for s in certificate.series[:2] if not s.equality)

    problem = regression()
    floors["descent"] = (main(Descent().check(GeoLoRA(), problem, step_size=0.5)), 0.999)
    batches = Descent().problems()["mini-batches"]
    floors["descent in expectation"] = (main(Descent().check(GeoLoRA(), batches, step_size=0.02)), 0.9)
    floors["convergence"] = (main(Convergence().check(ParallelBUG(), problem)), 0.95)
    few = Convergence().problems()["all mini-batches"]
    floors["convergence in expectation"] = (main(Convergence(max_nodes=200).check(GeoLoRA(), few)), 0.6)
    turning = rotating(np.random.default_rng(8), (24, 20))
    for method in (GeoLoRA(truncation=FixedRank(4)), ProjectorSplitting(substep=Exact()), ProjectorSplitting()):
        floors[f"error bound {method}"] = (main(ErrorBound().check(method, turning)), 0.7)
    small = rotating(np.random.default_rng(8), (60, 50))
    for method in (ProjectorSplitting(substep=Exact()), BUG(substep=Exact())):  # an error of 1e-5, sharp to 10 %
        floors[f"error bound, exact, rank 16, {method}"] = (main(ErrorBound().check(method, small, rank=16)), 0.9)
    for name in ("BUG", "AugmentedBUG"):
        method = THEOREMS["error-bound"].configured(_default(name))
        floors[f"error bound {name}"] = (main(ErrorBound().check(method, turning)), 0.45)
    floors["stationary"] = (main(Stationary().check(GeoLoRA())), 0.999)
    stiffness = Stiffness(steps=60)
    floors["stiffness"] = (main(stiffness.check(stiffness.configured(GeoLoRA()), sigmas=(10.0,))), 0.98)
    spare = Spare().check(GeoLoRA())
    floors["spare"] = (max(max(s.ratio) for s in spare.series if s.name.startswith("(b, c)")), 0.999)
    decay = Decay()
    floors["decay"] = (main(decay.check(decay.configured(AugmentedBUG()), problem, step_size=0.05)), 0.9)
    conservation = Conservation(steps=2)
    energy = conservation.check(conservation.configured(AugmentedBUG()), conservation.problems()["schroedinger"])
    floors["energy"] = (max(energy.series[3].ratio), 0.01)
    too_low = {name: pair for name, pair in floors.items() if not pair[1] <= pair[0] <= 1 + 1e-6}
    assert not too_low


def _default(name):
    import integrators

    return getattr(integrators, name)()


def test_equalities_have_a_small_slack():
    """Relative slack of rounding: far below every defect above."""
    for certificate in (
        RiemannianStep().check(GeoLoRA(), regression()),
        Structure().check(GeoLoRA(), Structure().problems()["linear-network"]),
    ):
        assert all(max(s.slack) < 1e-9 for s in certificate.series if s.equality)


def test_expectation_needs_a_projection_that_does_not_depend_on_the_batch():
    problem = Descent().problems()["mini-batches"]
    certificate = Descent().check(AugmentedBUG(), problem, step_size=0.02)
    assert certificate.verdict == NOT_APPLICABLE and "depend on the gradient" in certificate.reason
