"""Every theorem on its small cases: promises are kept, hypotheses can fail, findings are as theory predicts."""

import numpy as np
import pytest

from dlrt.cli.verify import methods
from dlrt.theorems import (
    HOLDS,
    NOT_APPLICABLE,
    THEOREMS,
    VIOLATED,
    Certificate,
    Convergence,
    Decay,
    Descent,
    ErrorBound,
    Exactness,
    FactorMethods,
    Polynomial,
    RiemannianStep,
    Spare,
    Stationary,
    Stiffness,
    Structure,
    predicted_rate,
)
from dlrt.theorems.error_bound import LOCAL, kind_of
from integrators import (
    BUG,
    RK4,
    AdaLoRA,
    Adam,
    AugmentedBUG,
    Exact,
    FixedRank,
    FullRank,
    GeoLoRA,
    Heun,
    ImportanceBudget,
    LoRA,
    LowRank,
    ParallelBUG,
    ProjectorSplitting,
    SVDLoRA,
    Tolerance,
)
from problems import LinearLeastSquares, MatrixRegression, completion, lyapunov, manufactured, rotating, synthetic

CHEAP = sorted(set(THEOREMS) - {"symbolic", "convergence", "error-bound", "stiffness"})


def regression(m=12, n=10):
    return MatrixRegression(synthetic((m, n), [1.0, 0.5, 0.25, 0.1], np.random.default_rng(0)))


@pytest.mark.parametrize("theorem", CHEAP)
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


@pytest.mark.parametrize("method", [GeoLoRA(), ParallelBUG(), FullRank()], ids=lambda m: type(m).__name__)
def test_convergence_in_expectation(method):
    problems = list(Convergence().problems().values())
    claim = Convergence(steps=30, runs=8, max_nodes=300)
    for problem in problems:
        certificate = claim.check(method, problem)
        assert certificate.verdict == HOLDS, certificate.line()
    assert "independent" not in certificate.notes[0] and "8 runs" in certificate.notes[0]


@pytest.mark.parametrize("kind", LOCAL, ids="-".join)
def test_error_bounds_of_all_methods_and_substeps(kind):
    """On the rotating matrix, a gradient flow, and a nonlinear problem; the ratio is at most 1 at every step."""
    methods = [
        FullRank(),
        GeoLoRA(),
        ParallelBUG(),
        AugmentedBUG(),
        BUG(),
        ProjectorSplitting(),
        ProjectorSplitting(order=2),
    ]
    [method] = [m for m in methods if kind_of(m) == kind[0]]
    claim = ErrorBound()
    method = claim.configured(method)
    if kind[1] == "Exact":
        from dataclasses import replace

        method = replace(method, substep=Exact())
    for name, problem in claim.problems().items():
        if kind[1] == "Exact" and name in ("given-solution", "manufactured"):
            continue
        certificate = claim.check(method, problem, t_end=0.4, steps=12)
        assert certificate.verdict == HOLDS and certificate.promised, certificate.line()


@pytest.mark.parametrize("steps", [5, 40])
def test_error_bound_on_a_linear_stiff_equation(steps):
    """The one-sided constant is negative: the bound does not grow, and holds where explicit steps are stable."""
    problem = lyapunov(12, np.random.default_rng(0))
    certificate = ErrorBound().check(AugmentedBUG(truncation=FixedRank(6)), problem, t_end=0.2, steps=steps, rank=4)
    assert certificate.verdict == HOLDS
    assert certificate.constants["l"].value < certificate.constants["L"].value


@pytest.mark.parametrize("method", [GeoLoRA(), BUG()], ids=lambda m: type(m).__name__)
def test_each_term_of_the_error_bound_scales_as_predicted(method):
    claim = ErrorBound()
    certificate = claim.scaling(claim.configured(method))
    assert certificate.verdict == HOLDS, certificate.line()
    names = {s.name for s in certificate.series}
    assert {"slope over h", "error over eps", "error free of sigma_min, gradient flow"} <= names


@pytest.mark.parametrize("method", [LoRA(), SVDLoRA()], ids=lambda m: type(m).__name__)
def test_methods_of_factors_do_not_converge_with_h(method):
    """The finding that theory predicts: slope 0, and the local error h ||F - P^ F||."""
    certificate = ErrorBound().scaling(method)
    assert certificate.verdict == VIOLATED and not certificate.failed
    [slope] = [s for s in certificate.series if s.name == "slope over h"]
    assert slope.left[0] == pytest.approx(1.0, abs=0.1)
    assert FactorMethods().check(method, sigmas=(3.0,)).verdict == HOLDS


