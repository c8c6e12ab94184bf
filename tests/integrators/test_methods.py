"""Each method against its own equations in dense arithmetic; substeps and optimisers against known solutions."""

import numpy as np
import pytest

from integrators import (
    BUG,
    RK4,
    AdaLoRA,
    Adam,
    AugmentedBUG,
    Euler,
    Exact,
    FixedRank,
    FullRank,
    GeoLoRA,
    Heun,
    ImportanceBudget,
    Integrator,
    LoRA,
    LowRank,
    Momentum,
    ParallelBUG,
    ProjectorSplitting,
    Repeated,
    SVDLoRA,
    Tolerance,
)
from integrators.substeps import Substep
from problems import MatrixRegression, given_solution


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def problem():
    return MatrixRegression(rng(1).standard_normal((9, 7)))


@pytest.fixture
def Y():
    return LowRank.random((9, 7), 3, rng(2))


def one_step(method, problem, Y, h=0.1):
    return method.step(problem.field, 0.0, method.init(Y), h)


EPS = 1e-13  # some hundred eps, for matrices of norm about 10


def test_geolora_is_a_riemannian_gradient_step(problem, Y):
    """(I1): W^ = W - lam P(W) G, for singular S too, and for S of very small singular values."""
    for values in ([3.0, 1.0, 0.5], [3.0, 0.0, 0.0], [0.0] * 3, [1.0, 1e-9, 1e-14]):
        Y = LowRank.random((9, 7), 3, rng(2), singular_values=values)
        G = Y.full() - problem.target
        expected = Y.full() - 0.1 * Y.project(G).full()
        step = one_step(GeoLoRA(), problem, Y)
        assert np.linalg.norm(step.augmented.full() - expected) <= EPS


def test_geolora_equals_parallel_bug_with_euler(problem, Y):
    rule = Tolerance(relative=0.1)
    a, b = (one_step(m, problem, Y) for m in (GeoLoRA(truncation=rule), ParallelBUG(truncation=rule)))
    assert np.array_equal(a.state.Y.full(), b.state.Y.full())


def test_lora(problem, Y):
    """B1 = B - h G A^H, A1 = A - h B^H G."""
    B, A = Y.K, Y.V.T
    G = B @ A - problem.target
    expected = (B - 0.1 * G @ A.T) @ (A - 0.1 * B.T @ G)
    assert np.linalg.norm(one_step(LoRA(), problem, Y).state.Y.full() - expected) <= EPS


def test_svd_lora(problem, Y):
    U, S, V = Y.U, Y.S, Y.V
    G = U @ S @ V.T - problem.target
    expected = (U - 0.1 * G @ V @ S.T) @ (S - 0.1 * U.T @ G @ V) @ (V - 0.1 * G.T @ U @ S).T
    assert np.linalg.norm(one_step(SVDLoRA(), problem, Y).state.Y.full() - expected) <= EPS


def test_adalora_descends_on_loss_and_penalty(problem):
    """The step is minus h times a finite-difference gradient of loss + gamma * penalty in P, lam and Q."""
    method = AdaLoRA(gamma=0.3)
    state = method.init(LowRank.random((9, 7), 3, rng(3)))
    state = method.step(problem.field, 0.0, state, 0.02).state  # leave the orthonormal start
    P, lam, Q = state.Y.U, np.diag(state.Y.S).copy(), state.Y.V

    def objective(P, lam, Q):
        penalty = sum(np.linalg.norm(X.T @ X - np.eye(3)) ** 2 for X in (P, Q))
        return 0.5 * np.linalg.norm(P * lam @ Q.T - problem.target) ** 2 + 0.3 * penalty

    after = method.step(problem.field, 0.0, state, 0.01).state.Y
    steps = {"P": after.U - P, "lam": np.diag(after.S) - lam, "Q": after.V - Q}
    for name, X in (("P", P), ("lam", lam), ("Q", Q)):
        for index in list(np.ndindex(X.shape))[::5]:
            d = 1e-5
            values = []
            for sign in (1, -1):
                args = {"P": P.copy(), "lam": lam.copy(), "Q": Q.copy()}
                args[name][index] += sign * d
                values.append(objective(**args))
            slope = (values[0] - values[1]) / (2 * d)
            assert abs(steps[name][index] + 0.01 * slope) <= 1e-7  # d^2 plus eps / d, times 0.01


