"""Several matrices are one block-diagonal matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from integrators import (
    AdaLoRA,
    AugmentedBUG,
    FixedRank,
    FullRank,
    GeoLoRA,
    GlobalBudget,
    Integrator,
    LowRank,
    ParallelBUG,
    conclude,
)
from problems import DenseField, synthetic

from .certificate import Hypothesis, Series
from .hypotheses import no_rejection, plain_descent
from .measure import FAILURES, dense, eps_of, failed, norm, run
from .theorem import FACTORS, SEQUENTIAL, Measured, Theorem, cuts_values, with_truncation


@dataclass(frozen=True, eq=False)
class LinearNetwork:
    """Loss of a linear network, ``1/2 ||W_N ... W_1 - A||_F^2``, and its gradient with respect to each matrix.

    Parameters
    ----------
    target : (m_N, n_1) array A
    widths : sizes n_1, m_1 = n_2, ..., m_N of the layers
    """

    target: np.ndarray
    widths: tuple[int, ...]

    name = "linear-network"

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(m_i, n_i) of each matrix."""
        return [(m, n) for n, m in zip(self.widths[:-1], self.widths[1:], strict=True)]

    def fields(self, matrices: list[np.ndarray]) -> list[np.ndarray]:
        """``-grad_i f = -(W_N ... W_{i+1})^T (W_N ... W_1 - A) (W_{i-1} ... W_1)^T``."""
        after = [np.eye(self.widths[-1])]
        for W in matrices[:0:-1]:
            after.append(after[-1] @ W)
        after.reverse()
        before = np.eye(self.widths[0])
        found = []
        for W, left in zip(matrices, after, strict=True):
            found.append((left, before))
            before = W @ before
        residual = before - self.target
        return [-left.T @ residual @ right.T for left, right in found]


@dataclass(frozen=True)
class Structure(Theorem):
    r"""Training several matrices is training one block-diagonal matrix (Proposition 1 of the GeoLoRA paper).

    A loss of W_1, ..., W_N is a loss of the diagonal blocks of one matrix W; its gradient is block-diagonal. From
    block-diagonal U, S and V,

    .. math:: \mathrm{step}(\mathrm{blkdiag}(W_i)) = \mathrm{blkdiag}(\mathrm{step}(W_i)),

    with a truncation of all matrices together: the singular values of the block-diagonal matrix are those of the
    blocks, so its ``FixedRank(b)`` is ``GlobalBudget(columns=b)`` on the blocks.

    Hypotheses: plain descent (memory elementwise or by rows would do too); the global truncation keeps at least one
    direction of every block (a matrix of rank 0 is not represented); no two singular values at the cut are equal to
    rounding.

    Proof. ``G V``, ``G^H U`` and ``U^H G V`` are block-diagonal with the blocks ``G_i V_i`` and so on, as sums,
    products, QR and SVD factors (up to the order of columns, which W does not see) of block-diagonal matrices are.
    For AdaLoRA it fails where triplets are masked: its importance is a *mean* over the rows of the factors, and
    padding by zeros dilutes it.

    What is compared: W after each step, both ways; relative to its norm, with slack ``1e4 eps`` times the number of
    steps (the error of a step is amplified by at most ``1 + lam L`` in the next, of order one over the few steps
    here).

    Source: Schotthöfer et al. (2025), arXiv:2410.18720, Proposition 1.
    """

    rank: int = 3
    steps: int = 8
    step_size: float = 0.05
    budget: int = 8
    seed: int = 0

    name = "structure"
    statement = "several matrices with global truncation = one block-diagonal matrix"
    source = "GeoLoRA (arXiv:2410.18720), Proposition 1"

    promised = dict.fromkeys(
        (FullRank, *FACTORS, *SEQUENTIAL, AugmentedBUG, ParallelBUG, GeoLoRA),
        "every operation of a step keeps the blocks",
    )
    unless = {AdaLoRA: lambda m: "its importance is a mean over rows, which zero blocks dilute" if m.truncation else ""}

    def problems(self):
        """Three layers of different sizes that depend on each other."""
        rng = np.random.default_rng(4)
        return {"linear-network": LinearNetwork(synthetic((9, 7), (2.0, 1.0, 0.5, 0.25), rng), (7, 8, 6, 9))}

    def hypotheses(self, integrator, problem):
        """Several matrices, no memory, no decision of a single matrix."""
        yield Hypothesis("a loss of several matrices", isinstance(problem, LinearNetwork))
        yield from (plain_descent(integrator), no_rejection(integrator))

    def measure(self, integrator, problem):
        """Run both ways with the same total rank."""
        lam, shapes = float(self.step_size), problem.shapes
        rng = np.random.default_rng(self.seed)
        starts = [
            LowRank.random(shape, self.rank, rng, singular_values=(1.3 + 0.1 * i, 0.7 - 0.05 * i, 0.4 - 0.03 * i))
            for i, shape in enumerate(shapes)
        ]
        together = with_truncation(integrator, FixedRank(self.budget))
        adaptive = cuts_values(integrator)
        rule = GlobalBudget(columns=self.budget) if adaptive else integrator.truncation
        states = [integrator.init(Y) for Y in starts]
        block = LowRank(*(scipy.linalg.block_diag(*(getattr(Y, x) for Y in starts)) for x in "USV"))
        rows, lost, gap = [], 0, np.inf

        def split(W):
            parts, i, j = [], 0, 0
            for m, n in shapes:
                parts.append(W[i : i + m, j : j + n])
                i, j = i + m, j + n
            return parts

        def field(t: float, Y: Any) -> DenseField:
            return DenseField(Y, scipy.linalg.block_diag(*problem.fields(split(dense(Y)))))

        for k, _, step in run(together, field, together.init(block), lam, self.steps):
            try:
                states = _lockstep(integrator, rule, problem, states, lam)
            except FAILURES:
                step = None
            if step is None:
                rows.append(failed(k))
                break
            if adaptive:
                d = np.linalg.svd(dense(step.augmented), compute_uv=False)
                gap = min(gap, float((d[self.budget - 1] - d[self.budget]) / d[0]))
            whole, apart = dense(step.state.Y), scipy.linalg.block_diag(*(dense(s.Y) for s in states))
            rows.append((k, norm(whole - apart) / norm(apart), 0.0, 1e4 * eps_of(step.state.Y) * k))
            lost += sum(norm(W) == 0 for W in split(whole))
        seen = [
            Hypothesis("every block keeps a direction", lost == 0, f"{lost} blocks were cut to zero"),
            Hypothesis("singular values differ at the cut", gap > 1e-6, f"relative gap {gap:.3g}"),
        ]
        main = Series.of("all steps", "step", rows, "||blkdiag(W_i) - W|| / ||W||", "0")
        return Measured([main], hypotheses=seen if adaptive else [])


def _lockstep(integrator: Integrator, truncation, problem: LinearNetwork, states, lam):
    """One step of all matrices together, as for the layers of a network: one field for all per round."""
    runs = [integrator.advance(0.0, s, lam) for s in states]
    proposals: list = [None] * len(runs)
    requests: list = [next(run) for run in runs]
    while any(p is None for p in proposals):
        points = [request[1] for request in requests]
        answers = problem.fields([dense(Y) for Y in points])
        for i, stages in enumerate(runs):
            try:
                requests[i] = stages.send(DenseField(points[i], answers[i]))
            except StopIteration as stop:
                proposals[i] = stop.value
    return [state for state, _ in conclude(truncation, proposals)]
