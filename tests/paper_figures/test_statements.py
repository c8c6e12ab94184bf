"""Statements and the numbers in their words."""

from paper_figures.statements import grouped, markdown_table, median_text, range_text, spread, statement


def test_statement_counts_what_held():
    assert statement("c", "f", iter([1, 0, True])) == {"claim": "c", "paper": "—", "found": "f", "holds": 2, "of": 3}


def test_markdown_table():
    assert markdown_table([{"a": "1", "b": "2"}]) == ["| a | b |", "|---|---|", "| 1 | 2 |"]


def test_numbers_that_are_not_there_are_left_out():
    assert spread([3, None, 1, 2]) == {"median": 2.0, "min": 1, "max": 3, "count": 3}
    assert median_text(spread([3, None, 1, 2]), ".1f") == "2.0 (1.0 to 3.0)"
    assert median_text(spread([None])) == "none"
    assert range_text([3, None, 1]) == "1 to 3"
    assert range_text([1.01, 1.02], ".1f", "–") == "1.0"
    assert range_text([None]) == "never"


def test_groups():
    rows = [{"a": 1, "b": 1}, {"a": 2}, {"a": 1, "b": 2}]
    assert grouped(rows, "a") == {(1,): [rows[0], rows[2]], (2,): [rows[1]]}
