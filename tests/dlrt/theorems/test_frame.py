"""Five optimisers in one frame."""

import numpy as np
import pytest

from dlrt.theorems import HOLDS, frame, one_frame
from dlrt.theorems.measure import msign, norm, tangent_part
from integrators import LoRA, LoRAMuon, LowRank, Projections
from tests.dlrt.theorems.conftest import violated


def scene(seed=0, m=9, n=7, r=2, condition=10.0, dtype=float):
    return frame._Scene((m, n), r, np.random.default_rng(seed), dtype, condition, 0.3)


@pytest.mark.parametrize(
    ("rank", "shape"), [(1, (5, 4)), (2, (4, 9)), (3, (4, 4)), (4, (4, 7)), (5, (40, 30))], ids=str
)
@pytest.mark.parametrize("seed", [1, 2])
def test_identities(rank, shape, seed):
    """Also where the augmented bases fill the space, or are those of the whole space from the start."""
    certificate = one_frame(rank, shape, seed)
    assert certificate.verdict == HOLDS, certificate.reason
    assert not certificate.failed and certificate.promised


def test_slack_is_rounding():
    """Below 1e-9 for factors of condition 100: far below every defect of the next test."""
    certificate = one_frame()
    for series in certificate.series:
        if series.equality and series.parameter == "cond(M)":
            assert max(s for s, c in zip(series.slack, series.values, strict=True) if c <= 1e2) < 1e-8


def muon_on_factors(B, A, gB, gA):
    return frame.moved(B, A, msign(gB) / 2, msign(gA) / 2)


def lora(B, A, gB, gA):
    return frame.moved(B, A, gB, gA)


def not_projected(B, A, gB, gA):
    G = frame.lora_pro(B, A, gB, gA)
    return msign(G)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("(a) LoRA-Muon", muon_on_factors),
        ("(b) scaled gradient", lora),
        ("(b) scaled gradient", frame.lora_pro),
        ("(c) LoRA-Pro", frame.scaled_gradient),
        ("(d) LoRA-RITE, first step", frame.lora_muon),
        ("(e) Riemannion", not_projected),
    ],
)
def test_other_methods_are_found_out(monkeypatch, name, wrong):
    monkeypatch.setitem(frame.FACTOR_FORMS, name, wrong)
    certificate = one_frame()
    assert certificate.failed
    assert violated(certificate) == {f"{name}, over cond(M)", f"{name}, over sigma_r"}


def test_a_method_that_does_not_move_so_is_found_out(monkeypatch):
    monkeypatch.setitem(frame.FACTOR_METHODS, "LoRA()", ("(b) scaled gradient", LoRA()))
    monkeypatch.setitem(
        frame.TANGENT_METHODS, "GeoLoRA()", ("(b) scaled gradient", frame.TANGENT_METHODS["GeoLoRA()"][1])
    )
    found = {"LoRA()", "LoRA(), with Z S^-1 X^H", "GeoLoRA()"}
    assert violated(one_frame()) == {f"(b) scaled gradient: {name}" for name in found}


@pytest.mark.parametrize("name", frame.FACTOR_FORMS)
@pytest.mark.parametrize("dtype", [float, complex])
def test_the_choice_of_factors_does_not_matter(name, dtype):
    s, rng = scene(dtype=dtype), np.random.default_rng(5)
    N = rng.standard_normal((2, 2)) + np.eye(2)
    B, A = s.B @ N, s.A @ np.linalg.inv(N).conj().T
    other = frame.FACTOR_FORMS[name](B, A, s.G @ A, s.G.conj().T @ B)
    np.testing.assert_allclose(other, frame.FACTOR_FORMS[name](*s.factors), rtol=1e-9, atol=1e-9)
    assert norm(lora(B, A, s.G @ A, s.G.conj().T @ B) - lora(*s.factors)) > 0.1  # it does for plain descent


def test_lora_pro_is_the_least_squares_solution():
    """Independent of the formula: least squares over all entries of dB and dA."""
    s = scene(m=5, n=4)
    columns = [np.outer(e, a).ravel() for e in np.eye(5) for a in s.A.T]
    columns += [np.outer(b, e).ravel() for e in np.eye(4) for b in s.B.T]
    J = np.array(columns).T
    best = J @ np.linalg.lstsq(J, s.G.ravel(), rcond=1e-10)[0]
    np.testing.assert_allclose(frame.lora_pro(*s.factors), best.reshape(5, 4), atol=1e-10)
    np.testing.assert_allclose(tangent_part(s.G, s.Y.U, s.Y.V), best.reshape(5, 4), atol=1e-10)


def test_at_zero_the_frame_is_there_and_the_factors_are_not():
    """The usual start of an adapter, B = 0: no inverse, but the five directions depend on U and V alone."""
    s = scene()
    zero = LowRank.zeros((9, 7), 2, np.random.default_rng(0))
    directions = frame.frame_forms(s.G, zero.U, zero.V)
    assert all(np.isfinite(D).all() and norm(D) > 1 for D in directions.values())
    B, A = np.zeros((9, 2)), zero.V
    with np.errstate(all="ignore"):
        for name, form in frame.FACTOR_FORMS.items():
            try:
                assert not np.allclose(form(B, A, s.G @ A, s.G.T @ B), directions[name], rtol=0.1), name
            except np.linalg.LinAlgError:
                pass


def test_lora_muon_starts_from_zero_with_half_of_it():
    """Where B = 0 the pseudo-inverse leaves the part of B: msign(K) V^T / 2."""
    s = scene()
    method = LoRAMuon()
    state = method.init(LowRank(np.zeros((9, 2)), np.eye(2), s.Y.V))
    after = method.step(
        lambda t, Y: Projections.of(-s.G, Y), 0.0, state, 1 / frame.length("(a) LoRA-Muon", s.Y)
    ).state.Y
    np.testing.assert_allclose(after.full(), -msign(s.G @ s.Y.V) @ s.Y.V.T / 2, atol=1e-12)
