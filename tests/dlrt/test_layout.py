"""Aligned text: nothing is cut, wide tables are split."""

from dlrt.layout import aligned, markdown_table


def test_columns_that_do_not_fit_go_below():
    rows = [{"method": name, **{f"column {i}": f"{i}.{'5' * i}" for i in range(12)}} for name in ("bug", "geolora")]
    text = aligned(rows, title="word " * 30)
    assert all(len(line) <= 80 for line in text.splitlines())
    for i in range(12):
        assert text.count(f" {i}.{'5' * i}\n") + text.count(f" {i}.{'5' * i} ") + text.endswith(f" {i}.{'5' * i}") == 2
    blocks = text.split("\n\n")
    assert len(blocks) == 2 and all(block.count("geolora") == 1 for block in blocks)
    assert "\n\n" not in aligned(rows, width=200)


def test_columns_are_aligned_below_headings_and_groups():
    rows = ["a long heading of a group", {"h": "0.1", "error": "1.5"}, "another", {"h": "0.01", "error": "diverged"}]
    assert aligned(rows).splitlines() == [
        "h        error",
        "──────────────",
        "a long heading of a group",
        "0.1        1.5",
        "another",
        "0.01  diverged",
    ]


def test_a_wide_cell_is_whole_and_missing_ones_are_empty():
    text = aligned([{"name": "x" * 50, "text": "y" * 50}, {"name": "z"}])
    assert "x" * 50 in text and "y" * 50 in text and text.splitlines()[-1] == "z"
    assert aligned([{"only": "1"}]).splitlines()[-1] == "1"
    assert aligned([]).strip() == ""


def test_markdown_table():
    assert markdown_table([{"a": "1", "b": "2"}]) == ["| a | b |", "|---|---|", "| 1 | 2 |"]
