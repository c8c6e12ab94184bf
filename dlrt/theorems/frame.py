r"""Five optimisers of LoRA's factors in one frame: each moves W along a function of the same tangent vector."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.linalg

from integrators import FixedRank, GeoLoRA, LoRAMuon, LowRank, Muon, Projections, RiemannianLoRA, Spectral
from integrators.linalg import dagger, gaussian, haar

from .certificate import Certificate, Constant, Series
from .measure import dense, msign, norm, nuclear, rounding, tangent_core
from .spectral_step import direction, scale

Form = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


# -- the published methods, from the factors B, A and their gradients G A, G^H B ---------------------------------------


def lora_muon(B, A, gB, gA):
    r"""LoRA-Muon: each factor's gradient is whitened by the other factor, orthogonalised, and whitened again.

    ``dB = msign(gB R_A) R_A / 2``, ``dA = msign(gA R_B) R_B / 2``, with ``R_X = (X^H X)^{-1/2}``.
    """
    RB, RA = inverse_root(B), inverse_root(A)
    return moved(B, A, msign(gB @ RA) @ RA / 2, msign(gA @ RB) @ RB / 2)


def scaled_gradient(B, A, gB, gA):
    """Zhang and Pilanci's preconditioner: ``dB = gB (A^H A)^{-1}``, ``dA = gA (B^H B)^{-1}``."""
    return moved(B, A, solved(gB, A), solved(gA, B))


def lora_pro(B, A, gB, gA):
    r"""LoRA-Pro: those dB and dA for which ``dB A^H + B dA^H`` is nearest to the full gradient, in closed form.

    ``dB = (I - B (B^H B)^{-1} B^H) gB (A^H A)^{-1} - B X``, ``dA^H = (B^H B)^{-1} gA^H + X A^H``. W moves alike
    for every X; the authors take the one for which dB and dA are nearest to gB and gA:
    ``B^H B X + X A^H A = -(B^H B)^{-1} gA^H A``.
    """
    dB, dA = solved(gB, A), solved(gA, B)
    X = scipy.linalg.solve_sylvester(gram(B), gram(A), -dagger(dA) @ A)
    return moved(B, A, dB - B @ (dagger(solved(B, B)) @ dB) - B @ X, dA + A @ dagger(X))


def lora_rite(B, A, gB, gA):
    """LoRA-RITE's unmagnified gradients ``gB R_A``, ``gA R_B``, each in the plane of the factor it was divided by.

    The two parts are one above the other: ``gB R_A (A R_A)^H`` and ``B R_B (gA R_B)^H``.
    """
    RB, RA = inverse_root(B), inverse_root(A)
    return np.vstack([gB @ RA @ dagger(A @ RA), B @ RB @ dagger(gA @ RB)])


def lora_rite_first_step(B, A, gB, gA):
    """LoRA-RITE's first step: the second moment of an unmagnified gradient X is ``X^H X``, the direction X R_X."""
    RB, RA = inverse_root(B), inverse_root(A)
    X, Z = gB @ RA, gA @ RB
    return moved(B, A, X @ inverse_root(X) @ RA, Z @ inverse_root(Z) @ RB)


def riemannion(B, A, gB, gA):
    """Riemannion: the Riemannian gradient as ``[B, dB] [dA, A]^H``, orthogonalised through QR factors, projected."""
    dB, dA = solved(gB, A), solved(gA, B)
    dB = dB - B @ (dagger(solved(B, B)) @ dB)
    (Q1, R1), (Q2, R2) = np.linalg.qr(np.hstack([B, dB])), np.linalg.qr(np.hstack([dA, A]))
    Z = Q1 @ msign(R1 @ dagger(R2)) @ dagger(Q2)
    QB, QA = np.linalg.qr(B)[0], np.linalg.qr(A)[0]
    rest = Z - QB @ (dagger(QB) @ Z)
    return Z - rest + rest @ QA @ dagger(QA)


FACTOR_FORMS: dict[str, Form] = {
    "(a) LoRA-Muon": lora_muon,
    "(b) scaled gradient": scaled_gradient,
    "(c) LoRA-Pro": lora_pro,
    "(d) LoRA-RITE, unmagnified": lora_rite,
    "(d) LoRA-RITE, first step": lora_rite_first_step,
    "(e) Riemannion": riemannion,
}
"""The direction of W by the published formula, from B (m, r), A (n, r), gB = G A and gA = G^H B, for W = B A^H."""