@pytest.mark.parametrize("method", [GeoLoRA(), AugmentedBUG()], ids=lambda m: type(m).__name__)
def test_stiffness(method):
    claim = Stiffness(steps=80)
    assert claim.check(claim.configured(method), sigmas=(1.0, 100.0)).verdict == HOLDS


def test_stable_steps_that_theory_predicts_elsewhere():
    """Lie splitting multiplies errors in S by (1 - lam)^2 (1 + lam): stable up to the golden ratio only."""
    rate = Stiffness().largest_rate(ProjectorSplitting(), 10.0, False)
    assert rate == pytest.approx((1 + np.sqrt(5)) / 2, rel=0.01)
    for sigma in (1.0, 20.0):
        predicted, _ = predicted_rate(SVDLoRA(), sigma, False)
        assert Stiffness().largest_rate(SVDLoRA(), sigma, False) == pytest.approx(predicted, rel=0.01)


def test_resting_points_are_exact():
    """Not a bit moves."""
    for method in (SVDLoRA(), LoRA()):
        certificate = Stationary().check(method)
        assert certificate.verdict == VIOLATED
        assert any("rests exactly" in note for note in certificate.notes)


def test_published_truncation_is_trapped_and_a_spare_direction_frees_it():
    """Three spectra on which the published rule stays at too small a rank for good."""
    for values in ([20.0, 16, 12, 8, 4], [20.0, 10, 5, 4, 3], list(np.linspace(20, 5, 10))):
        problem = MatrixRegression(synthetic((60, 60), values, np.random.default_rng(1)))
        ranks = {}
        for spare in (0, 1):
            method = GeoLoRA(truncation=Tolerance(relative=0.1, spare=spare))
            state = method.init(LowRank(*problem.initial(4, np.random.default_rng(0), 1.0)))
            for _ in range(250):
                state = method.step(problem.field, 0.0, state, 0.1).state
            found = np.linalg.svd(state.Y.full(), compute_uv=False)
            ranks[spare] = int(np.sum(found > 1e-3))
        assert ranks[0] < len(values) == ranks[1]


# -- hypotheses that fail ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claim", "method", "problem", "reason"),
    [
        (Descent(), GeoLoRA(optimizer=Adam()), regression(), "plain gradient descent"),
        (Descent(), ParallelBUG(substep=Heun()), regression(), "explicit Euler steps"),
        (Descent(), GeoLoRA(), rotating(np.random.default_rng(0), (8, 7)), "a loss with Lipschitz gradient"),
        (RiemannianStep(), ParallelBUG(rejection=10.0), regression(), "no step rejection"),
        (
            ErrorBound(),
            BUG(substep=RK4()),
            rotating(np.random.default_rng(0), (8, 7)),
            "Euler steps or exact sub-flows",
        ),
        (ErrorBound(), BUG(), regression(), "reference solution"),
        (ErrorBound(), BUG(), manufactured(nonlinearity="-y**3"), "Lipschitz continuous in Y"),
        (Exactness(), BUG(), rotating(np.random.default_rng(0), (8, 7), 2), "exact sub-flows"),
        (Exactness(), BUG(substep=Exact()), regression(), "independent of Y"),
        (
            Exactness(),
            AugmentedBUG(substep=Exact(), truncation=FixedRank(3)),
            rotating(np.random.default_rng(0), (8, 7), 2),
            "rank fixed at that of A",
        ),
        (Decay(), AugmentedBUG(substep=Exact()), rotating(np.random.default_rng(0), (8, 7)), "a convex loss"),
        (Spare(), GeoLoRA(truncation=FixedRank(2)), None, "relative tolerance"),
        (Spare(), GeoLoRA(truncation=Tolerance(relative=0.1)), None, "spare >= 1"),
        (Spare(), GeoLoRA(truncation=Tolerance(relative=0.6, spare=1)), None, "truncation keeps W"),
        (Stiffness(), GeoLoRA(optimizer=Adam()), None, "plain gradient descent"),
        (FactorMethods(), AdaLoRA(), None, "without a penalty"),
    ],
    ids=lambda x: type(x).__name__ if not isinstance(x, str) else x.replace(" ", "-"),
)
def test_hypotheses_can_fail_and_say_so(claim, method, problem, reason):
    certificate = claim.check(method, problem)
    assert certificate.verdict == NOT_APPLICABLE and not certificate.failed
    assert reason in certificate.reason


