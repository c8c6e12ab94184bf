"""The command line: tables and files, going on, figures, and one clear line for every mistake."""

import os
import subprocess
import sys
import types

import numpy as np
import pytest
from typer.testing import CliRunner

import dlrt
from dlrt import Trajectory, cli, read_results
from dlrt.registry import INTEGRATORS, PROBLEMS, MethodOptions, ProblemOptions, build_integrator, build_problem

runner = CliRunner()
SMALL = ["--size", "12", "--true-rank", "2", "--rank", "3", "--steps", "8"]


def run(*arguments):
    return runner.invoke(cli.app, [str(argument) for argument in arguments])


def test_compare_writes_everything(tmp_path):
    out = tmp_path / "new" / "folder"
    arguments = ["compare", "matrix-regression", "--integrators", "geolora, lora", *SMALL, "--out", out]
    arguments += ["--step-size", 0.1, "--step-size", 50, "--tau", 0.05, "--seeds", 2, "--jobs", 2]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "geolora" in result.output and "finished" in result.output and "diverged at step" in result.output
    content = read_results(out)
    assert len(content["cases"]) == 2 * 2 * 2 and content["seeds"] == [0, 1]
    assert content["settings"]["tau"] == 0.05 and content["settings"]["problem"] == "matrix-regression"
    assert {case["label"] for case in content["cases"]} == {"geolora", "lora"}
    assert content["cases"][0]["integrator"]["truncation"]["relative"] == 0.05
    for case in content["cases"]:
        assert Trajectory.load(out / case["trajectory"]).status == case["status"]
    pictures = {f"{name}.{kind}" for name in ("loss", "rank", "work") for kind in ("png", "pdf")}
    assert pictures <= {path.name for path in out.iterdir()}

    (out / content["cases"][0]["trajectory"]).unlink()
    again = run(*arguments)
    assert again.exit_code == 0 and "7 of 8 runs were there already." in again.output
    strip = [{k: v for k, v in case.items() if k != "wall_time"} for case in content["cases"]]
    assert strip == [{k: v for k, v in case.items() if k != "wall_time"} for case in read_results(out)["cases"]]


@pytest.mark.parametrize("rank,least", [(3, True), (5, False)])
def test_the_title_says_what_the_rank_allows(rank, least, tmp_path):
    """Singular values 20, 16, 12, 8, 4: rank 3 leaves (8^2 + 4^2) / 2 = 40, rank 5 nothing but rounding."""
    options = ["--size", 12, "--true-rank", 5, "--rank", rank, "--steps", 2, "--seeds", 1, "--step-size", 0.1]
    result = run("compare", "matrix-regression", "--integrators", "bug", *options, "--out", tmp_path)
    assert ("no matrix of rank 3 has less than 4.00e+01" in " ".join(result.output.split())) == least, result.output


