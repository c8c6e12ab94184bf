"""Rank recovery: the reference success rates against a fresh small run, seed by seed."""

from paper_figures.regression.rank_experiments import SPECTRA, recover
from tests.paper_figures.contract import ItemContract

ITEMS = ["rank-recovery"]


class TestItem(ItemContract):
    """Of premature rank loss."""


def test_what_held_always_or_never_in_the_reference_does_so_again(reference, fresh):
    expected = {s["claim"]: s for s in reference["statements"]}
    for s in fresh["statements"]:
        before = expected[s["claim"]]
        if before["holds"] in (0, before["of"]) and not s["claim"].startswith("cost"):  # times depend on the machine
            assert s["holds"] / s["of"] == before["holds"] / before["of"], s


def test_success_rates_agree_seed_by_seed(reference):
    """The reference counts of one spectrum, run again: 5 seeds and the smallest shape are within the counts."""
    spectrum = "20, 10, 5, 4, 3"
    for start, spare in (("zero", 1), ("large", 0), ("large", 1)):
        [row] = [
            r
            for r in reference["success"]
            if (r["spectrum"], r["start"], r["tau"], r["spare"]) == (spectrum, start, 0.1, spare)
        ]
        assert row["recovered"] in (0, row["of"])
        for seed in (2, 3):
            run = recover(SPECTRA[spectrum], [50, 50], 0.1, start, spare, seed)
            assert run["recovered"] == (row["recovered"] == row["of"])
            assert row["counted"][0] <= run["counted"] <= row["counted"][1]


def test_one_spare_direction_recovers_every_run_of_the_grid(reference):
    for row in reference["success"]:
        if row["spare"] == 1:
            assert row["recovered"] == row["of"] == 15, row


def test_single_numbers_agree(reference, fresh):
    for name in ("growth", "tail", "stationary"):
        arguments = ("sigma", "rate", "seed", "spectrum", "spare", "bases", "columns")
        known = {tuple(str(r.get(k)) for k in arguments): r for r in reference[name]}
        for r in fresh[name]:
            before = known[tuple(str(r.get(k)) for k in arguments)]
            for key in ("measured", "counted", "columns"):
                assert r.get(key) == before.get(key), (name, r)


def test_pictures_are_there(out, reference, item):
    assert {path.name for path in out.glob("*.png")} == {
        f"rank-recovery{suffix}.png" for suffix in ("", "-mechanism", "-time", "-tail", "-noise")
    }
    assert "-example" in item.draw(reference | {"example": [{"spare": 0, "step": [1, 2], "error": [1.0, 0.1]}]})
