"""What every integrator must do: a class of tests to inherit, for the project's methods and for anybody's own.

.. code-block:: python

    from dlrt.testing import Contract

    class TestMyMethod(Contract):
        integrator = MyMethod()

pytest then runs all of it: array libraries (numpy, torch and, where it is installed, array_api_strict), all types and
shapes, gauge invariance, order, robustness, counting, saving and going on, stacks. (pytest is in the extra ``test``.)

Matrices are compared, never factors. Tolerances are multiples of eps times the size of what is computed: a step adds up
some ten products of matrices of norm 1 to 10, each with a rounding error of a few eps times its norm, so 1e3 eps bounds
one step; a basis computed from K1 by QR carries eps ||K1|| / sigma_min(K1), below 1e4 eps in the cases here.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from integrators import (
    AdaLoRA,
    Adam,
    Exact,
    FixedRank,
    FullRank,
    LoRA,
    LowRank,
    Projections,
    State,
    SVDLoRA,
    Tolerance,
    count_evaluations,
)
from integrators.linalg import to_numpy
from integrators.together import Together, finish, separate
from problems import MatrixRegression, given_solution, rotating

__all__ = [
    "DTYPES", "LIBRARIES", "RANKS", "SHAPES", "Contract", "defect", "dense", "distance", "eps", "one_step", "point",
    "regression", "rng", "run", "unitary",
]  # fmt: skip

DTYPES = {"float32": np.float32, "float64": np.float64, "complex128": np.complex128}
LIBRARIES: dict[str, Any] = {"numpy": np.asarray, "torch": torch.asarray}
with contextlib.suppress(ImportError):  # what the array API standard has, and nothing else
    LIBRARIES["array_api_strict"] = importlib.import_module("array_api_strict").asarray
SHAPES = {"m<n": (14, 20), "m=n": (16, 16), "m>n": (21, 13)}
RANKS = {"r=1": lambda shape: 1, "r": lambda shape: 4, "r=min": min}


def rng(seed=0):
    """A numpy generator."""
    return np.random.default_rng(seed)


def unitary(r, seed, dtype):
    """A random unitary (r, r) matrix."""
    return LowRank.random((r, r), r, rng(seed), like=np.zeros((), dtype)).U


def dense(Y):
    """The matrix as numpy array in double precision."""
    W = to_numpy(Y.full())
    return W.astype(np.result_type(W.dtype, np.float64))


def distance(X, Y):
    """Frobenius norm of the difference of two matrices."""
    return np.linalg.norm(dense(X) - dense(Y))


def eps(Y):
    """Machine epsilon of the dtype, rounded up."""
    return {"32": 1.2e-7, "64": 2.3e-16, "28": 2.3e-16}[str(Y.dtype)[-2:]]


def defect(U):
    """||U^H U - I||_F in double precision."""
    U = to_numpy(U).astype(np.complex128)
    return np.linalg.norm(U.conj().T @ U - np.eye(U.shape[1]))


def regression(shape, library="numpy", dtype="float64", values=(4.0, 2.0, 1.0, 0.5), seed=7):
    """min ||W - A||^2 / 2 with A of the given singular values plus a small full-rank part."""
    like = np.zeros((), DTYPES[dtype])
    A = LowRank.random(shape, len(values), rng(seed), like, singular_values=values).full()
    A = A + 0.01 * LowRank.random(shape, min(shape), rng(seed + 1), like).full()
    return MatrixRegression(LIBRARIES[library](A.astype(DTYPES[dtype])))


def point(problem, rank, seed=3, values=None):
    """A start of the problem's library and dtype, with singular values from 1 to 0.1 or the given ones."""
    values = np.geomspace(1.0, 0.1, rank) if values is None else values
    return LowRank.random(problem.shape, rank, rng(seed), problem.like, singular_values=values)


def run(integrator, field, state, h, steps, t=0.0):
    """The state after some steps."""
    for k in range(steps):
        state = integrator.step(field, t + k * h, state, h).state
    return state


def one_step(method, problem, Y, h=0.1):
    """The first step from Y."""
    return method.step(problem.field, 0.0, method.init(Y), h)


