"""What the tests of the problems share: points, and the contracts that problems and losses keep.

The test file of a problem derives a class from :class:`Contract` (from :class:`LossContract` too where it is a loss)
and says how the problem is built; it inherits every test.
"""

import math
import pickle

import numpy as np
import pytest
import scipy.integrate
import torch
from hypothesis import given
from hypothesis import strategies as st

from integrators import LowRank
from integrators import linalg as la

SHAPE = (9, 7)
SMALL = (6, 5)


def gaussian(rng, *shape, dtype=np.float64):
    return la.gaussian(shape, rng, dtype).astype(dtype)


def point(rng, shape=SHAPE, ranks=(3, 2), dtype=np.float64, orthonormal=False):
    """A random point with different ranks on both sides; its bases need not be orthonormal."""
    draw = la.haar if orthonormal else lambda n, r, rng, dtype: gaussian(rng, n, r, dtype=dtype)
    U, V = (draw(n, r, rng, dtype) for n, r in zip(shape, ranks))
    return LowRank(U, gaussian(rng, *ranks, dtype=dtype), V)


def whole(W):
    """A dense matrix as a point with the bases W and I."""
    I = np.eye(W.shape[1], dtype=W.dtype)
    return LowRank(W, I, I)


def as_torch(Y):
    return LowRank(*map(torch.asarray, Y))


def derivative_in_time(X, t, h=1e-3):
    """Central difference of order 4, error ``h^4 ||X^(5)|| / 30 + O(eps / h) ||X||``."""
    return (8 * (X(t + h) - X(t - h)) - (X(t + 2 * h) - X(t - 2 * h))) / (12 * h)


def solved(rate, t, h, start):
    """The solution of ``x' = rate(t, x)`` at t + h, to 12 digits."""
    return scipy.integrate.solve_ivp(
        lambda t, x: rate(t, x.reshape(start.shape)).ravel(),
        (t, t + h),
        start.ravel(),
        method="DOP853",
        rtol=1e-12,
        atol=1e-13,
    ).y[:, -1]


