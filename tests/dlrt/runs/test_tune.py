"""Learning rates: half decades are tried until the best one lies inside, and the best one is chosen."""

import pytest

from dlrt.runs import best, late_loss, rate, tune


def record(validation, loss=1.0, status="finished"):
    return {"status": status, "validation": validation, "losses": [9.0] * 9 + [loss]}


def test_rates_are_half_decades():
    assert [rate(k) for k in (-4, -3, 0, 1)] == [0.01, 0.0316, 1.0, 3.16]


def test_late_loss_is_that_of_the_last_tenth():
    assert late_loss({"losses": [5.0] * 18 + [1.0, 2.0]}) == 1.5
    assert late_loss({"losses": [3.0]}) == 3.0


@pytest.mark.parametrize(
    ("peak", "expected"),
    [(-2, {-3, -2, -1}), (0, {-3, -2, -1, 0, 1}), (5, {-3, -2, -1, 0, 1, 2}), (-9, {-6, -5, -4, -3, -2, -1})],
)
def test_the_range_grows_until_the_best_is_inside_or_the_end_is_reached(peak, expected):
    asked = []

    def runs(wanted):
        asked.extend(wanted)
        return [record(-abs(k - peak)) for _, k in wanted]

    tried = tune(["a"], runs, first=(-3, -2, -1), ends=(-6, 2))
    assert set(tried["a"]) == expected and len(asked) == len(expected)
    assert best(tried["a"]) == min(max(peak, -6), 2)


def test_methods_are_tuned_on_their_own():
    peaks = {"a": 0, "b": -2}
    tried = tune(
        peaks, lambda wanted: [record(-abs(k - peaks[m])) for m, k in wanted], first=(-3, -2, -1), ends=(-6, 2)
    )
    assert max(tried["a"]) == 1 and max(tried["b"]) == -1


def test_without_extension_only_the_first_are_tried():
    tried = tune(["a"], lambda wanted: [record(k) for _, k in wanted], first=(0, 1), ends=(-6, 6), extend=False)
    assert set(tried["a"]) == {0, 1}


def test_ties_go_to_the_lower_loss_and_unfinished_runs_lose():
    assert best({0: record(0.9, 0.5), 1: record(0.9, 0.1), 2: record(0.8, 0.0)}) == 1
    assert best({0: record(0.1), 1: record(None, status="diverged at step 3")}) == 0
    assert best({0: record(None, status="diverged"), 1: record(None, status="diverged")}) == 0


def test_another_score():
    found = {0: {"status": "finished", "validation": 3.0}, 1: {"status": "finished", "validation": 2.0}}
    assert best(found, lambda record: -record["validation"]) == 1
