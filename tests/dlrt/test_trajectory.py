"""Files of trajectories: what is read is what was written, and damage is refused."""

import json

import numpy as np
import pytest

import problems
from dlrt import Trajectory, solve
from integrators import BUG, ProjectorSplitting

TARGET = problems.synthetic((12, 9), [4.0, 3.0, 2.0], np.random.default_rng(0))
REGRESSION = problems.MatrixRegression(TARGET)


def test_complex_torch_states_are_recorded(tmp_path):
    torch = pytest.importorskip("torch")
    target = torch.from_numpy(TARGET * (1 + 0.5j))
    run = solve(ProjectorSplitting(), problems.MatrixRegression(target), step_size=0.1, steps=3, rank=2)
    loaded = Trajectory.load(run.save(tmp_path / "run.npz"))
    assert np.allclose(loaded.Y.full(), run.Y.full().resolve_conj().numpy())


def test_bad_files(tmp_path):
    path = solve(BUG(), REGRESSION, step_size=0.1, steps=2, rank=2).save(tmp_path / "run.npz")
    good = path.read_bytes()
    with pytest.raises(FileNotFoundError, match=r"no trajectory file .*other\.npz"):
        Trajectory.load(tmp_path / "other.npz")
    with pytest.raises(ValueError, match=r"path must end in \.npz"):
        Trajectory.load(tmp_path / "other.txt")
    for damage in (b"", good[:100], good[: len(good) // 2], good.replace(b"\x00\x00", b"\x01\x07"), b"nonsense"):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match=r"run\.npz is"):
            Trajectory.load(path)
    np.savez(path, something=np.arange(3))
    with pytest.raises(ValueError, match="no trajectory file"):
        Trajectory.load(path)
    np.savez(path, meta=np.array(json.dumps({"schema_version": 99})))
    with pytest.raises(ValueError, match="schema version 99, this program reads version 2"):
        Trajectory.load(path)
    np.savez(path, meta=np.array(json.dumps({"schema_version": 2, "status": "finished"})))
    with pytest.raises(ValueError, match="no complete trajectory file: steps"):
        Trajectory.load(path)
    np.savez(path, meta=np.array([{"pickled": 1}], dtype=object))
    with pytest.raises(ValueError, match="no trajectory file"):
        Trajectory.load(path)


def test_a_failing_save_leaves_the_old_file(tmp_path):
    run = solve(BUG(), REGRESSION, step_size=0.1, steps=2, rank=2)
    path = run.save(tmp_path / "run.npz")
    run.meta["spoiled"] = float("nan")  # strict JSON has no word for it
    with pytest.raises(ValueError, match="JSON"):
        run.save(path)
    assert Trajectory.load(path).status == "finished"
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("losses", lambda X: X[:-1], "losses of shape"),
        ("steps", lambda X: X[:0], "does not fit 0 records"),
        ("steps", lambda X: X + 1, "do not end after 3 steps"),
        ("singular_values", lambda X: X[0], "singular_values of shape"),
        ("step_sizes", lambda X: X.astype(str), "step_sizes of shape"),
        ("state.S", lambda X: X[:1], "S has shape"),
        ("meta", lambda X: np.array(str(X).replace('"random_state"', '"random"')), "random_state missing"),
    ],
)
def test_arrays_that_do_not_fit_each_other(tmp_path, name, change, message):
    path = solve(BUG(), REGRESSION, step_size=0.1, steps=3, rank=2).save(tmp_path / "run.npz")
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | {name: change(arrays[name])})
    with pytest.raises(ValueError, match=rf"run\.npz is .*{message}"):
        Trajectory.load(path)
