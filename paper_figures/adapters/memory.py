"""Memory of a training step of each method: bytes of all that torch has alive, counted, not sampled."""

from __future__ import annotations

import gc
from itertools import chain, islice
from pathlib import Path

import torch

from dlrt.finetune.data import Setting, load
from dlrt.finetune.loop import blank, one_thread, training
from dlrt.finetune.methods import prepare
from dlrt.runs import run_tasks

from ..counters import Alive


def memory(setting: Setting, tuned: list[dict], *, rank: int, journal: Path) -> dict[str, dict]:
    """Of each method at its rate and rank, see :func:`bytes_of_steps`."""
    rates = {row["method"]: row["lr"] for row in tuned}
    [found] = run_tasks([(bytes_of_steps, {"setting": setting.json(), "rates": rates, "rank": rank})], journal=journal)
    return found


def bytes_of_steps(*, setting: dict, rates: dict[str, float], rank: int, tau: float = 0.3) -> dict[str, dict]:
    """Bytes alive in the third training step of each method, when optimisers have their memory.

    Returns
    -------
    dict of str to dict
        By method ``network``, the bytes of the network as it is loaded; ``kept``, those alive after a step, gradients
        among them; ``peak``, the most alive within one (forward, backward, optimiser). What libraries allocate
        inside an operation is not seen.
    """
    wanted, found = Setting(**setting), {}
    with one_thread(), torch.random.fork_rng(devices=[]):
        task = load(wanted)
        for method, lr in rates.items():
            torch.manual_seed(0)
            model = task.build()
            with Alive(chain(model.parameters(), model.buffers())) as alive:
                network = alive.bytes
                prepared = prepare(model, method, lr, rank=rank, tau=tau, budget=None, steps=wanted.steps, seed=0)
                steps = training(prepared, task, wanted, 0, blank())
                list(islice(steps, 2))
                gc.collect()
                kept = alive.bytes
                alive.peak = kept
                next(steps)
            found[method] = {"network": network, "kept": kept, "peak": alive.peak}
    return found
