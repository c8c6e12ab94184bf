"""Names of integrators, problems, optimisers and substeps, what they are in one line, and how to set their options.

For the command line and for loops over methods; whoever needs more than the common options calls the classes in
`integrators` and `problems` themselves. A method is an instance in `INTEGRATORS`, a problem a function in `PROBLEMS`,
and an entry here is all it takes to be known by name. Those of other packages are added when this module is imported,
see `dlrt.plugins`.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, replace
from typing import Any

import numpy as np

import integrators as methods
import problems
from integrators import INTEGRATORS
from integrators.checks import check_instance

from . import plugins

__all__ = [
    "INTEGRATORS",
    "OPTIMIZERS",
    "ORIGINS",
    "PROBLEMS",
    "SUBSTEPS",
    "build_problem",
    "description",
    "lookup",
    "takes",
    "uses",
    "with_options",
]

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": methods.SGD,
    "momentum": methods.Momentum,
    "adam": methods.Adam,
}
SUBSTEPS: dict[str, Callable[[], Any]] = {
    "euler": methods.Euler,
    "heun": methods.Heun,
    "rk4": methods.RK4,
    "exact": methods.Exact,
    "exponential": methods.Exponential,
    "implicit": methods.Implicit,
}


def takes(integrator):
    """Names of the options of `with_options` that a method has.

    Examples
    --------
    >>> takes(INTEGRATORS["adalora"]), takes(INTEGRATORS["bug"])
    (('optimizer',), ('substep', 'optimizer'))
    """
    check_instance("integrator", integrator, methods.Integrator)
    has = {field.name for field in fields(integrator)}
    if not isinstance(integrator.truncation, methods.Tolerance):  # AdaLoRA's budget is another thing
        has.discard("truncation")
    return tuple(name for name in ("truncation", "substep", "optimizer") if name in has)


def with_options(integrator, *, truncation=None, substep=None, optimizer=None):
    """The method with those of the options given that it has; others are ignored, since a comparison shares them.

    Parameters
    ----------
    integrator : integrators.Integrator
    truncation : integrators.Truncation, optional
        For methods whose own is a `Tolerance`, so that AdaLoRA's budget stays.
    substep : integrators.Substep, optional
    optimizer : integrators.Optimizer, optional

    Examples
    --------
    >>> with_options(INTEGRATORS["bug"], substep=methods.Heun(), truncation=methods.FixedRank(3))
    BUG(optimizer=SGD(), substep=Heun())
    """
    given = {"truncation": truncation, "substep": substep, "optimizer": optimizer}
    return replace(integrator, **{name: given[name] for name in takes(integrator) if given[name] is not None})


def description(thing):
    """What a method or a problem is, in one line: the first sentence of its docstring, without marks of RST.

    Parameters
    ----------
    thing : integrators.Integrator or function
        Of an integrator the docstring of its class, with the settings that differ from the defaults of the class.

    Examples
    --------
    >>> description(INTEGRATORS["projector-splitting-strang"]).split("(")[-1]
    'order=2, substep=Heun())'
    """
    is_method = isinstance(thing, methods.Integrator)
    paragraph = (inspect.getdoc(type(thing) if is_method else thing) or "").split("\n\n")[0]
    text = re.sub(r":\w+:`~?([^`]*)`|``?([^`]*)``?", lambda mark: mark[1] or mark[2], " ".join(paragraph.split()))
    sentence = re.split(r"(?<=\.)\s+(?=[A-Z])", text)[0].rstrip(".:")
    settings = _differing(thing) if is_method else ""
    return f"{sentence} ({settings})" if settings else sentence


def _differing(integrator):
    """The fields that differ from the defaults of the class, as in its repr."""
    usual = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(integrator)
    }
    given = {name: getattr(integrator, name) for name in usual}
    return ", ".join(f"{name}={value!r}" for name, value in given.items() if value != usual[name])


def matrix_regression(*, target="synthetic", size=None, true_rank=None, dtype="float64"):
    """Loss: half the squared distance to a given matrix."""
    return problems.MatrixRegression(_target(target, size, true_rank, dtype))


def matrix_completion(*, target="synthetic", size=None, true_rank=None, dtype="float64", batch_size=None):
    """Loss: distance to a given matrix at half of its entries."""
    return problems.completion(
        np.random.default_rng(1), _target(target, size, true_rank, dtype), fraction=0.5, batch_size=batch_size
    )


def linear_least_squares(*, target="synthetic", size=None, true_rank=None, dtype="float64", batch_size=None):
    """Loss: a linear layer with Gaussian inputs and noisy outputs.

    Four inputs for each column of the target matrix, noise of size 0.1.
    """
    matrix, rng = _target(target, size, true_rank, dtype), np.random.default_rng(1)
    m, n = matrix.shape
    inputs = rng.standard_normal((4 * n, n)).astype(dtype)
    noise = 0.1 * rng.standard_normal((4 * n, m)).astype(dtype)
    return problems.LinearLeastSquares(inputs, inputs @ matrix.T + noise, batch_size)


def rotating(*, size=100, true_rank=None, dtype="float64"):
    """Y' = A'(t), singular values falling like 2^-j, in rotating bases."""
    return problems.rotating(_rng(), (size, size), true_rank, dtype=_dtype(dtype))


def given_solution(*, size=30, true_rank=None, dtype="float64"):
    """Nonlinear equation made to have a given solution of exact rank, to see orders of convergence."""
    true_rank = max(1, min(4, size // 2)) if true_rank is None else true_rank
    return problems.given_solution(_rng(), (size, size), true_rank, dtype=_dtype(dtype))


def manufactured(*, size=7, true_rank=None):
    """Equation derived by sympy from a given symbolic solution of low rank."""
    true_rank = max(1, min(2, (size - 1) // 2)) if true_rank is None else true_rank
    return problems.manufactured((size, size), true_rank)


def lyapunov(*, size=100, dtype="float64"):
    """X' = A X + X A^T + C with the heat operator."""
    return problems.lyapunov(size, _rng(), dtype=_dtype(dtype))


