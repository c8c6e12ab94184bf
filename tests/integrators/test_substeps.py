"""Substeps against exact sub-flows."""

import numpy as np
import pytest

from dlrt.testing import rng
from integrators import RK4, Euler, Exact, Heun, LowRank, Repeated
from integrators.substeps import Substep
from problems import MatrixRegression, given_solution

EPS = 1e-13  # some hundred eps, for matrices of norm about 10


@pytest.mark.parametrize(
    "substep,further", [(Euler(), 0), (Heun(), 1), (RK4(), 3), (Repeated(Heun(), 3), 5), (Exact(), 0)], ids=str
)
@pytest.mark.parametrize("part", ["K", "L", "S"])
@pytest.mark.parametrize("sign", [1, -1])
def test_substeps_against_the_exact_sub_flow(substep, further, part, sign):
    """Local error of order p + 1 on the linear field A - Y; none for Exact."""
    if sign == -1 and part != "S":
        return
    problem = MatrixRegression(rng(1).standard_normal((9, 7)))
    Y = LowRank.random((9, 7), 3, rng(2))
    errors = []
    for h in (0.2, 0.1):
        f = problem.field(0.0, Y)
        flow = getattr(f, f"flow_{part}")
        exact = flow(h, sign) if part == "S" else flow(h)
        stages = getattr(substep, part)(0.0, Y, h, f, *([sign] if part == "S" else []))
        asked = 0
        try:
            request = next(stages)
            while True:
                asked += 1
                request = stages.send(problem.field(*request[:2]))
        except StopIteration as stop:
            errors.append(np.linalg.norm(getattr(Y, part) + stop.value - exact))
        assert asked == further
    if isinstance(substep, Exact):
        assert max(errors) <= EPS
    else:
        assert abs(np.log2(errors[0] / errors[1]) - (substep.order + 1)) <= 0.3


def test_time_runs_forward_in_a_backward_step():
    """The stages of a backward S-step lie in [t, t + h] too."""
    problem = given_solution(rng(1))
    Y = problem.initial(4, rng(2))
    stages = RK4().S(1.0, Y, 0.4, problem.field(1.0, Y), sign=-1)
    times = [next(stages)[0]]
    for _ in range(2):
        times.append(stages.send(problem.field(times[-1], Y))[0])
    assert times == pytest.approx([1.2, 1.2, 1.4])


def test_bad_substeps():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        Repeated(Euler(), 0)
    with pytest.raises(TypeError, match="Substep must define advance"):
        Substep().advance(0, None, 0.1, None, "K", None, 1)

    class NoFlows:
        pass

    with pytest.raises(TypeError, match="Exact needs a field with flow_K; NoFlows has none"):
        next(Exact().K(0.0, LowRank.random((4, 3), 1, rng()), 0.1, NoFlows()))