def gram(X):
    """X^H X."""
    return dagger(X) @ X


def inverse_root(X):
    """``(X^H X)^{-1/2}`` from the Gram matrix, as published: it loses twice the digits that X itself would."""
    values, Q = np.linalg.eigh(gram(X))
    return Q / np.sqrt(values) @ dagger(Q)


def solved(X, Z):
    """``X (Z^H Z)^{-1}`` from the Gram matrix, as published."""
    return dagger(np.linalg.solve(gram(Z), dagger(X)))


def moved(B, A, dB, dA):
    """How W = B A^H moves with its factors, to first order."""
    return dB @ dagger(A) + B @ dagger(dA)


# -- the same from K = G V, L = G^H U and S = U^H G V ------------------------------------------------------------------


def frame_forms(G: np.ndarray, U: np.ndarray, V: np.ndarray) -> dict[str, np.ndarray]:
    """The directions of :data:`FACTOR_FORMS` from the tangent vector of G in orthonormal bases; S need not be known."""
    K, L = G @ V, dagger(G) @ U
    left, right = K @ dagger(V), U @ dagger(L)
    muon = msign(K) @ dagger(V) + U @ dagger(msign(L))
    return {
        "(a) LoRA-Muon": muon / 2,
        "(b) scaled gradient": left + right,
        "(c) LoRA-Pro": left + right - U @ (dagger(U) @ K) @ dagger(V),
        "(d) LoRA-RITE, unmagnified": np.vstack([left, right]),
        "(d) LoRA-RITE, first step": muon,
        "(e) Riemannion": direction(G, U, V)[0],
    }


# -- the certificate ---------------------------------------------------------------------------------------------------

CONDITIONS = (1.0, 1e1, 1e2, 1e3, 1e4, 1e5)
SMALLEST = (1.0, 1e-1, 1e-2, 1e-4, 1e-6)

FACTOR_METHODS = {
    "LoRAMuon()": ("(a) LoRA-Muon", LoRAMuon()),
    "RiemannianLoRA(delta=1e-30)": ("(b) scaled gradient", RiemannianLoRA(delta=1e-30)),
}
"""The project's methods on factors: their identity, and the method."""
TANGENT_METHODS = {
    "GeoLoRA(optimizer=Muon())": ("(a) LoRA-Muon", GeoLoRA(optimizer=Muon(), truncation=FixedRank(3))),
    "GeoLoRA()": ("(c) LoRA-Pro", GeoLoRA()),
    "GeoLoRA(optimizer=Spectral())": ("(e) Riemannion", GeoLoRA(optimizer=Spectral(), truncation=FixedRank(3))),
}
"""The same for methods that move W through K, L and S."""