def lyapunov_nonsymmetric(*, size=100, dtype="float64"):
    """X' = A X + X A^T + C with heat and convection: A is not symmetric."""
    return problems.lyapunov(size, _rng(), symmetric=False, dtype=_dtype(dtype))


def lyapunov_stiff(*, size=100, dtype="float64"):
    """X' = A X + X A^T + C with the heat operator on the unit interval: explicit steps must be tiny."""
    return problems.lyapunov(size, _rng(), stiff=True, dtype=_dtype(dtype))


def schroedinger(*, size=100, dtype="float64"):
    """Discrete Schroedinger equation, complex, norm and energy are conserved."""
    return problems.schroedinger(_rng(), size, np.result_type(_dtype(dtype), np.complex64))


def riccati(*, size=100, dtype="float64"):
    """Riccati equation X' = A^T X + X A + C^T C - X D D^T X of optimal control, with the heat operator."""
    return problems.riccati(size, _rng(), dtype=_dtype(dtype))


def allen_cahn(*, size=64, dtype="float64"):
    """Allen-Cahn equation X' = 0.01 (A X + X A) + X - X^3, periodic: a nonlinear gradient flow."""
    return problems.allen_cahn(size, dtype=_dtype(dtype))


def nonlinear_schroedinger(*, size=100, dtype="float64"):
    """Discrete nonlinear Schroedinger equation, complex, cubic, norm and energy are conserved."""
    return problems.nonlinear_schroedinger(size, precision=np.result_type(_dtype(dtype), np.complex64))


def nonlinear_schroedinger_imaginary_time(*, size=100, dtype="float64"):
    """The same in imaginary time at constant norm: down to the ground state, real."""
    return problems.nonlinear_schroedinger(size, imaginary_time=True, precision=_dtype(dtype))


def anisotropic_diffusion(*, size=64, dtype="float64"):
    """Diffusion along the diagonals, with a mixed derivative: a field that leaves the tangent space."""
    return problems.anisotropic_diffusion(size, dtype=_dtype(dtype).type)


def solid_body_rotation(*, size=64, dtype="float64"):
    """Rotation of a Gaussian, u_t = y u_x - x u_y: at the start the field is normal to the tangent space."""
    return problems.solid_body_rotation(size, dtype=_dtype(dtype).type)


def fokker_planck(*, size=100, dtype="float64"):
    """Fokker-Planck equation of two streams that relax to a Maxwellian: mass, momentum and energy are kept."""
    return problems.fokker_planck(size, dtype=_dtype(dtype))


def landau_damping(*, size=16, dtype="float64"):
    """Vlasov-Poisson equation in x and v: a wave damped without collisions; larger sizes need smaller steps."""
    return replace(problems.landau(size, size, dtype=_dtype(dtype)), t_end=6.0)


def two_stream(*, size=16, dtype="float64"):
    """Vlasov-Poisson equation of two streams, which are unstable; larger sizes need smaller steps."""
    return replace(problems.two_stream(size, size, dtype=_dtype(dtype)), t_end=10.0)


def plane_source(*, size=100, dtype="float64"):
    """Radiative transfer in a slab after a pulse, in cells and directions: a front, then diffusion."""
    return problems.plane_source(size, size, dtype=_dtype(dtype))


def toggle_switch(*, size=51, dtype="float64"):
    """Chemical master equation of a genetic toggle switch: probabilities of numbers of molecules."""
    return problems.toggle_switch(size, dtype=_dtype(dtype))