class Contract:
    """The tests of one integrator: inherit, and set ``integrator``.

    The other attributes say which promises the method makes and at which step sizes it is run. A test that does not
    apply is set to None in the subclass, with a comment that says why.
    """

    integrator: ClassVar[Any]
    """The integrators.Integrator under test."""
    h: ClassVar[float] = 0.05
    """Step size."""
    exact: ClassVar[bool] = False
    """Whether it is exact for F = A'(t) of rank r with exact sub-flows."""
    order_truncation: ClassVar[Any] = FixedRank(4)
    """In the order test, where the solution has rank 4."""
    order_steps: ClassVar[tuple[int, ...]] = (16, 32, 64, 128)
    """Numbers of steps in the order test."""

    def __init_subclass__(cls):
        """Leave out the tests of what the method does not promise."""
        method = cls.integrator
        promised = {
            "test_zero_tolerance_is_the_identity": method.rank_adaptive and method.manifold,
            "test_orthonormal_after_3000_steps": method.manifold,
            "test_exact_for_given_low_rank_matrix": cls.exact,
            "test_order": method.order is not None,
            "test_robust_to_small_singular_values": method.robust,
            "test_stack": method.stackable,
        }
        for test, holds in promised.items():
            if not holds:
                setattr(cls, test, None)

    # -- 1. truncation at zero tolerance, orthonormality -------------------------------------------------------

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("library", LIBRARIES)
    @pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
    @pytest.mark.parametrize("rank", RANKS.values(), ids=RANKS)
    def test_step(self, shape, rank, library, dtype):
        """A step keeps shape, dtype and orthonormality, and its truncation error is what truncation changed."""
        problem = regression(shape, library, dtype)
        Y = point(problem, rank(shape))
        state = self.integrator.init(Y)
        assert distance(state.Y, Y) <= 100 * eps(Y) * Y.norm()
        for _ in range(3):
            step = self.integrator.step(problem.field, 0.0, state, self.h)
            state = step.state
            assert state.Y.shape == problem.shape and state.Y.dtype == problem.dtype
            error = distance(step.augmented, state.Y)
            assert abs(error - step.truncation_error) <= 1e3 * eps(Y) * (1 + state.Y.norm())
            if self.integrator.manifold:
                assert max(defect(state.Y.U), defect(state.Y.V)) <= 100 * eps(Y)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
    def test_zero_tolerance_is_the_identity(self, shape, dtype):
        integrator = replace(self.integrator, truncation=Tolerance(absolute=0.0))
        problem = regression(shape, dtype=dtype)
        step = integrator.step(problem.field, 0.0, integrator.init(point(problem, 4)), self.h)
        assert distance(step.augmented, step.state.Y) <= 100 * eps(step.state.Y) * step.augmented.norm()

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_orthonormal_after_3000_steps(self, dtype):
        problem = regression((12, 9), dtype=dtype)
        Y = run(self.integrator, problem.field, self.integrator.init(point(problem, 3)), self.h, 3000).Y
        assert max(defect(Y.U), defect(Y.V)) <= 100 * eps(Y)

    # -- 2. gauge invariance -----------------------------------------------------------------------------------

    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    @pytest.mark.parametrize("values", [(1.0, 0.5, 0.2, 0.1), (1.0, 0.5, 0.2, 0.0)], ids=["regular", "singular"])
    @pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
    def test_gauge_invariance(self, shape, values, dtype):
        """(U A, A^H S B, V B) is the same matrix and must give the same matrix after steps."""
        problem = regression(shape, dtype=dtype)
        Y = point(problem, 4, values=values)
        A, B = unitary(4, 11, DTYPES[dtype]), unitary(4, 12, DTYPES[dtype])
        rotated = LowRank(Y.U @ A, A.conj().T @ Y.S @ B, Y.V @ B)
        one, other = (run(self.integrator, problem.field, self.integrator.init(X), self.h, 2).Y for X in (Y, rotated))
        # directions below 100 eps ||h F|| may be kept in one gauge and dropped in the other: their size is allowed
        assert distance(one, other) <= 1e4 * eps(Y) * (1 + one.norm())

    # -- 3. exactness ------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    @pytest.mark.parametrize("smallest", [1e-1, 1e-8])
    def test_exact_for_given_low_rank_matrix(self, smallest, dtype):
        """F = A'(t), A(t) of rank r, exact sub-flows, start A(0) in random bases: no error at all."""
        integrator = replace(self.integrator, substep=Exact())
        if integrator.rank_adaptive:
            integrator = replace(integrator, truncation=Tolerance(absolute=1e-11))
        problem = rotating(rng(1), shape=(24, 18), rank=4, smallest=smallest, dtype=DTYPES[dtype])
        Y = problem.initial(4, rng(2))
        A, B = unitary(4, 21, DTYPES[dtype]), unitary(4, 22, DTYPES[dtype])
        Y = LowRank(Y.U @ A, A.conj().T @ Y.S @ B, Y.V @ B)
        Y = run(integrator, problem.field, integrator.init(Y), 0.1, 5).Y
        # each step: rounding of the increments, and what the truncation at 1e-11 leaves out
        assert problem.error(0.5, Y) <= 5 * (1e3 * eps(Y) * Y.norm() + 1e-11)

    # -- 4. order ----------------------------------------------------------------------------------------------

    def test_order(self):
        """Slope of the error at t = 1 on a nonlinear problem with a solution of exact rank 4."""
        errors = [self.error_on_given_solution(n, smallest=None) for n in self.order_steps]
        slope = -np.polyfit(np.log(self.order_steps), np.log(errors), 1)[0]
        assert abs(slope - self.integrator.order) <= 0.2, (slope, errors)

    def error_on_given_solution(self, steps, smallest):
        problem = given_solution(rng(5), shape=(16, 12), rank=4, smallest=smallest)
        integrator = self.integrator
        if integrator.rank_adaptive:
            integrator = replace(integrator, truncation=self.order_truncation)
        Y = run(integrator, problem.field, integrator.init(problem.initial(4, rng(6))), 1 / steps, steps).Y
        return problem.error(1.0, Y)

    # -- 5. robustness -----------------------------------------------------------------------------------------

    def test_robust_to_small_singular_values(self):
        """As the last singular value falls from 1e-1 to 1e-14 the error settles, near where it was.

        Most methods stay within 10 %; Lie projector splitting with Euler changes by a factor 2.2 between 1e-2 and
        1e-4, where the step stops resolving the direction, and not at all from there on.
        """
        errors = [self.error_on_given_solution(32, smallest=10.0**-k) for k in (1, 2, 4, 6, 8, 10, 12, 14)]
        assert max(errors) <= 2.5 * errors[0]
        assert max(errors[4:]) <= 1.1 * min(errors[4:])

    # -- 6. counting, saving -----------------------------------------------------------------------------------

    def test_evaluations(self):
        """The driver counts what is asked for: as often in a long step as in the short one of count_evaluations."""
        problem = regression((16, 16))
        calls = []
        state = self.integrator.init(point(problem, 3))

        def field(t, Y):
            calls.append(t)
            return problem.field(t, Y)

        step = self.integrator.step(field, 2.0, state, self.h)
        assert step.evaluations == len(calls) >= 1
        assert step.rejected > 0 or len(calls) == count_evaluations(self.integrator)
        assert calls[0] == 2.0 and all(2.0 <= t <= 2.0 + self.h for t in calls)

    def test_same_numbers_after_saving(self):
        """A state that went through a file gives the same bits as one that did not."""
        problem = regression((14, 20))
        state = run(self.integrator, problem.field, self.integrator.init(point(problem, 3)), self.h, 4)
        file = io.BytesIO()
        np.savez(file, **state.arrays())
        loaded = State.of(np.load(io.BytesIO(file.getvalue()), allow_pickle=False))
        one, other = (run(self.integrator, problem.field, s, self.h, 4, t=0.2) for s in (state, loaded))
        assert np.array_equal(one.Y.full(), other.Y.full())
        assert one.memory.keys() == other.memory.keys()

    # -- 7. edges ----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
    def test_zero_start(self, shape):
        """S = 0 is a valid start: the loss goes down and the bases stay orthonormal."""
        problem = regression(shape)
        Y = problem.initial(4, rng(1))
        before = problem.loss(Y)
        Y = run(self.integrator, problem.field, self.integrator.init(Y), self.h, 40).Y
        assert problem.loss(Y) < 0.9 * before
        if self.integrator.manifold:
            assert max(defect(Y.U), defect(Y.V)) <= 100 * eps(Y)

    def test_basis_moves_at_full_budget(self):
        """At r = r_max the bases still turn towards the field."""
        integrator = self.integrator
        if integrator.rank_adaptive and integrator.manifold:
            integrator = replace(integrator, truncation=Tolerance(relative=1e-3, max_rank=2))
        problem = regression((16, 16))
        Y = point(problem, 2)
        U0 = integrator.init(Y).Y.U
        Y1 = run(integrator, problem.field, integrator.init(Y), self.h, 5).Y
        if integrator.manifold:
            assert Y1.rank == 2
            assert np.linalg.norm(Y1.U - U0 @ (U0.T @ Y1.U)) > 1e-3
        else:
            assert np.linalg.norm(Y1.U - U0) > 1e-3

    @pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
    def test_divergence_is_reported(self, bad):
        """A field that is not finite raises FloatingPointError, one that overflows does or gives a finite matrix."""
        problem = regression((10, 8))
        state = self.integrator.init(point(problem, 3))
        before = state.Y.full().copy()

        def field(t, Y):
            return Projections(*(np.full_like(X, bad) for X in (Y.U, Y.V, Y.S)))

        with np.errstate(all="ignore"):
            try:
                for _ in range(3):
                    after = self.integrator.step(field, 0.0, state, 1e10).state
                assert bad == 1e300 and all(np.isfinite(X).all() for X in after.Y)
            except FloatingPointError:
                pass
        assert np.array_equal(before, state.Y.full())

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    @pytest.mark.parametrize("optimizer", [None, Adam()], ids=["plain", "adam"])
    def test_one_field_that_is_not_finite(self, optimizer, bad):
        """However early or late it comes, a field that is not finite raises, and the state is as it was."""
        method = self.integrator if optimizer is None else replace(self.integrator, optimizer=optimizer)
        problem = regression((10, 8))
        state = method.step(problem.field, 0.0, method.init(point(problem, 3)), self.h).state
        before = [np.array(X) for X in state.arrays().values()]
        for late in range(method.step(problem.field, 0.0, state, self.h).evaluations):
            count = itertools.count()

            def field(t, Y, late=late, count=count):
                F = problem.target - Y.full()
                F[0, 0] = bad if next(count) == late else F[0, 0]
                return Projections.of(F, Y)

            with np.errstate(all="ignore"), pytest.raises(FloatingPointError):
                method.step(field, 0.0, state, self.h)
            assert next(count) > late
        assert all(np.array_equal(X, Z) for X, Z in zip(before, state.arrays().values(), strict=True))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_start_in_any_bases(self, dtype):
        """A manifold method starts from the matrix, whatever its factors; from orthonormal ones bit for bit."""
        problem = regression((14, 20), dtype=dtype)
        Y = point(problem, 3)
        assert all(np.array_equal(a, b) for a, b in zip(Y.orthonormalised(), Y, strict=True))
        if self.integrator.manifold:
            C = rng(4).standard_normal((3, 3)).astype(Y.dtype)
            one = np.eye(3, dtype=Y.dtype)
            little = 1e3 * eps(Y)  # less than an error of single precision: 1e-12 off is not orthonormal in double
            starts = [
                LowRank(Y.K @ C, one, Y.V @ np.linalg.inv(C).T.conj()),
                LowRank(Y.U * (1 + little), Y.S, Y.V / (1 + little)),
                LowRank(np.hstack([Y.U, Y.U]), np.vstack([Y.S, Y.S]) / 2, Y.V),
            ]
            end = run(self.integrator, problem.field, self.integrator.init(Y), self.h, 3).Y
            for X, condition in zip(starts, (np.linalg.cond(C), 1.0, 1.0), strict=True):
                state = self.integrator.init(X)
                assert max(defect(state.Y.U), defect(state.Y.V)) <= 100 * eps(Y)
                other = run(self.integrator, problem.field, state, self.h, 3).Y
                # the QR factors of the first start carry eps times the condition of C
                assert distance(end, other) <= 1e4 * condition * eps(Y) * (1 + end.norm())

    @pytest.mark.parametrize("other", [LoRA(), SVDLoRA(), AdaLoRA(), FullRank()], ids=lambda m: type(m).__name__)
    @pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
    def test_start_where_another_method_ended(self, shape, other):
        """The matrix is the same, and the loss goes on falling."""
        problem = regression(shape)
        end = run(other, problem.field, other.init(point(problem, 4)), 0.02, 20).Y
        state = self.integrator.init(end)
        assert distance(state.Y, end) <= 100 * eps(end) * end.norm()
        if self.integrator.manifold:
            assert max(defect(state.Y.U), defect(state.Y.V)) <= 100 * eps(end)
        assert problem.loss(run(self.integrator, problem.field, state, min(0.02, self.h), 5).Y) < problem.loss(end)

    def test_bad_start(self):
        with pytest.raises(TypeError, match="Y must be a LowRank, got ndarray"):
            self.integrator.init(np.eye(3))

    # -- 8. numpy and torch, stacks ----------------------------------------------------------------------------

    @pytest.mark.parametrize("library", LIBRARIES)
    def test_stack(self, library):
        """A stack gives each of its matrices what it gets alone: other ranks, and fewer new directions than others."""
        target = np.stack([regression((9, 7), seed=s).target for s in (7, 17, 27, 37)])
        starts = [point(regression((9, 7)), rank, seed=s) for s, rank in ((1, 3), (2, 3), (3, 2))]
        # the last rests at a point whose field lies in one direction: at most one new column each
        u, v = starts[0].U[:, :1], starts[0].V[:, :1]
        target[3] = starts[0].full() + np.eye(9, 1) @ v.T + u @ np.eye(7, 1).T
        target = LIBRARIES[library](target)
        Y = [LowRank(*map(LIBRARIES[library], Z)) for Z in (*starts, starts[0])]
        states = {f"{i}": self.integrator.init(Z) for i, Z in enumerate(Y)}
        alone = {
            name: self.integrator.step(MatrixRegression(target[int(name), ...]).field, 0.0, state, self.h)
            for name, state in states.items()
        }
        groups = [Together(self.integrator, states, self.h)]
        while pending := [group for group in groups if group.request is not None]:
            groups += (left := separate(pending))
            for group in [*pending, *left]:
                A = target if group.stacked else target[int(group.names[0]), ...]
                group.answer(Projections.of(A - group.point.full(), group.point))
        together = finish(self.integrator.truncation, groups)
        if isinstance(self.integrator, AdaLoRA):  # its budget is for all matrices together
            return
        for name, step in alone.items():
            state, error = together[name]
            assert step.state.Y.rank == state.Y.rank
            assert {k: np.shape(X) for k, X in step.state.memory.items()} == {
                k: np.shape(X) for k, X in state.memory.items()
            }
            assert distance(step.state.Y, state.Y) <= 1e4 * eps(state.Y) * (1 + state.Y.norm())
            assert abs(step.truncation_error - error) <= 1e4 * eps(state.Y) * (1 + state.Y.norm())

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("other", [library for library in LIBRARIES if library != "numpy"])
    def test_libraries_agree(self, other, dtype):
        results = []
        for library in ("numpy", other):
            problem = regression((14, 20), library, dtype)
            Y = LowRank(*map(LIBRARIES[library], point(regression((14, 20), dtype=dtype), 3)))
            results.append(run(self.integrator, problem.field, self.integrator.init(Y), self.h, 5).Y)
        assert distance(*results) <= 1e4 * eps(results[0]) * (1 + results[0].norm())