def test_step_size_beyond_the_limit():
    certificate = Descent().check(GeoLoRA(), regression(), step_size=2.5)
    assert certificate.verdict == NOT_APPLICABLE and "0 < lam < 2 / L" in certificate.reason
    certificate = Convergence(steps=5).check(GeoLoRA(), regression(), schedule=Polynomial(2.5))
    assert certificate.verdict == NOT_APPLICABLE


@pytest.mark.parametrize(("p", "met"), [(0.4, False), (0.5, False), (0.51, True), (1.0, True), (1.1, False)])
def test_robbins_monro(p, met):
    certificate = Convergence(steps=5).check(GeoLoRA(), regression(), schedule=Polynomial(0.5, p=p))
    assert (certificate.verdict == HOLDS) == met
    if not met:
        assert "Robbins-Monro" in certificate.reason


def test_an_unknown_schedule_is_not_trusted():
    certificate = Convergence(steps=5).check(GeoLoRA(), regression(), schedule=lambda k: 0.1)
    assert certificate.verdict == NOT_APPLICABLE


# -- other kinds of data -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_descent_in_other_number_types(dtype):
    rng = np.random.default_rng(0)
    problem = MatrixRegression(synthetic((10, 8), [1.0, 0.5, 0.2], rng, dtype))
    certificate = Descent().check(GeoLoRA(), problem, step_size=0.5, rank=2)
    assert certificate.verdict == HOLDS, certificate.line()


def test_descent_in_expectation_by_sampling():
    rng = np.random.default_rng(0)
    problem = completion(rng, synthetic((10, 8), [1.0, 0.5, 0.2], rng), 0.8, batch_size=20)
    certificate = Descent(steps=10).check(GeoLoRA(), problem, step_size=0.05, rank=2)
    assert certificate.verdict == HOLDS and "sampled" in certificate.notes[0]


def test_sampled_expectations_see_a_violation():
    """A step four times too long is no descent in expectation, and 200 samples show it."""

    class Hasty(GeoLoRA):
        def stages(self, t, state, h):
            return (yield from super().stages(t, state, 4 * h))

    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 6))
    problem = LinearLeastSquares(X, X @ rng.standard_normal((6, 7)), batch_size=10)
    certificate = Descent(steps=15).check(Hasty(), problem, step_size=0.6 / problem.lipschitz, rank=3)
    assert certificate.failed


def test_adalora_breaks_the_structure_where_it_masks():
    """Importance is a mean over rows, which zero blocks dilute."""
    budget = ImportanceBudget(initial=9, final=4, total_steps=8)
    problem = Structure().problems()["linear-network"]
    masked = Structure().check(AdaLoRA(truncation=budget), problem)
    assert masked.verdict == VIOLATED and not masked.failed
    assert Structure().check(AdaLoRA(), problem).verdict == HOLDS


def test_structure_is_not_applicable_where_a_block_would_vanish():
    claim = Structure(budget=3, steps=6, step_size=0.3)
    certificate = claim.check(GeoLoRA(), claim.problems()["linear-network"])
    assert certificate.verdict in (HOLDS, NOT_APPLICABLE)
    assert any(h.name == "every block keeps a direction" for h in certificate.hypotheses)


def test_torch_points_can_be_checked():
    torch = pytest.importorskip("torch")
    target = torch.from_numpy(synthetic((10, 8), [1.0, 0.5], np.random.default_rng(0)))
    assert RiemannianStep().check(GeoLoRA(), MatrixRegression(target), rank=2).verdict == HOLDS
    assert Descent().check(GeoLoRA(), MatrixRegression(target), rank=2, step_size=0.5).verdict == HOLDS


@pytest.mark.slow
@pytest.mark.parametrize("theorem", sorted(set(THEOREMS) - {"symbolic"}))
def test_large_sweep(theorem):
    claim = THEOREMS[theorem]
    for method in methods().values():
        if claim.promises(claim.configured(method))[0]:
            for certificate in claim.cases(method, full=True):
                assert not certificate.failed, certificate.line()
