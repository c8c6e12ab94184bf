"""The spectral step."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrt.theorems import HOLDS, NOT_APPLICABLE, SpectralStep, spectral_step
from dlrt.theorems.measure import msign, norm, nuclear, tangent_core
from dlrt.theorems.spectral_step import Sign, exact
from integrators import (
    BUG,
    SGD,
    AugmentedBUG,
    FixedRank,
    GeoLoRA,
    LoRA,
    LowRank,
    ParallelBUG,
    ProjectorSplitting,
    Spectral,
    Tolerance,
)
from integrators.linalg import gaussian, haar
from problems import MatrixRegression, synthetic
from tests.dlrt.theorems.conftest import regression, violated

CLAIM = SpectralStep()


@pytest.mark.parametrize("problem", CLAIM.problems())
@pytest.mark.parametrize("method", [GeoLoRA(), ParallelBUG()], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("sign", ["svd", "newton-schulz"])
def test_holds(method, problem, sign):
    claim = replace(CLAIM, method=sign)
    certificate = claim.check(claim.configured(method), claim.problems()[problem])
    assert certificate.verdict == HOLDS and certificate.promised, certificate.reason


@pytest.mark.parametrize("rank", [1, 2, 6, 8])
@pytest.mark.parametrize("shape", [(8, 13), (13, 8), (8, 8)], ids=str)
@pytest.mark.parametrize(("step_size", "sign"), [(1e-6, "svd"), (0.3, "newton-schulz"), (30.0, "svd")])
def test_shapes_ranks_and_steps(shape, rank, step_size, sign):
    """Augmented bases that fill the space, ranks up to that of the full matrix, steps of any size."""
    problem = MatrixRegression(synthetic(shape, [2.0**-j for j in range(8)], np.random.default_rng(rank)))
    claim = replace(CLAIM, rank=rank, step_size=step_size, steps=6, method=sign)
    certificate = claim.check(claim.configured(GeoLoRA()), problem)
    assert certificate.verdict == HOLDS, certificate.reason


def test_without_truncation():
    """The rank doubles in each step up to that of the full matrix, and nothing is lost."""
    method = GeoLoRA(optimizer=Spectral(beta=0.0), truncation=Tolerance(absolute=0.0))
    certificate = CLAIM.check(method, regression())
    assert certificate.verdict == HOLDS, certificate.reason
    assert certificate.constants["sum B theta"].value < 1e-12


def test_other_methods():
    """Nothing is said where K, L and S do not move together, or where there are no moving bases."""
    for method in (ProjectorSplitting(), BUG(), AugmentedBUG(), LoRA(), ParallelBUG(rejection=10.0)):
        certificate = CLAIM.check(CLAIM.configured(method), regression())
        assert certificate.verdict == NOT_APPLICABLE and not certificate.failed
    for optimizer in (SGD(), Spectral()):
        method = replace(CLAIM.configured(GeoLoRA()), optimizer=optimizer)
        assert "spectral steps without momentum" in CLAIM.check(method, regression()).reason


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 4),
    st.sampled_from([(7, 5), (5, 9), (6, 6)]),
    st.one_of(st.just(0.0), st.floats(-300, 3).map(lambda x: 10.0**x)),
    st.integers(-100, 100),
    st.integers(1, 5),
    st.sampled_from(["svd", "newton-schulz"]),
)
def test_random_points(seed, rank, shape, smallest, exponent, target_rank, sign):
    """Any smallest singular value, 0 included, gradients of any size and rank: the direction and its size."""
    rng = np.random.default_rng(seed)
    target = 10.0**exponent * (gaussian((shape[0], target_rank), rng) @ gaussian((target_rank, shape[1]), rng))
    step_size = 10.0 ** max(exponent, 0)
    claim = replace(CLAIM, rank=rank, singular_values=(smallest,), step_size=step_size, method=sign)
    series = claim.one_step(claim.configured(GeoLoRA()), MatrixRegression(target))
    assert len(series) == 6
    for s in series:
        assert np.all(s.met), (s.name, s.left, s.right, s.slack)


# -- defects -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Defect(Spectral):
    """Counted as the spectral step itself."""

    beta: float = 0.0

    def __eq__(self, other):
        return True


@dataclass(frozen=True, eq=False)
class Longer(Defect):
    """Steps 1 % too long."""

    def direction(self, M, memory, Y):
        D = super().direction(M, memory, Y)
        return {part: 1.01 * D[part] for part in "KLS"}


@dataclass(frozen=True, eq=False)
class Apart(Defect):
    """K, L and S orthogonalised one by one, S counted with each."""

    def direction(self, M, memory, Y):
        c = (sum(Y.shape) / 2) ** 0.5
        return {name: c * msign(X) for name, X in M.items()}


@dataclass(frozen=True, eq=False)
class DividedByS(Defect):
    """The moment seen through S, as that of a factor."""

    def direction(self, M, memory, Y):
        S = Y.S + 1e-6 * np.eye(len(Y.S))
        return super().direction({"K": M["K"] @ S, "L": M["L"] @ S.conj().T, "S": S @ M["S"] @ S}, memory, Y)


@pytest.mark.parametrize(
    ("defect", "found"),
    [
        (Longer(), {"one step", "gain of the step"}),
        (Apart(), {"one step", "gain of the step"}),
        (DividedByS(), {"one step", "gain of the step"}),
    ],
    ids=lambda x: type(x).__name__,
)
def test_defects_are_found_out(defect, found):
    method = replace(CLAIM.configured(GeoLoRA()), optimizer=defect)
    certificate = CLAIM.check(method, regression())
    assert certificate.failed and found <= violated(certificate)


def test_a_gain_that_is_promised_too_high_is_found_out(monkeypatch):
    """Descent is an equality on the regression loss: one part in a million more is too much."""
    monkeypatch.setattr(spectral_step, "exact", lambda d, cut: 1 + 1e-6 * exact(d, cut))
    found = violated(CLAIM.check(CLAIM.configured(GeoLoRA()), regression()))
    assert {"descent before truncation", "one step", "gain of the step"} <= found


# -- the statements of the docstring that are about matrices alone -----------------------------------------------------


def core(rng, r=3, dtype=float, spectrum=None):
    """A core with a zero last block; with given singular values of its blocks if wanted."""
    C = gaussian((2 * r, 2 * r), rng, dtype)
    if spectrum is not None:
        C = (haar(2 * r, 2 * r, rng, dtype) * spectrum) @ haar(2 * r, 2 * r, rng, dtype)
    C[r:, r:] = 0.0
    return C


def test_without_the_last_block_nothing_is_lost():
    rng = np.random.default_rng(0)
    for dtype in (float, complex):
        for spectrum in (None, np.geomspace(1, 1e-9, 6), np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])):
            C = core(rng, dtype=dtype, spectrum=spectrum)
            X = msign(C)
            D = X.copy()
            D[3:, 3:] = 0.0
            assert norm(D - X) > 1e-3  # although that block of C is zero
            assert np.real(np.vdot(C, D)) == pytest.approx(nuclear(C), rel=1e-13)
            assert 1 - 1e-12 <= np.linalg.norm(D, 2) <= 2 / np.sqrt(3) + 1e-12


def test_the_last_block_can_make_it_an_ascent():
    """Rank one, a = b = c = 1: <G, msign(P G)> = sqrt(5) - g / sqrt(5) has the sign of 5 - g."""
    e = np.eye(2)
    for g in (-7.0, 4.9, 5.1, 50.0):
        G = np.array([[1.0, 1.0], [1.0, g]])
        Uh, C, Vh = tangent_core(G, e[:, :1], e[:, :1])
        kept = Uh @ msign(C) @ Vh.T
        assert np.vdot(G, kept) == pytest.approx(np.sqrt(5) - g / np.sqrt(5), rel=1e-12)
        problem, Y = MatrixRegression(-G), LowRank(e[:, :1], np.zeros((1, 1)), e[:, :1])  # W = 0, gradient G
        method = GeoLoRA(optimizer=Spectral(beta=0.0), truncation=FixedRank(1))
        step = method.step(problem.field, 0.0, method.init(Y), 1e-3 / np.sqrt(2))
        assert problem.loss(step.augmented) < problem.loss(Y)
        ascent = 0.5 * norm(-1e-3 * kept + G) ** 2 - problem.loss(Y)
        assert (ascent > 0) == (g > 5)


def test_the_longest_step_is_attained():
    """2 / sqrt(3) at the core of a reflection with x = 1 / sqrt(3)."""
    x = 1 / np.sqrt(3)
    y = np.sqrt(1 - x**2)
    X = np.array([[x, y], [y, -x]])
    D = np.array([[x, y], [y, 0.0]])
    np.testing.assert_allclose(X @ X.T, np.eye(2), atol=1e-15)
    assert np.linalg.norm(D, 2) == pytest.approx(2 / np.sqrt(3), rel=1e-15)


def newton_schulz(C, steps=5, a=3.4445, b=-4.775, c=2.0315):
    """Muon's iteration."""
    X = C / norm(C)
    for _ in range(steps):
        H = X @ X.conj().T
        X = a * X + (b * H + c * H @ H) @ X
    return X


