"""Identity of one step: without truncation GeoLoRA makes the Riemannian gradient step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from integrators import AugmentedBUG, FullRank, GeoLoRA, LowRank, ParallelBUG, ProjectedRungeKutta
from problems import MatrixRegression

from .certificate import Series
from .hypotheses import euler_steps, no_rejection, plain_descent
from .measure import attempt, bases, dense, gradient_at, norm, rounding, tangent_part
from .theorem import FACTORS, SEQUENTIAL, Measured, Theorem, one_euler_step


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
    singular_values: tuple[float, ...] = (1.0, 1e-2, 1e-4, 1e-8, 1e-12, 1e-16, 0.0)

    name = "riemannian-step"
    statement = "W^ = W - lam P(W) G for every S"
    source = "derived; GeoLoRA (arXiv:2410.18720), algorithm 1"

    few = 3
    promised = dict.fromkeys(
        (GeoLoRA, ParallelBUG), "K, L and S move along the same gradient from orthonormal bases"
    ) | {
        FullRank: "P is the identity for the full matrix",
        ProjectedRungeKutta: "Euler's method along P(W) G, by definition",
    }
    unless = {ProjectedRungeKutta: one_euler_step}
    doubts = {AugmentedBUG: "it moves by the larger projection U^ U^^H G V^ V^^H"} | dict.fromkeys(
        (*FACTORS, *SEQUENTIAL), "it does not move by the projected gradient"
    )

    def problems(self):
        """Regression, real and complex."""
        rng = np.random.default_rng(1)
        A = rng.standard_normal((14, 11))
        return {
            "matrix-regression": MatrixRegression(A),
            "complex": MatrixRegression(A + 1j * rng.standard_normal((14, 11))),
            "float32": MatrixRegression(A.astype(np.float32)),
        }

    def hypotheses(self, integrator, problem):
        """Plain descent by Euler steps, none of which is rejected."""
        return plain_descent(integrator), euler_steps(integrator), no_rejection(integrator)

    def measure(self, integrator, problem):
        """One step from each of a list of smallest singular values."""
        rows, lam = [], float(self.step_size)
        for smallest in self.singular_values:
            rng = np.random.default_rng(self.seed)
            values = np.geomspace(1.0, max(smallest, 1e-300), self.rank)
            values[-1] = smallest
            state = integrator.init(LowRank.random(problem.shape, self.rank, rng, problem.like, values))
            W, G = dense(state.Y), gradient_at(problem, state.Y)
            step, error, size = attempt(integrator, problem.field, state, lam), math.inf, lam * norm(G) or 1.0
            if step is not None:
                error = norm(dense(step.augmented) - (W - lam * tangent_part(G, *bases(state.Y))))
            rows.append((smallest, error / size, 0.0, rounding(state.Y, norm(W), size) / size))
        label = "||W^ - (W - lam P G)|| / ||lam G||"
        return Measured([Series.of("one step", "smallest singular value", rows, label, "0")])
