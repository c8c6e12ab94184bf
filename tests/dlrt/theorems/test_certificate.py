"""Certificates: verdicts, ratios, files, tables, plots."""

import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest

from dlrt.theorems import (
    HOLDS,
    NOT_APPLICABLE,
    VIOLATED,
    Certificate,
    Constant,
    Descent,
    Hypothesis,
    Series,
    worst_of,
)
from integrators import GeoLoRA
from problems import MatrixRegression, synthetic


def certificate(*rows, hypotheses=(), promised=True, right_label="bound"):
    series = Series.of("name", "step", rows, "measured", right_label)
    return Certificate("theorem", "a <= b", "here", "X()", "problem", hypotheses, (series,), promised=promised)


def test_verdicts():
    assert certificate((1, 1.0, 2.0, 0.0)).verdict == HOLDS
    assert certificate((1, 2.0 + 1e-12, 2.0, 1e-11)).verdict == HOLDS
    assert certificate((1, 2.1, 2.0, 1e-11)).verdict == VIOLATED
    assert certificate().verdict == NOT_APPLICABLE
    unmet = certificate((1, 3.0, 2.0, 0.0), hypotheses=(Hypothesis("finite", False, "it is not"),))
    assert unmet.verdict == NOT_APPLICABLE and unmet.reason == "finite: it is not"


@pytest.mark.parametrize("left", [math.nan, math.inf])
def test_what_is_not_finite_is_violated(left):
    assert certificate((1, left, 2.0, 0.0)).verdict == VIOLATED
    assert certificate((1, 1.0, math.nan, 0.0)).verdict == VIOLATED


def test_a_violation_fails_only_where_promised():
    assert certificate((1, 3.0, 2.0, 0.0)).failed
    assert not certificate((1, 3.0, 2.0, 0.0), promised=False).failed


def test_ratios():
    series = Series.of("n", "k", [(1, 1.0, 4.0, 0.0), (2, 1.0, -1.0, 0.0), (3, -1.0, 2.0, 0.0)])
    assert series.ratio.tolist() == [0.25, math.inf, -0.5]
    assert series.worst == 1
    equality = Series.of("n", "k", [(1, 1e-15, 0.0, 1e-13)], "deviation", "0")
    assert equality.equality and equality.ratio[0] == pytest.approx(0.01)
    assert certificate((1, 1.0, 4.0, 0.0), (2, 3.0, 4.0, 0.0)).tightest == 0.75


def test_worst_of_prefers_violations():
    good, bad = certificate((1, 1.0, 1.0, 0.0)), certificate((1, 2.0, 1.0, 0.0))
    assert worst_of([good, bad, certificate()]) is bad
    assert worst_of([certificate()]) is None


def test_saved_and_loaded(tmp_path):
    original = Certificate(
        "theorem", "a <= b", "here", "X()", "problem",
        (Hypothesis("h", True, "d"),),
        (
            Series.of("n", "k", [(1, math.inf, 1.0, 0.0), (2, 0.5, 1.0, 0.1)]),
            Series.of("m", "k", [(1, 0, 0, 1)], "a", "0"),
        ),
        {"L": Constant(1.0, "somewhere"), "B": Constant(math.inf, "unbounded")},
        promised=False, promise="none", notes=("a note",),
    )  # fmt: skip
    path = original.save(tmp_path / "new" / "certificate.json")
    content = json.loads(path.read_text(), parse_constant=lambda x: pytest.fail(f"{x} is not JSON"))
    assert content["verdict"] == VIOLATED and content["series"][0]["left"][0] == "inf"
    assert Certificate.load(path) == original


LISTS = json.dumps(
    {k: [] for k in ("hypotheses", "constants", "series", "notes")}
    | {"schema_version": 1}
    | {k: "" for k in ("theorem", "statement", "source", "integrator", "problem", "promised", "promise")}
)


@pytest.mark.parametrize("content", ["", "{}", '{"schema_version": 0}', "[1]", LISTS])
def test_damaged_files_are_refused(tmp_path, content):
    path = tmp_path / "c.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="damaged or no certificate"):
        Certificate.load(path)


def test_table_shows_the_worst_row_and_everything_is_printed():
    rows = [(k, 1.0 if k != 37 else 5.0, 2.0, 0.0) for k in range(100)]
    c = certificate(*rows, hypotheses=(Hypothesis("[brackets]", True),))
    text = c.text()
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "step = 37" in text and "violated" in text and "[brackets]" in text
    assert "measured 5" in c.reason


def test_plot():
    problem = MatrixRegression(synthetic((8, 7), [1.0, 0.5, 0.2], np.random.default_rng(0)))
    c = Descent(rank=2, steps=4).check(GeoLoRA(), problem)
    ax = c.plot()
    assert ax.get_xlabel() == "step"
    assert len(ax.lines) == 2
    assert c.plot(ax, series="truncation error is the tail") is ax
    plt.close("all")
