"""A picture for each method, made with the site: its order and robustness, or losses by learning rate."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from matplotlib import rc_context

from dlrt import convergence, solve
from dlrt.plots import STYLE, column_figure, shared_legend, style
from dlrt.registry import with_options
from integrators import Integrator, Tolerance
from problems import MatrixRegression, given_solution, synthetic

STEPS = (8, 16, 32, 64)
TINY = 1e-10
RATES = (1e-3, 1e-2, 1e-1)
ORDER = f"""\
Error at t = 1 over the step size, on a nonlinear equation whose solution has exact rank 4, with the measured slope.
Hollow marks: the same where the last singular value is {TINY:g}. Dotted: the promised order.
"""
LOSSES = "Loss in the regression of a matrix of rank 4, at three learning rates."


def picture(methods: Mapping[str, Integrator]) -> tuple[bytes, str, str]:
    """PNG of the picture of methods of one class, words for what it shows, and a caption."""
    has_order = next(iter(methods.values())).order is not None
    with rc_context(STYLE):
        figure, (axes,) = column_figure(1)
        words = _order(axes, methods) if has_order else _losses(axes, methods)
        shared_legend(figure, [axes])
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=200)
    return out.getvalue(), words, ORDER if has_order else LOSSES


def _order(axes, methods) -> str:
    words = []
    for i, (name, method) in enumerate(methods.items()):
        method = with_options(method, truncation=Tolerance(relative=1e-9))
        usual, tiny = (
            convergence(
                method,
                given_solution(np.random.default_rng(5), shape=(16, 12), rank=4, smallest=smallest),
                STEPS,
                rank=4,
                seed=0,
            )
            for smallest in (None, TINY)
        )
        h = usual.step_sizes
        axes.loglog(h, usual.errors, label=f"{name}: {usual.order:.1f}", **style(method, 2 * i))
        axes.loglog(h, tiny.errors, **style(method, 2 * i + 1))
        axes.loglog(
            h, 0.7 * usual.errors[-1] * (h / h[-1]) ** method.order, color="black", linewidth=0.6, linestyle=":"
        )
        change = float(np.max(tiny.errors / usual.errors))
        words.append(
            f"{name} falls with slope {usual.order:.1f}, "
            f"and a last singular value of {TINY:g} makes its errors at most {change:.1f} times as large"
        )
    axes.set(xlabel="step size", ylabel="error at $t = 1$")
    axes.set_xticks([1 / n for n in STEPS], [f"1/{n}" for n in STEPS])
    axes.set_xticks([], minor=True)
    return f"Error over the step size, both logarithmic: {'; '.join(words)}."


def _losses(axes, methods) -> str:
    problem = MatrixRegression(synthetic((30, 20), [4.0, 3.0, 2.0, 1.0], np.random.default_rng(0)))
    words = []
    for i, (name, method) in enumerate(methods.items()):
        for j, rate in enumerate(RATES):
            run = solve(method, problem, step_size=rate, steps=200, rank=4, seed=0)
            ends = f"ends at {run.losses[-1]:.1e}" if run.status == "finished" else "diverges"
            look = style(method, i * len(RATES) + j) | {"markevery": (0.1, 0.2)}
            axes.semilogy(run.losses, label=f"{name}, rate {rate:g}", **look)
            words.append(f"at rate {rate:g} it {ends}")
    axes.set(xlabel="step", ylabel="loss", ylim=(1e-12, 1e3))
    return f"The loss over 200 steps: {', '.join(words)}."
