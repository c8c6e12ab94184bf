"""A run as pictures: the solution as a movie, and its singular values over time."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.animation import PillowWriter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from integrators.linalg import to_numpy

from .plots import STYLE, column_figure
from .runs import write_atomically

__all__ = ["save_movie", "singular_values_figure"]

FRAMES = 40
SECOND = 12
"""Frames in a second."""
LEAST = 1e-16
"""Singular values below this part of the largest are rounding, and not shown."""


def singular_values_figure(run, title=""):
    """Singular values of a run over time, as many curves as the largest rank.

    Parameters
    ----------
    run : Trajectory
    title : str
    """
    with rc_context(STYLE):
        figure, [axes] = column_figure(1)
        _singular_values(axes, run)
        axes.set_title(title)
    return figure


def _singular_values(axes, run):
    top = np.nanmax(run.singular_values)
    shown = np.where(run.singular_values > LEAST * top, run.singular_values, np.nan)
    axes.plot(run.times, shown, color="#0072B2", linewidth=0.9)
    axes.set(yscale="log", xlabel="time", ylabel="singular values")


def save_movie(run, path, title=""):
    """Write the samples of a run as an animated GIF: the matrix on the left, its singular values on the right.

    All frames have the same colours. A complex matrix is shown by its absolute values, in one hue; a real one that has
    both signs in two hues about a white zero.

    Parameters
    ----------
    run : Trajectory
        With samples, see ``t_eval`` of `solve`: one for each frame.
    path : str or Path
        Ending in ``.gif``.
    title : str
        Above the matrix, before the time.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        The run has no samples, or the path another ending.
    """
    path = Path(path)
    if path.suffix != ".gif":
        raise ValueError(f"path must end in .gif, got {path}")
    if not run.samples:
        raise ValueError("run must have samples: solve(..., t_eval=times of the frames)")
    frames = [to_numpy(Y.full()) for Y in run.samples]
    frames = [abs(W) if np.iscomplexobj(W) else W for W in frames]
    size = max(float(np.max(np.abs(W))) for W in frames) or 1.0
    signed = min(float(np.min(W)) for W in frames) < -1e-3 * size
    colours = {"cmap": "RdBu_r", "vmin": -size} if signed else {"cmap": "viridis", "vmin": 0.0}
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 2.9), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
        image = left.imshow(frames[0], vmax=size, aspect="auto", **colours)
        left.grid(False)
        left.set(xlabel="column", ylabel="row")
        figure.colorbar(image, ax=left)
        _singular_values(right, run)
        now = right.axvline(run.sample_times[0], color="0.3", linewidth=0.8, linestyle="--")
        left.set_title(f"{title}, t = {run.sample_times[-1]:.3g}")  # of the longest of them, for the layout
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        writer = PillowWriter(fps=SECOND)
        with tempfile.TemporaryDirectory() as folder:  # the writer knows names of files only
            whole = Path(folder, path.name)
            with writer.saving(figure, whole, dpi=100):
                for t, W in zip(run.sample_times, frames, strict=True):
                    image.set_data(W)
                    now.set_xdata([t, t])
                    left.set_title(f"{title}, t = {t:.3g}")
                    writer.grab_frame()
            content = whole.read_bytes()
    return write_atomically(path, lambda file: file.write(content))