def test_adalora_importance_by_hand(problem):
    """Sensitivity, uncertainty and importance of two steps against their definition, and masking over the budget."""
    rule = ImportanceBudget(initial=3, final=2, total_steps=4, cooldown=3)
    method = AdaLoRA(truncation=rule, gamma=0.1, beta1=0.85, beta2=0.85)
    state = method.init(LowRank.random((9, 7), 3, rng(3)))
    smooth = unsure = None
    for _ in range(2):
        P, lam, Q = state.Y.U, np.diag(state.Y.S), state.Y.V
        G = state.Y.full() - problem.target
        I3 = np.eye(3)
        grads = [
            G @ Q * lam + 0.4 * P @ (P.T @ P - I3),
            np.diag(P.T @ G @ Q),
            G.T @ P * lam + 0.4 * Q @ (Q.T @ Q - I3),
        ]
        sensitivity = [abs(w * g) for w, g in zip((P, lam, Q), grads, strict=True)]
        smooth = smooth or [0 * s for s in sensitivity]
        unsure = unsure or [0 * s for s in sensitivity]
        smooth = [0.85 * a + 0.15 * s for a, s in zip(smooth, sensitivity, strict=True)]
        unsure = [0.85 * u + 0.15 * abs(s - a) for u, s, a in zip(unsure, sensitivity, smooth, strict=True)]
        score = [a * u for a, u in zip(smooth, unsure, strict=True)]
        importance = score[0].mean(0) + score[1] + score[2].mean(0)
        state = method.step(problem.field, 0.0, state, 0.05).state
        dropped = np.argsort(importance)[:1] if rule.budget(int(state.memory["step"])) == 2 else []
        assert all(state.Y.S[i, i] == 0 for i in dropped)
        assert np.count_nonzero(np.diag(state.Y.S)) == 3 - len(dropped)


def test_projector_splitting_lie_by_hand(problem, Y):
    """K forward, S backward, L forward, in dense arithmetic."""
    F = lambda W: problem.target - W  # noqa: E731
    h = 0.1
    K = Y.K + h * F(Y.full()) @ Y.V
    U1, R = np.linalg.qr(K)
    S = R - h * U1.T @ F(U1 @ R @ Y.V.T) @ Y.V
    L = Y.V @ S.T + h * F(U1 @ S @ Y.V.T).T @ U1
    assert np.linalg.norm(one_step(ProjectorSplitting(), problem, Y).state.Y.full() - U1 @ L.T) <= EPS


def test_strang_is_a_composition_of_lie_and_its_adjoint(problem, Y):
    """With exact sub-flows, K S L over h/2 followed by L S K over h/2 (by transposition) is the Strang step."""
    h = 0.2
    lie = ProjectorSplitting(substep=Exact())
    half = lie.step(problem.field, 0.0, lie.init(Y), h / 2).state.Y

    # L S K: K S L for the transposed problem with the sub-steps in reverse order, written out
    f = problem.field(0.0, half)
    V1, R = np.linalg.qr(f.flow_L(h / 2))
    Z = LowRank(half.U, R.T, V1)
    Z = LowRank(Z.U, problem.field(0.0, Z).flow_S(h / 2, -1), V1)
    expected = problem.field(0.0, Z).flow_K(h / 2) @ V1.T
    strang = one_step(ProjectorSplitting(order=2, substep=Exact()), problem, Y, h).state.Y
    assert np.linalg.norm(strang.full() - expected) <= 10 * EPS


def test_bug_by_hand(problem, Y):
    F = lambda W: problem.target - W  # noqa: E731
    h = 0.1
    U1 = np.linalg.qr(Y.K + h * F(Y.full()) @ Y.V)[0]
    V1 = np.linalg.qr(Y.L + h * F(Y.full()).T @ Y.U)[0]
    W0 = U1 @ U1.T @ Y.full() @ V1 @ V1.T
    expected = W0 + h * U1 @ U1.T @ F(W0) @ V1 @ V1.T
    assert np.linalg.norm(one_step(BUG(), problem, Y).state.Y.full() - expected) <= EPS