class Contract:
    """Every problem: the field against a dense formula, start, reference, constants, pickling, bad arguments."""

    dtypes = (np.float32, np.float64, np.complex64, np.complex128)
    formula_error = 0.0
    """Of the dense formula, where that contains a numerical derivative."""

    def build(self, rng, dtype):
        """A problem with random data, and an independent dense formula F(t, W)."""
        raise NotImplementedError

    def pytest_generate_tests(self, metafunc):
        double = [d for d in self.dtypes if d in (np.float64, np.complex128)]
        for name, dtypes in (("dtype", self.dtypes), ("double", double)):
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, dtypes, ids=lambda d: d.__name__)

    @pytest.mark.parametrize("orthonormal", [True, False])
    def test_projections_agree_with_the_dense_formula(self, dtype, orthonormal):
        rng = np.random.default_rng(1)
        p, formula = self.build(rng, dtype)
        Y = point(rng, p.shape, dtype=dtype, orthonormal=orthonormal)
        f, F = p.field(0.3, Y), formula(0.3, Y.full())
        U, S, V = Y
        # rounding of a few products of norms at most ||Y|| (1 + lipschitz)
        unit = np.linalg.norm(F) + 20 * np.linalg.norm(U) * np.linalg.norm(S) * np.linalg.norm(V)
        tolerance = 20 * np.finfo(dtype).eps * unit + self.formula_error
        for found, exact, size in [
            (f.K, F @ V, np.linalg.norm(V)),
            (f.L, F.conj().T @ U, np.linalg.norm(U)),
            (f.S, U.conj().T @ F @ V, np.linalg.norm(U) * np.linalg.norm(V)),
            (f.full(), F, 1.0),
            (f.rows([2, 0]), F[[2, 0]], 1.0),
            (f.columns([1, 3, 2]), F[:, [1, 3, 2]], 1.0),
            ((-f).K, -F @ V, np.linalg.norm(V)),
            ((-f).L, -F.conj().T @ U, np.linalg.norm(U)),
        ]:
            assert found.dtype == dtype
            assert found.shape == exact.shape
            assert np.linalg.norm(found - exact) <= tolerance * max(size, 1)

    @pytest.mark.parametrize("orthonormal", [True, False])
    def test_notes_of_a_step_change_nothing(self, dtype, orthonormal):
        """Points that share notes, in the order of the stages of a step, have the fields of points that have none."""
        rng = np.random.default_rng(14)
        p, _ = self.build(rng, dtype)
        Y, Z = (point(rng, p.shape, dtype=dtype, orthonormal=orthonormal) for _ in range(2))
        I_U, I_V = (np.eye(X.shape[1], dtype=dtype) for X in (Y.U, Y.V))
        start = Y.with_notes()
        after = start.embed(Z.U, Z.V)
        points = [start, start.replace(U=Z.U, S=Z.S), start.replace(S=Z.S)]
        points += [start.replace(U=Y.K, S=I_V), start.replace(S=I_U, V=Y.L), after, after.replace(S=Z.S), start]
        for t in (0.3, 0.5, 0.3):
            for X in points:
                f, g = p.field(t, X), p.field(t, LowRank(*X))
                for part in "KLS":
                    assert np.array_equal(getattr(f, part), getattr(g, part))

    def test_start_is_orthonormal_in_the_problems_dtype(self, dtype):
        rng = np.random.default_rng(2)
        p, _ = self.build(rng, dtype)
        for rank in (1, 3, min(p.shape)):
            Y = p.initial(rank, rng)
            assert isinstance(Y, LowRank)
            assert p.dtype == Y.dtype == dtype
            assert (Y.shape, Y.S.shape) == (p.shape, (rank, rank))
            for X in (Y.U, Y.V):
                assert np.abs(X.conj().T @ X - np.eye(rank)).max() < 20 * np.finfo(dtype).eps

    def test_start_is_the_best_approximation_of_the_reference(self, double):
        rng = np.random.default_rng(3)
        p, _ = self.build(rng, double)
        if p.reference(0.0) is None:
            with pytest.raises(ValueError, match=f"{p.name} has no reference solution"):
                p.error(0.0, point(rng, p.shape))
            return
        s = np.linalg.svd(p.reference(0.0), compute_uv=False)
        for rank in (1, 2, min(p.shape)):
            error = p.error(0.0, p.initial(rank, rng))
            assert error == pytest.approx(np.linalg.norm(s[rank:]), rel=1e-12, abs=1e-14 * s[0])

    def test_reference_solves_the_equation(self, double):
        rng = np.random.default_rng(4)
        p, formula = self.build(rng, double)
        A = p.reference(0.2)
        if A is None:
            return
        assert A.dtype == double
        # where the formula contains the derivative of the reference, the field itself is compared with that
        F = p.field(0.2, whole(A)).full() if self.formula_error else formula(0.2, A)
        # h = 1e-3, ||X^(5)|| <= 15^5 ||X||: truncation below 1e-12 * 8e5 / 30 ||X||, rounding below 1e-12 ||X||
        assert np.linalg.norm(derivative_in_time(p.reference, 0.2) - F) < 3e-8 * np.linalg.norm(A)

    def test_lipschitz_constants_bound_the_field(self, double):
        rng = np.random.default_rng(13)
        p, _ = self.build(rng, double)
        above = 1 + 1e-12
        assert p.one_sided_lipschitz <= p.lipschitz
        for size in (1e-2, 1.0, 10.0):
            X, Y = (point(rng, p.shape, dtype=double) for _ in range(2))
            Y = LowRank(Y.U, size * Y.S, Y.V)
            change, distance = p.field(0.3, X).full() - p.field(0.3, Y).full(), X.full() - Y.full()
            square = np.linalg.norm(distance) ** 2
            assert np.linalg.norm(change) <= p.lipschitz * math.sqrt(square) * above
            assert np.vdot(distance, change).real <= p.one_sided_lipschitz * square + 1e-12 * (1 + p.lipschitz) * square
        for s, t in ((0.3, 0.301), (0.1, 0.9)):
            change = p.field(s, Y).full() - p.field(t, Y).full()
            assert np.linalg.norm(change) <= p.time_lipschitz(s, t) * (t - s) * above

    def test_can_be_pickled_and_is_immutable(self, double):
        rng = np.random.default_rng(10)
        p, _ = self.build(rng, double)
        q = pickle.loads(pickle.dumps(p))
        Y = point(rng, p.shape, dtype=double)
        assert np.array_equal(p.field(0.1, Y).K, q.field(0.1, Y).K)
        with pytest.raises(AttributeError):
            p.target = None
        assert p != q and hash(p) != hash(q)  # compared by identity: their arrays have no truth value

    def test_bad_rank_and_generator(self, double):
        p, _ = self.build(np.random.default_rng(11), double)
        rng, limit = np.random.default_rng(0), min(p.shape)
        with pytest.raises(ValueError, match=rf"rank {limit + 1} exceeds min\(m, n\) = {limit}"):
            p.initial(limit + 1, rng)
        with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
            p.initial(0, rng)
        with pytest.raises(TypeError, match=r"rank must be an integer, got float 2\.0"):
            p.initial(2.0, rng)
        with pytest.raises(TypeError, match="rng must be a numpy"):
            p.initial(2, 0)


