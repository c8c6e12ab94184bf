r"""Local errors: what one step of each method adds to the error, and the bases in which its normal component is taken.

The setting is that of :class:`~dlrt.theorems.ErrorBound`: F has the Lipschitz constants L in Y and L_t in t and is
bounded by B.

**The normal component** of a step is ``eps = max ||(I - U U^H) F* (I - V V^H)||_F`` over the pairs (U, V) of bases
that the step itself uses: (U_0, V_0) for GeoLoRA and parallel BUG; (U_1, V_0) and (U_0, V_1) for BUG, with U^ and
V^ in the place of U_1 and V_1 for augmented BUG; (U_1, V_0) for projector splitting, and (U_1, V_1) too for Strang.
With Euler steps ``F* = F(t_0, Y_0)``; with exact sub-flows it is the mean of F(s, Y_0) over the step (over its
first half with (U_1, V_0) and its second half with (U_1, V_1) for Strang), known where F does not depend on t, or
not on Y (``(A(t_1) - A(t_0)) / h``). (At Y_0 alone it would not do for fixed-rank methods: from
``Y_0 = diag(1, sigma)`` with ``F = e_3 e_2^T + e_2 e_3^T``, normal component 0 at Y_0, no rank-2 matrix stays
closer than about t.)

**Local errors.** Let W(s) be the exact flow from Y_0, F_0(s) = F(t_0 + s, Y_0), and "x moves" mean
``||x - Y_0|| <= B s``. All norms are Frobenius, blocks in orthogonal spaces add as squares, and fields at points of
distance d differ by at most L d.

- *GeoLoRA, parallel BUG (Euler)*: ``Y^ = Y_0 + h P F_0(0)``. The normal part is h eps,
  ``W(h) - Y_0 - h F_0(0) = int F(s, W) - F_0(0)`` is at most ``(L B + L_t) h^2 / 2``: (1, 1/2, 1/2). The full
  matrix has no normal part.
- *Parallel BUG (exact)*: the three blocks of Y^ hold ``int F(s, .)`` at points that move; replacing them by F_0(s)
  costs ``L B h^2 / 2`` each. What the blocks miss of ``int F_0``: the normal part, eps h, and
  ``(I - U^ U^^H) int F_0 V_0 V_0^H``, at most ``L B h^2 / 2`` as ``(I - U^ U^^H) int F(s, K V_0^H) V_0 = 0``, and
  its transpose. These five are orthogonal to each other, sqrt(5) L B h^2 / 2; W adds L B h^2 / 2: b = (1 + sqrt 5)
  / 2: (1, b, 0).
- *Augmented BUG (exact)*: U^ contains U_0 and K_1, so ``||(I - U^ U^^H) W(h)|| <= eps h + L B h^2 =: eta`` (W
  moves, K moves, and ``(I - U^ U^^H) F_0 (I - V_0 V_0^H)`` is the normal part), likewise V^. In the Galerkin
  step both Y^(s) and W(s) move, ``||U^ U^^H W V^ V^^H - Y^|| <= L B h^2``. Sum 2 eta + L B h^2: (2, 3, 0). *Euler*:
  ``(I - U^ U^^H) F_0(0) V_0 = 0`` exactly, eta = eps h + (L B + L_t) h^2 / 2, Galerkin (L B + L_t) h^2 / 2:
  (2, 3/2, 3/2).
- *BUG (exact)*: U_1 contains K_1 but not U_0. ``(I - U_1 U_1^H) W(h) = (I - U_1 U_1^H)(W(h) - K_1 V_0^H)``, and
  ``W(h) - K_1 V_0^H = int F(s, W) - F(s, K V_0^H) V_0 V_0^H``, so eta is as above, with the pair (U_1, V_0). The
  Galerkin step starts at ``U_1 U_1^H Y_0 V_1 V_1^H``, at most 2 B h from Y_0 because ``(I - U_1 U_1^H) Y_0 = -(I
  - U_1 U_1^H) int F(s, K V_0^H) V_0 V_0^H``: its error is at most int L (2 B h + 2 B s) = 3 L B h^2. Sum 2 eta +
  3 L B h^2: (2, 5, 0). *Euler*: eta = eps h + (L B + L_t) h^2 / 2, Galerkin int L (B s + 2 B h) + L_t s = 5/2 L B
  h^2 + L_t h^2 / 2: (2, 7/2, 3/2).
- *Lie splitting (exact)*: ``Y_1 - Y_0 = int F_K V_0 V_0^H - U_1 U_1^H F_S V_0 V_0^H + U_1 U_1^H F_L``. Replacing
  the arguments by Y_0 (distances s, h + s, 2 h + s, times B) costs (1/2 + 3/2 + 5/2) L B h^2 and leaves ``int F_0``
  less the part normal to (U_1, V_0), eps h; W adds 1/2: (1, 5, 0). *Euler*: distances 0, h, 2 h: 3, W 1/2: (1, 7/2,
  1/2).
- *Strang (exact)*: sub-flows K, S over [0, h/2], L over [0, h], S, K over [h/2, h] begin at distances 0, h/2, h,
  2 h, 5/2 h (times B): 1/8 + 3/8 + 3/2 + 9/8 + 11/8 + 1/2 (W) = 5, normal to (U_1, V_0) on the first half and
  (U_1, V_1) on the second: (1, 5, 0). *Euler*: 0 + 1/4 + 1 + 1 + 5/4 + 1/2 = 4; the last two fields are taken at
  t_0 + h/2: L_t (1/4 + 1/4 + 1/2): (1, 4, 1).

(:func:`dlrt.theorems.symbolic.local_error_constants` integrates these distances again.)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from integrators import BUG, AugmentedBUG, FullRank, GeoLoRA, ParallelBUG, ProjectorSplitting, SVDLoRA
from problems import MatrixRegression, Rotating, given_solution, rotating

from .certificate import Series
from .measure import bases, basis, dense, field_at, norm, rounding, start_of

PHI = (1 + math.sqrt(5)) / 2

LOCAL: dict[tuple[str, str], tuple[float, float, float]] = {
    ("FullRank", "Euler"): (0.0, 0.5, 0.5),
    ("GeoLoRA", "Euler"): (1.0, 0.5, 0.5),
    ("ParallelBUG", "Euler"): (1.0, 0.5, 0.5),
    ("ParallelBUG", "Exact"): (1.0, PHI, 0.0),
    ("AugmentedBUG", "Euler"): (2.0, 1.5, 1.5),
    ("AugmentedBUG", "Exact"): (2.0, 3.0, 0.0),
    ("BUG", "Euler"): (2.0, 3.5, 1.5),
    ("BUG", "Exact"): (2.0, 5.0, 0.0),
    ("Lie", "Euler"): (1.0, 3.5, 0.5),
    ("Lie", "Exact"): (1.0, 5.0, 0.0),
    ("Strang", "Euler"): (1.0, 4.0, 1.0),
    ("Strang", "Exact"): (1.0, 5.0, 0.0),
}
"""(a, b, c) of the local error ``a eps h + (b L B + c L_t) h^2`` of each method with each sub-step; derived above."""


def kind_of(integrator) -> str:
    """Key of :data:`LOCAL`; a subclass of a method is treated as the method; '' where nothing is derived."""
    if isinstance(integrator, ProjectorSplitting):
        return "Lie" if integrator.order == 1 else "Strang"
    for method in (GeoLoRA, ParallelBUG, AugmentedBUG, BUG, FullRank):
        if isinstance(integrator, method):
            return method.__name__
    return ""


def means(problem, t: float, h: float, F0: np.ndarray, kind: str) -> list[np.ndarray]:
    """Mean of the field at Y_0 over a step (over each half of it for Strang), for each pair of bases."""
    if problem.lipschitz > 0:  # then it does not depend on t
        return [F0, F0]
    times = (t, t + h / 2, t + h) if kind == "Strang" else (t, t + h, t)
    A = [problem.reference(s) for s in times]
    return [(b - a) / (s - r) for a, b, r, s in zip(A, A[1:], times, times[1:], strict=False)]


def pairs(kind: str, points: list, step) -> list[tuple[np.ndarray, np.ndarray]]:
    """The pairs of bases with respect to which the normal component of a step is taken."""
    U0, V0 = bases(points[0])
    end = step.augmented
    if kind in ("BUG", "AugmentedBUG"):
        return [(basis(end.U), V0), (U0, basis(end.V))]
    if kind == "Lie":
        return [(basis(end.U), V0)]
    if kind == "Strang":
        U1 = basis(next(p.U for p in points[1:] if _orthonormal(p.U) and p.U is not points[0].U))
        return [(U1, V0), (U1, basis(end.V))]
    return [(U0, V0)]


def _orthonormal(U) -> bool:
    return norm(U.conj().T @ U - np.eye(U.shape[1])) < 1e-6


# -- simultaneous descent ----------------------------------------------------------------------------------------------


def simultaneous_descent(integrator, seed: int = 0) -> list[Series]:
    r"""One step of simultaneous descent against the exact flow.

    The error is ``h ||F - P^ F||`` up to explicit terms of second order. With factors ``X_1 X_2 ...`` moved by
    ``h D_i`` the product is exactly ``W + h P^ F + h^2 R``, R computed from the factors; the flow is
    ``W + h F + q``, ``||q|| <= (L ||F|| + L_t) h^2 e^{L h} / 2``. So the local error lies within
    ``h^2 ||R|| + ||q||`` of ``h ||F - P^ F||``, and does not vanish with h relative to h, unless P^ F = F.
    """
    found = []
    families: dict[str, Callable] = {"sigma_min": nonlinear, "sigma_1": scaled_flow}
    for parameter, family in families.items():
        rows = []
        for sigma in (1e-1, 1e-2, 1e-4, 1e-8, 1e-14) if parameter == "sigma_min" else (0.1, 1.0, 10.0, 100.0):
            h = 1e-3 if parameter == "sigma_min" else 1e-3 / max(1.0, sigma**2)
            problem = family(sigma)
            state = integrator.init(start_of(problem, 4, np.random.default_rng(seed)))
            U, S, V = (np.asarray(x) for x in (state.Y.U, state.Y.S, state.Y.V))
            F, W = field_at(problem, 0.0, state.Y), dense(state.Y)
            moved = F @ V @ S.T @ S @ V.T + U @ S @ S.T @ U.T @ F  # B = U S, A = V^T has S = I here
            if isinstance(integrator, SVDLoRA):
                moved = moved + U @ (U.T @ F @ V) @ V.T
            after = dense(integrator.step(problem.field, 0.0, state, h).state.Y)
            second = norm(after - W - h * moved)
            L, Lt = problem.lipschitz, problem.time_lipschitz(0.0, h)
            q = 0.5 * (L * norm(F) + (Lt or 0.0)) * h**2 * math.exp(L * h)
            error = norm(after - problem.reference(h))
            rows.append((sigma, abs(error - h * norm(F - moved)), second + q, rounding(state.Y, norm(W))))
        label = "|error - h ||F - P^ F|| |"
        found.append(Series.of(f"local error over {parameter}", parameter, rows, label, "second-order terms"))
    return found


def nonlinear(smallest: float | None):
    """A nonlinear equation with a given solution of rank 4; its last singular value may be chosen."""
    return given_solution(np.random.default_rng(9), (14, 12), 4, smallest=smallest)


def gradient_flow(smallest: float):
    """Regression from a start of rank 4 with the last singular value given, towards the same matrix turned."""
    d = np.array([1.0, 0.5, 0.25, 0.125])
    whole = rotating(np.random.default_rng(12), (14, 12), rank=4)
    target = Rotating(whole.W1, whole.W2, d).reference(0.5)
    d[-1] = smallest
    return MatrixRegression(target, Rotating(whole.W1, whole.W2, d).reference(0.0))


def scaled_flow(largest: float):
    """Regression whose start has the largest singular value given."""
    whole = rotating(np.random.default_rng(12), (14, 12), rank=4)
    d = np.array([1.0, 0.5, 0.25, 0.125])
    target = Rotating(whole.W1, whole.W2, d).reference(0.5)
    return MatrixRegression(target, Rotating(whole.W1, whole.W2, largest * d).reference(0.0))
