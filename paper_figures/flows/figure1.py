r"""Figure 1 of the GeoLoRA paper: simultaneous descent comes to rest where the Riemannian gradient flow does not.

The paper draws the two flows on the manifold. Here they are computed, on the smallest problem that shows it:
``min 1/2 ||W - A||_F^2`` over symmetric 2 x 2 matrices of rank 1, with a symmetric A that has the eigenvalues
``lam_1 > 0 > lam_2``, ``lam_1 > |lam_2|``. In the coordinates ``x = (w_11 - w_22) / sqrt 2``, ``y = sqrt 2 w_12``,
``z = (w_11 + w_22) / sqrt 2``, which keep the Frobenius norm, these matrices are the double cone ``x^2 + y^2 = z^2``.
Both flows keep to it from a symmetric start ``U = V = u``:

- simultaneous descent on U, S, V: ``u' = -s G u``, ``s' = -u^T G u``, hence ``W' = -P^ G``,
  ``P^ G = s^2 G u u^T |u|^2 + u u^T G u u^T + s^2 |u|^2 u u^T G``;
- the Riemannian gradient flow ``W' = -P G`` with the orthogonal projection P on the tangent space.

**The point of rest.** At s = 0, where ``W = 0`` and ``G = -A``, simultaneous descent rests as soon as ``u^T A u = 0``,
but ``P G = -(u u^T A + A u u^T)`` is not zero (P taken with the bases at hand, as for every singular S). The
linearisation there in s and ``q = u^T A v``, v the distance of u, is ``s' = 2 q - |u|^4 s``, ``q' = |A u|^2 s``: a
saddle. On its stable manifold the flow ends at this point. Starts on one side of it pass close by and go on; those on
the other side go *through* the tip to the lower cone, where they end at ``lam_2 w w^T``. The Riemannian flow turns u
faster the nearer it is to the tip and reaches ``lam_1 v v^T``, the best approximation of rank 1.

Both flows are followed with small steps of `SVDLoRA` and of `GeoLoRA` (rank 1). The start on the stable manifold is
found by bisection over the angle of u to all digits; then rounding takes the iterate away again after some time.
"""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from dlrt import solve
from dlrt.plots import COLOURS, WIDTH, style
from integrators import FixedRank, GeoLoRA, LowRank, SVDLoRA
from problems import MatrixRegression

from ..pictures import legend_above
from ..statements import each, finding
from ..tasks import cases, rows

TARGET = np.array([[0.0, 0.5], [0.5, 0.75]])
"""Eigenvalues 1 and -1/4; ``e_1^T A e_1 = 0`` exactly."""
START = 0.8
"""s at the start, |u| = 1; simultaneous descent keeps ``|u|^2 - s^2 = 0.36``."""
STEP = 0.01
HORIZON = 50.0
RATE = 0.5
"""Step size of the single steps made at the point of rest."""


def target(seed):
    """The matrix A: that of the picture (0), or one with random eigenvectors and eigenvalues."""
    if seed == 0:
        return TARGET
    rng = np.random.default_rng([seed, 1])
    angle, values = rng.uniform(0, math.pi), [rng.uniform(0.8, 1.5), rng.uniform(-0.6, -0.2)]
    Q = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    A = (Q * values) @ Q.T
    return (A + A.T) / 2


def point(angle, s):
    """``s u u^T`` with ``u = (cos angle, sin angle)``."""
    u = np.array([[math.cos(angle)], [math.sin(angle)]])
    return LowRank(u, np.array([[s]]), u)


def angles(A):
    """The angle of the eigenvector w of the negative eigenvalue, and that of a u next to it with ``u^T A u = 0``."""
    (low, high), X = np.linalg.eigh(A)
    w = math.atan2(X[1, 0], X[0, 0])
    between = math.atan(math.sqrt(-low / high))  # u = cos w + sin v: u^T A u = lam_2 cos^2 + lam_1 sin^2
    zeros = [math.remainder(w + sign * between, math.pi) for sign in (1, -1)]
    zero = min(zeros, key=abs)  # for TARGET: 0, that is e_1
    return zero + math.remainder(w - zero, math.pi), zero


def hat_projection(Y, G):
    """``P^ G = G V S^T S V^T + U U^T G V V^T + U S S^T U^T G``."""
    U, S, V = Y.U, Y.S, Y.V
    return G @ V @ S.T @ S @ V.T + U @ U.T @ G @ V @ V.T + U @ S @ S.T @ U.T @ G


def projection(Y, G):
    """``P G`` with the projectors on the ranges of U and V, whatever the lengths of their columns."""
    U, V = Y.U / np.linalg.norm(Y.U), Y.V / np.linalg.norm(Y.V)
    return U @ U.T @ G + G @ V @ V.T - U @ U.T @ G @ V @ V.T


