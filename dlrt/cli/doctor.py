"""The command ``dlrt doctor``: what the program runs on, and a few exact checks that it runs well there."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import typer

from ..runs import cache, versions
from .terminal import say

OPTIONAL = ("peft", "transformers", "diffusers", "pooch", "dask")


def doctor() -> None:
    """Show versions, threads, devices, caches and plug-ins, and check a few identities; exit code 1 if one fails."""
    import threadpoolctl
    import torch

    from ..registry import ORIGINS

    say(f"Python    {sys.version.split()[0]} on {platform.platform()}, {sys.executable}")
    found = versions("torch", *filter(importlib.util.find_spec, OPTIONAL))
    say("Versions  " + ", ".join(f"{name} {version}" for name, version in found.items() if name != "python"))
    pools = {f"{pool['internal_api']} {pool['num_threads']}" for pool in threadpoolctl.threadpool_info()}
    say(f"Threads   {os.cpu_count()} processors; torch {torch.get_num_threads()}, {', '.join(sorted(pools))}")
    say(f"Devices   {', '.join(devices())}")
    for name, folder in caches().items():
        say(f"Cache     {name}: {folder}, {size(folder) / 2**20:.0f} MB")
    added = {name: origin for origins in ORIGINS.values() for name, origin in origins.items()}
    say(f"Plug-ins  {', '.join(f'{name} from {origin}' for name, origin in added.items()) or 'none'}")
    say()
    failed = False
    for name, check in CHECKS.items():
        start, verdict = time.perf_counter(), "ok"
        try:
            text = check()
        except Exception as error:  # whatever is wrong with this machine is what is asked for
            failed, verdict, text = True, "FAILED", f"{type(error).__name__}: {error}"
        say(f"{verdict:<8}{name}: {text} ({time.perf_counter() - start:.1f} s)")
    if failed:
        raise typer.Exit(1)


def devices() -> list[str]:
    """What torch can compute on."""
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ["cpu", *names, *["mps"] * torch.backends.mps.is_available()]


def caches() -> dict[str, Path]:
    """The folders that this project keeps things in."""
    return {"networks, data, reference solutions": cache()}


def size(folder: Path) -> int:
    """Number of bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# -- checks: each returns what it found, or raises ---------------------------------------------------------------------


def _steps(precision: str) -> Iterator[tuple[str, float]]:
    """(library, relative deviation) of a step of GeoLoRA from the dense formula, by numpy and by torch.

    Without truncation the step from Y is ``Y + h (P_U F + F P_V - P_U F P_V)``, ``P_U = U U^T`` and ``P_V = V V^T``.
    """
    import numpy as np
    import torch

    from integrators import GeoLoRA, LowRank, Projections, Tolerance

    rng = np.random.default_rng(0)
    Y = LowRank.random((60, 40), 5, rng)
    F, h = rng.standard_normal((60, 40)), 0.1
    P_U, P_V = Y.U @ Y.U.T, Y.V @ Y.V.T
    exact = Y.full() + h * (P_U @ F + F @ P_V - P_U @ F @ P_V)
    method = GeoLoRA(truncation=Tolerance(relative=0.0))
    for library, array in (
        ("numpy", lambda x: np.asarray(x, dtype=precision)),
        ("torch", lambda x: torch.tensor(x, dtype=getattr(torch, precision))),
    ):
        state, force = method.init(LowRank(*map(array, Y))), array(F)
        W = method.step(lambda t, Y: Projections.of(force, Y), 0.0, state, h).state.Y.full()  # noqa: B023
        yield library, float(np.linalg.norm(np.asarray(W, dtype=float) - exact) / np.linalg.norm(exact))


def _formula(precision: str) -> str:
    """The deviations of a step from the dense formula, which may be 100 units of rounding."""
    import numpy as np

    bound = 100 * float(np.finfo(precision).eps)
    found = dict(_steps(precision))
    text = ", ".join(f"{library} {deviation:.0e}" for library, deviation in found.items())
    if not max(found.values()) <= bound:
        raise ArithmeticError(f"deviation {text}, expected at most {bound:.0e}")
    return f"deviation {text}"


def _descent() -> str:
    """GeoLoRA on a matrix of rank 3: the loss falls to rounding at the true rank."""
    import numpy as np

    from integrators import GeoLoRA, Tolerance
    from problems import MatrixRegression, synthetic

    from ..solve import solve

    target = synthetic((40, 30), [4.0, 3.0, 2.0], np.random.default_rng(0))
    method = GeoLoRA(truncation=Tolerance(relative=0.1))
    run = solve(method, MatrixRegression(target), step_size=0.5, steps=200, rank=6)
    if not (run.losses[-1] <= 1e-20 and run.numerical_ranks[-1] == 3):
        raise ArithmeticError(f"{run.status}: loss {run.losses[-1]:.1e} at rank {run.numerical_ranks[-1]}, expected 3")
    return f"loss {run.losses[-1]:.0e} at rank {run.numerical_ranks[-1]}"


def _network() -> str:
    """A low-rank linear layer takes the step that the matrix takes, with the gradient of the loss."""
    import torch

    from integrators import GeoLoRA, Tolerance

    from ..nn import LowRankOptimizer, adapt

    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(20, 30, bias=False, dtype=torch.float64)
    layer.weight.data = torch.randn(30, 20, generator=generator, dtype=torch.float64)
    model = torch.nn.Sequential(layer)
    adapt(model, targets=["0"], rank=4, kind="train")
    x = torch.randn(50, 20, generator=generator, dtype=torch.float64)
    y = torch.randn(50, 30, generator=generator, dtype=torch.float64)

    def matrix():
        return model(torch.eye(20, dtype=torch.float64)).detach().T

    W, h = matrix(), 0.1
    left, _, right = torch.linalg.svd(W)
    P_U, P_V = left[:, :4] @ left[:, :4].T, right[:4].T @ right[:4]
    F = -(W @ x.T - y.T) @ x / x.shape[0]
    exact = W + h * (P_U @ F + F @ P_V - P_U @ F @ P_V)
    optimizer = LowRankOptimizer(model, GeoLoRA(truncation=Tolerance(relative=0.0)), lr=h)
    optimizer.zero_grad()
    ((model(x) - y).square().sum() / (2 * x.shape[0])).backward()
    optimizer.step()
    deviation = float((matrix() - exact).norm() / exact.norm())
    if not deviation <= 1e-12:
        raise ArithmeticError(f"deviation {deviation:.0e}, expected at most 1e-12")
    return f"deviation {deviation:.0e}"


def _writing() -> str:
    """A file in the cache and one in the folder for temporary files."""
    folders = [*caches().values(), Path(tempfile.gettempdir())]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"dlrt")
    return f"in {' and '.join(map(str, folders))}"


CHECKS: dict[str, Callable[[], str]] = {
    "a step of GeoLoRA, float64": lambda: _formula("float64"),
    "a step of GeoLoRA, float32": lambda: _formula("float32"),
    "matrix regression": _descent,
    "a layer of a network": _network,
    "writing files": _writing,
}