def test_augmented_bug_by_hand(problem, Y):
    F = lambda W: problem.target - W  # noqa: E731
    h = 0.1
    U = np.linalg.qr(np.hstack([Y.U, Y.K + h * F(Y.full()) @ Y.V]))[0]
    V = np.linalg.qr(np.hstack([Y.V, Y.L + h * F(Y.full()).T @ Y.U]))[0]
    expected = Y.full() + h * U @ U.T @ F(Y.full()) @ V @ V.T
    step = one_step(AugmentedBUG(truncation=FixedRank(3)), problem, Y)
    assert step.augmented.rank == 6 and step.state.Y.rank == 3
    assert np.linalg.norm(step.augmented.full() - expected) <= EPS
    d = np.linalg.svd(expected, compute_uv=False)
    assert abs(step.truncation_error - np.linalg.norm(d[3:])) <= EPS


def test_parallel_bug_by_hand(problem, Y):
    """The block matrix with K- and L-steps of two Euler substeps."""
    h, F = 0.1, lambda W: problem.target - W
    K, L, S = Y.K, Y.L, Y.S
    for _ in range(2):
        K = K + h / 2 * F(K @ Y.V.T) @ Y.V
        L = L + h / 2 * F(Y.U @ L.T).T @ Y.U
        S = S + h / 2 * Y.U.T @ F(Y.U @ S @ Y.V.T) @ Y.V
    PU, PV = np.eye(9) - Y.U @ Y.U.T, np.eye(7) - Y.V @ Y.V.T
    expected = Y.U @ S @ Y.V.T + PU @ K @ Y.V.T + Y.U @ L.T @ PV
    step = one_step(ParallelBUG(substep=Repeated(Euler(), 2)), problem, Y)
    assert np.linalg.norm(step.augmented.full() - expected) <= EPS


def test_parallel_bug_rejects_and_enlarges():
    """Rank 1 start, target of rank 6: rejection repeats the step until the bases suffice."""
    A = LowRank.random((20, 15), 6, rng(4), singular_values=[5, 4, 3, 2, 1, 0.5]).full()
    problem = MatrixRegression(A)
    Y = LowRank.random((20, 15), 1, rng(5), singular_values=[1.0])
    rule = Tolerance(relative=1e-2)
    plain = one_step(ParallelBUG(truncation=rule), problem, Y, 0.5)
    step = one_step(ParallelBUG(truncation=rule, rejection=1.0), problem, Y, 0.5)
    assert plain.rejected == 0 and plain.state.Y.rank <= 2
    # from u v^T the bases grow like a Krylov space, u, F v, F F^T u, ..., by one direction at a time: ranks 1 to 7,
    # where they hold A and Y, and nothing is neglected
    assert step.rejected == 6 and step.evaluations == 7
    exact = Y.full() + 0.5 * (A - Y.full())
    assert np.linalg.norm(step.augmented.full() - exact) <= EPS
    capped = one_step(ParallelBUG(truncation=Tolerance(relative=1e-2, max_rank=4), rejection=1.0), problem, Y, 0.5)
    assert capped.state.Y.rank <= 4 and capped.rejected == 2  # ranks 1, 2, 3, 4


def test_rejection_needs_a_tolerance():
    with pytest.raises(ValueError, match="rejection needs a Tolerance"):
        ParallelBUG(truncation=FixedRank(3), rejection=1.0)
    with pytest.raises(ValueError, match="rejection must be positive or None, got 0"):
        ParallelBUG(rejection=0)


def test_full_rank_is_gradient_descent(problem, Y):
    W = one_step(FullRank(), problem, Y).state.Y.full()
    assert np.linalg.norm(W - (Y.full() + 0.1 * (problem.target - Y.full()))) <= EPS


