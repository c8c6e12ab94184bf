"""Names: what they are in one line, how options are set, and what an unknown name or option is answered."""

import numpy as np
import pytest

from dlrt.registry import (
    INTEGRATORS,
    OPTIMIZERS,
    PROBLEMS,
    SUBSTEPS,
    build_problem,
    description,
    lookup,
    uses,
    with_options,
)
from integrators import RK4, AdaLoRA, Adam, FixedRank, Tolerance


@pytest.mark.parametrize("thing", [*INTEGRATORS.values(), *PROBLEMS.values()], ids=[*INTEGRATORS, *PROBLEMS])
def test_descriptions_are_one_line_of_words(thing):
    text = description(thing)
    assert 10 < len(text) <= 130 and "\n" not in text and not text.endswith((".", ":"))
    assert not set("`\\") & set(text)


def test_descriptions_tell_entries_apart():
    assert len({description(method) for method in INTEGRATORS.values()}) == len(INTEGRATORS)
    assert description(INTEGRATORS["projector-splitting-strang"]).endswith("(order=2, substep=Heun())")
    assert description(INTEGRATORS["parallel-bug-rejection"]).endswith("(rejection=10.0)")
    assert not description(INTEGRATORS["geolora"]).endswith(")")


def test_marks_of_rst_are_left_out():
    def problem():
        """The field ``F(t, Y)`` of :class:`~problems.Problem`, :math:`Y'`, e.g. this.

        More.
        """

    assert description(problem) == "The field F(t, Y) of problems.Problem, Y', e.g. this"


@pytest.mark.parametrize("name", INTEGRATORS)
def test_every_integrator_takes_the_options_it_has(name):
    """With the substep and optimiser given; a tolerance only where it has one."""
    usual = INTEGRATORS[name]
    built = with_options(usual, truncation=Tolerance(relative=0.25, spare=2), substep=RK4(), optimizer=Adam())
    assert type(built) is type(usual) and built.optimizer == Adam()
    assert ("relative=0.25, " in repr(built)) == ("spare=2" in repr(built)) == isinstance(usual.truncation, Tolerance)
    assert ("substep=RK4()" in repr(built)) == hasattr(usual, "substep")
    assert with_options(usual) == usual


def test_a_rule_that_is_no_tolerance_stays():
    budget = AdaLoRA().for_run(steps=10, rank=4)
    assert with_options(budget, truncation=FixedRank(2)) == budget


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("rank", [1, 2, 12])
def test_the_budget_of_adalora_fits_every_run(rank, steps):
    budget = with_options(INTEGRATORS["adalora"], optimizer=Adam()).for_run(steps, rank).truncation
    assert budget.initial == rank and budget.final == -(-2 * rank // 3)
    assert budget.budget(steps) == budget.final and budget.masks(steps)


@pytest.mark.parametrize("name", PROBLEMS)
def test_problems_are_built_from_their_options(name):
    takes = uses(PROBLEMS[name])
    options = {"size": 12, "true_rank": 2, "dtype": "float32", "batch_size": 5}
    problem = build_problem(name, {option: value for option, value in options.items() if option in takes})
    assert problem.shape == (12, 12)
    assert not {"dtype"} <= set(takes) or np.dtype(problem.dtype) in (np.float32, np.complex64)
    assert build_problem(name, dict.fromkeys(options)).shape == build_problem(name).shape  # None is not given


def test_targets_come_from_files(tmp_path):
    file = tmp_path / "target.npy"
    np.save(file, np.arange(12.0).reshape(4, 3))
    built = build_problem("matrix-regression", {"target": str(file), "dtype": "float32"})
    assert np.array_equal(built.target, np.load(file)) and built.target.dtype == np.float32
    with pytest.raises(ValueError, match="size and true_rank are for synthetic targets, got target"):
        build_problem("matrix-regression", {"target": str(file), "size": 3})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rotatign", {}, "unknown problem 'rotatign', did you mean 'rotating'?"),
        ("rotating", {"batch_size": 3}, "rotating takes no batch_size, got 3; it takes size, true_rank, dtype"),
        ("manufactured", {"dtype": "float64"}, "manufactured takes no dtype"),
        ("lyapunov", {"size": 10**20}, "an option of lyapunov is larger than any array: Python int too large"),
        ("rotating", {"dtype": "int8"}, "dtype must be float32 or float64, got 'int8'"),
        ("matrix-regression", {"true_rank": 101}, "true_rank must lie between 1 and the size 100, got 101"),
    ],
)
def test_bad_problems(name, options, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        build_problem(name, options)


def test_unknown_names():
    for kind, table, name, near in (("substep", SUBSTEPS, "eular", "euler"), ("optimizer", OPTIMIZERS, "adm", "adam")):
        with pytest.raises(ValueError, match=f"unknown {kind} '{name}', did you mean '{near}'"):
            lookup(kind, name, table)
    with pytest.raises(ValueError, match=r"unknown thing 'x'\. Known: none"):
        lookup("thing", "x", {})


def test_what_is_no_method_or_mapping_is_refused():
    with pytest.raises(TypeError, match=r"integrator must be an integrators\.Integrator"):
        with_options(FixedRank(2))
    with pytest.raises(TypeError, match="options must be a"):
        build_problem("lyapunov", 3)
