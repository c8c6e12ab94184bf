"""``dlrt compare``: a table and files, going on, and one clear line for every mistake."""

import dataclasses
import json

import numpy as np
import pytest
import scipy.sparse
from typer.testing import CliRunner

import dlrt
import problems
from dlrt import Trajectory, read_results, work_precision
from dlrt.cli import app
from dlrt.cli.compare import FOR_EQUATIONS, FOR_LOSSES, FOR_STIFF, _with_order, cases, notes, table
from dlrt.layout import aligned
from dlrt.registry import INTEGRATORS, PROBLEMS, build_problem, uses, with_options
from integrators import Tolerance

SMALL = ["--size", "12", "--true-rank", "2", "--rank", "3", "--steps", "8"]

runner = CliRunner()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Reference solutions of the tests are not for the user's cache."""
    monkeypatch.setenv("DLRT_CACHE", str(tmp_path_factory.mktemp("cache")))


def run(*arguments):
    return runner.invoke(app, [str(argument) for argument in arguments])


def test_compare_writes_everything(tmp_path):
    out = tmp_path / "new" / "folder"
    arguments = ["compare", "matrix-regression", "--integrators", "geolora, lora", *SMALL, "--out", out]
    arguments += ["--step-size", 0.1, "--step-size", 50, "--tau", 0.05, "--seeds", 2, "--jobs", 2]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "geolora" in result.output and "2 seeds" in result.output and "diverged at step" in result.output
    assert "lora. Try a --step-size below 50." in result.output
    assert all(len(line) <= 80 for line in result.output.splitlines() if "Wrote" not in line)
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
    built = build_problem(problem, {"size": 12} if "size" in uses(PROBLEMS[problem]) else {})
    is_loss = hasattr(built, "loss")
    names = (FOR_LOSSES if is_loss else FOR_EQUATIONS).split(",")
    sizes = None if is_loss else [built.t_end / 50]
    assert len(cases(built, {"bug": INTEGRATORS["bug"]}, seeds=1)) == (2 if is_loss else 3)  # at a rank that fits
    methods = {name: with_options(INTEGRATORS[name], truncation=Tolerance(relative=0.1, spare=1)) for name in names}
    for case in cases(built, methods, step_sizes=sizes, steps=2, seeds=1, rank=3):
        run = case.solve()
        assert run.steps[-1] == 2 and np.isfinite(run.values[-1])


