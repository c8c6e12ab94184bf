"""AdaLoRA: the contract, descent on loss and penalty, importance by hand, a whole schedule of PEFT's AdaLoRA."""

import numpy as np
import torch

from dlrt.testing import Contract, rng
from integrators import AdaLoRA, ImportanceBudget, LowRank, State, conclude
from problems import MatrixRegression


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
    rule = ImportanceBudget(initial=3, final=2, total_steps=4, cooldown=1)
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


def in_lockstep(method, problems, states, h):
    """A step of several matrices with one budget."""
    moved = []
    for problem, state in zip(problems, states, strict=True):
        stages = method.advance(0.0, state, h)
        try:
            stages.send(problem.field(*next(stages)))
        except StopIteration as stop:
            moved.append(stop.value)
    return [state for state, _ in conclude(method.truncation, moved)]


def peft_adalora(starts, **schedule):
    """PEFT's model with these starts, and its factors (B, E, A) = (P, lam, Q) of each matrix."""
    from peft import AdaLoraConfig, get_peft_model

    layers = torch.nn.Sequential(*(torch.nn.Linear(*reversed(Y.shape), bias=False) for Y in starts)).double()
    config = AdaLoraConfig(init_r=starts[0].rank, beta1=0.85, beta2=0.85, target_modules=["0", "1"], **schedule)
    model = get_peft_model(layers, config, autocast_adapter_dtype=False)
    factors = []
    for Y, layer in zip(starts, model.base_model.model, strict=True):
        P, lam, Q = layer.lora_B["default"], layer.lora_E["default"], layer.lora_A["default"]
        for w, X in ((P, Y.U), (lam, np.diag(Y.S)[:, None]), (Q, Y.V.T)):
            w.data = torch.tensor(X)
        factors.append((P, lam, Q))
    return model.base_model, factors


def test_a_whole_schedule_equals_that_of_peft():
    """Warm-up, falling budget, final phase: budget, masked triplets and W of two matrices are those of PEFT's code.

    The means of PEFT are taken where the gradient is, before the step, as in the paper. A rounding error of a step is a
    few eps times ||W||; those of 60 short steps add up, and are hardly enlarged.
    """
    h, gamma, steps, final_phase = 0.01, 0.1, 60, 15
    targets = [3.0 * rng(seed).standard_normal(shape) for seed, shape in enumerate(((9, 7), (6, 8)))]
    starts = [
        LowRank(*(0.4 * rng(k).standard_normal((n, 5)) for k, n in ((10, m), (11, 5), (12, n))))
        for m, n in ((9, 7), (6, 8))
    ]
    starts = [LowRank(U, np.diag(np.diag(S)), V) for U, S, V in starts]
    problems = [MatrixRegression(A) for A in targets]

    rule = ImportanceBudget(initial=10, final=4, total_steps=steps, warmup=7, cooldown=final_phase, interval=4)
    method = AdaLoRA(truncation=rule, gamma=gamma)
    states = [method.init(Y) for Y in starts]

    peft, factors = peft_adalora(starts, target_r=2, tinit=7, tfinal=final_phase, deltaT=4, total_step=steps)
    parameters = [w for of in factors for w in of]
    descent = torch.optim.SGD(parameters, lr=h)
    allocator, update_means = peft.rankallocator, peft.rankallocator.update_ipt
    before = []

    def update_means_before_the_step(model):
        after = [w.data for w in parameters]
        for w, X in zip(parameters, before, strict=True):
            w.data = X
        update_means(model)
        for w, X in zip(parameters, after, strict=True):
            w.data = X

    allocator.update_ipt = update_means_before_the_step

    masks = []
    for step in range(1, steps + 1):
        states = in_lockstep(method, problems, states, h)

        loss = 0.0
        for (P, lam, Q), A in zip(factors, targets, strict=True):
            loss += (P @ (lam * Q) - torch.tensor(A)).square().sum() / 2
            loss += gamma * sum((X - torch.eye(5)).square().sum() for X in (P.T @ P, Q @ Q.T))
        descent.zero_grad()
        loss.backward()
        before[:] = [w.data.clone() for w in parameters]
        descent.step()
        peft.update_and_allocate(step)

        assert rule.budget(step) == allocator.budget_schedule(step)[0]
        kept = [np.diag(state.Y.S) != 0 for state in states]
        assert [mask.tolist() for mask in kept] == [(lam.detach()[:, 0] != 0).tolist() for _, lam, _ in factors]
        assert rule.masks(step) == (np.sum(kept) < 10)
        if rule.masks(step):
            assert np.sum(kept) == rule.budget(step)
        masks.append(np.concatenate(kept).tolist())
        for state, (P, lam, Q) in zip(states, factors, strict=True):
            W = (P @ (lam * Q)).detach().numpy()
            assert np.linalg.norm(state.Y.full() - W) <= 1e-14 * np.linalg.norm(W), step
    assert masks[steps - final_phase - 1 :] == [masks[-1]] * (final_phase + 1)


def test_the_final_mask_stays_where_importances_would_change_it(problem):
    """The field of another problem from step T - t_f on changes the choice, but not that of the final phase.

    Neither does a state that is written and read there.
    """
    start = LowRank.random((9, 7), 6, rng(3))
    other = MatrixRegression(5.0 * rng(4).standard_normal((9, 7)))

    def masks(total_steps):
        method = AdaLoRA(
            truncation=ImportanceBudget(initial=6, final=3, total_steps=total_steps, cooldown=20, interval=10)
        )
        state, found = method.init(start), []
        for step in range(1, 41):
            if step == 30:
                state = State.of({name: np.asarray(X).copy() for name, X in state.arrays().items()})
            state = method.step((problem if step <= 20 else other).field, 0.0, state, 0.02).state
            found.append((np.diag(state.Y.S) != 0).tolist())
        return found[19:]

    assert masks(40) == [masks(40)[0]] * 21 and sum(masks(40)[0]) == 3
    assert masks(60)[-1] != masks(40)[-1]
