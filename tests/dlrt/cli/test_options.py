"""Options that commands share: what is made of them, and what does not fit."""

import pytest

from dlrt.cli.options import (
    check_least,
    check_substep,
    is_stiff,
    knows_flows,
    methods_of,
    problem_of,
    steps_to_end,
    usual_rank,
    usual_substep,
)
from dlrt.registry import build_problem
from integrators import Euler, Exact, Heun, Tolerance

NOTHING = dict.fromkeys(("size", "true_rank", "batch_size", "target", "dtype"))
NONE = dict.fromkeys(("tau", "spare", "substep", "optimizer"))


def test_problem():
    assert problem_of("rotating", NOTHING | {"size": 7, "steps": 3}).shape == (7, 7)
    with pytest.raises(ValueError, match="allen-cahn takes no --true-rank; it takes --size, --dtype"):
        problem_of("allen-cahn", NOTHING | {"true_rank": 2})


def test_methods():
    usual = {"tau": 1e-5, "substep": None}
    methods = methods_of("bug, augmented-bug", usual, max_rank=9, **NONE)
    assert list(methods) == ["bug", "augmented-bug"] and isinstance(methods["bug"].substep, Euler)
    assert methods["augmented-bug"].truncation == Tolerance(relative=1e-5, spare=1, max_rank=9)
    given = methods_of("augmented-bug", usual, **NONE | {"tau": 1e-2, "spare": 0, "substep": "heun"})
    assert given["augmented-bug"].truncation == Tolerance(relative=1e-2)
    assert isinstance(given["augmented-bug"].substep, Heun)
    exact = methods_of("bug", usual | {"substep": "exact"}, **NONE)
    assert isinstance(exact["bug"].substep, Exact)


def test_substeps():
    """Lyapunov: L = 8 and exact sub-flows, h L > 2 from h = 1/4 on; stiff: always; Allen-Cahn has no sub-flows."""
    lyapunov, stiff = (build_problem(name, {"size": 20}) for name in ("lyapunov", "lyapunov-stiff"))
    allen_cahn, landau = (build_problem(name, {"size": 8}) for name in ("allen-cahn", "landau-damping"))
    assert is_stiff(stiff, None) and not is_stiff(lyapunov, None) and is_stiff(lyapunov, [0.3])
    assert not is_stiff(build_problem("matrix-regression", {"size": 8}), None)
    assert knows_flows(lyapunov) and not knows_flows(allen_cahn)
    found = [usual_substep(p, None) for p in (stiff, lyapunov, allen_cahn, landau)]
    assert found == ["exact", None, None, "rk4"]
    check_substep("lyapunov", lyapunov, "exact")
    with pytest.raises(ValueError, match="--substep exact is not for allen-cahn"):
        check_substep("allen-cahn", allen_cahn, "exact")
    assert usual_rank(lyapunov) == 8 and usual_rank(landau) == 4


def test_numbers():
    check_least({"rank": 1, "steps": None})
    with pytest.raises(ValueError, match="--true-rank must be at least 1, got 0"):
        check_least({"true_rank": 0})
    lyapunov = build_problem("lyapunov", {"size": 8})  # to t = 1/2
    assert [steps_to_end(lyapunov, h) for h in (2.0, 0.3, 0.1)] == [1, 2, 5]
    with pytest.raises(ValueError, match="step size 1e-10 would take 1000000000 steps or more"):
        steps_to_end(lyapunov, 1e-10)
