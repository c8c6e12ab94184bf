"""The table of methods: every method of the registry, the reference against fresh measurements, the quick run."""

import pytest

from integrators import INTEGRATORS, Integrator
from paper_figures.equations import methods as table
from paper_figures.equations.methods import LARGEST, order, plateau, small_values, stable_step
from tests.paper_figures.contract import ItemContract

ITEMS = ["methods"]
SHOWN = ("projector-splitting", "bug", "projected-runge-kutta-2", "rand-rk4")


class TestItem(ItemContract):
    """Of the table."""


def of(reference, method):
    [row] = [row for row in reference["methods"] if row["method"] == method]
    return row


def test_every_method_is_in_it(reference, fresh):
    """The reference is a full run; a method that is added needs one (``dlrt table methods``)."""
    assert [row["method"] for row in reference["methods"]] == table.methods()
    assert [row["method"] for row in fresh["methods"]] == table.methods()
    assert "lora" not in table.methods() and "full-rank" not in table.methods()


@pytest.mark.parametrize("method", SHOWN)
def test_measured_again(reference, method):
    """Errors far above rounding: three digits. A stable step is found to 5 %."""
    row = of(reference, method)
    fresh = order(method=method, equation="given-solution")
    assert fresh["order"] == pytest.approx(row["orders"]["given-solution"], abs=0.01)
    assert small_values(method=method)["errors"] == pytest.approx(row["errors"], rel=1e-2)
    assert plateau(method=method)["ratio"] == pytest.approx(row["plateau"], rel=1e-2)


@pytest.mark.parametrize("equation", ["lyapunov", "allen-cahn"])
def test_the_largest_stable_step_again(reference, equation):
    found = stable_step(method="bug", equation=equation)["hL"]
    assert found == pytest.approx(of(reference, "bug")["stable"][equation], rel=0.06)
    assert 1.9 <= found <= 2.2  # Euler's method: 2


def test_exact_flows_and_a_backward_step(reference):
    """A step backward in time amplifies what a stiff equation damps; without one every step is stable."""
    assert of(reference, "bug")["exact"] == LARGEST
    assert of(reference, "projector-splitting")["exact"] < LARGEST / 4


class Refuses(Integrator):
    """Needs what no equation has."""

    order = 1

    def stages(self, t, state, h):
        yield t, state.Y
        raise TypeError("no such field")


def test_what_does_not_apply_is_left_open(monkeypatch):
    monkeypatch.setitem(INTEGRATORS, "refuses", Refuses())
    assert table.methods()[-1] == "refuses"
    assert order(method="refuses", equation="given-solution", steps=(2, 4)) == {"order": None, "errors": []}
    assert small_values(method="refuses", steps=2)["growth"] is None
    assert plateau(method="refuses", steps=2) == {"ratio": None}
    assert stable_step(method="refuses", equation="lyapunov", steps=2) == {"hL": None}
