"""What the README says of the code is what the code says."""

import re
from pathlib import Path

from dlrt.theorems.matrix import with_integrators

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def test_table_of_integrators():
    assert with_integrators(README) == README, "run `dlrt verify --write-matrix README.md`"


def test_python_examples(tmp_path, monkeypatch, capsys):
    """The examples run as they are: ranks move to where they are needed, GeoLoRA converges where SVD-LoRA diverges."""
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(block, names)
    (geolora, factors, _small, equation, *steps) = capsys.readouterr().out.splitlines()
    losses = [float(line.split()[1]) for line in steps]
    assert steps[0].endswith("{'0': 4, '2': 4}") and losses[-1] < losses[0] / 100
    assert names["ranks"](names["model"]) in ({"0": 2, "2": 6}, {"0": 3, "2": 5})  # 2 and 6 but for rounding
    assert re.match(r"GeoLoRA 0.5 finished \S+e-2\d 5$", geolora)
    assert "diverged" in factors
    assert (tmp_path / "svd-lora.npz").is_file()
    assert re.match(r"<Trajectory: \d+ steps to t = 0.5, rank \d+, finished>", equation)
