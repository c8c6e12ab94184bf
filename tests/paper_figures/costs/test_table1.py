"""Table 1: counts against formulas, the reference against a fresh count, what is stored."""

import pytest

from paper_figures.costs import table1
from paper_figures.costs.table1 import METHODS, TAPES, TOKENS, N, R, measure
from tests.paper_figures.contract import ItemContract

ITEMS = ["table1"]


class TestItem(ItemContract):
    """Of Table 1."""


def test_reference_is_a_full_run(reference):
    assert reference["settings"]["sizes"] == list(table1.SIZES) and reference["settings"]["ranks"] == list(table1.RANKS)
    assert [m["method"] for m in reference["methods"]] == list(METHODS)


def test_counts_are_those_of_the_reference(reference, fresh):
    """They are exact, so the code has not become more expensive (nor cheaper) since."""
    by = {(c["method"], c["n"], c["r"]): c for c in reference["counts"]}
    for count in fresh["counts"]:
        assert count == by[count["method"], count["n"], count["r"]]
    assert [m["adam"] for m in fresh["methods"]] == [m["adam"] for m in reference["methods"]]


def test_all_that_is_claimed_exactly_holds(fresh):
    exact = [s for s in fresh["statements"] if "exactly" in s["claim"] or "largest tensor" in s["claim"]]
    assert len(exact) == 3 and all(s["holds"] == s["of"] > 0 for s in exact)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "full"])
def test_formulas_hold_for_other_numbers_of_tokens(method):
    n, r, tokens = 96, 3, 40
    count = measure(method, n, r, tokens)
    assert count["network"]["products"] == table1.network_formula(method, n, r, tokens)
    assert count["integrator"]["products"] == table1.integrator_formula(method, n, r)
    assert count["tapes"] == max(1, len(TAPES[method]))


def test_what_is_stored(fresh):
    """U, V and S; W for full rank; Adam's moments: 2 (m + n) r for LoRA, (m + n) (r + 1) + r^2 + 1 for GeoLoRA."""
    size = 4 * N
    by = {m["method"]: m for m in fresh["methods"]}
    assert table1.at(fresh, "full")["stored"] == size * N and by["full"]["adam"] == 2 * size * N
    assert table1.at(fresh, "geolora")["stored"] == size * 2 * R + 4 * R**2
    assert by["lora"]["adam"] == 2 * size * 2 * R
    assert by["geolora"]["adam"] == size * 2 * (R + 1) + 4 * (R**2 + 1)
    assert fresh["settings"]["tokens"] == TOKENS