class ExactFlows:
    """Beside `Contract`: the exact sub-flows against a numerical solution."""

    any_bases = True
    """Whether they accept bases that are not orthonormal."""
    single: type = np.float32

    @pytest.mark.parametrize("orthonormal", [True, False])
    @pytest.mark.parametrize("which", ["K", "L", "S", "backward S"])
    def test_exact_subflows(self, double, orthonormal, which):
        rng = np.random.default_rng(5)
        p, _ = self.build(rng, double)
        U, S, V = point(rng, p.shape, dtype=double, orthonormal=orthonormal)
        if not orthonormal:
            U, V = 0.5 * U, 0.5 * V
        Y = LowRank(U, S, V)
        f, t, h = p.field(0.3, Y), 0.3, 0.4
        I_U, I_V = (np.eye(X.shape[1], dtype=double) for X in (U, V))
        start, rate, flow = {
            "K": (Y.K, lambda t, K: p.field(t, LowRank(K, I_V, V)).K, f.flow_K),
            "L": (Y.L, lambda t, L: p.field(t, LowRank(U, I_U, L)).L, f.flow_L),
            "S": (S, lambda t, X: p.field(t, LowRank(U, X, V)).S, f.flow_S),
            "backward S": (S, lambda t, X: -p.field(t, LowRank(U, X, V)).S, lambda h: f.flow_S(h, sign=-1)),
        }[which]
        if not (orthonormal or self.any_bases):
            with pytest.raises(ValueError, match=r"[UV] must have orthonormal columns, got \|\|[UV]\^H [UV] - I\|\|"):
                flow(h)
            return
        solution, found = solved(rate, t, h, start), flow(np.float64(h))
        assert found.dtype == double
        assert np.linalg.norm(found.ravel() - solution) < 1e-10 * (1 + np.linalg.norm(solution))

    def test_subflows_keep_single_precision(self):
        rng = np.random.default_rng(6)
        p, _ = self.build(rng, self.single)
        f = p.field(0.0, point(rng, p.shape, dtype=self.single, orthonormal=True))
        flows = f.flow_K(np.float64(0.1)), f.flow_L(np.float64(0.1)), f.flow_S(np.float64(0.1), -1)
        assert all(X.dtype == self.single for X in flows)


class NoExactFlows:
    """Beside `Contract`: sub-flows of which no closed form is known."""

    def test_unknown_subflows_say_so(self):
        rng = np.random.default_rng(7)
        p, _ = self.build(rng, np.float64)
        f = p.field(0.0, point(rng, p.shape))
        for flow in (f.flow_K, f.flow_L, f.flow_S):
            with pytest.raises(NotImplementedError, match="has no exact sub-flows"):
                flow(0.1)


class ComplexPoints:
    """Beside `Contract`: a problem with complex data takes complex points only."""

    def test_complex_problem_refuses_a_real_point(self):
        rng = np.random.default_rng(12)
        p, _ = self.build(rng, np.complex128)
        with pytest.raises(TypeError, match="a complex problem needs a complex point, got a point of dtype float64"):
            p.field(0.0, point(rng, p.shape)).full()


