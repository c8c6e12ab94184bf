"""SVD-LoRA: the contract and its equations."""

import numpy as np

from dlrt.testing import Contract, one_step
from integrators import SVDLoRA

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


class TestSVDLoRA(Contract):
    integrator = SVDLoRA()


def test_svd_lora(problem, Y):
    U, S, V = Y.U, Y.S, Y.V
    G = U @ S @ V.T - problem.target
    expected = (U - 0.1 * G @ V @ S.T) @ (S - 0.1 * U.T @ G @ V) @ (V - 0.1 * G.T @ U @ S).T
    assert np.linalg.norm(one_step(SVDLoRA(), problem, Y).state.Y.full() - expected) <= EPS