def test_compare_of_an_equation_ends_at_the_horizon(tmp_path):
    result = run("compare", "given-solution", "--integrators", "bug", "--step-size", 0.3, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    [case] = read_results(tmp_path)["cases"]
    assert case["time"] == 1.0 and case["steps"] == 3 and case["loss"] is None and case["error"] > 0


@pytest.mark.parametrize("problem", PROBLEMS)
def test_defaults_of_every_problem(problem):
    """All default methods take some steps on every problem; the horizon and full number of steps would take longer."""
    entry = PROBLEMS[problem]
    options = ProblemOptions(size=12) if "size" in entry.uses else ProblemOptions()
    built = build_problem(problem, options)
    method = {"rank": 3, "tau": None, "spare": 1, "substep": None, "optimizer": "sgd"}
    sizes = None if hasattr(built, "loss") else [built.t_end / 3]
    cases = cli._cases(built, integrators=None, step_sizes=sizes, steps=2, seeds=1, method=method)
    for case in cases:
        run = case.solve()
        assert run.steps[-1] == 2 and np.isfinite(run.values[-1])


@pytest.mark.parametrize("name", INTEGRATORS)
def test_every_integrator_is_built_from_its_options(name):
    options = {"rank": 3, "steps": 7, "tau": 0.25, "spare": 2, "substep": "rk4", "optimizer": "adam"}
    built = repr(build_integrator(name, MethodOptions(**options)))
    shown = {"tau": "relative=0.25", "spare": "spare=2", "substep": "RK4()", "optimizer": "Adam("}
    for option, text in shown.items():
        assert (text in built) == (option in INTEGRATORS[name].uses), option


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("rank", [1, 2, 12])
def test_the_budget_of_adalora_fits_every_run(rank, steps):
    budget = build_integrator("adalora", MethodOptions(rank=rank, steps=steps)).truncation
    assert budget.initial == rank and budget.final == -(-2 * rank // 3)
    assert budget.budget(steps) == budget.final and budget.masks(steps)


def test_targets_come_from_files(tmp_path, monkeypatch):
    monkeypatch.setattr("dlrt.plots.save_figures", lambda results, out: [])
    target = np.arange(12.0).reshape(4, 3)
    file = tmp_path / "target.npy"
    np.save(file, target)
    built = build_problem("matrix-regression", ProblemOptions(target=str(file), dtype="float32"))
    assert np.array_equal(built.target, target) and built.target.dtype == np.float32
    result = run("compare", "matrix-regression", "--target", file, "--rank", 2, "--steps", 2, "--out", tmp_path)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "matrix-regresion"], "unknown problem 'matrix-regresion', did you mean 'matrix-regression'?"),
        (["compare", "rotating", "--integrators", "bug,geo-lora"], "did you mean 'geolora'?"),
        (["compare", "rotating", "--substep", "eular"], "unknown substep 'eular', did you mean 'euler'?"),
        (["compare", "rotating", "--optimizer", "adm"], "unknown optimizer 'adm', did you mean 'adam'?"),
        (["compare", "rotating", "--rank", "0"], "rank must be at least 1, got 0"),
        (["compare", "rotating", "--rank", "500"], "rank 500 exceeds min(m, n) = 100"),
        (["compare", "rotating", "--step-size", "-0.1"], "step size must be positive and finite, got -0.1"),
        (["compare", "rotating", "--step-size", "nan"], "step size must be positive and finite, got nan"),
        (["compare", "rotating", "--steps", "0"], "steps must be at least 1, got 0"),
        (["compare", "rotating", "--seeds", "0"], "seeds must be at least 1, got 0"),
        (["compare", "rotating", "--tau", "-1"], "relative must be >= 0, got -1.0"),
        (["compare", "rotating", "--spare", "-1"], "spare must be at least 0, got -1"),
        (["compare", "rotating", "--dtype", "int8"], "dtype must be float32 or float64, got 'int8'"),
        (["compare", "rotating", "--jobs", "0"], "jobs must be a positive or negative integer, got 0"),
        (["compare", "rotating", "--batch-size", "3"], "batch_size 3 does not concern rotating"),
        (["compare", "matrix-regression", "--target", "nowhere.npy"], "'nowhere.npy': no such file"),
        (["compare", "matrix-regression", "--target", "elevatoin"], "did you mean 'elevation'?"),
        (["compare", "matrix-regression", "--true-rank", "101"], "true_rank must lie between 1 and the size 100"),
        (["compare", "lyapunov", "--target", "elevation"], "target 'elevation' does not concern lyapunov"),
        (
            ["compare", "matrix-completion", "--substep", "exact", "--integrators", "bug", "--size", "10"],
            "no exact sub-flows",
        ),
        (["figure", "55"], "unknown figure '55', did you mean '5'?"),
    ],
)
def test_mistakes_are_answered_with_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "_known", lambda kind: {"5": ("nowhere", "Figure 5")})
    out = tmp_path / "out"
    result = run(*arguments, "--out", out)
    assert result.exit_code == 2
    [line] = result.stderr.strip().splitlines()
    assert line.startswith("dlrt: error: ") and message in line
    assert not list(tmp_path.glob("out/*"))


def test_usage_errors_have_the_same_exit_code():
    for arguments in (["compare"], ["compare", "rotating", "--rank", "many"], ["compair"], ["compare", "--nonsense"]):
        result = run(*arguments)
        assert result.exit_code == 2 and "Traceback" not in result.output


