"""Peak memory of training steps, each method in a process of its own."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import torch

from .step import make


def _resident_peak() -> float:
    """Largest resident size of this process so far in MiB, from Linux (``ru_maxrss`` counts the parent's too)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _peak(queue, network, rank, tokens, method, threads, device):
    torch.set_num_threads(threads)
    step = make(method, network, rank, tokens, device)
    before = _resident_peak() if device == "cpu" else torch.accelerator.memory_allocated() / 2**20
    for _ in range(5):
        step()
    after = _resident_peak() if device == "cpu" else torch.accelerator.max_memory_allocated() / 2**20
    queue.put(after - before)


def peak_memory(*arguments) -> float:
    """MiB that training steps need beyond the network."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_peak, args=(queue, *arguments))
    process.start()
    value = queue.get()
    process.join()
    return value
