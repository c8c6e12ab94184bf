"""Exactness: a given matrix function of exact rank is reproduced."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from integrators import BUG, AugmentedBUG, Exact, FixedRank, FullRank, LowRank, ParallelBUG, ProjectorSplitting
from problems import Rotating, rotating

from .certificate import Certificate, Constant, Hypothesis
from .theorem import (
    FAILURES,
    Theorem,
    dense,
    eps_of,
    norm,
    plain_descent,
    series,
    start_of,
    substep_name,
    with_substep,
    with_truncation,
)


@dataclass(frozen=True)
class Exactness(Theorem):
    r"""With ``F = A'(t)``, A(t) of rank r, exact sub-flows and the exact start, every step gives A(t) again.

    Hypotheses: F does not depend on Y and A(t) has exactly rank r; exact sub-flows; rank fixed at r; ``V(t1)^H
    V(t0)`` and ``U(t1)^H U(t0)`` are invertible.

    Proof. Let ``D = A(t1) - A(t0)``, ``Y0 = A(t0)``, so ``Y0 + D = A(t1)``. K-step: ``K1 = (Y0 + D) V0 = A(t1) V0``,
    whose range is that of A(t1), since V(t1)^H V0 is invertible. Projector splitting: ``Y1 = U1 U1^H (Y0 + D) =
    A(t1)`` (the S-step takes away what the K-step added in the old rows). Strang is two such steps, the second
    transposed. BUG: ``Y1 = U1 U1^H (Y0 + D) V1 V1^H``, with V1 from the L-step in the same way. Augmented BUG: its
    bases contain those of BUG; the result has rank r, so truncation to r changes nothing. Parallel BUG leaves out
    ``Ut^H D Vt`` and is not exact. No S is inverted, the singular values may be as small as one likes.

    What is compared: ``||Y_k - A(t_k)|| / ||A(t_k)||`` with 0, from a start in random bases ``(U R, R^H S Q, V Q)``.
    The slack is ``1000 eps kappa k`` with kappa the largest condition number of ``V(t1)^H V(t0)`` and ``U(t1)^H
    U(t0)`` over the steps, which amplifies rounding in K1 and L1.

    Source: Lubich, Oseledets (2014), doi:10.1007/s10543-013-0454-0, Theorem 4.1; Ceruti, Lubich (2022),
    doi:10.1007/s10543-021-00873-0, Theorem 3; Ceruti, Kusch, Lubich (2022), doi:10.1007/s10543-021-00907-7.
    """

    steps: int = 10
    seed: int = 0

    name = "exactness"
    statement = "Y_k = A(t_k) for F = A'(t), A(t) of rank r, exact sub-flows"
    source = "Lubich, Oseledets (2014), Theorem 4.1; Ceruti, Lubich (2022), Theorem 3"

    def promises(self, integrator):
        """Projector splitting, BUG and augmented BUG."""
        if isinstance(integrator, (ProjectorSplitting, BUG, AugmentedBUG)):
            return True, "the new bases span the ranges of A(t1)"
        if isinstance(integrator, FullRank):
            return True, "the exact flow itself"
        if isinstance(integrator, ParallelBUG):
            return False, "parallel BUG leaves out the block Ut^H D Vt"
        return False, "the method has no exact sub-flows"

    def configured(self, integrator):
        """Exact sub-flows, rank fixed at that of the small case."""
        return with_truncation(with_substep(integrator, Exact()), FixedRank(4))

    def problems(self):
        """Rotating matrices of rank 4, the second with singular values down to 1e-14."""
        return {
            "rotating": rotating(np.random.default_rng(5), (20, 16), rank=4),
            "rotating, 1e-14": rotating(np.random.default_rng(5), (20, 16), rank=4, smallest=1e-14),
            "rotating, complex": rotating(np.random.default_rng(5), (20, 16), rank=4, dtype=np.complex128),
        }

    def cases(self, integrator, full=False):
        """All three are cheap."""
        for problem in self.problems().values():
            yield self.check(self.configured(integrator), problem)

    @np.errstate(all="ignore")
    def check(self, integrator, problem, *, steps=None, t_end=None) -> Certificate:
        """Steps of equal size up to the end time."""
        steps = steps or self.steps
        h = float(t_end or problem.t_end) / steps
        fits = isinstance(problem, Rotating)
        hypotheses = [
            Hypothesis("F = A'(t), independent of Y", fits, getattr(problem, "name", "")),
            Hypothesis(
                "exact sub-flows", substep_name(integrator) == "Exact", f"sub-steps: {substep_name(integrator)}"
            ),
            plain_descent(integrator),
        ]
        if not all(x.met for x in hypotheses):
            return self.certificate(integrator, problem, hypotheses)
        rank = len(problem.singular_values)
        fixed = integrator.truncation is None or integrator.truncation == FixedRank(rank)
        hypotheses.append(
            Hypothesis("rank fixed at that of A", fixed, f"rank {rank}, truncation {integrator.truncation}")
        )
        rng = np.random.default_rng(self.seed)
        state = integrator.init(_turned(start_of(problem, rank, rng), rng))
        rows, kappa, t = [], 1.0, 0.0
        for k in range(steps):
            pairs = zip(problem.factors(t), problem.factors(t + h), strict=True)
            kappa = max(kappa, *(float(np.linalg.cond(X1.conj().T @ X0)) for X0, X1 in pairs))
            try:
                state = integrator.step(problem.field, t, state, h).state
            except FAILURES:
                rows.append((k + 1, np.inf, 0.0, 0.0))
                break
            t = (k + 1) * h
            A = problem.reference(t)
            rows.append((k + 1, norm(dense(state.Y) - A) / norm(A), 0.0, 1000 * eps_of(state.Y) * kappa * (k + 1)))
        hypotheses.append(Hypothesis("ranges turn by less than a right angle", kappa < 1e6, f"kappa = {kappa:.4g}"))
        constants = {
            "kappa": Constant(kappa, "largest condition number of U(t1)^H U(t0), V(t1)^H V(t0)"),
            "sigma_r": Constant(float(min(problem.singular_values)), "smallest singular value of A(0)"),
        }
        main = series("all steps", "step", rows, "||Y - A|| / ||A||", "0")
        return self.certificate(integrator, problem, hypotheses, [main], constants)


def _turned(Y: LowRank, rng) -> LowRank:
    """The same matrix in randomly turned bases, with a full S."""
    r = Y.rank
    R, Q = (np.linalg.qr(rng.standard_normal((r, r)))[0].astype(Y.dtype) for _ in range(2))
    return LowRank(Y.U @ R, R.conj().T @ Y.S @ Q, Y.V @ Q)
