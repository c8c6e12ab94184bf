"""The template: promises, hypotheses, settings; bounds that are not vacuous."""

from dataclasses import replace

import numpy as np
import pytest

from dlrt.theorems import (
    HOLDS,
    THEOREMS,
    Certificate,
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
from dlrt.theorems.matrix import methods
from dlrt.theorems.theorem import label
from integrators import (
    BUG,
    RK4,
    AdaLoRA,
    AugmentedBUG,
    Exact,
    FixedRank,
    GeoLoRA,
    ImportanceBudget,
    Integrator,
    LowRank,
    ParallelBUG,
    ProjectorSplitting,
    Tolerance,
)
from problems import MatrixRegression, rotating, synthetic
from tests.dlrt.theorems.conftest import regression, small_regression


@pytest.mark.parametrize("theorem", sorted(set(THEOREMS) - {"convergence", "error-bound", "stiffness"}))
def test_promises_are_kept(theorem, tmp_path):
    """For every method known by name, on the small cases; every certificate can be saved."""
    claim, certified = THEOREMS[theorem], 0
    for method in methods().values():
        if claim.promises(claim.configured(method))[0]:
            for certificate in claim.cases(method):
                assert not certificate.failed, certificate.line()
                loaded = Certificate.load(certificate.save(tmp_path / "certificate.json"))
                assert (loaded.verdict, loaded.reason) == (certificate.verdict, certificate.reason)
                certified += certificate.verdict == HOLDS
    assert certified


def test_torch_points_can_be_checked():
    torch = pytest.importorskip("torch")
    target = torch.from_numpy(synthetic((10, 8), [1.0, 0.5], np.random.default_rng(0)))
    assert RiemannianStep(rank=2).check(GeoLoRA(), MatrixRegression(target)).verdict == HOLDS
    assert Descent(step_size=0.5, rank=2).check(GeoLoRA(), MatrixRegression(target)).verdict == HOLDS


@pytest.mark.slow
@pytest.mark.parametrize("theorem", sorted(THEOREMS))
def test_large_sweep(theorem):
    claim = THEOREMS[theorem]
    for method in methods().values():
        if claim.promises(claim.configured(method))[0]:
            for certificate in claim.cases(method, full=True):
                assert not certificate.failed, certificate.line()


def test_bounds_are_not_vacuous():
    """On at least one case each inequality is nearly attained: measured / bound above a floor."""
    floors = {}

    def main(certificate):
        assert certificate.verdict == "holds"
        return max(max(s.ratio) for s in certificate.series[:2] if not s.equality)

    problem = regression()
    floors["descent"] = (main(Descent(step_size=0.5).check(GeoLoRA(), problem)), 0.999)
    batches = Descent().problems()["mini-batches"]
    floors["descent in expectation"] = (main(Descent(step_size=0.02).check(GeoLoRA(), batches)), 0.9)
    floors["convergence"] = (main(Convergence().check(ParallelBUG(), problem)), 0.95)
    few = Convergence().problems()["all mini-batches"]
    floors["convergence in expectation"] = (main(Convergence(max_nodes=200).check(GeoLoRA(), few)), 0.6)
    turning = rotating(np.random.default_rng(8), (24, 20))
    for method in (GeoLoRA(truncation=FixedRank(4)), ProjectorSplitting(substep=Exact()), ProjectorSplitting()):
        floors[f"error bound {method}"] = (main(ErrorBound().check(method, turning)), 0.7)
    small = rotating(np.random.default_rng(8), (60, 50))
    for method in (ProjectorSplitting(substep=Exact()), BUG(substep=Exact())):  # an error of 1e-5, sharp to 10 %
        floors[f"error bound, exact, rank 16, {method}"] = (main(ErrorBound(rank=16).check(method, small)), 0.9)
    for name, method in {"BUG": BUG(), "AugmentedBUG": AugmentedBUG()}.items():
        method = ErrorBound().configured(method)
        floors[f"error bound {name}"] = (main(ErrorBound().check(method, turning)), 0.45)
    floors["stationary"] = (main(Stationary().check(GeoLoRA())), 0.999)
    stiffness = Stiffness(steps=60)
    floors["stiffness"] = (main(replace(stiffness, sigmas=(10.0,)).check(stiffness.configured(GeoLoRA()))), 0.98)
    spare = Spare().check(GeoLoRA())
    floors["spare"] = (max(max(s.ratio) for s in spare.series if s.name.startswith("(b, c)")), 0.999)
    decay = Decay()
    floors["decay"] = (main(replace(decay, step_size=0.05).check(decay.configured(AugmentedBUG()), problem)), 0.9)
    conservation = Conservation(steps=2)
    energy = conservation.check(conservation.configured(AugmentedBUG()), conservation.problems()["schroedinger"])
    floors["energy"] = (max(energy.series[3].ratio), 0.01)
    too_low = {name: pair for name, pair in floors.items() if not pair[1] <= pair[0] <= 1 + 1e-6}
    assert not too_low


def test_equalities_have_a_small_slack():
    """Relative slack of rounding: far below every defect above."""
    for certificate in (
        RiemannianStep().check(GeoLoRA(), regression()),
        Structure().check(GeoLoRA(), Structure().problems()["linear-network"]),
    ):
        assert all(max(s.slack) < 1e-9 for s in certificate.series if s.equality)


# -- promises and settings -------------------------------------------------------------------------------------------


class Longer(GeoLoRA):
    """A method of its own: stages are redefined."""

    def stages(self, t, state, h):
        return (yield from super().stages(t, state, 1.1 * h))


class Renamed(GeoLoRA):
    """The same method with another default."""

    rank_adaptive = False


def test_a_subclass_with_its_own_stages_is_not_promised():
    for theorem in THEOREMS.values():
        promised = theorem.promises(GeoLoRA())
        assert theorem.promises(Renamed()) == promised
        assert theorem.promises(Longer()) == (False, "nobody has proved it for this method")
        assert not theorem.promises(Integrator())[0]


def test_promises_that_depend_on_settings():
    budget = ImportanceBudget(initial=9, final=4, total_steps=8)
    assert Structure().promises(AdaLoRA())[0] and not Structure().promises(AdaLoRA(truncation=budget))[0]
    assert Convergence().promises(ParallelBUG())[0] and not Convergence().promises(ParallelBUG(rejection=10.0))[0]
    assert ErrorBound().promises(BUG(substep=Exact()))[0] and not ErrorBound().promises(BUG(substep=RK4()))[0]


def test_settings_are_fields():
    problem = small_regression()
    assert Descent(steps=3).check(GeoLoRA(), problem) == replace(Descent(), steps=3).check(GeoLoRA(), problem)
    with pytest.raises(TypeError, match="unexpected keyword"):
        Descent().check(GeoLoRA(), problem, steps=3)


def test_problems_are_refused_and_asked_for():
    with pytest.raises(ValueError, match="makes its own"):
        Stationary().check(GeoLoRA(), small_regression())
    with pytest.raises(ValueError, match="needs a problem"):
        Descent().check(GeoLoRA())


def test_labels_show_what_differs_from_the_defaults():
    assert label(GeoLoRA()) == "GeoLoRA()"
    assert label(GeoLoRA(truncation=Tolerance(relative=0.5))) == "GeoLoRA(truncation=Tolerance(relative=0.5))"
    assert label(ParallelBUG(rejection=2.0)) == "ParallelBUG(rejection=2.0)"


def test_settings_are_checked():
    problem, start = small_regression(), LowRank.random((3, 2), 1, np.random.default_rng(0))
    for claim, message in (
        (Descent(steps=0), "steps must be at least 1, got 0"),
        (Descent(step_size=0.0), "step_size must be positive and finite"),
        (
            Descent(start=start),
            r"start has shape \(3, 2\), but the problem",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            claim.check(GeoLoRA(), problem)
    with pytest.raises(TypeError, match=r"start must be an integrators\.LowRank"):
        Descent(start=3).check(GeoLoRA(), problem)
    with pytest.raises(TypeError, match=r"integrator must be an integrators\.Integrator, got the class GeoLoRA"):
        Descent().check(GeoLoRA, problem)
