"""Movies: one frame for each sample, colours that stay the same, and the singular values beside them."""

import numpy as np
import pytest
from PIL import Image

import problems
from dlrt import solve
from dlrt.movie import save_movie, singular_values_figure
from integrators import BUG


def run(problem, frames=3, steps=4):
    times = np.linspace(0.0, 1.0, frames)
    return solve(BUG(), problem, step_size=1 / steps, steps=steps, rank=2, t_eval=times if frames else None)


@pytest.fixture(params=["float64", "complex128"])
def problem(request):
    return problems.given_solution(np.random.default_rng(0), (12, 9), rank=2, dtype=np.dtype(request.param).type)


def test_movie(problem, tmp_path):
    path = save_movie(run(problem), tmp_path / "new" / "movie.gif", "given-solution")
    with Image.open(path) as movie:
        assert movie.format == "GIF" and movie.n_frames == 3 and movie.info["loop"] == 0
        pictures = []
        for k in range(3):
            movie.seek(k)
            pictures.append(np.asarray(movie.convert("RGB")))
    assert not np.array_equal(pictures[0], pictures[2])
    assert [p.name for p in path.parent.iterdir()] == ["movie.gif"]


def test_what_it_needs(problem, tmp_path):
    with pytest.raises(ValueError, match=r"path must end in \.gif, got .*mp4"):
        save_movie(run(problem), tmp_path / "movie.mp4")
    with pytest.raises(ValueError, match="run must have samples"):
        save_movie(run(problem, frames=0), tmp_path / "movie.gif")


def test_singular_values():
    """A curve for each direction; what is rounding is not shown."""
    problem = problems.given_solution(np.random.default_rng(0), (12, 9), rank=2)
    done = run(problem)
    [axes] = singular_values_figure(done, "a title").axes
    assert axes.get_title() == "a title" and axes.get_yscale() == "log" and len(axes.lines) == 2
    for line, values in zip(axes.lines, done.singular_values.T, strict=True):
        assert np.array_equal(line.get_xdata(), done.times) and np.array_equal(line.get_ydata(), values)
    start = problem.initial(4, np.random.default_rng(0))
    still = solve(BUG(), problem, start=start, step_size=0.1, steps=0)  # the last two are zero
    [axes] = singular_values_figure(still).axes
    assert [np.isnan(line.get_ydata()).all() for line in axes.lines] == [False, False, True, True]