def one_frame(rank: int = 3, shape: tuple[int, int] = (14, 11), seed: int = 0) -> Certificate:
    r"""Five optimisers for LoRA are five functions of one tangent vector, whatever the factors of W are.

    Let ``W = U S V^H`` with U (m, r), V (n, r) orthonormal and S invertible, let M be invertible, and

    .. math:: B = U M, \qquad A = V S^H M^{-H}, \qquad W = B A^H:

    every pair of factors of W is of this form. With the gradient G of the loss at W, LoRA's gradients are
    ``g_B = G A`` and ``g_A = G^H B``, and W moves to first order by ``dB A^H + B dA^H``. Let

    .. math:: K = G V, \qquad L = G^H U, \qquad P(W) G = K V^H + U L^H - U U^H G V V^H .

    **(a) LoRA-Muon** (Cesista et al. 2026, arXiv:2606.12921) takes ``dB = -lam/2 msign(g_B R_A) R_A`` and ``dA = -lam/2
    msign(g_A R_B) R_B`` with ``R_X = (X^H X)^{-1/2}``. W moves by ``-lam/2 (msign(K) V^H + U msign(L)^H)``. Proof. The
    matrix ``Q_A = V^H A R_A`` is square, and ``Q_A^H Q_A = R_A A^H A R_A = I`` as ``V V^H A = A``: it is unitary, and
    ``A R_A = V Q_A``. Hence ``g_B R_A = K Q_A``, and, as ``msign(X Q) = msign(X) Q`` for unitary Q, ``dB A^H = -lam/2
    msign(K) Q_A (A R_A)^H = -lam/2 msign(K) V^H``. The same holds for dA with ``B R_B = U Q_B``.

    **(b) Zhang and Pilanci** (2024, arXiv:2402.02347) precondition, ``dB = -lam g_B (A^H A)^{-1}`` and
    ``dA = -lam g_A (B^H B)^{-1}``: W moves by ``-lam (K V^H + U L^H)``. Proof. ``A (A^H A)^{-1} A^H`` is the orthogonal
    projector on the range of A, which is that of V; so it is V V^H, and ``B (B^H B)^{-1} B^H = U U^H``. The part
    ``U U^H G V V^H`` of the gradient is counted twice.

    **(c) LoRA-Pro** (Wang et al. 2025, arXiv:2407.18242) asks for the dB and dA with the least
    ``||dB A^H + B dA^H - G||_F`` (see :func:`lora_pro`): W moves by ``-lam P(W) G``. Proof. The matrices
    ``dB A^H + B dA^H`` are those ``Z V^H + U X^H`` with any Z and X: the tangent space at W; the nearest of a subspace
    is the orthogonal projection. So LoRA-Pro with plain descent is the step of GeoLoRA before truncation, and
    :class:`~dlrt.theorems.Descent` and :class:`~dlrt.theorems.Convergence` speak of it, up to the term ``dB dA^H`` of
    second order that the factors add.

    **(d) LoRA-RITE** (Yen et al. 2025, arXiv:2410.20625) divides each gradient by the size of the other factor, that of
    its polar decomposition: the *unmagnified* gradients ``g_B R_A = K Q_A`` and ``g_A R_B = L Q_B`` are K and L in the
    bases ``V Q_A`` and ``U Q_B``, as seen in (a). (A QR decomposition gives other unitary matrices.) The second moment
    of an unmagnified gradient X is a matrix of size r, in the first step ``X^H X``, so that the direction is
    ``X (X^H X)^{-1/2} = msign(X)``: the first step, and every step without memory, is twice that of LoRA-Muon, as the
    authors of the latter say too.

    **(e) Riemannion** (Bogachev et al. 2025, arXiv:2507.12142) moves W by ``-lam P(W) msign(P(W) G)``. In bases
    ``U^ = [U | Ut]``, ``V^ = [V | Vt]`` that contain the ranges of K and L, ``P G = U^ C V^^H`` with
    ``C = [[U^H G V, L^H Vt], [Ut^H K, 0]]``, so ``msign(P G) = U^ msign(C) V^^H``, and since
    ``P(U^ X V^^H) = X^ - Ut X_22 Vt^H``, P sets the last block of msign(C) to zero. It is the step of
    :class:`~dlrt.theorems.SpectralStep`.

    None of the directions depends on M, and none on S but through U and V: they are defined, and computed to rounding,
    where S is singular, while the factor forms have the inverses of ``A^H A`` and ``B^H B``.

    **What the factors add.** If ``dB A^H = Z V^H`` and ``B dA^H = U X^H``, then W moves by these and

    .. math:: dB\, dA^H = Z S^{-1} X^H :

    ``dB = Z (V^H A)^{-H}``, ``dA = X (U^H B)^{-H}``, and ``(V^H A)^{-H} (U^H B)^{-1} = (U^H B A^H V)^{-1}``. So the
    steps (a) and (b) do not depend on M either, but now S is divided by: the product of the factors is a retraction
    that is good for ``lam`` far below sigma_r only. GeoLoRA moves along the same directions and then goes to the
    nearest matrix of rank r, no further than ``lam sqrt(r)`` for (e), whatever the singular values
    (:class:`~dlrt.theorems.SpectralStep`).

    **Half of the descent.** (a) is a tangent vector of spectral norm at most 1, with
    ``<G, D> = (||K||_* + ||L||_*) / 2`` in the nuclear norm, so that

    .. math:: \tfrac12 \|P G\|_* \le \langle G, D \rangle \le \|P G\|_*,

    and the upper bound is what (e) attains, in a spectral norm of at most ``2 / sqrt(3)``. Proof. ``<G, msign(K) V^H> =
    <K, msign(K)>``. K and L are the first columns and rows of C, up to unitary factors, so neither has a larger nuclear
    norm; and C is the sum of its columns ``K`` and of ``U L^H Vt Vt^H``, whose nuclear norm is at most that of L.

    What is compared: the direction of W from the published formula with that in the frame, relative to the size of the
    latter, for random U, V, G and M of condition 1 to 1e5, real and complex; and for M = I with a smallest singular
    value of S from 1 to 1e-6. One step of the project's own methods with the same: of :class:`~integrators.LoRAMuon`
    and :class:`~integrators.RiemannianLoRA` from the same factors, and of GeoLoRA with its optimisers from points with
    a smallest singular value down to 0. Slack: ``max(m, n) eps (kappa_B^2 + kappa_A^2) kappa``. The formulas take the
    factors through their Gram matrices, whose smallest eigenvalue has the relative error ``eps kappa^2``, kappa the
    condition of the factor; and the polar factor of X changes by at most ``2 ||E||_F / (sigma_min(X) + sigma_min(X +
    E))``, so that errors of what is orthogonalised, K, L or C, are multiplied by its condition, squared where X^H X is
    formed (the first step of LoRA-RITE).

    Parameters
    ----------
    rank : int
    shape : (int, int)
    seed : int
    """
    rng = np.random.default_rng(seed)
    eps = float(np.finfo(np.float64).eps)
    scenes = []
    for condition in CONDITIONS:
        for dtype in (np.float64, np.complex128):
            scenes.append(("cond(M)", condition, _Scene(shape, rank, rng, dtype, condition, 0.25)))
    for smallest in SMALLEST:
        scenes.append(("sigma_r", smallest, _Scene(shape, rank, rng, np.float64, 1.0, smallest)))
    rows: dict[tuple[str, str], list] = {}
    for parameter, value, scene in scenes:
        frame = frame_forms(scene.G, scene.Y.U, scene.Y.V)
        for name, form in FACTOR_FORMS.items():
            error = norm(form(*scene.factors) - frame[name]) / norm(frame[name])
            slack = max(shape) * eps * scene.kappa * scene.sensitivity(name)
            rows.setdefault((name, parameter), []).append((value, error, 0.0, slack))
    found = [
        Series.of(f"{name}, over {parameter}", parameter, row, "||factors - frame|| / ||frame||", "0")
        for (name, parameter), row in rows.items()
    ]
    found += _half_of_the_descent([scene for _, _, scene in scenes], eps)
    found += _factor_steps([(value, scene) for parameter, value, scene in scenes if parameter == "cond(M)"], eps)
    found += _tangent_steps([(x, _Scene(shape, rank, rng, np.float64, 1.0, x)) for x in (*SMALLEST, 1e-12, 0.0)])
    return Certificate(
        theorem="one-frame",
        statement="LoRA-Muon, scaled gradient, LoRA-Pro, LoRA-RITE and Riemannion move W along functions of P(W) G",
        source="derived; arXiv:2606.12921, 2402.02347, 2407.18242, 2410.20625, 2507.12142",
        integrator="five optimisers",
        problem="random factors",
        series=tuple(found),
        constants={
            "largest kappa": Constant(
                max(math.sqrt(scene.kappa) for _, _, scene in scenes), "condition numbers of the factors"
            )
        },
        promise="derived for all factors of full rank",
    )


