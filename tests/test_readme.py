"""What the README says of the code is what the code says."""

import re
from pathlib import Path

import numpy as np
import pytest

from integrators import INTEGRATORS, count_evaluations

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def rows():
    return re.findall(r"^\| ([a-z-]+) \| `(.+?)` \| (.+?) \| (yes|no) \| (\d+) \|", README, re.MULTILINE)


def test_all_integrators_are_in_the_table():
    assert [row[0] for row in rows()] == list(INTEGRATORS)


@pytest.mark.parametrize("name,call,order,robust,tapes", rows(), ids=lambda x: x)
def test_table(name, call, order, robust, tapes):
    method = INTEGRATORS[name]
    assert type(method).__name__ == call.split("(")[0]
    assert order == ("–" if method.order is None else str(method.order))
    assert robust == ("yes" if method.robust else "no")
    assert int(tapes) == count_evaluations(method)


def test_python_examples(tmp_path, monkeypatch, capsys):
    """The examples run as they stand; GeoLoRA finds the rank at a step size at which SVD-LoRA diverges."""
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(block, names)
    first, second, _third, layers = capsys.readouterr().out.splitlines()
    assert re.match(r"GeoLoRA 0.5 finished \S+e-2\d 5$", first)
    assert "diverged" in second
    error = np.linalg.norm(names["state"].Y.full() - names["target"]) / np.linalg.norm(names["target"])
    # Heun's method with h = 0.1 damps every component of the error by 1 - h + h^2 / 2 per step
    assert error <= 1.5 * (1 - 0.1 + 0.005) ** 20
    assert (tmp_path / "svd-lora.npz").is_file()
    assert re.match(r"\{'0': \d+, '2': \d+\}$", layers)