def test_newton_schulz():
    """The bounds of the docstring, with singular values above and below delta ||C||_F."""
    rng, delta, lo, hi = np.random.default_rng(0), 2e-3, 0.68, 1.21
    for smallest in (0.5, 1e-2, 1e-4):
        C = core(rng, spectrum=np.geomspace(1, smallest, 6))
        A, d, BH = np.linalg.svd(C)
        D = newton_schulz(C)
        s = np.real(np.diag(A.conj().T @ D @ BH.conj().T))
        np.testing.assert_allclose((A * s) @ BH, D, atol=1e-12)  # the singular vectors stay
        assert np.all(s >= 0) and np.all(s <= hi) and np.all(s[d > delta * norm(C)] >= lo)
        D[3:, 3:] = 0.0
        along = np.vdot(C, D)
        assert along == pytest.approx(s @ d, rel=1e-12)
        assert along >= lo * (nuclear(C) - 6 * delta * norm(C)) and norm(D) ** 2 <= 6 * hi**2


def test_bounds_of_the_polynomial_sign():
    """On a grid: close to one from l on, above the line before it, and its slope is largest at an end."""
    sign = Sign.of(Spectral(method="newton-schulz"), np.zeros(()))
    x = np.linspace(1e-5, 1.0, 2001)  # the other entry makes the Frobenius norm one
    s = np.array([sign(np.array([y, np.sqrt(1 - y**2)]))[0] for y in x])
    assert np.all(s <= (1 + sign.delta) * (1 + 1e-9))
    assert np.all(s >= (1 - sign.delta) * np.minimum(1, x / sign.lower) * (1 - 1e-9))
    fine = np.concatenate([np.geomspace(1e-6, 1e-2, 2000), 1 - np.geomspace(1e-9, 1e-3, 2000)])
    steps = fine * (1 + 1e-7)
    values, moved = (np.array([sign(np.array([y, np.sqrt(abs(1 - y**2))]))[0] for y in z]) for z in (fine, steps))
    assert np.max(np.abs(moved - values) / (steps - fine)) <= 1.001 * sign.slope
    assert Sign.of(Spectral(method="auto"), np.zeros(())) == Sign.of(Spectral(method="svd"), np.zeros(())) == Sign()


