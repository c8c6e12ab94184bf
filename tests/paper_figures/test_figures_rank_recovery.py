"""Rank recovery: the reference success rates against a fresh small run, and the formulas against the integrators."""

import math

import numpy as np
import pytest

from integrators import Tolerance
from paper_figures import rank_recovery
from paper_figures.rank_recovery import SPECTRA, resting_rank, rule_rank, steps_to_count
from paper_figures.tasks import run_tasks

FIGURE = "rank-recovery"


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
            run = rank_recovery.recover(SPECTRA[spectrum], [50, 50], 0.1, start, spare, seed)
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


def test_pictures_are_there(out):
    for suffix in ("", "-mechanism", "-time", "-tail", "-noise"):
        assert (out / f"rank-recovery{suffix}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / f"rank-recovery{suffix}.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("tau", [0.0, 0.03, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("spectrum", SPECTRA.values())
def test_rule_rank_is_the_truncation_rule(spectrum, tau):
    rank, error = rule_rank(spectrum, tau)
    assert max(rank, 1) == Tolerance(relative=tau).ranks([np.array(spectrum)])[0]
    assert error == pytest.approx(np.linalg.norm(spectrum[rank:]))


def test_resting_rank_with_every_direction_spare_is_that_of_the_rule():
    for spectrum in rank_recovery.TAILS.values():
        assert resting_rank(spectrum, 0.1, len(spectrum), 1) == rule_rank(spectrum, 0.1)[0]


def test_steps_to_count():
    assert steps_to_count(1.9, 20.0, 0.1, 0.1) is None
    # s_k = sigma (1 - (1 - lam)^(k-1)) passes s_tau exactly there
    k = steps_to_count(5.0, 20.0, 0.1, 0.1)
    s = 5.0 * (1 - 0.9 ** (k - 1))
    assert s == pytest.approx(0.1 * math.hypot(20.0, s))


def square(x):
    return {"square": x * x}


def test_tasks_go_on_where_they_stopped(tmp_path):
    journal, calls = tmp_path / "journal", []
    tasks = [(square, {"x": x}) for x in range(4)]
    first = run_tasks(tasks[:2], journal=journal)
    with journal.open("a") as file:
        file.write('["square {\\"x\\": 3}", {"squ')  # killed while writing
    results = run_tasks(tasks, journal=journal, progress=lambda done, total: calls.append((done, total)))
    assert first == [{"square": 0}, {"square": 1}]
    assert results == [{"square": x * x} for x in range(4)]
    assert calls == [(1, 2), (2, 2)]


def test_a_journal_of_other_code_is_not_used(tmp_path):
    journal = tmp_path / "journal"
    journal.write_text('{"made_by": "something else"}\n["square {\\"x\\": 2}", {"square": 5}]\n')
    assert run_tasks([(square, {"x": 2})], journal=journal) == [{"square": 4}]
