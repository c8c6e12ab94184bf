"""Work against precision: what is run, what is kept, what is called cheapest, and the picture and page made of it."""

import json
from pathlib import Path

import numpy as np
import pytest

import problems
from dlrt import sweep, work_precision
from dlrt.accuracy import Solution
from dlrt.cli.options import methods_of, usual_substep
from dlrt.registry import build_problem
from integrators import INTEGRATORS, LoRA
from problems import from_function

REFERENCE = Path(__file__).parents[2] / "docs" / "work-precision"
METHODS = {name: INTEGRATORS[name] for name in ("bug", "midpoint-bug", "midpoint-bug-3r", "rand-rk4")}


def run(method, kind, value, evaluations, time, error, **more):
    found = {"method": method, "kind": kind, "value": value, "steps": 7, "evaluations": evaluations, "time": time}
    return found | {"rank": 2, "error": error, "status": "finished"} | more


@pytest.fixture
def equation():
    """Runs made up so that the answers are known."""
    return {
        "problem": "made-up",
        "shape": [4, 3],
        "rank": 2,
        "t_end": 1.0,
        "best": 1e-5,
        "methods": {name: {"class": "BUG", "order": order, "settings": ""} for name, order in (("a", 1), ("b", 2))},
        "runs": [
            run("a", "step size", 0.1, 10, 1.0, 0.05),
            run("a", "step size", 0.01, 100, 10.0, 0.005),
            run("b", "step size", 0.1, 20, 9.0, 0.005),
            run("b", "rtol", 0.01, 60, None, 0.004),
            run("b", "step size", 0.2, 5, 0.1, None, status="diverged at step 3"),
        ],
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    problem = problems.given_solution(np.random.default_rng(0), (10, 8), rank=2)
    cases = work_precision.cases(problem, METHODS, step_sizes=[0.1, 0.05], rtol=[1e-2], rank=2)
    return work_precision.summary("given-solution", sweep(cases, out=tmp_path_factory.mktemp("runs")))


def test_the_sufficient_rank_is_the_least_one():
    """Singular values e^t 2^-j: what rank r leaves is about 2^-r of the norm."""
    problem = problems.rotating(np.random.default_rng(0), (30, 30))
    d = 2.0 ** -np.arange(30)
    rest = [np.linalg.norm(d[r:]) / np.linalg.norm(d) for r in range(30)]
    assert work_precision.sufficient_rank(problem, 1e-3) == next(r for r in range(30) if rest[r] <= 1e-3)
    assert work_precision.sufficient_rank(problem, 1e-12) == 15
    with pytest.raises(ValueError, match="needs a reference solution"):
        work_precision.sufficient_rank(from_function((4, 3), lambda t, Y: Y, initial=np.eye(4, 3)))


def test_cases():
    """Every method at every step size and tolerance, to the end, with the two ends recorded."""
    problem = build_problem("allen-cahn", {"size": 8})
    cases = work_precision.cases(problem, METHODS, step_sizes=[1.0, 0.3], rtol=[1e-2, 1e-3], rank=2)
    assert [case.setting for case in cases[:4]] == [
        ("step size", 1.0), ("step size", 10.0 / 33), ("rtol", 1e-2), ("rtol", 1e-3)
    ]  # fmt: skip
    assert len(cases) == 4 * len(METHODS) and all(case.rank == 2 for case in cases)
    assert all(case.steps * case.step_size == pytest.approx(10.0) for case in cases if case.steps and case.step_size)
    assert len(work_precision.cases(problem, METHODS, rank=2, quick=True)) == 3 * len(METHODS)
    with pytest.raises(ValueError, match="methods with an order, and lora has none"):
        work_precision.cases(problem, {"lora": LoRA()}, rank=2)


def test_the_summary_says_what_was_run(found):
    assert found["problem"] == "given-solution" and found["shape"] == [10, 8] and found["best"] < 1e-12
    assert found["methods"]["midpoint-bug"]["order"] == 2 and "Heun" in found["methods"]["midpoint-bug"]["settings"]
    runs = {(r["method"], r["kind"], r["value"]): r for r in found["runs"]}
    assert len(runs) == 3 * len(METHODS)
    bug = runs["bug", "step size", 0.05]
    assert (bug["steps"], bug["evaluations"], bug["rank"], bug["status"]) == (20, 40, 2, "finished")
    problem = problems.given_solution(np.random.default_rng(0), (10, 8), rank=2)
    method, state = METHODS["bug"], METHODS["bug"].init(problem.initial(2, np.random.default_rng(0)))
    for k in range(20):
        state = method.step(problem.field, k / 20, state, 0.05).state
    exact = problem.reference(1.0)
    assert bug["error"] == pytest.approx(np.linalg.norm(state.Y.full() - exact) / np.linalg.norm(exact), rel=1e-9)
    assert all(
        (r["time"] is None) == (r["kind"] == "rtol") and (r["time"] is None or r["time"] > 0) for r in runs.values()
    )
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_runs_that_do_not_reach_the_end_have_no_error(tmp_path):
    """One diverges, one is given up, one fails: none of them reaches an error, and the failure is told."""
    problem = problems.lyapunov(10, np.random.default_rng(0), stiff=True)
    methods = {"bug": INTEGRATORS["bug"], "projected": INTEGRATORS["projected-runge-kutta-2"]}
    cases = work_precision.cases(problem, methods, step_sizes=[0.05], rtol=[], rank=3)
    equation = work_precision.summary("stiff", sweep(cases, out=tmp_path))
    assert all(r["error"] is None or r["error"] > 1 for r in equation["runs"])
    assert work_precision.cheapest(equation, 0.1, "evaluations") == []
    equation["runs"][0]["status"] = "failed at step 1: TypeError: no such field"
    assert work_precision.failures(equation) == {"bug": "TypeError: no such field"}
    work_precision.picture(equation)  # nothing to draw is no mistake


def test_cheapest(equation):
    def names(*arguments, **options):
        return [(r["method"], r["value"]) for r in work_precision.cheapest(equation, *arguments, **options)]

    assert names(0.1, "evaluations") == [("a", 0.1), ("b", 0.1)]
    assert names(0.01, "evaluations") == [("b", 0.1), ("a", 0.01)]
    assert names(0.01, "time") == [("b", 0.1), ("a", 0.01)]
    assert names(0.01, "evaluations", kind="rtol") == [("b", 0.01)]
    assert names(0.004, "evaluations", kind="step size") == []
    assert names(0.1, "evaluations", method="b") == [("b", 0.1)]


def test_choice(equation):
    rows = {row["error"]: list(row.values())[1:] for row in work_precision.choice(equation)}
    assert rows["0.1"] == ["a (7 steps): 10", "a (7 steps): 1e+03 ms", "b (rtol 0.01): 60"]
    assert rows["0.01"] == ["b (7 steps): 20", "b, a (7 steps): 9e+03 ms", "b (rtol 0.01): 60"]
    assert rows["0.001"] == ["–", "–", "–"]


def test_page(equation):
    page = work_precision.page({"command": "dlrt compare made-up", "equations": [equation]})
    assert "Written by `dlrt compare made-up`" in page and "![Error against work on made-up](made-up.png)" in page
    assert "| a | 1 | 100, – | 5 × |" in page and "| b | 2 | **20**, **60** | 1 × |" in page
    assert "4 × 3, to t = 1, rank 2, whose best approximation has the error 1.0e-05." in page
    assert max(map(len, page.split("\n| ")[0].splitlines())) <= 120


def test_picture(found):
    """A row for each order, three columns with common axes, every method in one row, the envelope in all."""
    figure = work_precision.picture(found)
    assert figure.get_size_inches()[0] == 7.0
    panels = np.array(figure.axes).reshape(-1, 3)
    labels = [[text.get_text() for text in row[-1].get_legend().get_texts()] for row in panels]
    assert labels == [["bug"], ["midpoint-bug", "midpoint-bug-3r"], ["rand-rk4"]]
    assert [axes.get_xlabel() for axes in panels[-1]] == [
        "field evaluations",
        "processor time [s]",
        "field evaluations",
    ]
    assert all(axes.get_xscale() == axes.get_yscale() == "log" for axes in panels.flat)
    [bug] = [line for line in panels[0, 0].lines if line.get_label() == "bug"]
    errors = [r["error"] for r in found["runs"] if r["method"] == "bug" and r["kind"] == "step size"]
    assert bug.get_xdata().tolist() == [20, 40] and sorted(bug.get_ydata()) == sorted(errors)
    for column in range(3):
        curves = [axes.lines[0].get_xydata() for axes in panels[:, column]]
        assert all(np.array_equal(curve, curves[0]) for curve in curves)
        assert np.all(np.diff(curves[0][:, 1]) <= 0)
    [slope] = [line for line in panels[1, 0].lines if line.get_linestyle() == "--" and line.get_color() == "0.3"]
    x, y = slope.get_data()
    assert np.diff(np.log(y))[0] / np.diff(np.log(x))[0] == pytest.approx(-2.0)
    looks = {(line.get_color(), line.get_marker(), line.get_markerfacecolor()) for line in panels[1, 0].lines[1:3]}
    assert len(looks) == 2


@pytest.fixture(scope="module")
def reference():
    return json.loads((REFERENCE / "work-precision.json").read_text(encoding="utf-8"))


def test_the_committed_page_follows_from_the_committed_numbers(reference):
    assert (REFERENCE / "how-to-choose.md").read_text(encoding="utf-8") == work_precision.page(reference)
    for equation in reference["equations"]:
        assert (REFERENCE / f"{equation['problem']}.png").read_bytes().startswith(b"\x89PNG")
        assert equation["methods"].keys() <= INTEGRATORS.keys()


@pytest.mark.parametrize("name", ["rotating", "schroedinger", "lyapunov", "allen-cahn", "landau-damping"])
def test_committed_runs_again(reference, name):
    """Two runs of each equation, errors to 1 % (far above rounding) and the same number of evaluations."""
    [equation] = [equation for equation in reference["equations"] if equation["problem"] == name]
    problem, rank = build_problem(name), equation["rank"]
    assert work_precision.sufficient_rank(problem) == rank
    usual = {"tau": 1e-8, "substep": usual_substep(problem, [problem.t_end / 10])}
    options = dict.fromkeys(("tau", "spare", "substep", "optimizer"))
    methods = methods_of("bug,projected-runge-kutta-2", usual, max_rank=rank, **options)
    for case in work_precision.cases(problem, methods, step_sizes=[problem.t_end / 40], rtol=[1e-1], rank=rank):
        [kept] = [r for r in equation["runs"] if (r["method"], r["kind"], r["value"]) == (case.label, *case.setting)]
        assert equation["methods"][case.label]["settings"] == repr(case.integrator)
        run = case.solve()
        assert run.evaluations[-1] == kept["evaluations"] and run.steps[-1] == kept["steps"]
        if kept["error"] is not None:
            solution = Solution.at(problem, problem.t_end)
            assert solution.relative(run.errors[-1]) == pytest.approx(kept["error"], rel=1e-2)