def sides(A, angles, h):
    """Where simultaneous descent from each angle passes the point of rest: -1 through the tip, 1 above it, else 0."""
    method, problem = SVDLoRA(), MatrixRegression(A)
    state = method.init(LowRank(*(np.stack(X) for X in zip(*(point(angle, START) for angle in angles), strict=True))))
    passed = np.zeros(len(angles), dtype=int)
    for _ in range(round(4 * HORIZON / h)):  # long enough for a rounding error to decide
        state = method.step(problem.field, 0.0, state, h).state
        s, u = state.Y.S[:, 0, 0], state.Y.U[:, :, 0]
        now = np.where(s < -0.02, -1, (s > 0.02) & (np.einsum("ai,ij,aj->a", u, A, u) > 0.02))
        passed = np.where(passed, passed, now)
        if passed.all():
            break
    return passed


def separatrix(A, h, accuracy=0.0, parts=128):
    """The angle of the start from which simultaneous descent ends at the point of rest; by default to all digits.

    The interval is cut into `parts`, whose ends start together in a stack, until nothing lies between two of them.
    """
    through, above = angles(A)
    while True:
        between = [through + k / parts * (above - through) for k in range(1, parts)]
        between = [angle for angle in dict.fromkeys(between) if angle not in (through, above)]
        if not between or abs(above - through) < accuracy:
            return 0.5 * (through + above)
        where = sides(A, between, h)
        if not where.all():
            return between[int(np.argmin(np.abs(where)))]
        last = int(np.sum(where < 0))  # those that go through the tip come first
        through, above = [through, *between, above][last : last + 2]


def follow(method, A, angle, h):
    """The run from a start on the upper cone, with S and the matrix at every step."""
    seen = [point(angle, START)]

    def watch(record):
        seen.append(record.state.Y)

    steps = round(HORIZON / h)
    run = solve(method, MatrixRegression(A), step_size=h, steps=steps, start=seen[0], callback=watch).checked()
    return run, seen


# -- tasks -------------------------------------------------------------------------------------------------------------


def flows(seed, h):
    """Both flows from the start on the stable manifold, and from one that leads through the tip."""
    A = target(seed)
    values = np.linalg.eigvalsh(A)
    angle = separatrix(A, h)
    simultaneous, points = follow(SVDLoRA(), A, angle, h)
    riemannian, _ = follow(GeoLoRA(truncation=FixedRank(1)), A, angle, h)
    k = int(np.argmin([np.linalg.norm(Y.full()) for Y in points]))
    rest, G = points[k], points[k].full() - A
    near_zero = [abs(loss - 0.5 * np.sum(values**2)) < 1e-3 for loss in simultaneous.losses]
    beside = angle + 0.5 * (angles(A)[0] - angle)
    through, _ = follow(SVDLoRA(), A, beside, h)
    above, _ = follow(GeoLoRA(truncation=FixedRank(1)), A, beside, h)
    return {
        "angle": angle,
        "eigenvalues": values.tolist(),
        "norm_at_rest": float(np.linalg.norm(rest.full())),
        "time_at_rest": float(h * np.sum(near_zero)),
        "simultaneous_gradient": float(np.linalg.norm(hat_projection(rest, G))),
        "riemannian_gradient": float(np.linalg.norm(projection(rest, G))),
        "symmetric": bool(max(np.abs(Y.U - Y.V).max() for Y in points) == 0),
        "riemannian_excess": float(riemannian.losses[-1] - 0.5 * values[0] ** 2),
        "riemannian_least_norm": float(riemannian.singular_values.min()),
        "through_excess": float(through.losses[-1] - 0.5 * values[1] ** 2),
        "beside_riemannian_excess": float(above.losses[-1] - 0.5 * values[0] ** 2),
    }


def at_rest(rate=RATE):
    """The two projections at W = 0, U = V = e_1, and a step of each method from there."""
    problem, Y = MatrixRegression(TARGET), point(0.0, 0.0)
    G = problem.gradient(Y).full()
    svd_lora, geolora = SVDLoRA(), GeoLoRA.published()
    after = svd_lora.step(problem.field, 0.0, svd_lora.init(Y), rate).state.Y
    augmented = geolora.step(problem.field, 0.0, geolora.init(Y), rate).augmented
    return {
        "simultaneous_gradient": float(np.linalg.norm(hat_projection(Y, G))),
        "riemannian_gradient": float(np.linalg.norm(projection(Y, G))),
        "svd_lora_rests": all(np.array_equal(getattr(after, name), getattr(Y, name)) for name in "USV"),
        "decrease": problem.loss(Y) - problem.loss(augmented),
        "promised": rate * (1 - rate / 2) * float(np.linalg.norm(projection(Y, G))) ** 2,
    }


