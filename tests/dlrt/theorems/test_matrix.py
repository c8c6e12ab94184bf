"""The tables of integrators and of theorems, and those in the README."""

from pathlib import Path

import pytest

from dlrt.theorems import THEOREMS, Certificate, RiemannianStep, Series
from dlrt.theorems.matrix import (
    BEGIN,
    END,
    cell,
    certificates,
    integrators_text,
    matrix_text,
    with_integrators,
    with_matrix,
)
from integrators import INTEGRATORS, GeoLoRA
from tests.dlrt.theorems.conftest import Hasty

ROOT = Path(__file__).resolve().parents[3]


def test_matrix_has_a_row_for_a_new_integrator(monkeypatch):
    monkeypatch.setitem(RiemannianStep.promised, Hasty, "claimed")
    few = ("riemannian-step", "stationary-points", "exactness")
    found = certificates({"hasty": Hasty(), "geolora": GeoLoRA()}, few)
    text = matrix_text(found)
    assert "| | riemannian-step | stationary-points | exactness |\n|---|---|---|---|\n" in text
    assert "| hasty | **VIOLATED** (off by " in text
    assert "| geolora | **holds** | **holds** | – |" in text


def test_cells():
    def certificate(left, right, slack=0.0, label="bound", promised=False):
        series = Series.of("n", "k", [(1, left, right, slack)], "measured", label)
        return Certificate("t", "s", "s", "i", "p", series=(series,), promised=promised)

    assert cell([certificate(1.0, 2.0)]) == "holds"
    assert cell([certificate(1.0, 2.0, promised=True)]) == "**holds**"
    assert cell([certificate(6.0, 2.0), certificate(1.0, 2.0)]) == "violated (3×)"
    assert cell([certificate(0.25, 0.0, 1e-10, "0")]) == "violated (off by 0.25)"
    assert cell([certificate(float("inf"), 1.0)]) == "violated (diverged)"
    assert cell([certificate(0.5, 0.0)]) == "violated (0.5 > 0)"
    assert cell([]) == "–"


def test_text_between_the_markers():
    text = with_matrix("# dlrt\n\nText.\n", "| table |")
    assert text.startswith("# dlrt\n\nText.\n") and f"{BEGIN}\n| table |\n{END}" in text
    again = with_matrix(text, "| other |")
    assert "| table |" not in again and again.count(BEGIN) == 1
    assert with_matrix(again, "| other |") == again
    for wrong in (BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}"):
        with pytest.raises(ValueError, match="once each"):
            with_matrix(wrong, "")


def test_table_of_integrators():
    """What the methods and their docstrings say; a method without references is described."""
    rows = integrators_text(INTEGRATORS | {"hasty": Hasty()}).splitlines()[2:]
    by = {row.split(" | ")[0].strip("| "): row for row in rows}
    assert list(by) == [*INTEGRATORS, "hasty"]
    link = "Lubich, Oseledets 2014, [doi](https://doi.org/10.1007/s10543-013-0454-0) |"
    assert by["projector-splitting"] == f"| projector-splitting | `ProjectorSplitting` | 1 | yes | 3 | {link}"
    call = "`ProjectorSplitting(order=2, substep=Heun())`"
    assert by["projector-splitting-strang"] == f"| projector-splitting-strang | {call} | 2 | yes | 10 | {link}"
    link = "Schotthöfer et al. 2025, [arXiv:2410.18720](https://arxiv.org/abs/2410.18720) |"
    assert by["geolora"] == f"| geolora | `GeoLoRA` | 1 | yes | 1 | {link}"
    assert by["lora"].startswith("| lora | `LoRA` | – | no | 1 | Hu et al. 2022, [arXiv:2106.09685]")
    assert by["full-rank"].endswith(
        " | The matrix itself without any low-rank constraint: explicit Euler on W, which is plain gradient descent |"
    )
    assert "| hasty | `Hasty` |" in by["hasty"]


def test_table_of_integrators_between_its_markers():
    assert with_integrators("no place for it") == "no place for it"
    begin, end = "<!-- integrators begin -->", "<!-- integrators end -->"
    text = with_integrators(f"a\n{begin}\nold\n{end}\nb\n")
    assert text == f"a\n{begin}\n{integrators_text()}\n{end}\nb\n"
    with pytest.raises(ValueError, match="once each"):
        with_integrators(end)


def test_readme_has_the_matrix_of_all_integrators_and_theorems():
    """Names only, figures depend on the machine; `dlrt verify --write-matrix README.md` brings it up to date."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    header, _, *rows = [line for line in table.splitlines() if line.startswith("|")]
    assert [x.strip() for x in header.strip("|").split("|")][1:] == list(THEOREMS)
    assert [row.strip("|").split("|")[0].strip() for row in rows] == list(INTEGRATORS)
    assert "VIOLATED" not in table