def test_another_moment():
    """<G, P msign(M)> >= ||P G||_* - 2 ||P G - M||_* for every tangent vector M: mini-batches and momentum."""
    rng = np.random.default_rng(0)
    tight = 0.0
    for size in (1e-3, 0.1, 1.0, 10.0):
        for _ in range(20):
            C = core(rng)
            M = C + size * core(rng)
            bound = nuclear(C) - 2 * nuclear(C - M)
            along = np.vdot(C, msign(M))
            assert along >= bound - 1e-12
            tight = max(tight, bound / along)
    assert tight > 0.9
    C = core(rng)
    assert np.vdot(C, msign(-C)) == pytest.approx(nuclear(C) - nuclear(2 * C), rel=1e-12)  # attained


def test_bounds_are_not_vacuous():
    """Descent is attained on the regression loss, the rate within a factor of three, the way back within five."""
    series = {s.name: s for s in CLAIM.check(CLAIM.configured(GeoLoRA()), regression()).series}
    ratios = {name: max(x for x in s.ratio if np.isfinite(x)) for name, s in series.items() if not s.equality}
    assert ratios["descent before truncation"] > 0.999 and ratios["gain and nuclear norm"] > 0.999
    assert ratios["running minimum"] > 1 / 3 and ratios["back to rank r"] > 0.2
    assert ratios["longest in the spectral norm"] > 0.9 and ratios["squared length"] > 0.5
