"""Symbolic proofs hold, and wrong statements are not proved."""

import pytest
import sympy as sp

from dlrt.theorems import symbolic
from dlrt.theorems.local_error import LOCAL
from dlrt.theorems.symbolic import PROOFS, Proof, prove


@pytest.mark.parametrize("proof", PROOFS, ids=lambda p: p.__name__)
def test_proofs(proof):
    found = proof()
    assert found.zeros
    assert found.holds, found.name


def test_wrong_statements_fail():
    x = sp.Symbol("x")
    assert not Proof("wrong", "x = 0", (x,)).holds
    assert not Proof("wrong", "x - x is not 0", (), (x - x,)).holds
    p, q = sp.symbols("p q")
    P = p + q  # without the last term
    assert symbolic._reduce(P**2 - P, p, q) != 0


def test_a_wrong_constant_is_noticed(monkeypatch):
    monkeypatch.setitem(LOCAL, ("BUG", "Euler"), (2.0, 3.0, 1.5))
    assert symbolic.local_error_constants().failures == 1


def test_certificate(monkeypatch):
    monkeypatch.setattr(
        symbolic, "PROOFS", (symbolic.resting_points, lambda: Proof("wrong", "1 = 0", (sp.Integer(1),)))
    )
    certificate = prove()
    assert certificate.failed and certificate.reason.startswith("1 = 0")
