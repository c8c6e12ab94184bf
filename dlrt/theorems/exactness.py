"""Exactness: a given matrix function of exact rank is reproduced."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from integrators import (
    DRSVD,
    AugmentedBUG,
    BackwardCorrectedSplitting,
    DynamicalNystroem,
    Exact,
    FixedRank,
    FullRank,
    GeoLoRA,
    LowRank,
    MidpointBUG,
    ParallelBUG,
)
from problems import Rotating, rotating

from ..registry import with_options
from .certificate import Constant, Hypothesis, Series
from .hypotheses import exact_sub_flows, plain_descent
from .measure import dense, eps_of, failed, norm, run, start_of
from .theorem import FACTORS, SEQUENTIAL, Measured, Theorem, with_truncation


@dataclass(frozen=True)
class Exactness(Theorem):
    r"""With ``F = A'(t)``, A(t) of rank r, exact sub-flows and the exact start, every step gives A(t) again.

    Hypotheses: F does not depend on Y and A(t) has exactly rank r; exact sub-flows; rank fixed at r;
    ``V(t1)^H V(t0)`` and ``U(t1)^H U(t0)`` are invertible.

    Proof. Let ``D = A(t1) - A(t0)``, ``Y0 = A(t0)``, so ``Y0 + D = A(t1)``. K-step: ``K1 = (Y0 + D) V0 = A(t1) V0``,
    whose range is that of A(t1), since V(t1)^H V0 is invertible. Projector splitting: ``Y1 = U1 U1^H (Y0 + D) = A(t1)``
    (the S-step takes away what the K-step added in the old rows). Strang is two such steps, the second transposed. BUG:
    ``Y1 = U1 U1^H (Y0 + D) V1 V1^H``, with V1 from the L-step in the same way. Augmented BUG: its bases contain those
    of BUG; the result has rank r, so truncation to r changes nothing. Backward-corrected splitting: ``Y1 = U^ U^^H (Y0
    + D)``, and U^ contains the range of K1; DRSVD alike, with the range of ``A(t1) Omega``, that of A(t1) almost
    surely. Parallel BUG leaves out ``Ut^H D Vt`` and is not exact. No S is inverted, the singular values may be as
    small as one likes.

    What is compared: ``||Y_k - A(t_k)|| / ||A(t_k)||`` with 0, from a start in random bases
    ``(U R, R^H S Q, V Q)``. The slack is ``1000 eps kappa k`` with kappa the largest condition number of
    ``V(t1)^H V(t0)`` and ``U(t1)^H U(t0)`` over the steps, which amplifies rounding in K1 and L1.

    Source: Lubich, Oseledets (2014), doi:10.1007/s10543-013-0454-0, Theorem 4.1; Ceruti, Lubich (2022),
    doi:10.1007/s10543-021-00873-0, Theorem 3; Ceruti, Kusch, Lubich (2022), doi:10.1007/s10543-021-00907-7.
    """

    steps: int = 10
    t_end: float | None = None
    seed: int = 0

    name = "exactness"
    statement = "Y_k = A(t_k) for F = A'(t), A(t) of rank r, exact sub-flows"
    source = "Lubich, Oseledets (2014), Theorem 4.1; Ceruti, Lubich (2022), Theorem 3"

    few = 3
    promised = dict.fromkeys(
        (*SEQUENTIAL, AugmentedBUG, BackwardCorrectedSplitting), "the new bases span the ranges of A(t1)"
    ) | {
        DRSVD: "its basis spans the range of A(t1), almost surely",
        FullRank: "the exact flow itself",
    }
    doubts = {
        ParallelBUG: "parallel BUG leaves out the block Ut^H D Vt",
        DynamicalNystroem: "exact in exact arithmetic, but it divides by the singular values",
        MidpointBUG: "its bases hold the ranges of A(t0), A(t1/2) and A'(t1/2) A(t1/2)^+, not that of A(t1)",
    } | dict.fromkeys((GeoLoRA, *FACTORS), "the method has no exact sub-flows")

    def configured(self, integrator):
        """Exact sub-flows, rank fixed at that of the small case."""
        return with_truncation(with_options(integrator, substep=Exact()), FixedRank(4))

    def problems(self):
        """Rotating matrices of rank 4, the second with singular values down to 1e-14."""
        return {
            "rotating": rotating(np.random.default_rng(5), (20, 16), rank=4),
            "rotating, 1e-14": rotating(np.random.default_rng(5), (20, 16), rank=4, smallest=1e-14),
            "rotating, complex": rotating(np.random.default_rng(5), (20, 16), rank=4, dtype=np.complex128),
        }

    def hypotheses(self, integrator, problem):
        """F = A'(t), exact sub-flows, no memory, the rank of A."""
        yield Hypothesis("F = A'(t), independent of Y", isinstance(problem, Rotating), getattr(problem, "name", ""))
        yield from (exact_sub_flows(integrator), plain_descent(integrator))
        rank = len(getattr(problem, "singular_values", ()))
        fixed = integrator.truncation is None or (rank > 0 and integrator.truncation == FixedRank(rank))
        yield Hypothesis("rank fixed at that of A", fixed, f"rank {rank}, truncation {integrator.truncation}")

    def measure(self, integrator, problem):
        """Steps of equal size up to the end time."""
        h = float(self.t_end or problem.t_end) / self.steps
        rng = np.random.default_rng(self.seed)
        first = integrator.init(_turned(start_of(problem, len(problem.singular_values), rng), rng))
        rows, kappa = [], 1.0
        for k, _, step in run(integrator, problem.field, first, h, self.steps):
            pairs = zip(problem.factors((k - 1) * h), problem.factors((k - 1) * h + h), strict=True)
            kappa = max(kappa, *(float(np.linalg.cond(X1.conj().T @ X0)) for X0, X1 in pairs))
            if step is None:
                rows.append(failed(k))
                break
            A, Y = problem.reference(k * h), step.state.Y
            rows.append((k, norm(dense(Y) - A) / norm(A), 0.0, 1000 * eps_of(Y) * kappa * k))
        constants = {
            "kappa": Constant(kappa, "largest condition number of U(t1)^H U(t0), V(t1)^H V(t0)"),
            "sigma_r": Constant(float(min(problem.singular_values)), "smallest singular value of A(0)"),
        }
        turn = Hypothesis("ranges turn by less than a right angle", kappa < 1e6, f"kappa = {kappa:.4g}")
        main = Series.of("all steps", "step", rows, "||Y - A|| / ||A||", "0")
        return Measured([main], constants, hypotheses=[turn])


def _turned(Y: LowRank, rng) -> LowRank:
    """The same matrix in randomly turned bases, with a full S."""
    r = Y.rank
    R, Q = (np.linalg.qr(rng.standard_normal((r, r)))[0].astype(Y.dtype) for _ in range(2))
    return LowRank(Y.U @ R, R.conj().T @ Y.S @ Q, Y.V @ Q)
