"""``dlrt doctor``: what it shows, and that each check can fail."""

import pytest
import torch
from typer.testing import CliRunner

from dlrt.cli import app, doctor

runner = CliRunner()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DLRT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/file").write_bytes(bytes(3 * 2**20))
    return tmp_path / "cache"


def test_all_is_well_here(cache):
    result = runner.invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    head, table = result.stdout.split("\n\n")
    words = ["Python", "Versions", "Threads", "Devices", "Cache", "Plug-ins"]
    assert [line.split()[0] for line in head.splitlines()] == words
    assert f"torch {torch.__version__}" in head and f"torch {torch.get_num_threads()}, " in head
    assert f"{cache}, 3 MB" in head
    assert [line.partition(": ")[0] for line in table.splitlines()] == [f"ok      {name}" for name in doctor.CHECKS]
    assert [path.name for path in cache.iterdir()] == ["file"]  # nothing stays behind


@pytest.mark.parametrize(
    ("broken", "failed"),
    [
        ("integrators.geolora.augmented", ["float64", "float32", "matrix regression", "a layer of a network"]),
        ("integrators.Projections.of", ["float64", "float32"]),
        ("dlrt.nn.optimizer.LowRankOptimizer.step", ["a layer of a network"]),
        ("tempfile.TemporaryFile", ["writing files"]),
    ],
)
def test_what_is_broken_is_found(broken, failed, monkeypatch):
    def nothing(*arguments, **options):
        raise OSError("broken")

    monkeypatch.setattr(broken, nothing)
    result = runner.invoke(app, ["doctor"])
    assert result.exit_code == 1
    rows = [line.partition(": ")[0] for line in result.stdout.splitlines() if line.startswith("FAILED")]
    assert len(rows) == len(failed) and all(name in row for name, row in zip(failed, rows)), result.stdout


def test_a_wrong_number_fails(monkeypatch):
    """A step that is off in the tenth digit, and a descent that ends at another rank."""
    monkeypatch.setattr(doctor, "_steps", lambda precision: iter([("numpy", 1e-10), ("torch", float("nan"))]))
    with pytest.raises(ArithmeticError, match="numpy 1e-10, torch nan, expected at most 2e-14"):
        doctor._formula("float64")
    monkeypatch.setattr("integrators.Tolerance", lambda relative: __import__("integrators").FixedRank(2))
    with pytest.raises(ArithmeticError, match="rank 2, expected 3"):
        doctor._descent()
    with pytest.raises(ArithmeticError, match="expected at most 1e-12"):
        doctor._network()


def test_optional_packages_may_be_missing(cache, monkeypatch):
    monkeypatch.setattr(doctor, "OPTIONAL", ("no_pooch_here",))
    assert runner.invoke(app, ["doctor"]).exit_code == 0
    assert str(cache) in doctor._writing()
