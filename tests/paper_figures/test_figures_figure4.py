"""Figure 4: a fresh small run at ten times the rate of Figure 3, and its reference."""

from paper_figures import figure3, figure4

FIGURE = "figure4"


def test_the_quick_run_writes_what_it_should(out, fresh):
    for kind, start in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        assert (out / f"figure4.{kind}").read_bytes().startswith(start)
    assert fresh["figure"] == "4" and len(fresh["runs"]) == 4
    assert fresh["settings"]["lr"] == 10 * figure3.LR


def test_reference_is_a_full_run(reference):
    assert not reference["quick"]
    assert reference["settings"]["budget"] == figure3.BUDGET and reference["settings"]["lr"] == figure4.LR


def test_reference_says_what_its_ranks_say(reference):
    assert figure3._statements(reference) == reference["statements"]