def test_an_interrupted_comparison_says_how_to_go_on(tmp_path, monkeypatch):
    original, calls = dlrt.Case.solve, []

    def interrupted(case):
        calls.append(case)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(case)

    monkeypatch.setattr(dlrt.Case, "solve", interrupted)
    monkeypatch.setattr("dlrt.plots.save_figures", lambda results, out: [])
    arguments = ["compare", "matrix-regression", *SMALL, "--seeds", 1, "--out", tmp_path]
    result = run(*arguments)
    assert result.exit_code == 130 and "2 runs are saved" in result.stderr
    assert "2 of 8 runs were there already." in run(*arguments).output


def test_list_names_everything(monkeypatch):
    monkeypatch.setattr(cli, "_known", lambda kind: {kind.lower(): ("nowhere", "loss and entries of S")})
    result = run("list")
    lines = [line.split() for line in result.output.splitlines()]
    assert result.exit_code == 0
    for name in (*INTEGRATORS, *PROBLEMS, "figures", "tables"):
        assert sum(line[0] == name for line in lines) == 1


def test_figure_calls_its_module(tmp_path, monkeypatch):
    calls = []
    module = types.ModuleType("some_figure")

    def draw(out, quick=False, jobs=1, progress=None):
        progress(1, 2)
        calls.append((out, quick, jobs))
        return {"loss": 1.0}

    module.run = draw
    monkeypatch.setitem(sys.modules, "some_figure", module)
    monkeypatch.setattr("paper_figures.FIGURES", {"5": ("some_figure", "Figure 5")}, raising=False)
    result = run("figure", "5", "--out", tmp_path, "--quick", "--jobs", 2)
    assert result.exit_code == 0, result.output
    assert calls == [(tmp_path, True, 2)]
    assert "Figure 5" in result.output and str(tmp_path) in result.output.replace("\n", "")


def test_table_shows_its_rows_and_passes_what_is_given(tmp_path, monkeypatch):
    calls = []
    module = types.ModuleType("some_table")

    def make(out, quick=False, jobs=1, progress=None, model=None):
        calls.append((out, quick, jobs, model))
        return {"title": "network on data", "rows": [{"method": "GeoLoRA", "accuracy": "0.800"}]}

    module.run = make
    monkeypatch.setitem(sys.modules, "some_table", module)
    monkeypatch.setattr("paper_figures.TABLES", {"3": ("some_table", "Table 3")})
    result = run("table", "3", "--out", tmp_path, "--model", "folder")
    assert result.exit_code == 0, result.output
    assert calls == [(tmp_path, False, 1, "folder")]
    assert all(word in result.output for word in ("network on data", "method", "GeoLoRA", "0.800"))
    result = run("table", "3", "--out", tmp_path, "--data", "folder")
    assert result.exit_code == 2 and "table 3 takes no --data" in result.output
    assert len(calls) == 1


def test_help_everywhere():
    for arguments in ([], ["list"], ["compare"], ["figure"], ["table"]):
        result = runner.invoke(cli.app, [*arguments, "--help"], env={"COLUMNS": "200"})
        assert result.exit_code == 0 and "Usage" in result.output
    assert run("--version").output.strip() == f"dlrt {dlrt.__version__}"


def test_help_says_what_an_option_concerns():
    """The lists of names in the help of `compare` are those of the registry."""
    text = " ".join(runner.invoke(cli.app, ["compare", "--help"], env={"COLUMNS": "400"}).output.split())
    for option, table in {"tau": INTEGRATORS, "spare": INTEGRATORS, "target": PROBLEMS, "batch_size": PROBLEMS}.items():
        assert ", ".join(name for name in table if option in table[name].uses) in text
    without = [name for name in INTEGRATORS if "substep" not in INTEGRATORS[name].uses]
    assert f"Not for {', '.join(without)}" in text


def test_help_is_quick_and_the_module_runs(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    def python(*arguments):
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    slow = "'torch', 'matplotlib', 'joblib', 'integrators', 'problems'"
    assert python("-c", f"import sys, dlrt.cli; print(*(name for name in ({slow},) if name in sys.modules))") == ""
    assert "geolora" in python("-m", "dlrt", "list")