def test_compare_with_step_size_control(tmp_path):
    options = [
        "--rtol",
        1e-2,
        "--rtol",
        1e-3,
        "--atol",
        1e-5,
        "--integrators",
        "bug,augmented-bug",
        "--size",
        10,
        "--true-rank",
        3,
    ]
    result = run("compare", "given-solution", *options, "--rank", 3, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    content = read_results(tmp_path)
    assert [(case["rtol"], case["atol"]) for case in content["cases"]] == [(1e-2, 1e-5)] * 2 + [(1e-3, 1e-5)] * 2
    assert all(case["time"] == 1 and case["error"] < 10 * case["rtol"] for case in content["cases"])
    [header] = [line for line in result.output.splitlines() if "evaluations" in line]
    assert (
        header.split()[0] == "rtol" and "steps" in header and "order.png" in {path.name for path in tmp_path.iterdir()}
    )
    assert (
        "4 of 4 runs were there already."
        in run("compare", "given-solution", *options, "--rank", 3, "--out", tmp_path).output
    )


def test_several_problems_each_have_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("dlrt.plots.save_figures", lambda results, out: [])
    options = ["--integrators", "bug", "--size", 8, "--rank", 2, "--step-size", 0.25, "--out", tmp_path]
    result = run("compare", "rotating", "given-solution", *options)
    assert result.exit_code == 0, result.output
    for name in ("rotating", "given-solution"):
        content = read_results(tmp_path / name)
        assert content["settings"]["problem"] == name and len(content["cases"]) == 1


def test_work_against_precision(tmp_path):
    """Pictures, numbers and the page; a second command finds all runs, whatever their number."""
    arguments = [
        "rotating",
        "allen-cahn",
        "--work-precision",
        "--quick",
        "--integrators",
        "bug,projected-runge-kutta-2",
    ]
    result = run("compare", *arguments, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "allen-cahn, 16 x 16, rank" in result.output
    written = {path.name for path in tmp_path.iterdir()}
    assert {"rotating.png", "allen-cahn.pdf", "work-precision.json", "how-to-choose.md", "rotating"} <= written
    data = json.loads((tmp_path / "work-precision.json").read_text(encoding="utf-8"))
    assert set(data["command"].split()) == {"dlrt", "compare", *arguments}
    assert [equation["problem"] for equation in data["equations"]] == ["rotating", "allen-cahn"]
    assert all(len(equation["runs"]) == 2 * 3 for equation in data["equations"])
    assert (tmp_path / "how-to-choose.md").read_text(encoding="utf-8") == work_precision.page(data)
    assert len(read_results(tmp_path / "rotating")["cases"]) == 6
    again = run("compare", *arguments, "--out", tmp_path)
    assert again.output.count("6 of 6 runs were there already.") == 2
    anew = json.loads((tmp_path / "work-precision.json").read_text(encoding="utf-8"))
    for one, other in zip(data["equations"], anew["equations"], strict=True):  # times are measured anew
        assert [r | {"time": 0} for r in one["runs"]] == [r | {"time": 0} for r in other["runs"]]


def test_all_methods_with_an_order_are_compared():
    names = _with_order()
    assert {"bug", "rand-rk4", "geolora"} <= set(names) and not {"lora", "full-rank"} & set(names)


def test_targets_come_from_files(tmp_path, monkeypatch):
    monkeypatch.setattr("dlrt.plots.save_figures", lambda results, out: [])
    target = np.arange(12.0).reshape(4, 3)
    file = tmp_path / "target.npy"
    np.save(file, target)
    result = run("compare", "matrix-regression", "--target", file, "--rank", 2, "--steps", 2, "--out", tmp_path)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "matrix-regresion"], "unknown problem 'matrix-regresion', did you mean 'matrix-regression'?"),
        (["compare", "rotating", "--integrators", "bug,geo-lora"], "did you mean 'geolora'?"),
        (["compare", "rotating", "--substep", "eular"], "unknown substep 'eular', did you mean 'euler'?"),
        (["compare", "rotating", "--optimizer", "adm"], "unknown optimizer 'adm', did you mean 'adam'?"),
        (["compare", "rotating", "--rank", "0"], "--rank must be at least 1, got 0"),
        (["compare", "rotating", "--rank", "500"], "--rank 500 exceeds min(m, n) = 100"),
        (["compare", "rotating", "--step-size", "-0.1"], "--step-size must be positive and finite, got -0.1"),
        (["compare", "rotating", "--step-size", "nan"], "--step-size must be positive and finite, got nan"),
        (["compare", "rotating", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["compare", "rotating", "--rtol", "-1"], "--rtol must be positive and finite, got -1.0"),
        (["compare", "rotating", "--atol", "1e-3"], "--atol needs --rtol"),
        (["compare", "rotating", "--rtol", "1e-3", "--step-size", "0.1"], "--step-size is for steps of given size"),
        (["compare", "rotating", "--rtol", "1e-3", "--tau", "0.1"], "--tau is for steps of given size"),
        (["compare", "rotating", "--rtol", "1e-3", "--integrators", "lora"], "--rtol needs methods with an order"),
        (["compare", "matrix-regression", "--rtol", "1e-3"], "--rtol and --atol are for differential equations"),
        (["compare", "rotating", "--quick"], "--quick is for --work-precision"),
        (["compare", "rotating", "--work-precision", "--steps", "3"], "--steps is not for --work-precision"),
        (["compare", "matrix-regression", "--work-precision"], "--work-precision is for differential equations"),
        (["compare", "rotating", "--work-precision", "--integrators", "lora"], "and lora has none"),
        (["compare", "rotating", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["compare", "rotating", "--tau", "-1"], "--tau must be >= 0, got -1.0"),
        (["compare", "rotating", "--spare", "-1"], "--spare must be at least 0, got -1"),
        (["compare", "rotating", "--dtype", "int8"], "--dtype must be float32 or float64, got 'int8'"),
        (["compare", "rotating", "--jobs", "0"], "--jobs must be a positive or negative integer, got 0"),
        (
            ["compare", "rotating", "--batch-size", "3"],
            "rotating takes no --batch-size; it takes --size, --true",
        ),
        (["compare", "matrix-regression", "--target", "nowhere.npy"], "--target 'nowhere.npy': no such file"),
        (["compare", "matrix-regression", "--target", "elevatoin"], "did you mean 'elevation'?"),
        (["compare", "matrix-regression", "--true-rank", "101"], "--true-rank must lie between 1 and the size 100"),
        (["compare", "lyapunov", "--target", "elevation"], "lyapunov takes no --target"),
        (["compare", "matrix-completion", "--substep", "exact", "--integrators", "bug"], "has no exact sub-flows"),
        (["compare", "rotating", "--integrators", "bug,lora", "--tau", "1e-3"], "--tau applies to none of bug, lora"),
        (["compare", "rotating", "--integrators", "bug", "--spare", "2"], "--spare applies to none of bug, but to"),
        (["compare", "rotating", "--integrators", "lora", "--substep", "heun"], "--substep applies to none of lora"),
        (["compare", "rotating", "--integrators", ""], "unknown integrator ''"),
        (["compare", "rotating", "--step-size", "1e-12"], "--step-size 1e-12 would take 1000000000 steps or more"),
        (["compare", "given-solution", "--true-rank", "20"], "--true-rank 20 exceeds min(m, n) / 2 = 15"),
        (["compare", "manufactured", "--true-rank", "4"], "--size must be at least 2 --true-rank + 1 = 9"),
        (["compare", "manufactured", "--dtype", "float64"], "manufactured takes no --dtype"),
        (["compare", "matrix-regression", "--target", "elevation", "--size", "9"], "--size and --true-rank are for"),
        (["compare", "matrix-regression", "--size", str(10**12)], "not enough memory"),
        (["compare", "matrix-regression", "--rank", "many"], "'--rank'"),
    ],
)
def test_mistakes_are_answered_with_one_line(arguments, message, tmp_path):
    out = tmp_path / "out"
    result = run(*arguments, "--out", out)
    assert result.exit_code == 2
    [line] = result.stderr.strip().splitlines()
    assert line.startswith("dlrt: error: ") and message in line
    assert not list(tmp_path.glob("out/*"))


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


