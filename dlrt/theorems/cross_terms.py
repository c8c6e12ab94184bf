"""Where methods that look at the field through the bases of the solution alone stand still: cross terms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from integrators import (
    BUG,
    DRSVD,
    AugmentedBUG,
    BackwardCorrectedSplitting,
    DynamicalNystroem,
    Exact,
    FullRank,
    GeoLoRA,
    MidpointBUG,
    ParallelBUG,
    ProjectedRungeKutta,
    ProjectorSplitting,
    RandRK4,
    RungeKuttaBUG,
    SecondOrderParallelBUG,
    Tolerance,
)
from problems import LinearTerms

from ..registry import with_options
from .certificate import Constant, Hypothesis, Series
from .hypotheses import plain_descent
from .measure import dense, failed, field_at, norm, rounding, run, tangent_part
from .theorem import Measured, Theorem, with_truncation


def crossed(n: int = 6) -> LinearTerms:
    """``Y' = A Y A^T`` with ``A = e_2 e_1^T - e_1 e_2^T``, from ``e_1 e_1^T``.

    The solution is ``cosh(t) e_1 e_1^T + sinh(t) e_2 e_2^T``. At the start ``F = e_2 e_2^T`` and K, L and S are zero
    without rounding.
    """
    e = np.eye(n)
    A = np.outer(e[1], e[0]) - np.outer(e[0], e[1])
    return LinearTerms(((A, A.T.copy()),), e[:, :1], e[:, :1], "crossed")


@dataclass(frozen=True)
class CrossTerms(Theorem):
    r"""A counterexample: standing still, however small the steps, where the field is normal to the tangent space.

    Where ``F(Y_0) V_0 = 0`` and ``F(Y_0)^H U_0 = 0`` for a field that does not depend on time, a method that sees
    K, L and S alone has ``Y_1 = Y_0``, for every step size. So it does not converge to the solution, nor to its best
    approximation, as h falls: in the robust bounds ``eps = ||F||`` is not small. Terms ``A Y B`` in which neither
    matrix is the identity do this. The smallest example is ``Y' = A Y A^T`` from ``e_1 e_1^T`` with
    ``A = e_2 e_1^T - e_1 e_2^T``: the solution is ``cosh(t) e_1 e_1^T + sinh(t) e_2 e_2^T``, and its best approximation
    of rank 1 moves to ``cosh(t) e_1 e_1^T``. The rotation of an even start, ``u_t = y u_x - x u_y``, is another, but
    there K and L vanish up to rounding alone, and a method that augments its bases by F V_0 may take rounding for a
    direction, which sets it free: by luck, not by design.

    Hypotheses: plain descent; a linear field without tangential part, not even rounding, at the start of rank 1.

    Proof. K, L and S of the field vanish at Y0, so Y0 is a point of rest of each sub-flow and of each stage, and bases
    that are augmented by what moves, or by F V_0 and F^H U_0, are not augmented.

    What is compared: the distance from the start after 5 to 40 steps to the same time with 0, and the distance that
    the solution has gone with the error. A violation means that the method is *not* caught by the counterexample, as
    those that look at the field along random directions, or at all of it. A start that holds further directions, of
    whatever size, sets the others free as well.

    Source: Appelö, Cheng (2025), arXiv:2402.05347, who give a method (merge-BUG) with directions of F itself.
    """

    counts: tuple[int, ...] = (5, 10, 20, 40)
    seed: int = 0

    name = "cross-terms"
    statement = "a counterexample: Y does not move, whatever h, where the field has no tangential part"
    source = "Appelö, Cheng (2025), arXiv:2402.05347; the smallest example constructed"

    promised = dict.fromkeys(
        (
            AugmentedBUG,
            BUG,
            BackwardCorrectedSplitting,
            GeoLoRA,
            MidpointBUG,
            ParallelBUG,
            ProjectedRungeKutta,
            ProjectorSplitting,
            RungeKuttaBUG,
            SecondOrderParallelBUG,
        ),
        "it sees K, L and S alone, and they vanish",
    )
    doubts = dict.fromkeys((DRSVD, DynamicalNystroem, RandRK4), "it looks at the field along random directions") | {
        FullRank: "it sees the whole field"
    }

    def configured(self, integrator):
        """Exact sub-flows, so that none of the error is theirs; no spare direction, which would hold what is zero."""
        return with_truncation(with_options(integrator, substep=Exact()), Tolerance(relative=1e-8))

    def problems(self):
        """The smallest example."""
        return {"crossed": crossed()}

    def hypotheses(self, integrator, problem):
        """A field that is normal at the start."""
        yield plain_descent(integrator)
        fits = isinstance(problem, LinearTerms)
        yield Hypothesis("a linear equation with several terms", fits, getattr(problem, "name", ""))
        if fits:
            Y = problem.initial(1, np.random.default_rng(self.seed))
            F = field_at(problem, 0.0, Y)
            part = norm(tangent_part(F, Y.U, Y.V)) / norm(F)
            yield Hypothesis("a field without tangential part", part == 0, f"||P F|| / ||F|| = {part:.1e}")

    def measure(self, integrator, problem):
        """Runs with different steps to the horizon of the problem."""
        first = integrator.init(problem.initial(1, np.random.default_rng(self.seed)))
        Y0, T = dense(first.Y), problem.t_end
        gone = norm(problem.reference(T) - Y0)
        rest, behind = [], []
        for n in self.counts:
            state, slack = first, n * rounding(first.Y, norm(Y0))
            for _, _, step in run(integrator, problem.field, first, T / n, n):
                if step is None:
                    rest.append(failed(T / n))
                    break
                state = step.state
            else:
                rest.append((T / n, norm(dense(state.Y) - Y0), 0.0, slack))
                behind.append((T / n, gone, problem.error(T, state.Y), slack))
        found = [
            Series.of("rest", "h", rest, "||Y_n - Y_0||", "0"),
            Series.of("no convergence", "h", behind, "||A(T) - A(0)||", "error"),
        ]
        best = math.sqrt(float(np.sum(np.linalg.svd(problem.reference(T), compute_uv=False)[1:] ** 2)))
        notes = [f"the best approximation of rank 1 has the error {best:.4g}, the solution has gone {gone:.4g}"]
        return Measured(found, {"T": Constant(T, "horizon of the problem")}, notes)
