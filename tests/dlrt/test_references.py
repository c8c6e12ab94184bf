"""Reference solutions on disk: computed once, told apart, damaged, unwritable; the command that uses them."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import scipy.integrate
from typer.testing import CliRunner

import problems
from dlrt import references
from dlrt.cli import app
from dlrt.references import kept


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DLRT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/references"


@pytest.fixture
def solved(monkeypatch):
    """The intervals that were integrated."""
    found, solve = [], scipy.integrate.solve_ivp

    def counting(rate, interval, *arguments, **options):
        found.append(interval)
        return solve(rate, interval, *arguments, **options)

    monkeypatch.setattr(scipy.integrate, "solve_ivp", counting)
    return found


def test_a_solution_is_computed_once(folder, solved):
    first, second = (kept(problems.allen_cahn(8)) for _ in range(2))
    W = first.reference(0.3)
    assert np.array_equal(second.reference(0.3), W) and solved == [(0.0, 0.3)]
    assert np.array_equal(pickle.loads(pickle.dumps(kept(problems.allen_cahn(8)))).reference(0.3), W)
    second.reference(0.5)  # from the one that was found
    assert solved == [(0.0, 0.3), (0.3, 0.5)]
    assert np.array_equal(W, problems.allen_cahn(8).reference(0.3)) and len(solved) == 3  # without a cache
    [place] = folder.iterdir()
    assert place.name.startswith("allen-cahn-") and len(list(place.iterdir())) == 2


def test_other_problems_have_other_files(folder, solved):
    p = problems.allen_cahn(8)
    for other in (p, replace(p, eps=0.02), problems.allen_cahn(9), problems.landau(8, 8)):
        kept(other).reference(0.1)
    assert len(solved) == len(list(folder.iterdir())) == 4
    assert kept(problems.rotating(np.random.default_rng(0), (5, 5))).reference(0.1) is not None
    assert len(list(folder.iterdir())) == 4  # that one is known in closed form


def test_exponentials_are_kept_too(folder, monkeypatch):
    W = kept(problems.solid_body_rotation(6)).reference(0.4)
    monkeypatch.setattr("problems.cross_terms.expm_multiply", None)
    assert np.array_equal(kept(problems.solid_body_rotation(6)).reference(0.4), W)


def test_what_other_code_made_is_removed(folder, monkeypatch):
    kept(problems.allen_cahn(8)).reference(0.1)
    kept(problems.allen_cahn(9)).reference(0.1)
    identify = references.identify
    monkeypatch.setattr(references, "identify", lambda **settings: identify(**settings) | {"code": "0" * 16})
    kept(problems.allen_cahn(8)).reference(0.1)
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 2 and sum(name.endswith("0" * 16) for name in names) == 1


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: b"", lambda c: c[:200] + b"\1" + c[201:]])
def test_a_damaged_file_is_made_anew_and_that_is_said(damage, folder, solved, caplog):
    W = kept(problems.allen_cahn(8)).reference(0.1)
    [path] = folder.glob("*/*")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert np.array_equal(kept(problems.allen_cahn(8)).reference(0.1), W)
    assert f"the reference solution in {path} is damaged: computed anew" in caplog.text
    assert path.read_bytes() == whole and len(solved) == 2


def test_a_folder_that_cannot_be_written_to_is_said(folder, caplog):
    folder.parent.mkdir()
    folder.write_text("a file")
    assert kept(problems.allen_cahn(8)).reference(0.1) is not None
    assert "a reference solution could not be kept in" in caplog.text


def test_a_comparison_that_is_made_again_solves_nothing(tmp_path, solved):
    arguments = ["compare", "allen-cahn", "--size", "12", "--integrators", "geolora", "--rank", "2", "--fresh"]
    arguments += ["--step-size", "5", "--out", str(tmp_path / "out")]
    outputs = []
    for count in (2, 2):  # t = 5 and t = 10
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert len(solved) == count
        outputs.append([line for line in result.output.splitlines() if "Wrote" not in line])
    assert outputs[0][:3] == outputs[1][:3]
