"""Truncation rules: ranks, errors, several matrices, spare directions, AdaLoRA's budget."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from integrators import (
    SGD,
    Adam,
    AugmentedBUG,
    Conservative,
    FixedRank,
    GeoLoRA,
    GlobalBudget,
    ImportanceBudget,
    LowRank,
    Spectral,
    State,
    Tolerance,
    stack,
)


def state(values, shape=(12, 10), seed=0, **kw):
    """A matrix of given singular values whose S is not diagonal."""
    rng = np.random.default_rng(seed)
    Y = LowRank.random(shape, len(values), rng, singular_values=values)
    A, B = (LowRank.random((len(values),) * 2, len(values), rng).U for _ in range(2))
    return State(LowRank(Y.U @ A, A.T @ Y.S @ B, Y.V @ B), **kw)


values = st.lists(st.floats(0, 100), min_size=1, max_size=8).map(lambda d: sorted(d, reverse=True))


@given(values, st.floats(0, 1.5), st.integers(0, 2))
def test_relative_tolerance(d, tau, spare):
    """The tail obeys the bound, no smaller rank does, the error is the tail."""
    p = state(d)
    [(Y, error)] = Tolerance(relative=tau, spare=spare)([p])
    eps = 1e-13 * (1 + np.linalg.norm(d))
    assert abs(np.linalg.norm(Y.full() - p.Y.full()) - error) <= eps
    assert error <= tau * np.linalg.norm(d) + eps
    rank = Y.rank - spare
    if rank > 1:
        assert np.linalg.norm(d[rank - 1 :]) > tau * np.linalg.norm(d) - eps
    assert np.linalg.norm(Y.S - np.diag(np.diag(Y.S))) == 0
    for U in (Y.U, Y.V):
        assert np.linalg.norm(U.T @ U - np.eye(Y.rank)) <= 1e-14 * 20


def test_tail_rule_is_not_strict():
    """S = 0 and a zero tolerance do not keep directions that carry nothing."""
    [(Y, error)] = Tolerance(relative=0.1)([state([0.0, 0.0, 0.0])])
    assert Y.rank == 1 and error == 0
    [(Y, error)] = Tolerance(relative=0.0)([State(LowRank(np.eye(5, 3), np.diag([2.0, 0, 0]), np.eye(4, 3)))])
    assert Y.rank == 1 and error == 0
    [(Y, _)] = Tolerance(absolute=5.0)([State(LowRank(np.eye(5, 3), np.diag([9.0, 4, 3]), np.eye(4, 3)))])
    assert Y.rank == 1  # the tail is exactly 5


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_no_under_or_overflow(scale):
    [(Y, _)] = Tolerance(relative=0.1)([state([scale, 0.5 * scale, 0.01 * scale])])
    assert Y.rank == 2


def test_bounds_of_the_rank():
    p = state([8.0, 4, 2, 1])
    assert Tolerance(relative=0.9, min_rank=3)([p])[0][0].rank == 3
    assert Tolerance(relative=0.0, max_rank=2)([p])[0][0].rank == 2
    assert Tolerance(relative=0.0, max_rank=2, spare=1)([p])[0][0].rank == 2  # the bound includes the spare ones
    assert Tolerance(relative=0.9, spare=9)([p])[0][0].rank == 4  # no more than there are
    assert FixedRank(2)([p])[0][0].rank == 2
    assert FixedRank(2, spare=1)([p])[0][0].rank == 3
    assert FixedRank(9)([p])[0][0].rank == 4


def test_spare_directions_keep_their_values():
    p = state([8.0, 4, 1e-3, 1e-6])
    [(Y, error)] = Tolerance(relative=0.1, spare=1)([p])
    np.testing.assert_allclose(np.diag(Y.S), [8, 4, 1e-3], rtol=1e-10)
    assert abs(error - 1e-6) <= 1e-14


@given(st.lists(values, min_size=1, max_size=4), st.integers(0, 12))
def test_global_budget_is_truncation_of_the_block_diagonal_matrix(spectra, extra):
    """The total is kept, each matrix keeps one, and beyond those the largest of all are kept."""
    total = len(spectra) + extra
    result = GlobalBudget(columns=total)([state(d, seed=i) for i, d in enumerate(spectra)])
    ranks = [Y.rank for Y, _ in result]
    assert sum(ranks) == min(total, sum(map(len, spectra))) and min(ranks) >= 1
    kept = [x for d, r in zip(spectra, ranks, strict=True) for x in d[1:r]]
    cut = [x for d, r in zip(spectra, ranks, strict=True) for x in d[r:]]
    assert not kept or not cut or min(kept) >= max(cut) - 1e-12 * (1 + max(cut))


def test_global_budget_against_a_dense_svd():
    spectra = [[5.0, 0.3, 0.2], [4.0, 3.0, 2.0], [1.0, 0.9]]
    ranks = [Y.rank for Y, _ in GlobalBudget(columns=5)([state(d, seed=i) for i, d in enumerate(spectra)])]
    assert ranks == [1, 3, 1]
    ranks = [Y.rank for Y, _ in GlobalBudget(columns=8, spare=1)([state(d, seed=i) for i, d in enumerate(spectra)])]
    assert ranks == [3, 3, 2]  # the second has no more


shapes = st.sampled_from([(12, 10), (8, 20), (9, 8)])


@given(st.lists(st.tuples(values, shapes, st.floats(0.1, 10)), min_size=1, max_size=4), st.integers(0, 200))
@pytest.mark.parametrize("spare", [0, 1])
def test_a_budget_in_parameters(spare, cases, extra):
    """It is held, spare directions included, and used up; each keeps its first; no cheaper one is worth more."""
    costs = [sum(shape) for _, shape, _ in cases]
    budget = extra + sum(cost * min(1 + spare, len(d)) for cost, (d, _, _) in zip(costs, cases, strict=True))
    rule = GlobalBudget(parameters=budget, spare=spare, fisher=0.98)
    states = [state(d, shape, memory={"fisher": np.full((1, 1), w)}) for d, shape, w in cases]
    kept = [Y.rank for Y, _ in rule(states)]
    used = sum(cost * r for cost, r in zip(costs, kept, strict=True))
    assert used <= budget
    taken, refused = [], []
    for (d, _, w), cost, r in zip(cases, costs, kept, strict=True):
        worth = [x**2 * w / cost for x in d]
        assert r >= min(1 + spare, len(d))
        taken += [(x, cost) for x in worth[1 : r - spare]]
        refused += [(x, cost) for x in worth[r - spare : r - spare + 1] if r < len(d)]
    for x, cost in refused:
        assert used + cost > budget
        assert not any(y < x * (1 - 1e-9) - 1e-20 and price >= cost for y, price in taken)


def test_the_fisher_weight_is_a_running_mean(problem, Y):
    """w <- .9 w + .1 ||U^T F V||^2 / r^2, with the field as it is, whatever the optimiser makes of it."""
    rule = GlobalBudget(parameters=16 * 4, fisher=0.9)
    for optimizer in (SGD(), Adam(), Spectral()):
        method = GeoLoRA(truncation=rule, optimizer=optimizer)
        state, w = method.init(Y), 0.0
        assert not state.memory["fisher"].any()
        for _ in range(3):
            Z = state.Y
            w = 0.9 * w + 0.1 * np.mean((Z.U.T @ (problem.target - Z.full()) @ Z.V) ** 2)
            state = method.step(problem.field, 0.0, state, 0.01).state
            assert state.memory["fisher"].shape == (1, 1)
            assert state.memory["fisher"].item() == pytest.approx(w, rel=1e-12)


def triplets(lam, importance, step):
    r = len(lam)
    one = {"P": np.zeros((6, r)), "lam": np.array(importance, dtype=float), "Q": np.zeros((5, r))}
    memory = {f"sensitivity.{w}": X for w, X in one.items()} | {f"uncertainty.{w}": 1.0 + 0 * X for w, X in one.items()}
    memory["step"] = step
    return State(LowRank(np.eye(6, r), np.diag(np.array(lam, dtype=float)), np.eye(5, r)), memory)


def test_importance_budget_schedule():
    """b0 up to t_i, cubic in between, bT for the last t_f; masks where deltaT divides the step, at the end always."""
    rule = ImportanceBudget(initial=12, final=4, total_steps=100, warmup=10, cooldown=20, interval=20)
    assert [rule.budget(k) for k in (0, 10, 80, 100)] == [12, 12, 4, 4]
    assert rule.budget(45) == 4 + 1 == 4 + 8 * 0.5**3
    assert rule.budget(31) == 4 + 2 == int(4 + 8 * 0.7**3)  # 6.744 rounded down
    assert [k for k in range(101) if rule.masks(k)] == [20, 40, 60, *range(80, 101)]
    assert [k for k in range(101) if rule.frozen(k)] == [*range(80, 101)]
    assert [k for k in range(10) if ImportanceBudget(9, 4, 10, warmup=4, cooldown=1, interval=2).masks(k)] == [6, 8, 9]


def test_importance_budget_masks_over_all_matrices():
    rule = ImportanceBudget(initial=3, final=3, total_steps=2)
    (Y, e1), (Z, e2) = rule([triplets([1, 2, 3], [0.1, 5, 0.2], 1), triplets([4, 5], [7, 0.3], 1)])
    assert np.diag(Y.S).tolist() == [0, 2, 0] and np.diag(Z.S).tolist() == [4, 5]
    assert Y.U.shape == (6, 3)  # columns stay
    assert e1 == pytest.approx(np.sqrt(10)) and e2 == 0


def test_importance_budget_ties_and_equal_budgets():
    rule = ImportanceBudget(initial=2, final=2, total_steps=2)
    [(Y, _)] = rule([triplets([1, 2, 3], [0, 0, 0], 1)])
    assert np.diag(Y.S).tolist() == [1, 2, 0]
    [(Y, _)] = ImportanceBudget(initial=9, final=9, total_steps=2)([triplets([1, 2, 3], [0, 0, 0], 1)])
    assert np.diag(Y.S).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "build,message",
    [
        (lambda: FixedRank(0), "rank must be at least 1, got 0"),
        (lambda: FixedRank(2, spare=-1), "spare must be at least 0, got -1"),
        (lambda: FixedRank(2.0), "rank must be an integer, got float 2.0"),
        (lambda: Tolerance(), "either relative or absolute"),
        (lambda: Tolerance(relative=0.1, absolute=0.1), "either relative or absolute"),
        (lambda: Tolerance(relative=-0.1), "relative must be >= 0, got -0.1"),
        (lambda: Tolerance(absolute=float("nan")), "absolute must be >= 0, got nan"),
        (lambda: Tolerance(relative=0.1, max_rank=2, min_rank=3), "max_rank must be at least 3, got 2"),
        (lambda: GlobalBudget()([state([1.0])]), "needs parameters or columns, and has neither here"),
        (lambda: GlobalBudget(parameters=100, columns=3), "give either parameters or columns"),
        (lambda: GlobalBudget(columns=0), "columns must be at least 1"),
        (lambda: GlobalBudget(parameters=100.0), "parameters must be an integer"),
        (lambda: GlobalBudget(columns=1)([state([1.0]), state([1.0])]), "columns 1 is less than one direction of each"),
        (
            lambda: GlobalBudget(parameters=80, spare=1)([state([1.0, 0.5]), state([1.0, 0.5])]),
            "parameters 80 is less than one direction and 1 spare of each of 2 matrices: 88",
        ),
        (lambda: GlobalBudget(columns=1, fisher=1.0), "fisher must lie in"),
        (lambda: GlobalBudget(columns=1, fisher=0.9)([state([1.0, 0.5])]), "fisher needs states that remember it"),
        (lambda: Conservative(np.ones(3), FixedRank(2)), "moments must be a matrix"),
        (lambda: Conservative(np.ones((2, 3)), FixedRank(2)), "moments must have at most as many columns as rows"),
        (lambda: Conservative(np.ones((3, 1)), 2), "truncation must be an integrators.Truncation"),
        (lambda: Conservative(np.ones((3, 1)), GlobalBudget(columns=9, fisher=0.9)), "must cut by singular values alo"),
        (lambda: Conservative(np.ones((3, 1)), ImportanceBudget(2, 2, 9)), "must cut by singular values alone"),
        (lambda: Conservative(np.ones((3, 1)), FixedRank(2))([state([1.0])]), "moments must have 10 rows, .* got 3"),
        (lambda: ImportanceBudget(2, 3, 10), "initial must be at least 3, got 2"),
        (lambda: ImportanceBudget(3, 2, 10, warmup=6, cooldown=4), "total_steps must be at least 11, got 10"),
    ],
)
def test_bad_input(build, message):
    with pytest.raises((TypeError, ValueError), match=message):
        build()


def test_a_stack_is_refused_where_whole_columns_matter():
    together = stack([state([2.0, 1.0], seed=i) for i in range(3)])
    with pytest.raises(ValueError, match=r"takes single matrices, got a stack of shape \(3, 12, 10\): unstack it"):
        ImportanceBudget(2, 2, 2)([together])


@pytest.mark.parametrize("like", [np.zeros(()), torch.zeros((), dtype=torch.float64)], ids=["numpy", "torch"])
@pytest.mark.parametrize(
    "rule", [FixedRank(2, spare=1), Tolerance(relative=0.1, spare=1), GlobalBudget(columns=6)], ids=repr
)
def test_a_stack_is_truncated_as_its_matrices(rule, like):
    """Of different ranks, zero singular values among them, and one that is not finite: that is left out."""
    values = [[4.0, 2.0, 1.0, 0.1], [3.0, 0.2], [0.0, 0.0, 0.0]]
    rng = np.random.default_rng(0)
    states = [State(LowRank.random((12, 10), len(d), rng, like, singular_values=d)) for d in values]
    alone = rule(states)
    W = LowRank.random((12, 10), 4, rng, like)
    bad = State(LowRank(W.U, W.S * np.nan, W.V))
    [(Y, errors), (Z, error)] = rule([stack([*states, bad]), State(W)])
    expected = [*alone, *rule([State(W)])] if not isinstance(rule, GlobalBudget) else rule([*states, State(W)])
    assert Y.ranks == [*(Yi.rank for Yi, _ in expected[:3]), 0] and np.isnan(errors[3])
    for i, (Yi, e) in enumerate(expected[:3]):
        assert errors[i] == pytest.approx(e, abs=1e-13)
        np.testing.assert_allclose(np.asarray(Y.full()[i]), np.asarray(Yi.full()), atol=1e-13)
        for X in (Y.U[i], Y.V[i]):
            gram, r = np.asarray(X.T @ X), Yi.rank
            np.testing.assert_allclose(gram[:r, :r], np.eye(r), atol=1e-13)
            assert not np.asarray(X[:, r:]).any()
    assert error == pytest.approx(expected[3][1]) and Z.ranks is None and Z.rank == expected[3][0].rank


def test_truncation_of_equal_shapes_together_is_that_of_each():
    rng = np.random.default_rng(1)
    matrices = [
        LowRank.random(shape, 4, rng, like=torch.zeros((), dtype=torch.float64))
        for shape in ((9, 7), (9, 7), (6, 8), (9, 7))
    ]
    rule = Tolerance(relative=0.4)
    together = rule([State(Y) for Y in matrices])
    for Y, (truncated, error) in zip(matrices, together, strict=True):
        [(alone, expected)] = rule([State(Y)])
        torch.testing.assert_close(truncated.full(), alone.full())
        assert error == pytest.approx(expected) and truncated.rank == alone.rank


def gaussians(rng, *shape, dtype=np.float64):
    X = rng.standard_normal(shape)
    return (X + 1j * rng.standard_normal(shape) if np.issubdtype(dtype, np.complexfloating) else X).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
@pytest.mark.parametrize("like", ["numpy", "torch"])
def test_moments_are_kept_and_the_rest_is_cut_best(dtype, like):
    """Against the dense formula: Y Q Q^H and the best approximation of the rest, by the projector and an SVD."""
    rng = np.random.default_rng(3)
    for ranks in ((5, 5), (3, 6), (6, 4)):
        U, V = (np.linalg.qr(gaussians(rng, n, r, dtype=dtype))[0] for n, r in zip((12, 10), ranks))
        dense = LowRank(U, gaussians(rng, *ranks, dtype=dtype), V)
        W = gaussians(rng, 10, 2, dtype=dtype)
        Y = LowRank(*map(torch.asarray, dense)) if like == "torch" else dense
        [(Y1, error)] = Conservative(W, FixedRank(2))([State(Y)])
        Q = np.linalg.qr(W)[0]
        kept = dense.full() @ Q @ Q.conj().T
        P, d, R = np.linalg.svd(dense.full() - kept)
        exact = kept + (P[:, :2] * d[:2]) @ R[:2]
        eps = 100 * np.finfo(dtype).eps * d[0]
        assert Y1.rank == min(4, ranks[0]) and Y1.V.shape[1] == 4 and Y1.V.dtype == Y.V.dtype
        assert np.linalg.norm(np.asarray(Y1.full()) - exact) < eps
        assert abs(error - np.linalg.norm(d[2:])) < eps
        assert np.linalg.norm(np.asarray(Y1.full()) @ W - dense.full() @ W) < eps * np.linalg.norm(W)
        U1, V1 = map(np.asarray, (Y1.U, Y1.V))
        assert np.linalg.norm(W - V1 @ (V1.conj().T @ W)) < 100 * np.finfo(dtype).eps * np.linalg.norm(W)
        for X in (U1, V1):
            assert np.linalg.norm(X.conj().T @ X - np.eye(X.shape[1])) < 100 * np.finfo(dtype).eps


def test_moments_at_the_start_and_at_zero_tolerance():
    """The start is the same matrix with the moments in V, and so is what a zero tolerance leaves."""
    W = np.vander(np.linspace(-1, 1, 10), 3)
    Y = state([4.0, 2.0, 1e-3]).Y
    rule = Conservative(W, Tolerance(absolute=0.0))
    assert rule.limit == np.inf and Conservative(W, FixedRank(2)).limit == np.inf
    assert Conservative(W, Tolerance(relative=0.1, max_rank=4)).limit == 7
    state0 = AugmentedBUG(truncation=rule).init(Y)
    assert state0.Y.V.shape[1] == 6
    for X in (state0.Y, rule([state0])[0][0], rule([State(Y)])[0][0]):
        assert np.linalg.norm(X.full() - Y.full()) < 1e-14 * 4
        assert np.linalg.norm(W - X.V @ (X.V.T @ W)) < 1e-14 * np.linalg.norm(W)
    everything = Conservative(np.eye(10), FixedRank(1))  # nothing is left to cut
    [(X, error)] = everything([State(Y)])
    assert error == 0 and np.linalg.norm(X.full() - Y.full()) < 1e-14 * 4


def test_what_a_rule_leaves_to_the_start():
    starts = [((5, 4), 2), ((3, 6), 3)]
    assert GlobalBudget(fisher=0.9).settled(starts) == {"parameters": 2 * 9 + 3 * 9}
    assert Tolerance(relative=0.1).settled(starts) == {"max_rank": 6}
    assert Tolerance(relative=0.1, min_rank=8).settled(starts) == {"max_rank": 8}
    settled = (GlobalBudget(columns=7), GlobalBudget(parameters=7), Tolerance(relative=0.1, max_rank=3), FixedRank(2))
    assert all(rule.settled(starts) == {} for rule in settled)