def _factor_steps(scenes, eps) -> list[Series]:
    """One step of the project's methods that move factors, with step size 1 in the frame; to first order, and whole."""
    found = []
    for name, (form, method) in FACTOR_METHODS.items():
        rows, whole = [], []
        for condition, scene in scenes:
            (U, S, V), B, A = scene.Y, scene.B, scene.A
            start = method.init(LowRank(B, np.eye(B.shape[1], dtype=B.dtype), A))
            after = method.step(scene.field, 0.0, start, 1 / length(form, scene.Y)).state.Y
            D = frame_forms(scene.G, U, V)[form]
            error = norm(moved(B, A, B - after.U, A - after.V) - D) / norm(D)
            slack = max(scene.Y.shape) * eps * scene.kappa * scene.sensitivity(form)
            slack += 10 * eps * norm(B) * norm(A) / norm(D)
            rows.append((condition, error, 0.0, slack))
            Z, X = (B - after.U) @ dagger(A) @ V, (A - after.V) @ dagger(B) @ U
            second = Z @ np.linalg.solve(S, dagger(X))
            error = norm(dense(scene.Y) - dense(after) - D + second) / norm(D)
            whole.append((condition, error, 0.0, slack * (1 + 2 * norm(second) / norm(D))))
        label = "||factors - frame|| / ||frame||"
        found.append(Series.of(f"{form}: {name}", "cond(M)", rows, label, "0"))
        found.append(Series.of(f"{form}: {name}, with Z S^-1 X^H", "cond(M)", whole, label, "0"))
    return found


