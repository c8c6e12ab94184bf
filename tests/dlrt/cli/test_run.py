"""``dlrt run``: trajectory, singular values, movie, and one clear line for every mistake."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dlrt import Trajectory, movie
from dlrt.cli import app
from dlrt.registry import build_problem
from integrators import BUG

runner = CliRunner()
SMALL = ("--size", 10, "--rank", 3)


def run(*arguments):
    return runner.invoke(app, [str(argument) for argument in ("run", *arguments)])


def test_run_writes_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(movie, "FRAMES", 4)
    options = ("--step-size", 0.07, "--substep", "heun", "--movie", "--out", tmp_path)
    result = run("given-solution", "--method", "bug", *SMALL, *options)
    assert result.exit_code == 0, result.output
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"trajectory.npz", "singular-values.png", "singular-values.pdf", "movie.gif"}
    done = Trajectory.load(tmp_path / "trajectory.npz")
    assert done.times[-1] == pytest.approx(1.0) and done.steps[-1] == 14 and done.ranks[-1] == 3
    assert "Heun" in str(done.meta["integrator"]["substep"])
    assert np.allclose(done.sample_times, [0, 0.25, 0.5, 0.75, 1.0]) and len(done.samples) == 5
    with Image.open(tmp_path / "movie.gif") as pictures:
        assert pictures.n_frames == 5
    exact = build_problem("given-solution", {"size": 10}).reference(1.0)
    error = np.linalg.norm(done.Y.full() - exact) / np.linalg.norm(exact)
    assert f"finished, 14 steps to t = 1, rank 3, relative error {error:.1e}" in result.output


def test_step_size_control_and_no_movie(tmp_path):
    result = run("lyapunov", "--method", "augmented-bug", *SMALL, "--rtol", 1e-2, "--atol", 1e-4, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "movie.gif").exists()
    done = Trajectory.load(tmp_path / "trajectory.npz")
    assert done.meta["control"]["rtol"] == 1e-2 and done.meta["control"]["atol"] == 1e-4 and not done.samples
    assert done.times[-1] == 0.5


def test_a_run_that_diverges_is_a_result(tmp_path):
    """Explicit steps of a stiff equation: the run ends early, and what there is of it is kept and drawn."""
    arguments = ("--method", "projected-runge-kutta-1", *SMALL, "--step-size", 50, "--steps", 300, "--movie")
    result = run("fokker-planck", *arguments, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "diverged at step" in result.output
    assert Trajectory.load(tmp_path / "trajectory.npz").status.startswith("diverged")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "Interrupted."),
        (ZeroDivisionError("no"), 2, "failed at step 3: ZeroDivisionError: no"),
    ],
)
def test_a_run_that_is_stopped(error, code, message, tmp_path, monkeypatch):
    """What there is of a run that Ctrl-C ends is saved; one that fails says so, and is an error."""
    original, calls = BUG.step, []

    def step(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise error
        return original(*arguments)

    monkeypatch.setattr(BUG, "step", step)
    result = run("given-solution", "--method", "bug", *SMALL, "--out", tmp_path)
    assert result.exit_code == code and message in result.stderr
    assert (tmp_path / "trajectory.npz").exists() == (code == 130)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rotatin", "--method", "bug"], "unknown problem 'rotatin', did you mean 'rotating'?"),
        (["rotating", "--method", "bgu"], "unknown integrator 'bgu', did you mean 'bug'?"),
        (["rotating", "--method", "bug", "--rank", "0"], "--rank must be at least 1, got 0"),
        (["rotating", "--method", "bug", "--rank", "101"], "--rank 101 exceeds min(m, n) = 100"),
        (["rotating", "--method", "bug", "--step-size", "-1"], "--step-size must be positive and finite, got -1.0"),
        (["rotating", "--method", "bug", "--step-size", "1e-12"], "--step-size 1e-12 would take 1000000000 steps"),
        (["rotating", "--method", "bug", "--atol", "1e-3"], "--atol needs --rtol"),
        (["rotating", "--method", "bug", "--rtol", "1e-3", "--step-size", "0.1"], "--step-size is for steps of given"),
        (["rotating", "--method", "bug", "--tau", "0.1"], "--tau applies to none of bug"),
        (["rotating", "--method", "lora", "--movie"], "needs a method with an order"),
        (["allen-cahn", "--method", "bug", "--substep", "exact"], "has no exact sub-flows"),
        (["rotating", "--method", "bug,lora"], "--method must be one name, got 'bug,lora'"),
    ],
)
def test_mistakes_are_answered_with_one_line(arguments, message, tmp_path):
    result = run(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2
    [line] = result.stderr.strip().splitlines()
    assert line.startswith("dlrt: error: ") and message in line
