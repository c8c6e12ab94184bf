"""Conservation of norm and energy in the Schroedinger equation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from integrators import (
    BUG,
    DRSVD,
    AugmentedBUG,
    BackwardCorrectedSplitting,
    Exact,
    FixedRank,
    FullRank,
    MidpointBUG,
    ParallelBUG,
    ProjectorSplitting,
)
from problems import Schroedinger, schroedinger

from ..registry import with_options
from .certificate import Constant, Hypothesis, Series
from .hypotheses import exact_sub_flows, plain_descent
from .measure import basis, dense, eps_of, failed, field_at, norm, run, start_of
from .theorem import Measured, Theorem, with_truncation


@dataclass(frozen=True)
class Conservation(Theorem):
    r"""Norm and energy are kept: exactly before truncation, up to the truncation error after it.

    For ``i Y' = H[Y]`` with self-adjoint H, ``E(Y) = <Y, H[Y]>``, and one step from Y0 to the untruncated Y^ and on
    to Y1 with truncation error theta:

    .. math::
        \|\hat Y\| = \|Y_0\|, \quad E(\hat Y) = E(Y_0); \qquad
        \|\hat Y\|^2 = \|Y_1\|^2 + \vartheta^2, \quad
        |E(\hat Y) - E(Y_1)| \le 2 \vartheta\, \|U_2^H H[Y_1] V_2\| + \|H\| \vartheta^2,

    where ``Z = Y^ - Y1 = U_2 Sigma_2 V_2^H`` is what was cut.

    Hypotheses: exact sub-flows (for augmented and midpoint BUG that of S is enough).

    Proof. Augmented and midpoint BUG: Y0 lies in the Galerkin space ``{U^ S V^^H}``, an orthogonal projection Pi onto
    it turns the equation into ``i Y' = Pi H[Y]``, Y = Pi Y; then ``d/dt ||Y||^2 = 2 Re <Y, -i H Y> = 0`` and
    ``dE/dt = 2 Re <H Y, Y'> = 2 Re <Pi H Y, -i Pi H Y> = 0``. Each sub-flow of projector splitting has this form
    too, the S-step with the opposite sign, with projections onto ``{K V0^H}``, ``{U1 S V0^H}``, ``{U1 L^H}``. BUG
    of fixed rank changes the bases in between without keeping Y0. The truncated part is orthogonal to Y1:
    ``||Y^||^2 = ||Y1||^2 + theta^2``; and ``E(Y1 + Z) = E(Y1) + 2 Re <Z, H[Y1]> + E(Z)``,
    ``<Z, H[Y1]> = <Sigma_2, U_2^H H[Y1] V_2>``.

    What is compared: the change of norm and energy in each step, relative to ``||Y||`` and ``||H|| ||Y||^2``, before
    truncation with 0 and after it with theta. The slack is ``2000 eps`` (matrix exponentials act with an error of
    some eps times ``h ||H||``).

    Source: Ceruti, Kusch, Lubich (2022), doi:10.1007/s10543-021-00907-7, Theorems 3 and 4; projector splitting:
    Lubich, Oseledets (2014), doi:10.1007/s10543-013-0454-0.
    """

    steps: int = 5
    step_size: float = 0.05
    rank: int = 4
    seed: int = 0

    name = "conservation"
    statement = "norm and energy of the Schroedinger equation are kept up to the truncation error"
    source = "Ceruti, Kusch, Lubich (2022), Theorems 3 and 4"

    promised = {
        AugmentedBUG: "the start is in the Galerkin space",
        MidpointBUG: "the start is in the Galerkin space",
        BackwardCorrectedSplitting: "the start is in the space of the L-step",
        DRSVD: "the start is in the space of the last step",
        ProjectorSplitting: "each sub-flow is a projected Hamiltonian flow",
        FullRank: "the exact flow itself",
    }
    doubts = dict.fromkeys((BUG, ParallelBUG), "a step is no composition of projected Hamiltonian flows")

    def configured(self, integrator):
        """Exact sub-flows; truncation back to the rank of the start, so that something is cut."""
        return with_truncation(with_options(integrator, substep=Exact()), FixedRank(self.rank))

    def problems(self):
        """A small one, and the size of the literature."""
        return {
            "schroedinger": schroedinger(np.random.default_rng(6), 24),
            "schroedinger, n = 100": schroedinger(np.random.default_rng(6), 100),
        }

    def hypotheses(self, integrator, problem):
        """A Schroedinger equation, exact sub-flows, no memory."""
        fits = isinstance(problem, Schroedinger)
        yield Hypothesis("a Schroedinger equation", fits, getattr(problem, "name", ""))
        yield from (exact_sub_flows(integrator), plain_descent(integrator))

    def measure(self, integrator, problem):
        """Steps from the problem's start."""
        L = problem.lipschitz
        first = integrator.init(start_of(problem, self.rank, np.random.default_rng(self.seed)))
        kept, energy, cut, cut_energy = [], [], [], []
        for k, state, step in run(integrator, problem.field, first, self.step_size, self.steps):
            if step is None:
                kept.append(failed(k))
                break
            Y0, Y1, after = state.Y, step.augmented, step.state.Y
            size, slack = norm(dense(Y0)), 2000 * eps_of(Y0)
            kept.append((k, abs(problem.norm(Y1) - problem.norm(Y0)) / size, 0.0, slack))
            change = abs(problem.energy(Y1) - problem.energy(Y0)) / (L * size**2)
            energy.append((k, change, 0.0, slack))
            if integrator.truncation is not None:
                theta = norm(dense(Y1) - dense(after))
                deviation = abs(problem.norm(Y1) ** 2 - problem.norm(after) ** 2 - theta**2) / size**2
                cut.append((k, deviation, 0.0, slack))
                U2, V2 = (basis(X) for X in _cut(dense(Y1) - dense(after)))
                seen = U2.conj().T @ field_at(problem, 0.0, after) @ V2
                bound = (2 * theta * norm(seen) + L * theta**2) / (L * size**2)
                change = abs(problem.energy(after) - problem.energy(Y1)) / (L * size**2)
                cut_energy.append((k, change, bound, slack))
        found = [
            Series.of("norm before truncation", "step", kept, "change of ||Y|| / ||Y||", "0"),
            Series.of("energy before truncation", "step", energy, "change of E / (||H|| ||Y||^2)", "0"),
        ]
        if cut:
            label = "| ||Y^||^2 - ||Y1||^2 - theta^2 | / ||Y||^2"
            found.append(Series.of("norm, truncation", "step", cut, label, "0"))
            label = "(2 theta ||U2^H H[Y1] V2|| + ||H|| theta^2) / (||H|| ||Y||^2)"
            found.append(Series.of("energy, truncation", "step", cut_energy, "change / (||H|| ||Y||^2)", label))
        return Measured(found, {"||H||": Constant(L, "4 + max potential^2, Lipschitz constant of the problem")})


def _cut(Z):
    """Left and right singular vectors of Z that belong to values above rounding."""
    U, s, VH = np.linalg.svd(Z)
    r = int(np.sum(s > 1e-10 * s[0]))
    return U[:, :r], VH[:r].conj().T