class TorchPoints:
    """Beside `Contract`: points, and where it says so the problem's data, may be torch tensors."""

    def in_torch(self, p):
        return p

    def test_torch_agrees_with_numpy(self, dtype):
        rng = np.random.default_rng(8)
        p, _ = self.build(rng, dtype)
        Y, q = point(rng, p.shape, dtype=dtype), self.in_torch(p)
        f, g = p.field(0.1, Y), q.field(0.1, as_torch(Y))
        pairs = [(f.K, g.K), (f.L, g.L), (f.S, g.S), (f.full(), g.full())]
        if isinstance(self, ExactFlows):
            pairs += [(f.flow_K(0.1), g.flow_K(0.1)), (f.flow_L(0.1), g.flow_L(0.1)), (f.flow_S(0.1), g.flow_S(0.1))]
        if q is not p:
            start = q.initial(3, np.random.default_rng(0))
            pairs += list(zip(p.initial(3, np.random.default_rng(0)), start, strict=True))
            assert p.loss(Y) == pytest.approx(q.loss(as_torch(Y)), rel=1e-12)
            assert p.minimum(2) == pytest.approx(q.minimum(2), rel=1e-6)
            assert p.lipschitz == pytest.approx(q.lipschitz, rel=1e-6)
            assert p.gradient_bound(1.0) == pytest.approx(q.gradient_bound(1.0), rel=1e-6)
        for x, y in pairs:
            assert isinstance(y, torch.Tensor)
            assert y.numpy().dtype == x.dtype
            assert np.linalg.norm(x - y.resolve_conj().numpy()) < 300 * np.finfo(dtype).eps * (1 + np.linalg.norm(x))
        if p.reference(0.1) is not None:
            assert p.error(0.1, Y) == pytest.approx(q.error(0.1, as_torch(Y)), rel=1e-12)


class LossContract:
    """Every loss: gradient against differences, constants against their definition, start, mini-batches."""

    def loss(self, rng, dtype=np.float64):
        """A loss on SMALL matrices with random data."""
        raise NotImplementedError

    def value(self, p, W):
        """The loss of a real matrix by its definition."""
        raise NotImplementedError

    def steepest(self, p):
        """A direction of norm 1 in which the gradient changes fastest."""
        raise NotImplementedError

    @pytest.mark.parametrize("number", [np.float64, np.complex128])
    def test_gradient_is_the_derivative_of_the_loss(self, number):
        rng = np.random.default_rng(0)
        p = self.loss(rng, number)
        W, D = gaussian(rng, *SMALL, dtype=number), gaussian(rng, *SMALL, dtype=number)
        G = p.gradient(whole(W)).full()
        plus, minus = p.loss(whole(W + D)), p.loss(whole(W - D))
        # for a quadratic function the central difference is exact at any step
        assert (plus - minus) / 2 == pytest.approx(np.vdot(G, D).real, abs=1e-13 * (plus + minus))
        assert np.array_equal(p.field(0.0, whole(W)).full(), -G)

    def test_loss_by_its_definition(self):
        rng = np.random.default_rng(1)
        p = self.loss(rng)
        W = gaussian(rng, *SMALL)
        assert p.loss(whole(W)) == pytest.approx(self.value(p, W), rel=1e-13)
        assert isinstance(p.loss(whole(W)), float)

    def test_constants_bound_what_they_should(self):
        @given(seed=st.integers(0, 10**6), radius=st.floats(1e-3, 1e3))
        def check(seed, radius):
            rng = np.random.default_rng(seed)
            p = self.loss(rng)
            X, Y = gaussian(rng, *SMALL), gaussian(rng, *SMALL)
            X *= radius / np.linalg.norm(X)
            G, H = p.gradient(whole(X)).full(), p.gradient(whole(Y)).full()
            above = 1 + 1e-12
            assert np.linalg.norm(G) <= p.gradient_bound(radius) * above
            assert np.linalg.norm(G - H) <= p.lipschitz * np.linalg.norm(X - Y) * above
            assert p.convex
            assert p.loss(whole(Y)) * above >= p.loss(whole(X)) + np.vdot(G, Y - X) - 1e-12 * radius**2
            for rank in range(1, 6):
                Z = p.initial(rank, rng, norm=radius)
                assert np.linalg.norm(Z.S) == pytest.approx(radius)
                assert p.loss(Z) * above >= p.minimum(rank) >= p.minimum(5) >= 0
            assert p.minimum() == pytest.approx(p.minimum(5), abs=1e-12)

        check()

    def test_lipschitz_constant_is_attained(self):
        rng = np.random.default_rng(2)
        p = self.loss(rng)
        D = self.steepest(p)
        W = gaussian(rng, *SMALL)
        change = p.gradient(whole(W + D)).full() - p.gradient(whole(W)).full()
        assert np.linalg.norm(change) == pytest.approx(p.lipschitz, rel=1e-12)

    def test_default_start_is_zero_with_random_bases(self):
        p = self.loss(np.random.default_rng(8))
        Y = p.initial(3, np.random.default_rng(0))
        assert np.all(Y.S == 0)
        Z = p.initial(3, np.random.default_rng(0), norm=2.0)
        assert np.array_equal(Y.U, Z.U) and np.array_equal(Y.V, Z.V)
        assert np.linalg.norm(Z.S) == pytest.approx(2.0)
        for bad in (-1.0, math.inf, math.nan):
            with pytest.raises(ValueError, match="norm must be finite and >= 0"):
                p.initial(3, np.random.default_rng(0), norm=bad)

    def test_a_deterministic_problem_is_its_own_mini_batch(self):
        p = self.loss(np.random.default_rng(12))
        assert not p.stochastic
        assert p.minibatch(np.random.default_rng(0)) is p
        Y = whole(np.ones(SMALL))
        assert p.variance(Y) == p.variance_bound(1.0) == 0.0