def test_a_method_keeps_its_own_optimizer_unless_another_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr("dlrt.plots.save_figures", lambda results, out: [])
    used = {}
    for options in ((), ("--optimizer", "sgd")):
        out = tmp_path / str(len(options))
        arguments = [
            "--integrators",
            "stiefel-adamw",
            "--steps",
            3,
            "--rank",
            2,
            "--seeds",
            1,
            "--size",
            8,
            "--out",
            out,
        ]
        assert run("compare", "matrix-regression", *arguments, *options).exit_code == 0
        used[options] = "beta2" in (out / "results.json").read_text(encoding="utf-8")
    assert list(used.values()) == [True, False]


def test_help_says_what_an_option_applies_to():
    """The lists of names in the help of `compare` are those of the registry."""
    text = " ".join(runner.invoke(app, ["compare", "--help"], env={"COLUMNS": "400"}).output.split())
    for option in ("target", "batch_size"):
        assert ", ".join(name for name in PROBLEMS if option in uses(PROBLEMS[name])) in text


class Network(problems.Problem):
    """A sparse linear equation, ``Y' = A Y + Y A^T``, whose solution nobody has computed."""

    name, t_end = "network", 0.5

    def __init__(self, size):
        self.A = scipy.sparse.diags_array([1.0, -2.0, 1.0], offsets=[-1, 0, 1], shape=(size, size)).tocsr()
        self.shape, self.like = (size, size), np.zeros(1)

    shape = like = None

    def initial(self, rank, rng):
        U, S, _ = np.linalg.svd(rng.standard_normal((self.shape[0], rank)), full_matrices=False)
        return U, np.diag(S), U

    def field(self, t, Y):
        U, S, V = Y

        def product(X):
            return self.A @ (U @ (S @ (V.T @ X))) + U @ (S @ ((self.A @ V).T @ X))

        def product_H(X):
            return self.A @ (V @ (S.T @ (U.T @ X))) + V @ (S.T @ ((self.A @ U).T @ X))

        return problems.OperatorField(Y, product, product_H)


def network(*, size=20):
    """A sparse equation without a reference solution."""
    return Network(size)


def test_a_problem_without_loss_and_reference(tmp_path, monkeypatch):
    """The table says what is known: rank, evaluations, time."""
    monkeypatch.setitem(PROBLEMS, "network", network)
    arguments = ["--integrators", "bug,augmented-bug", "--rank", 3, "--steps", 4, "--tau", 1e-3, "--out", tmp_path]
    result = run("compare", "network", *arguments)
    assert result.exit_code == 0, result.output
    assert "the problem has neither a loss nor a reference solution" in " ".join(result.output.split())
    assert "evaluations" in result.output and "error" not in result.output.replace("error:", "")
    content = read_results(tmp_path)
    assert len(content["cases"]) == 2 * 3
    for case in content["cases"]:
        assert case["loss"] is case["error"] is None and case["status"] == "finished"
        assert case["rank"] >= 3 and case["evaluations"] == 8
    assert {path.name for path in tmp_path.iterdir() if path.suffix in (".png", ".pdf")} == {"rank.png", "rank.pdf"}
    assert "6 of 6 runs were there already." in run("compare", "network", *arguments).output


