"""Tables, headings and links of Markdown texts."""

import pytest

from docs.text import anchor, heading_before, relinked, table, tables


def test_tables_are_read_as_they_are_written():
    rows = [["name", "value"], ["a", "1"], ["b", ""]]
    assert tables("Text.\n\n" + table(rows[0], rows[1:]) + "\nMore.") == [rows]


def test_strokes_do_not_end_a_cell():
    text = table(["a", "b"], [["`||x|| <= 1`", "|y|"]])
    assert text.splitlines()[-1].count("|") == 3
    assert "<code>&#124;&#124;x&#124;&#124; &lt;= 1</code>" in text
    assert tables("| a |\n|---|\n| x\\|y |\n") == [[["a"], ["x|y"]]]


@pytest.mark.parametrize(
    "heading",
    ["Table 1, measured (`dlrt table 1`)", "Where directions limit", "ViT-S/14 on Fashion-MNIST", "5. Five – five × 5"],
)
def test_anchors_are_those_of_the_site(heading):
    toc = pytest.importorskip("markdown.extensions.toc")
    assert anchor(heading) == toc.slugify(heading.replace("`", ""), "-")


def test_headings_are_not_comments_in_code():
    text = "# One\n\n```python\n# a comment\n```\n\nhere"
    assert heading_before(text, len(text)) == "One"
    assert heading_before("here", 2) == ""


def test_links_lead_to_the_site_or_are_none():
    known = {"paper_figures/README.md": "paper_figures/README.md", "CHANGELOG.md": "CHANGELOG.md"}
    text = "[a](../CHANGELOG.md#x) [b](costs/counters.py) [c](https://x.org) [d](#here) ![e](e.png)"
    found = relinked(text, "paper_figures/README.md", known.get)
    assert found == "[a](../CHANGELOG.md#x) b [c](https://x.org) [d](#here) ![e](e.png)"
