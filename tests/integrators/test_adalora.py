"""AdaLoRA: the contract, descent on loss and penalty, importance by hand."""

import numpy as np

from dlrt.testing import Contract, rng
from integrators import AdaLoRA, ImportanceBudget, LowRank


class TestAdaLoRA(Contract):
    integrator = AdaLoRA(
        truncation=ImportanceBudget(initial=4, final=3, total_steps=40, warmup=5, cooldown=5, interval=2)
    )


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
