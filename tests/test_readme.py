"""What the README says of the code is what the code says."""

import re
from pathlib import Path

import numpy as np

from dlrt.theorems.matrix import with_integrators

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def test_table_of_integrators():
    assert with_integrators(README) == README, "run `dlrt verify --write-matrix README.md`"


def test_python_examples(tmp_path, monkeypatch, capsys):
    """The examples run as they are; GeoLoRA finds the rank at a step size at which SVD-LoRA diverges."""
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(block, names)
    first, second, _third, equation, controlled, layers = capsys.readouterr().out.splitlines()
    assert re.match(r"GeoLoRA 0.5 finished \S+e-2\d 5$", first)
    assert "diverged" in second
    error = np.linalg.norm(names["state"].Y.full() - names["target"]) / np.linalg.norm(names["target"])
    # Heun's method with h = 0.1 damps every component of the error by 1 - h + h^2 / 2 per step
    assert error <= 1.5 * (1 - 0.1 + 0.005) ** 20
    assert (tmp_path / "svd-lora.npz").is_file()
    assert equation == "<Trajectory: 50 steps to t = 0.5, rank 5, finished>"
    assert controlled.startswith("stopped 0.")  # by the event
    assert re.match(r"\{'0': \d+, '2': \d+\}$", layers)