# -- substeps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("substep", [Euler(), Heun(), RK4(), Repeated(Heun(), 3), Exact()], ids=str)
@pytest.mark.parametrize("part", ["K", "L", "S"])
@pytest.mark.parametrize("sign", [1, -1])
def test_substeps_against_the_exact_sub_flow(substep, part, sign):
    """Local error of order p + 1 on the linear field A - Y; none for Exact."""
    if sign == -1 and part != "S":
        return
    problem = MatrixRegression(rng(1).standard_normal((9, 7)))
    Y = LowRank.random((9, 7), 3, rng(2))
    errors = []
    for h in (0.2, 0.1):
        f = problem.field(0.0, Y)
        flow = getattr(f, f"flow_{part}")
        exact = flow(h, sign) if part == "S" else flow(h)
        stages = getattr(substep, part)(0.0, Y, h, f, *([sign] if part == "S" else []))
        asked = 0
        try:
            request = next(stages)
            while True:
                asked += 1
                request = stages.send(problem.field(*request[:2]))
        except StopIteration as stop:
            errors.append(np.linalg.norm(getattr(Y, part) + stop.value - exact))
        assert asked == substep.stages - 1
    if isinstance(substep, Exact):
        assert max(errors) <= EPS
    else:
        assert abs(np.log2(errors[0] / errors[1]) - (substep.order + 1)) <= 0.3


def test_time_runs_forward_in_a_backward_step():
    """The stages of a backward S-step lie in [t, t + h] too."""
    problem = given_solution(rng(1))
    Y = LowRank(*problem.initial(4, rng(2)))
    stages = RK4().S(1.0, Y, 0.4, problem.field(1.0, Y), sign=-1)
    times = [next(stages)[0]]
    for _ in range(2):
        times.append(stages.send(problem.field(times[-1], Y))[0])
    assert times == pytest.approx([1.2, 1.2, 1.4])


def test_bad_substeps():
    with pytest.raises(ValueError, match="n must be an integer >= 1, got 0"):
        Repeated(Euler(), 0)
    with pytest.raises(TypeError, match="Substep must define advance"):
        Substep().advance(0, None, 0.1, None, "K", None, 1)

    class NoFlows:
        pass

    with pytest.raises(TypeError, match="Exact needs a field with flow_K; NoFlows has none"):
        next(Exact().K(0.0, LowRank.random((4, 3), 1, rng()), 0.1, NoFlows()))


# -- optimisers --------------------------------------------------------------------------------------------------


def test_momentum_moves_the_matrix_along_projected_moments(problem, Y):
    """M <- P(Y)(beta M) + P(Y) F, W^ = W + h M, in dense arithmetic, over steps with truncation."""
    method = GeoLoRA(optimizer=Momentum(0.8), truncation=FixedRank(3))
    state, M = method.init(Y), np.zeros((9, 7))
    for _ in range(4):
        Yk = state.Y
        M = 0.8 * Yk.project(M).full() + Yk.project(problem.target - Yk.full()).full()
        step = method.step(problem.field, 0.0, state, 0.1)
        assert np.linalg.norm(step.augmented.full() - (Yk.full() + 0.1 * M)) <= EPS
        state = step.state


def test_momentum_reaches_all_tapes_of_a_step(problem, Y):
    """BUG with momentum is BUG with the field F + beta M, M from the first tape on the right tangent space."""
    method = BUG(optimizer=Momentum(0.8))
    state = method.init(Y)
    M = np.zeros((9, 7))
    for _ in range(3):
        Yk = state.Y
        Mk = Yk.project(M).full()
        h, F = 0.1, lambda W, Mk=Mk: problem.target - W + 0.8 * Mk
        U1 = np.linalg.qr(Yk.K + h * F(Yk.full()) @ Yk.V)[0]
        V1 = np.linalg.qr(Yk.L + h * F(Yk.full()).T @ Yk.U)[0]
        W0 = U1 @ U1.T @ Yk.full() @ V1 @ V1.T
        expected = W0 + h * U1 @ U1.T @ F(W0) @ V1 @ V1.T
        M = 0.8 * Mk + Yk.project(problem.target - Yk.full()).full()
        state = method.step(problem.field, 0.0, state, h).state
        assert np.linalg.norm(state.Y.full() - expected) <= EPS


def test_adam_on_factors_is_torch_adam(problem, Y):
    """LoRA with Adam against torch.optim.Adam on B and A, ten steps."""
    import torch

    B = torch.tensor(Y.K, requires_grad=True)
    A = torch.tensor(Y.V.T.copy(), requires_grad=True)
    adam = torch.optim.Adam([B, A], lr=0.05)
    method = LoRA(optimizer=Adam())
    state = method.init(Y)
    for _ in range(10):
        adam.zero_grad()
        (0.5 * torch.sum((B @ A - torch.tensor(problem.target)) ** 2)).backward()
        adam.step()
        state = method.step(problem.field, 0.0, state, 0.05).state
    assert np.linalg.norm(state.Y.full() - (B @ A).detach().numpy()) <= 1e-12


