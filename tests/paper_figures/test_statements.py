"""Statements and the numbers in their words."""

from paper_figures.statements import each, finding, grouped, median_text, range_text, spread, where


def test_finding_counts_what_held():
    assert finding("f", iter([1, 0, True])) == {"paper": "—", "found": "f", "holds": 2, "of": 3}


def test_numbers_of_each_run_are_in_the_words():
    rows = [{"x": 3.0, "y": 1}, {"x": None}, {"x": 1.0, "y": 2}, {"y": 0}]
    found = each(rows, "{x:.1f}, {y}, {x.range:.0f}", lambda r: r["x"] > 2, "paper")
    assert found == {"paper": "paper", "found": "2.0 (1.0 to 3.0), 1 (0 to 2), 1 to 3", "holds": 1, "of": 4}


def test_runs_without_a_number_count_as_told():
    rows = [{"x": 1}, {"x": None}, {}]
    assert each(rows, "{x}", lambda r: False)["holds"] == 0
    assert each(rows, "{x}", lambda r: False, missing=True)["holds"] == 2
    assert each([], "{x.range}", lambda r: True) == finding("never", [])


def test_numbers_that_are_not_there_are_left_out():
    assert spread([3, None, 1, 2]) == {"median": 2.0, "min": 1, "max": 3, "count": 3}
    assert median_text(spread([3, None, 1, 2]), ".1f") == "2.0 (1.0 to 3.0)"
    assert median_text(spread([None])) == "none"
    assert range_text([3, None, 1]) == "1 to 3"
    assert range_text([1.01, 1.02], ".1f", "–") == "1.0"
    assert range_text([None]) == "never"


def test_where():
    rows = [{"a": 1, "b": None}, {"a": 2, "b": None}, {"a": 1, "b": 2}]
    assert where(rows, a=1) == [rows[0], rows[2]] and where(rows, a=1, b=None) == rows[:1] and where(rows, a=3) == []


def test_groups():
    rows = [{"a": 1, "b": 1}, {"a": 2}, {"a": 1, "b": 2}]
    assert grouped(rows, "a") == {(1,): [rows[0], rows[2]], (2,): [rows[1]]}