def stochastic_burgers(*, size=64, dtype="float64"):
    """Viscous Burgers equation with random starts, in points and samples: waves that steepen to fronts."""
    return problems.stochastic_burgers(_rng(), size, size, min(4, (size - 1) // 2), dtype=_dtype(dtype))


def klein_gordon(*, size=64, dtype="float64"):
    """Klein-Gordon equation A'' = 0.1 (D A + A D) - A - A^3 for Y = diag(A, A'): of second order, energy is kept.

    The size is that of Y, twice that of A.
    """
    if size % 2:
        raise ValueError(f"size must be even, twice that of A, got {size}")
    return problems.klein_gordon(size // 2, dtype=_dtype(dtype))


PROBLEMS: dict[str, Callable[..., problems.Problem]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        matrix_regression,
        matrix_completion,
        linear_least_squares,
        rotating,
        given_solution,
        manufactured,
        lyapunov,
        lyapunov_nonsymmetric,
        lyapunov_stiff,
        schroedinger,
        riccati,
        allen_cahn,
        nonlinear_schroedinger,
        nonlinear_schroedinger_imaginary_time,
        anisotropic_diffusion,
        solid_body_rotation,
        fokker_planck,
        landau_damping,
        two_stream,
        plane_source,
        toggle_switch,
        stochastic_burgers,
        klein_gordon,
    )
}
"""Functions of keyword options (``size``, ``true_rank``, ``target``, ``batch_size``, ``dtype``); random data are drawn
with a fixed seed."""

ORIGINS: dict[str, dict[str, str]] = {
    "integrator": plugins.load(plugins.INTEGRATORS, INTEGRATORS, plugins.method),
    "problem": plugins.load(plugins.PROBLEMS, PROBLEMS, plugins.problem),
}
"""The names that other packages added, and which package: ``{"integrator": {"halfway": "dlrt-example 1.0"}, ...}``."""


def lookup(kind, name, table):
    """``table[name]``, or a ValueError that answers an unknown name with the nearest known one.

    Parameters
    ----------
    kind : str
        What the names are names of, for the message.
    name : str
    table : mapping from str

    Examples
    --------
    >>> lookup("substep", "eular", SUBSTEPS)
    Traceback (most recent call last):
    ...
    ValueError: unknown substep 'eular', did you mean 'euler'? Known: euler, heun, rk4, exact, exponential, implicit
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(str(name).lower(), table, n=1, cutoff=0.4)
    hint = f", did you mean {near[0]!r}?" if near else "."
    raise ValueError(f"unknown {kind} {name!r}{hint} Known: {', '.join(table) or 'none'}")


def uses(problem):
    """Names of the options that a function in `PROBLEMS` takes."""
    return tuple(inspect.signature(problem).parameters)


def build_problem(name: str, options: Mapping[str, Any] = {}):
    """The problem of this name.

    Parameters
    ----------
    name : str
        A name in `PROBLEMS`.
    options : mapping
        Keyword options of the function of that name; those that are None count as not given.

    Raises
    ------
    FileNotFoundError, ValueError
        Unknown names, a missing target, bad values, or options that the problem does not take.
    """
    build = lookup("problem", name, PROBLEMS)
    check_instance("options", options, Mapping)
    given = {option: value for option, value in options.items() if value is not None}
    for option, value in given.items():
        if option not in uses(build):
            raise ValueError(f"{name} takes no {option}, got {value!r}; it takes {', '.join(uses(build))}")
    try:
        return build(**given)
    except ValueError as error:  # the problems know the options by other names
        text = re.sub(r"\brank\b", "true_rank", re.sub(r"^shape\b", "size", str(error)))
        raise ValueError(text) from error
    except OverflowError as error:
        raise ValueError(f"an option of {name} is larger than any array: {error}") from error


def _rng():
    return np.random.default_rng(0)


def _dtype(name):
    if name not in ("float32", "float64"):
        raise ValueError(f"dtype must be float32 or float64, got {name!r}")
    return np.dtype(name)


def _target(target, size, true_rank, dtype):
    """The target named, or singular values falling linearly from 20 (not one is small, so none may be lost)."""
    if target != "synthetic":
        if size is not None or true_rank is not None:
            raise ValueError(f"size and true_rank are for synthetic targets, got target {target!r}")
        return problems.load_target(target, dtype=_dtype(dtype))
    n = 100 if size is None else size
    r = min(5, n) if true_rank is None else true_rank
    if not 1 <= r <= n:
        raise ValueError(f"true_rank must lie between 1 and the size {n}, got {r}")
    return problems.synthetic((n, n), [20 * (1 - i / r) for i in range(r)], _rng(), _dtype(dtype))
