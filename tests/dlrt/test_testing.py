"""Tests of the tests: a method that breaks a promise is caught."""

from dataclasses import dataclass

import numpy as np
import pytest

from dlrt.testing import Contract, one_step
from integrators import Integrator, LowRank, Tolerance
from problems import MatrixRegression


@dataclass(frozen=True, kw_only=True)
class Inverting(Integrator):
    """The textbook equations U' = (I - U U^H) F V S^-1, S' = U^H F V, V' likewise, by Euler: divides by S."""

    order = 1

    def stages(self, t, state, h):
        Y = state.Y
        f = yield t, Y
        dU = np.linalg.solve(Y.S.T, (f.K - Y.U @ f.S).T).T
        dV = np.linalg.solve(Y.S.conj(), (f.L - Y.V @ f.S.conj().T).T).T
        U, R = np.linalg.qr(Y.U + h * dU)
        V, T = np.linalg.qr(Y.V + h * dV)
        return LowRank(U, R @ (Y.S + h * f.S) @ T.conj().T, V)


class NaiveContract(Contract):
    integrator = Inverting()


def test_a_method_that_inverts_S_is_not_robust():
    naive = NaiveContract()
    with np.errstate(all="ignore"):
        large, small = (naive.error_on_given_solution(128, smallest=s) for s in (0.1, 1e-14))
    assert not small <= 100 * large  # measured: 6e-2 and 5e4


def test_contract_leaves_out_what_a_method_does_not_promise():
    class Undeclared(Contract):
        integrator = Inverting()

    assert Undeclared.test_robust_to_small_singular_values is None  # not declared robust
    assert Undeclared.test_stack is None  # nor for stacks
    assert Undeclared.test_order is not None


@dataclass(frozen=True, kw_only=True)
class Crooked(Integrator):
    """Riemannian descent whose bases are left as they come: orthonormal no longer."""

    truncation = Tolerance(relative=1e-8)

    def stages(self, t, state, h):
        f = yield t, state.Y
        U, S, V = state.Y
        return LowRank(U + 1e-3 * f.K, S + h * f.S, V)


def test_crooked_bases_are_caught():
    class CrookedContract(Contract):
        integrator = Crooked()

    with pytest.raises(AssertionError):
        CrookedContract().test_orthonormal_after_3000_steps("float64")


def test_a_wrong_declaration_is_caught():
    @dataclass(frozen=True, kw_only=True)
    class Two(Inverting):
        evaluations = 2

    method = Two()
    with pytest.raises(RuntimeError, match="Two declares 2 evaluations per step, 1 were counted"):
        one_step(method, MatrixRegression(np.ones((6, 5))), LowRank.random((6, 5), 2, np.random.default_rng(0)))