def test_adam_on_moving_bases_by_hand(problem, Y):
    """First step of GeoLoRA with Adam: rows of K and L, and S, over root mean squares, at least that of all rows."""
    f = problem.field(0.0, Y)

    def row(X):
        return X / (np.sqrt(np.maximum(np.mean(X**2, axis=1, keepdims=True), np.mean(X**2))) + 1e-8)

    dK, dL, dS = row(f.K), row(f.L), f.S / (np.sqrt(np.mean(f.S**2)) + 1e-8)
    PU, PV = np.eye(9) - Y.U @ Y.U.T, np.eye(7) - Y.V @ Y.V.T
    expected = Y.full() + 0.1 * (Y.U @ dS @ Y.V.T + PU @ dK @ Y.V.T + Y.U @ dL.T @ PV)
    step = one_step(GeoLoRA(optimizer=Adam()), problem, Y)
    assert np.linalg.norm(step.augmented.full() - expected) <= 10 * EPS


def test_adam_survives_a_constant_input():
    """A column of the field that is always zero stays harmless although transport puts something into its moment."""
    A = rng(1).standard_normal((9, 7))
    A[:, 2] = 0.0
    Y = LowRank.random((9, 7), 3, rng(2), singular_values=[0.0] * 3)

    class Field:
        def __init__(self, t, Z):
            F = A - Z.full()
            F[:, 2] = 0.0
            self.K, self.L, self.S = F @ Z.V, F.T @ Z.U, Z.U.T @ F @ Z.V

    method = GeoLoRA(optimizer=Adam(), truncation=FixedRank(3))
    state = method.init(Y)
    for _ in range(50):
        before = state.Y
        state = method.step(Field, 0.0, state, 0.01).state
        # blocks of root mean square at most ~ 1 / (1 - beta1) each: |dW| <= h (||dK|| + ||dL|| + ||dS||)
        assert np.linalg.norm(state.Y.full() - before.full()) <= 2 * 0.01 * 10 * np.sqrt(3 * (9 + 7 + 3))


def test_second_moments_have_one_entry_per_row():
    state = GeoLoRA(optimizer=Adam()).init(LowRank.random((9, 7), 3, rng()))
    assert state.memory["second.K"].shape == (9, 1)
    assert state.memory["second.L"].shape == (7, 1)
    assert state.memory["second.S"].shape == (1, 1)


@pytest.mark.parametrize(
    "build,message",
    [
        (lambda: Momentum(1.0), r"beta must lie in \[0, 1\), got 1.0"),
        (lambda: Adam(beta1=-0.1), "beta1 must lie in"),
        (lambda: Adam(eps=0.0), "eps must be positive, got 0.0"),
        (lambda: AdaLoRA(gamma=-1), "gamma must be >= 0, got -1"),
        (lambda: AdaLoRA(beta2=2), "beta2 must lie in"),
        (lambda: ProjectorSplitting(order=3), "order must be 1 or 2, got 3"),
    ],
)
def test_bad_hyperparameters(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_method_without_stages_says_so():
    with pytest.raises(TypeError, match="Integrator must define stages"):
        Integrator().stages(0.0, None, 0.1)


# -- no dense array ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        GeoLoRA(),
        GeoLoRA(optimizer=Momentum()),
        BUG(),
        AugmentedBUG(),
        ParallelBUG(),
        ProjectorSplitting(),
        LoRA(),
        SVDLoRA(),
    ],
    ids=lambda m: type(m).__name__,
)
def test_memory_of_a_step(method):
    """n = 20000, rank 20, structured field: peak memory of a step is a few dozen arrays of size n x r."""
    import tracemalloc

    from problems import lyapunov

    n, r = 20_000, 20
    problem = lyapunov(n, rng(0))
    state = method.init(LowRank(*problem.initial(r, rng(1))))
    tracemalloc.start()
    method.step(problem.field, 0.0, state, 1e-3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 60 * n * r * 8 < n * n  # 192 MB; one n x n array would be 3200 MB