def separatrix_angle(h):
    """The start of the picture for another step size, to more digits than those by which step sizes differ."""
    return {"angle": separatrix(TARGET, h, accuracy=1e-9)}


# -- the figure --------------------------------------------------------------------------------------------------------


def compute(runs, quick):
    """Both flows for 20 matrices A in steps of 0.01; quick: for that of the picture, in steps of 0.05."""
    seeds, h = (range(1), 5 * STEP) if quick else (range(20), STEP)
    groups = {
        "at_rest": [(at_rest, {})],
        "angles": cases(separatrix_angle, h=[2 * h, h, h / 2]),
        "flows": cases(flows, seed=seeds, h=[h]),
    }
    found = runs.groups(groups)
    return {
        "settings": {
            "target": TARGET.tolist(),
            "other_targets": "random eigenvectors, eigenvalues in (0.8, 1.5) and (-0.6, -0.2); default_rng([seed, 1])",
            "start": f"{START} u u^T, |u| = 1, U = V = u",
            "step_size": h,
            "horizon": HORIZON,
            "rate_at_rest": RATE,
            "seeds": list(seeds),
        },
        "at_rest": found["at_rest"][0],
        "angles": [{"step_size": r["h"], "angle": r["angle"]} for r in rows(groups["angles"], found["angles"])],
        "flows": found["flows"],
    }


def statements(data):
    """What is claimed of the flows and of the point of rest."""
    rest, runs = data["at_rest"], data["flows"]
    first, second, third = (a["angle"] for a in data["angles"])
    ratio = (first - second) / (second - third)
    return {
        "at W = 0, U = V = e₁: P̂∇L = 0 exactly, P∇L is not, and SVD-LoRA stays there bit for bit": finding(
            f"‖P̂∇L‖ = {rest['simultaneous_gradient']:g}, ‖P∇L‖ = {rest['riemannian_gradient']:.4f}",
            [rest["simultaneous_gradient"] == 0 and rest["riemannian_gradient"] > 0.5 and rest["svd_lora_rests"]],
            paper="P̂∇L = 0, P∇L ≠ 0",
        ),
        "a GeoLoRA step from there lowers the loss by at least λ(1 − λ/2)‖P∇L‖² before truncation": finding(
            f"{rest['decrease']:.4f}, promised {rest['promised']:.4f}",
            [rest["decrease"] >= rest["promised"] * (1 - 1e-12)],
        ),
        "the simultaneous flow from a start of rank 1 comes within 10⁻⁶ of such a point": each(
            runs,
            "‖W‖ {norm_at_rest:.1e}, ‖P̂∇L‖ {simultaneous_gradient:.1e}, ‖P∇L‖ {riemannian_gradient:.2f}",
            lambda r: max(r["norm_at_rest"], r["simultaneous_gradient"]) < 1e-6 and r["riemannian_gradient"] > 0.1,
            paper="P̂∇L = 0, P∇L ≠ 0",
        ),
        "and stays near it for more than 10 units of time, until rounding has grown": each(
            runs, "{time_at_rest:.0f}", lambda r: r["time_at_rest"] > 10
        ),
        "the Riemannian flow from the same start reaches the best approximation of rank 1": each(
            runs,
            "loss above the minimum {riemannian_excess:.1e}; least ‖W‖ {riemannian_least_norm:.2f}",
            lambda r: abs(r["riemannian_excess"]) < 1e-9,
        ),
        "starts beside it: the simultaneous flow goes through W = 0 to λ₂wwᵀ, the Riemannian one to the best": each(
            runs,
            "loss above λ₁²/2 {through_excess:.1e}, above the minimum {beside_riemannian_excess:.1e}",
            lambda r: max(abs(r["through_excess"]), abs(r["beside_riemannian_excess"])) < 1e-9,
        ),
        "it belongs to the flow, not to the step: the angle of the start converges with order 1": finding(
            f"{first:.5f}, {second:.5f}, {third:.5f}; ratio of differences {ratio:.2f}", [1.6 < ratio < 2.5]
        ),
    }


def coordinates(W):
    """(x, y, z) of symmetric matrices (..., 2, 2)."""
    W = np.asarray(W)
    a, b, c = W[..., 0, 0], W[..., 0, 1], W[..., 1, 1]
    return np.stack([(a - c) / math.sqrt(2), math.sqrt(2) * b, (a + c) / math.sqrt(2)], axis=-1)


