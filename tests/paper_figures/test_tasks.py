"""Lists of tasks."""

from paper_figures.tasks import cases, rows


def test_the_last_argument_runs_fastest():
    tasks = cases(print, a=[1, 2], b=["x", "y"])
    assert tasks == [(print, {"a": a, "b": b}) for a in (1, 2) for b in "xy"]


def test_no_values_no_tasks():
    assert cases(print, a=[], b=[1]) == []


def test_rows_have_the_arguments_and_the_results():
    assert rows(cases(print, a=[1, 2]), [{"b": 3}, {"b": 4}]) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