class AttainedGradientBound:
    """Beside `LossContract`: the bound of the gradient is attained opposite to the minimiser."""

    def test_gradient_bound_is_attained(self):
        p = self.loss(np.random.default_rng(3))
        A = -p.gradient(whole(np.zeros(SMALL))).full()
        W = -2.5 * A / np.linalg.norm(A)
        assert np.linalg.norm(p.gradient(whole(W)).full()) == pytest.approx(p.gradient_bound(2.5), rel=1e-13)


class MiniBatches:
    """Beside `LossContract`: mini-batches of a mean of 7 losses, by exact enumeration."""

    def loss(self, rng, dtype=np.float64, batch_size=None):
        raise NotImplementedError

    def labels(self, p):
        """A number for each of the losses in the mean."""
        raise NotImplementedError

    @pytest.mark.parametrize("number", [np.float64, np.complex128])
    @pytest.mark.parametrize("batch_size", [1, 3, 6, 7])
    def test_mini_batches_are_unbiased_with_known_variance(self, batch_size, number):
        rng = np.random.default_rng(9)
        p = self.loss(rng, number, batch_size)
        Y = whole(gaussian(rng, *SMALL, dtype=number))
        batches = list(p.enumerate_minibatches())
        assert len(batches) == math.comb(7, batch_size)
        assert np.mean([b.loss(Y) for b in batches]) == pytest.approx(p.loss(Y), rel=1e-12)
        G, g = p.gradient(Y).full(), np.stack([b.gradient(Y).full() for b in batches])
        assert np.linalg.norm(g.mean(axis=0) - G) < 1e-12 * np.linalg.norm(g)
        spread = np.mean(np.sum(np.abs(g - G) ** 2, axis=(1, 2)))
        assert p.variance(Y) == pytest.approx(spread, rel=1e-10, abs=1e-12)
        assert p.variance(Y) <= p.variance_bound(np.linalg.norm(Y.U)) * (1 + 1e-12)
        assert p.stochastic == (batch_size < 7)
        assert not any(b.stochastic for b in batches)

    def test_mini_batches_are_drawn_uniformly(self):
        p = self.loss(np.random.default_rng(11), batch_size=3)
        data = np.sort(self.labels(p))
        rng = np.random.default_rng(0)
        counts = np.zeros(7)
        for _ in range(700):
            drawn = self.labels(p.minibatch(rng))
            assert len(set(drawn)) == 3
            counts[np.searchsorted(data, drawn)] += 1
        # mean 300 and standard deviation sqrt(700 * 3/7 * 4/7) = 13 for each
        assert np.abs(counts - 300).max() < 65