def draw(data):
    """The cone with both flows; the same from above with the loss; the two gradients along the simultaneous flow."""
    angle, h = data["flows"][0]["angle"], data["settings"]["step_size"]
    simultaneous, points = follow(SVDLoRA(), TARGET, angle, h)
    _, others = follow(GeoLoRA(truncation=FixedRank(1)), TARGET, angle, h)
    arrived = int(np.argmin([np.linalg.norm(Y.full()) for Y in points]))
    one, two = (coordinates([Y.full() for Y in run]) for run in (points[: arrived + 1], others))
    values, X = np.linalg.eigh(TARGET)
    best = coordinates(values[1] * np.outer(X[:, 1], X[:, 1]))
    ours = style("geolora") | {"marker": "", "linewidth": 1.8}
    theirs = style("svd-lora") | {"marker": "", "linewidth": 1.8, "linestyle": "--"}
    curves = (
        (one, {**theirs, "label": r"simultaneous: $\dot W = -\hat P \nabla L$"}),
        (two, {**ours, "label": r"Riemannian: $\dot W = -P \nabla L$"}),
    )
    mark = {"linestyle": "none", "markersize": 8, "markeredgecolor": "white", "zorder": 6}
    marks = (
        (one[0], {**mark, "marker": "o", "color": "black", "label": "start"}),
        (np.zeros(3), {**mark, "marker": "X", "color": theirs["color"], "label": "point of rest"}),
        (best, {**mark, "marker": "*", "markersize": 12, "color": COLOURS[3], "label": "optimum"}),
    )

    figure = Figure(figsize=(WIDTH, 6.6), layout="constrained")
    grid = figure.add_gridspec(3, 1, height_ratios=[2.4, 2.2, 1.4])
    _draw_cone(figure.add_subplot(grid[0], projection="3d", computed_zorder=False), curves, marks)
    axes = figure.add_subplot(grid[1])
    _draw_from_above(axes, curves, marks)
    legend_above(figure, axes)

    axes = figure.add_subplot(grid[2])
    for gradient, label, look in (
        (projection, r"$\|P \nabla L\|$", ours),
        (hat_projection, r"$\|\hat P \nabla L\|$", theirs),
    ):
        norms = [np.linalg.norm(gradient(Y, Y.full() - TARGET)) for Y in points]
        axes.semilogy(simultaneous.times, norms, **{**look, "label": label, "linewidth": 1.2})
    axes.set(xlabel="time", ylabel="norm", xlim=(0, HORIZON), ylim=(None, 20))
    axes.legend(frameon=False, loc="lower left")
    axes.set_title("(c) gradients along the simultaneous flow")
    return figure


def _draw_cone(axes, curves, marks):
    axes.set_proj_type("ortho")
    turn, height = np.meshgrid(np.linspace(0, 2 * np.pi, 49), np.linspace(-0.4, 0.85, 11))
    cone = height * np.cos(turn), height * np.sin(turn), height
    axes.plot_surface(*cone, color="#BBBBBB", alpha=0.35, linewidth=0, zorder=1)
    axes.plot_wireframe(*cone, color="#888888", linewidth=0.25, rstride=4, cstride=6)
    for path, look in curves:
        axes.plot(*path.T, **look, zorder=5)
    for place, look in marks:
        axes.plot(*place[:, None], **look)
    axes.view_init(elev=24, azim=35)
    axes.set_box_aspect((1, 1, 0.7), zoom=1.15)
    axes.set(xticks=[-0.5, 0, 0.5], yticks=[-0.5, 0, 0.5], zticks=[0, 0.5])
    axes.tick_params(labelleft=False, labelbottom=False, labelright=False, length=0)
    for name in "xyz":
        getattr(axes, f"set_{name}label")(f"${name}$", labelpad=-14)
    axes.set_title("(a) symmetric matrices of rank 1: $x^2 + y^2 = z^2$")


def _draw_from_above(axes, curves, marks):
    x, y = np.meshgrid(np.linspace(-1.2, 1.0, 161), np.linspace(-0.75, 0.95, 161))
    s, turn = np.hypot(x, y) * math.sqrt(2), np.arctan2(y, x) / 2  # W = s q q^T, q = (cos, sin)(turn)
    q = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    loss = 0.5 * (s**2 - 2 * s * np.einsum("...i,ij,...j", q, TARGET, q) + np.sum(TARGET**2))
    levels = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]
    lines = axes.contour(x, y, loss, levels=levels, colors="#999999", linewidths=0.6)
    axes.clabel(lines, fontsize=6, fmt="%g", manual=[(-0.6, 0.35), (-0.6, 0.1), (-0.6, -0.2), (-0.6, -0.5)])
    for path, look in curves:
        axes.plot(path[:, 0], path[:, 1], **look)
    for place, look in marks:
        axes.plot(*place[:2, None], **look)
    axes.set(xlabel=r"$x = (w_{11} - w_{22})/\sqrt{2}$", ylabel=r"$y = \sqrt{2}\, w_{12}$", aspect="equal")
    axes.grid(False)
    axes.set_title("(b) the upper cone from above, with the loss")