def test_a_stiff_equation_is_solved_by_default(tmp_path):
    """Explicit steps would need h < 2 / L = 2.5e-5; the exact ones need none of that, and every number is sensible."""
    result = run("compare", "lyapunov-stiff", "--size", 40, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    content = read_results(tmp_path)
    assert {case["label"] for case in content["cases"]} == set(FOR_STIFF.split(","))
    assert all(case["status"] == "finished" for case in content["cases"])
    assert all("Exact" in str(case["integrator"]["substep"]) for case in content["cases"])
    assert "Explicit substeps would be unstable here" in result.output and "Unstable:" not in result.output


def test_an_unstable_run_gets_a_hint(tmp_path):
    options = ["--size", 40, "--substep", "euler", "--integrators", "bug,lora", "--step-size", 0.1, "--out", tmp_path]
    result = run("compare", "lyapunov-stiff", *options)
    assert "Unstable: bug, lora. Try --substep exact, or a --step-size below 0.1." in result.output, result.output


def test_errors_are_relative_and_beside_the_best_of_their_rank(tmp_path):
    """Singular values 2^-j: the best of rank 2 leaves about a quarter, of rank 8 about 2^-8."""
    options = ["--size", 20, "--integrators", "bug", "--rank", 2, "--step-size", 0.02, "--out", tmp_path]
    result = run("compare", "rotating", *options)
    [row] = [line.split() for line in result.output.splitlines() if line.startswith("  0.02")]
    error, best = map(float, row[1:3])
    exact = build_problem("rotating", {"size": 20}).reference(1.0)
    tail = np.linalg.norm(np.linalg.svd(exact, compute_uv=False)[2:]) / np.linalg.norm(exact)
    assert best == pytest.approx(tail, rel=0.05) and best < error < 1.2 * best
    [case] = read_results(tmp_path)["cases"]
    assert error == pytest.approx(case["error"] / np.linalg.norm(exact), rel=0.01)


def test_every_status_is_shown_within_80_columns(tmp_path):
    """A run that failed is one line in the table, and the whole text below."""
    problem = problems.given_solution(np.random.default_rng(0), (10, 8), rank=2)
    methods = {name: INTEGRATORS[name] for name in ("projector-splitting-strang", "bug")}
    made = cases(problem, methods, step_sizes=[0.25], seeds=3, rank=2)
    results = [dlrt.Result(case, case.solve(), False) for case in made]

    def with_status(result, status):
        return result._replace(trajectory=dataclasses.replace(result.trajectory, status=status))

    failed = "failed at step 2: ZeroDivisionError: " + "x" * 100
    results[1] = with_status(results[1], failed)
    results[2] = with_status(results[2], "diverged at step 3")
    results[3:] = [with_status(result, f"diverged at step {k}") for k, result in enumerate(results[3:], 98)]
    rows, title = table(results)
    text = aligned(rows, title=title)
    assert all(len(line) <= 80 for line in text.splitlines())
    for shown in ("1 of 3 failed at step 2", "1 of 3 diverged at step 3", "diverged at step 98 to 100"):
        assert sum(line.strip().startswith(shown) or shown in line for line in text.splitlines()) == 1, text
    assert "x" * 100 not in text and any(note.endswith(failed) for note in notes(results))


@pytest.mark.parametrize(
    "command", [["compare", "matrix-regression"], ["figure", "5"], ["train", "digits"], ["verify"]]
)
def test_out_is_checked_before_the_first_run(command, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("a run was made")

    monkeypatch.setattr("dlrt.runs.runner._call", fail)
    file = tmp_path / "file"
    file.write_text("")
    result = run(*command, "--out", file)
    assert result.exit_code == 2 and f"--out must be a folder, got the file {file}" in result.stderr
    result = run(*command, "--out", file / "below")
    assert result.exit_code == 2 and "--out must be a folder that can be written to, got" in result.stderr


def test_the_table_is_shown_also_where_nothing_can_be_kept(tmp_path, monkeypatch):
    def full(path, write):
        raise OSError(28, "No space left on device")

    for place in ("trajectory", "runs.store", "plots"):
        monkeypatch.setattr(f"dlrt.{place}.write_atomically", full)
    result = run("compare", "matrix-regression", "--integrators", "geolora", *SMALL, "--out", tmp_path)
    assert result.exit_code == 2 and "No space left on device" in result.stderr
    assert "geolora" in result.stdout and "loss" in result.stdout


def test_fresh(tmp_path):
    arguments = ["compare", "matrix-regression", "--integrators", "geolora", *SMALL, "--out", tmp_path]
    run(*arguments)
    assert "were there already" in run(*arguments).stdout
    assert "were there already" not in run(*arguments, "--fresh").stdout
