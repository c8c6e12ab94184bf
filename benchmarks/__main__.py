"""Paired comparison of full training steps: ``python -m benchmarks --help``.

The methods take turns, a step each, in one process, so that whatever else the machine does hits all of them alike.
The ratio to PEFT's LoRA with AdamW is the median over the rounds of the ratios of wall times, with the quartiles. The
ratio of processor times beside it counts the work of all threads and says what a busy machine has added. Peak
memory is measured in a process of its own: the largest resident size during five steps over that after the network has
been made.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch

from .memory import peak_memory
from .step import METHODS, make

NETWORKS = ("transformer", "768x768", "768x3072")


def paired(network: str, rank: int, tokens: int, methods: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Wall and processor seconds per step, and ratios to the first method."""
    steps = {method: make(method, network, rank, tokens) for method in methods}
    repeats = {method: 11 if "10 S-steps" in method else 1 for method in methods}  # a whole cycle
    for method, step in steps.items():
        for _ in range(2 * repeats[method]):
            step()
    wall = {method: np.empty(rounds) for method in methods}
    processor = {method: np.empty(rounds) for method in methods}
    for k in range(rounds):
        for method, step in steps.items():
            wall_start, processor_start = time.perf_counter(), time.process_time()
            for _ in range(repeats[method]):
                step()
            wall[method][k] = (time.perf_counter() - wall_start) / repeats[method]
            processor[method][k] = (time.process_time() - processor_start) / repeats[method]
    first = methods[0]
    result = {}
    for method in methods:
        low, middle, high = np.quantile(wall[method] / wall[first], [0.25, 0.5, 0.75])
        result[method] = {
            "wall ms": 1e3 * float(np.median(wall[method])),
            "ratio": float(middle),
            "ratio low": float(low),
            "ratio high": float(high),
            "processor ratio": float(np.median(processor[method] / processor[first])),
            "fastest ratio": float(wall[method].min() / wall[first].min()),
        }
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--ranks", nargs="+", type=int, default=[8, 16, 32])
    parser.add_argument("--tokens", nargs="+", type=int, default=[1024])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", action="store_true", help="measure peak memory too")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for network in options.networks:
        for tokens in options.tokens:
            for rank in options.ranks:
                print(f"\n{network}, rank {rank}, {tokens} tokens, {options.threads} threads, float32")
                print(f"{'':22}{'ms':>9}{'ratio':>8}{'quartiles':>16}{'processor':>11}{'fastest':>9}", end="")
                print(f"{'MiB':>8}" if options.memory else "")
                found = paired(network, rank, tokens, options.methods, options.rounds)
                for method, row in found.items():
                    quartiles = f"{row['ratio low']:.3f}..{row['ratio high']:.3f}"
                    print(f"{method:22}{row['wall ms']:9.1f}{row['ratio']:8.3f}{quartiles:>16}", end="")
                    print(f"{row['processor ratio']:11.3f}{row['fastest ratio']:9.3f}", end="", flush=True)
                    if options.memory:
                        row["peak MiB"] = peak_memory(network, rank, tokens, method, options.threads)
                        print(f"{row['peak MiB']:8.0f}", end="")
                    print(flush=True)
                    rows.append({"network": network, "tokens": tokens, "rank": rank, "method": method, **row})
    if options.out:
        machine = {"torch": torch.__version__, "processor": platform.processor(), "threads": options.threads}
        options.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