def _tangent_steps(scenes) -> list[Series]:
    """One step of the project's methods that move W through K, L and S, with step size 1 in the frame."""
    found = []
    for name, (form, method) in TANGENT_METHODS.items():
        rows = []
        for smallest, scene in scenes:
            U, _, V = scene.Y
            step = method.step(scene.field, 0.0, method.init(scene.Y), 1 / length(form, scene.Y))
            W1 = dense(step.augmented)
            D = frame_forms(scene.G, U, V)[form]
            error = norm(dense(scene.Y) - W1 - D) / norm(D)
            slack = rounding(scene.Y, norm(dense(scene.Y)), norm(D)) / norm(D) * scene.sensitivity(form)
            rows.append((smallest, error, 0.0, slack))
        found.append(Series.of(f"{form}: {name}", "sigma_r", rows, "||W - W1 - frame|| / ||frame||", "0"))
    return found


def length(form: str, Y: LowRank) -> float:
    """By what the project multiplies a direction of the frame: orthogonalised ones have the size of Adam's steps."""
    return scale(Y) if form.startswith(("(a)", "(e)")) else 1.0


def _half_of_the_descent(scenes, eps) -> list[Series]:
    lower, upper = [], []
    for k, scene in enumerate(scenes):
        U, _, V = scene.Y
        whole = nuclear(tangent_core(scene.G, U, V)[1])
        muon = float(np.real(np.vdot(scene.G, frame_forms(scene.G, U, V)["(a) LoRA-Muon"])))
        slack = sum(scene.G.shape) * eps * whole
        lower.append((k, whole / 2, muon, slack))
        upper.append((k, muon, whole, slack))
    return [
        Series.of("LoRA-Muon descends by half at least", "scene", lower, "||P G||_* / 2", "<G, D>"),
        Series.of("and by no more than Riemannion", "scene", upper, "<G, D>", "||P G||_*"),
    ]


class _Scene:
    """A point, a gradient, and factors of the point: ``B = U M``, ``A = V S^H M^{-H}``."""

    def __init__(self, shape, rank, rng, dtype, condition, smallest):
        like = np.zeros((), dtype)
        values = np.geomspace(1.0, smallest or 1e-12, rank)
        values[-1] = smallest
        self.Y = LowRank.random(shape, rank, rng, like, values)
        self.G = gaussian(shape, rng, dtype)
        P, Q = haar(rank, rank, rng, dtype), haar(rank, rank, rng, dtype)
        sizes = np.geomspace(1.0, 1 / condition, rank)
        U, S, V = self.Y
        self.B, self.A = U @ P * sizes @ Q, V @ dagger(S) @ P / sizes @ Q

    def field(self, t, Y):
        """Minus the gradient through the bases of Y."""
        return Projections.of(-self.G, Y)

    @property
    def factors(self):
        """B, A and their gradients."""
        return self.B, self.A, self.G @ self.A, dagger(self.G) @ self.B

    @property
    def kappa(self) -> float:
        """The squared condition numbers of the two factors, added."""
        return float(np.linalg.cond(self.B) ** 2 + np.linalg.cond(self.A) ** 2)

    def sensitivity(self, name: str) -> float:
        """How much an orthogonalisation multiplies relative errors."""
        U, _, V = self.Y
        if "Riemannion" in name:
            return float(np.linalg.cond(tangent_core(self.G, U, V)[1]))
        blocks = max(float(np.linalg.cond(X)) for X in (self.G @ V, dagger(self.G) @ U))
        return {"(a) LoRA-Muon": blocks, "(d) LoRA-RITE, first step": blocks**2}.get(name, 1.0)
