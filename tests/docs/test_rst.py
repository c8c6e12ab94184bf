"""Docstrings as Markdown."""

import textwrap

import pytest

from docs.rst import markdown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"with :math:`\|P G\|` in it", r"with $\|P G\|$ in it"),
        ("over :math:`a +\n    b` lines", "over $a + b$ lines"),
        ("``E<F, D>`` and `solve`", "``E<F, D>`` and `solve`"),
        ("Re <F, D> <= 0", "Re &lt;F, D> <= 0"),
        ("> 0 for all", "&gt; 0 for all"),
        ("An object with::\n\n    a  int", "An object with:\n\n    a  int"),
        ("costs $5", "costs &#36;5"),
        ("see arXiv:2410.18720.", "see [arXiv:2410.18720](https://arxiv.org/abs/2410.18720)."),
        ("(doi:10.1007/s10543-021-00873-0)", "([doi:10.1007/s10543-021-00873-0](https://doi.org/10.1007/s10543-021-00873-0))"),
    ],
)  # fmt: skip
def test_inline(text, expected):
    assert markdown(text) == expected


@pytest.mark.parametrize(
    ("role", "path", "shown"),
    [
        (":class:`~integrators.BUG`", "integrators.BUG", "BUG"),
        (":mod:`problems.fields`", "problems.fields", "problems.fields"),
        (":class:`Field`", "problems.fields.Field", "Field"),
        (":meth:`full`", "problems.fields.Dense.full", "full"),
    ],
)
def test_references_become_links_that_need_not_lead_anywhere(role, path, shown):
    found = markdown(f"See {role}.", "problems.fields", "problems.fields.Dense")
    assert found == f'See <autoref optional identifier="{path}"><code>{shown}</code></autoref>.'


def test_formulas_on_lines_of_their_own():
    docstring = textwrap.dedent(r"""
        Before:

        .. math::
            a &= b, \\
            c &= \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}

        Between.

        .. math:: E = m c^2

        After.
        """)
    text = markdown(docstring)
    assert ".. math" not in text
    first, second = text.split("$$")[1::2]
    assert first.strip().startswith(r"\begin{aligned}") and first.strip().endswith(r"\end{aligned}")
    assert second.strip() == "E = m c^2"
    assert text.index("Before:") < text.index("$$") < text.index("Between.") < text.index("E =") < text.index("After.")


def test_a_matrix_alone_is_not_lined_up():
    text = markdown(".. math:: A = \\begin{pmatrix} 1 & 2 \\end{pmatrix}, \\\\ b")
    assert r"\begin{gathered}" in text and r"\begin{aligned}" not in text


def test_a_formula_in_the_description_of_a_parameter_keeps_its_indentation():
    text = markdown("Parameters\n----------\nx : int\n    As in\n\n    .. math:: x < y\n\n    and so on.")
    assert "Parameters\n----------\nx : int\n    As in" in text
    assert "    $$\n    x < y\n    $$" in text


def test_examples_are_fenced():
    assert markdown("Text.\n\n>>> 1 < 2\nTrue\n\nMore.") == "Text.\n\n\n```pycon\n>>> 1 < 2\nTrue\n```\n\nMore."
