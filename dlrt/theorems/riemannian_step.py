"""Identity of one step: without truncation GeoLoRA makes the Riemannian gradient step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from integrators import AugmentedBUG, FullRank, GeoLoRA, LowRank, ParallelBUG
from problems import MatrixRegression

from .certificate import Hypothesis
from .theorem import (
    FAILURES,
    Theorem,
    bases,
    dense,
    field_at,
    norm,
    plain_descent,
    rounding,
    series,
    substep_name,
    tangent_part,
)

SINGULAR_VALUES = (1.0, 1e-2, 1e-4, 1e-8, 1e-12, 1e-16, 0.0)


@dataclass(frozen=True)
class RiemannianStep(Theorem):
    r"""The untruncated iterate is the Riemannian gradient step, whatever the singular values.

    .. math:: \hat W = W - \lambda\, P(W) G, \qquad P(W) G = U U^H G + G V V^H - U U^H G V V^H .

    Hypotheses: plain descent, explicit Euler steps, orthonormal U and V; S is arbitrary (0 and singular included).

    Proof. The four blocks of the augmented matrix are ``U S1 V^H = W - lam U U^H G V V^H``;
    ``U L1^H Vt Vt^H = -lam U U^H G Vt Vt^H`` (``W Vt = 0``), and since Vt spans ``(I - V V^H) G^H U`` this is
    ``-lam U U^H G (I - V V^H)``; likewise ``Ut Ut^H K1 V^H = -lam (I - U U^H) G V V^H``. Their sum is the formula. S is
    never inverted. (:func:`dlrt.theorems.symbolic.augmented_step` proves the same symbolically.)

    What is compared: ``||W^ - (W - lam P G)||_F`` with 0, in units of ``lam ||G||``, for a smallest singular value
    from 1 to 0. The slack is ``eps (100 + 150 sqrt(2r)) (||W|| + lam ||G||)`` in the same units.

    Source: Schotthöfer et al. (2025), arXiv:2410.18720, algorithm 1; the identity is derived above.
    """

    rank: int = 4
    step_size: float = 0.5
    seed: int = 0

    name = "riemannian-step"
    statement = "W^ = W - lam P(W) G for every S"
    source = "derived; GeoLoRA (arXiv:2410.18720), algorithm 1"

    def promises(self, integrator):
        """GeoLoRA, parallel BUG with Euler, and the full matrix (P = I)."""
        if isinstance(integrator, (GeoLoRA, ParallelBUG)):
            return True, "K, L and S move along the same gradient from orthonormal bases"
        if isinstance(integrator, FullRank):
            return True, "P is the identity for the full matrix"
        if isinstance(integrator, AugmentedBUG):
            return False, "it moves by the larger projection U^ U^^H G V^ V^^H"
        return False, "it does not move by the projected gradient"

    def problems(self):
        """Regression, real and complex."""
        rng = np.random.default_rng(1)
        A = rng.standard_normal((14, 11))
        return {
            "matrix-regression": MatrixRegression(A),
            "complex": MatrixRegression(A + 1j * rng.standard_normal((14, 11))),
            "float32": MatrixRegression(A.astype(np.float32)),
        }

    @np.errstate(all="ignore")
    def check(self, integrator, problem, *, rank=None, step_size=None, singular_values=SINGULAR_VALUES):
        """One step from each of a list of smallest singular values."""
        rank, lam = rank or self.rank, float(step_size or self.step_size)
        hypotheses = [
            plain_descent(integrator),
            Hypothesis("explicit Euler steps", substep_name(integrator) == "Euler", f"{substep_name(integrator)}"),
            Hypothesis("no step rejection", getattr(integrator, "rejection", None) is None),
        ]
        if not all(h.met for h in hypotheses):
            return self.certificate(integrator, problem, hypotheses)
        rows = []
        for smallest in singular_values:
            rng = np.random.default_rng(self.seed)
            values = np.geomspace(1.0, max(smallest, 1e-300), rank)
            values[-1] = smallest
            like = problem.like if hasattr(problem, "like") else np.zeros(())
            state = integrator.init(LowRank.random(problem.shape, rank, rng, like, values))
            W, G = dense(state.Y), -field_at(problem, 0.0, state.Y)
            try:
                step = integrator.step(problem.field, 0.0, state, lam)
                error = norm(dense(step.augmented) - (W - lam * tangent_part(G, *bases(state.Y))))
            except FAILURES:
                error = np.inf
            size = lam * norm(G)
            rows.append((smallest, error / size, 0.0, rounding(state.Y, norm(W), size) / size))
        main = series("one step", "smallest singular value", rows, "||W^ - (W - lam P G)|| / ||lam G||", "0")
        return self.certificate(integrator, problem, hypotheses, [main])

    def cases(self, integrator, full=False):
        """All three problems are cheap."""
        for problem in self.problems().values():
            yield self.check(self.configured(integrator), problem)
